package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/runtime/gpu/wire"
)

// maxGarbage is how many lines that are no message a helper may write before it is taken for broken.
const maxGarbage = 20

// Config is what a Reader is made of. What is zero takes the default named beside it.
type Config struct {
	Image      func() []byte // nil: Embedded; called for each start, so that no copy stays in memory
	Packaged   string        // "": /usr/lib/bothy/nvml-helper; taken when it equals Image
	RuntimeDir string        // where the helper is written if it cannot be executed from memory; "": nowhere
	Env        []string
	Log        *slog.Logger     // nil: silent
	Now        func() time.Time // nil: time.Now
	Jitter     func() float64   // in [0,1); nil: random

	Every      time.Duration // 2s: pause between samples
	Hello      time.Duration // 15s: limit of a helper's first word; loading a driver takes seconds
	Beat       time.Duration // 10s + Every: silence after which a helper is killed
	Reap       time.Duration // 5s: how long a killed helper may take before that is reported
	BackoffMin time.Duration // 1s: pause before the first restart, doubled each time
	BackoffMax time.Duration // 1m
	LookAgain  time.Duration // 5m: pause between looks for a driver that is not there
}

// Reader keeps the newest snapshot of the GPUs.
type Reader struct {
	cfg Config

	mu   sync.Mutex // guards snap
	snap Snapshot
}

// New makes a Reader; it does nothing before Run.
func New(cfg Config) *Reader {
	if cfg.Image == nil {
		cfg.Image = Embedded
	}
	if cfg.Packaged == "" {
		cfg.Packaged = "/usr/lib/bothy/nvml-helper"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{
		{&cfg.Every, 2 * time.Second}, {&cfg.Hello, 15 * time.Second}, {&cfg.Reap, 5 * time.Second},
		{&cfg.BackoffMin, time.Second}, {&cfg.BackoffMax, time.Minute}, {&cfg.LookAgain, 5 * time.Minute},
	} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	if cfg.Beat == 0 {
		cfg.Beat = cfg.Every + 10*time.Second
	}
	return &Reader{cfg: cfg, snap: Snapshot{Devices: []Device{}, Error: "the GPU helper has not answered yet"}}
}

// Snapshot is the newest state. The caller owns it.
func (r *Reader) Snapshot() Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snap.clone()
}

func (r *Reader) update(f func(*Snapshot)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.snap)
}

// Run keeps one helper going until ctx ends, and returns when the helper is gone.
func (r *Reader) Run(ctx context.Context) {
	if len(r.cfg.Image()) == 0 {
		r.update(func(s *Snapshot) {
			s.Error, s.Hint = "this bothy was built without the GPU helper", "build it where a C compiler is installed"
		})
		return
	}
	failures, wasMissing := 0, false
	for {
		began := r.cfg.Now()
		err := r.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if r.cfg.Now().Sub(began) > r.cfg.BackoffMax {
			failures = 0 // it ran well for a while
		}
		failures++
		pause := backoff(r.cfg.BackoffMin, r.cfg.BackoffMax, failures, r.cfg.Jitter())
		missing := r.record(err)
		switch {
		case missing && !wasMissing:
			r.cfg.Log.Info("no NVIDIA driver, running on the CPU")
		case !missing:
			r.cfg.Log.Warn("GPU helper ended", "error", err, "again_in", pause)
		}
		if wasMissing = missing; missing {
			pause = r.cfg.LookAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// record puts the reason why a helper ended into the snapshot and reports whether there is no driver.
func (r *Reader) record(err error) (missing bool) {
	var said *failure
	errors.As(err, &said)
	r.update(func(s *Snapshot) {
		s.NoDriver, s.Error, s.Hint = false, err.Error(), ""
		if said == nil {
			return
		}
		switch said.code {
		case wire.CodeLibraryNotFound, wire.CodeDriverNotLoaded:
			missing = true
			*s = Snapshot{NoDriver: true, Devices: []Device{}, Starts: s.Starts, Launched: s.Launched}
		case wire.CodeMismatch:
			s.Hint = "the driver was updated and its kernel module was not: reboot, or reload the nvidia modules"
		}
	})
	return missing
}

// failure is an error that the helper reported about itself.
type failure struct {
	code int
	text string
}

func (f *failure) Error() string { return fmt.Sprintf("%s: NVML error %d", f.text, f.code) }

// once runs one helper from start to end and says why it ended.
func (r *Reader) once(ctx context.Context) error {
	var words tail
	h, err := r.launch(&words)
	if err != nil {
		return err
	}
	r.update(func(s *Snapshot) { s.Starts, s.Launched = s.Starts+1, h.how })
	lines := make(chan []byte)
	exit := make(chan error, 1)
	go func() {
		scan(h.out, lines)
		exit <- h.cmd.Wait() // only after the output is read: Wait closes the pipe
	}()
	why := r.listen(ctx, lines)
	h.in.Close()
	h.cmd.Process.Kill() // where its output has ended it is on its way out already, and its status is set
	go func() {
		for range lines {
		}
	}()
	return r.reap(ctx, h, exit, why, &words)
}

// reap waits for the helper's end. A process stuck in the driver (state D) cannot be killed: that is reported, and
// no second helper is started until it goes.
func (r *Reader) reap(ctx context.Context, h *started, exit <-chan error, why error, words *tail) error {
	limit := time.NewTimer(r.cfg.Reap)
	defer limit.Stop()
	var err error
	select {
	case err = <-exit:
	case <-limit.C:
		r.update(func(s *Snapshot) {
			s.Error = fmt.Sprintf("the GPU helper (process %d) is stuck in the driver", h.cmd.Process.Pid)
			s.Hint = "see dmesg for NVRM messages; the machine probably needs a reboot"
		})
		r.cfg.Log.Error("GPU helper is stuck in the driver", "pid", h.cmd.Process.Pid)
		select {
		case err = <-exit:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if why != nil {
		return why
	}
	return fmt.Errorf("the GPU helper ended: %w%s", exitError(err), words)
}

func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// listen takes messages until the helper ends (nil) or must be ended (why).
func (r *Reader) listen(ctx context.Context, lines <-chan []byte) error {
	silence := time.NewTimer(r.cfg.Hello)
	defer silence.Stop()
	garbage := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-silence.C:
			return errors.New("the GPU helper fell silent: the driver hangs")
		case line, ok := <-lines:
			if !ok {
				return nil
			}
			var m wire.Message
			if err := json.Unmarshal(line, &m); err != nil {
				if garbage++; garbage > maxGarbage {
					return errors.New("the GPU helper writes no messages")
				}
				continue
			}
			if err := r.take(m); err != nil {
				return err
			}
			silence.Reset(r.cfg.Beat)
		}
	}
}

// take puts a message into the snapshot; an error message is the helper's last.
func (r *Reader) take(m wire.Message) error {
	now := r.cfg.Now()
	switch m.Kind {
	case wire.Hello:
		r.update(func(s *Snapshot) { s.Driver, s.NVML, s.NoDriver = m.Driver, m.NVML, false })
	case wire.Sample:
		r.update(func(s *Snapshot) {
			s.Devices, s.Time, s.Error, s.Hint, s.NoDriver = m.Devices, now, "", "", false
			if s.Devices == nil {
				s.Devices = []Device{}
			}
		})
	case wire.Event:
		r.cfg.Log.Error("GPU reported a critical error", "uuid", m.UUID, "xid", m.XID, "ecc", m.ECC)
		r.update(func(s *Snapshot) {
			s.Events = append(s.Events, Event{Time: now, UUID: m.UUID, XID: m.XID, ECC: m.ECC})
			s.Events = s.Events[max(0, len(s.Events)-keptEvents):]
		})
	case wire.Error:
		return &failure{m.Code, m.Text}
	}
	return nil
}

// scan sends each line on and closes the channel at the end. A line that is too long is an end as well.
func scan(out io.Reader, lines chan<- []byte) {
	defer close(lines)
	s := bufio.NewScanner(out)
	s.Buffer(make([]byte, 64<<10), wire.MaxLine)
	for s.Scan() {
		lines <- append([]byte(nil), s.Bytes()...)
	}
}

// backoff is the pause before the n-th restart: doubled each time up to limit, of which the upper half is jittered.
func backoff(first, limit time.Duration, n int, jitter float64) time.Duration {
	d := first
	for range n - 1 {
		if d *= 2; d >= limit {
			break
		}
	}
	d = min(d, limit)
	return d/2 + time.Duration(jitter*float64(d)/2)
}

// tail keeps the end of what a helper wrote to standard error. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-32<<10):]
	return len(p), nil
}

// String is the reason of a crash, or the last words where it was none.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.ToValidUTF8(string(t.buf), "?")
	if at := crash.FindStringIndex(text); at != nil {
		text = text[at[0]:min(len(text), at[0]+200)] // what follows are registers and stacks
	}
	text = strings.Join(strings.Fields(text[max(0, len(text)-200):]), " ")
	if text == "" {
		return ""
	}
	return "; it last wrote: " + text
}

// crash is how the Go runtime begins its last words.
var crash = regexp.MustCompile(`(?m)^(SIG[A-Z]+: |fatal error: |panic: )`)

// Package runtime runs model servers ("engines") as child processes on private
// unix sockets and keeps each model alias answering.
//
// A Supervisor has one owner loop for each alias. The loop alone changes what
// the alias runs: at most two generations, the current one, which answers, and
// either a candidate being prepared or a predecessor that still drains. Every
// exported method posts a request to that loop and waits for its answer, so all
// of them are safe for concurrent use.
//
// It promises: a generation takes requests only after it has given a real
// answer; a switch fails no request, since the old generation ends only when
// its last lease is returned or the drain limit passes; a crashed or hung
// engine is restarted with capped, jittered back-off until its crash budget is
// spent, and is then reported as failed with its last log lines and tried ever
// more rarely; nothing of an engine outlives Close. As a plain child an engine
// dies with a killed agent, and what it had started itself with the next New.
//
// What differs between kinds of engine is the Adapter: which process, which
// flags, which question proves it well. How a process comes to be is the
// Launcher: plain children here, systemd units on an appliance.
//
// A candidate that does not fit beside what runs is refused: Estimate reads what
// a GGUF file needs, FitsHost holds that against the host's free memory. What ran
// before is started again unasked.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrUnknown says that no engine was ever started or switched to for an alias.
var ErrUnknown = errors.New("no model is installed under this alias")

// ErrClosed says that the supervisor is closing or closed.
var ErrClosed = errors.New("the runtime is closed")

// Config is what a Supervisor is made of. Durations that are zero take the default named beside them.
type Config struct {
	Dir      string             // one folder an engine is made under it, mode 0700; keep it short (a socket path has 107 bytes at most)
	Adapters map[string]Adapter // by Spec.Engine
	Launcher Launcher           // nil: plain children that die with this process
	Log      *slog.Logger       // nil: silent

	Now            func() time.Time // nil: time.Now
	Jitter         func() float64   // in [0,1); nil: random
	NextGeneration func() uint64    // numbers that are never handed out twice, also after a restart; nil: 1, 2, 3...
	Whole          func(Spec) error // asked before every start of an engine, restarts too: its files are what was signed; nil: they are
	Fit            func(Spec) error // asked before a candidate is started; nil: always fits

	StartTimeout  time.Duration // 3m: from launch to the first real answer
	HealthEvery   time.Duration // 2s: pause between health probes
	HealthTimeout time.Duration // 5s: limit of one health probe
	HealthMisses  int           // 3: misses in a row after which an engine counts as hung
	AskEvery      time.Duration // 1m: pause between real questions to an idle engine
	AskTimeout    time.Duration // 30s: limit of such a question
	DrainTimeout  time.Duration // 10m: how long an old generation may finish its requests
	Grace         time.Duration // 5s: between SIGTERM and SIGKILL
	BackoffMin    time.Duration // 250ms: pause before the first restart
	BackoffMax    time.Duration // 30s
	CrashBudget   int           // 5: crashes within CrashWindow, after which the alias is failed
	CrashWindow   time.Duration // 10m
	CoolDown      time.Duration // 1m: pause before a failed alias is tried again, doubled up to tenfold

	probe func(*generation) prober // nil: over the engine's socket
}

// Supervisor runs the engines of all aliases. Safe for concurrent use.
type Supervisor struct {
	cfg  Config
	next atomic.Uint64

	mu     sync.Mutex // guards what follows
	owners map[string]*owner
	closed bool
}

// New makes a supervisor and ends engines that an agent which died before left behind under Dir.
// The caller must Close it.
func New(cfg Config) *Supervisor {
	withDefaults(&cfg)
	s := &Supervisor{cfg: cfg, owners: map[string]*owner{}}
	if s.cfg.NextGeneration == nil {
		s.cfg.NextGeneration = func() uint64 { return s.next.Add(1) }
	}
	if n := sweep(cfg.Dir); n > 0 {
		cfg.Log.Warn("ended engines that a dead agent had left", "processes", n)
	}
	return s
}

func withDefaults(c *Config) {
	// An engine runs in its own folder, so a relative path would name another place there.
	if abs, err := filepath.Abs(c.Dir); err == nil && c.Dir != "" {
		c.Dir = abs
	}
	if c.Launcher == nil {
		c.Launcher = NewChildren()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.probe == nil {
		c.probe = socketProber
	}
	for d, v := range map[*time.Duration]time.Duration{
		&c.StartTimeout: 3 * time.Minute, &c.HealthEvery: 2 * time.Second, &c.HealthTimeout: 5 * time.Second,
		&c.AskEvery: time.Minute, &c.AskTimeout: 30 * time.Second, &c.DrainTimeout: 10 * time.Minute,
		&c.Grace: 5 * time.Second, &c.BackoffMin: 250 * time.Millisecond, &c.BackoffMax: 30 * time.Second,
		&c.CrashWindow: 10 * time.Minute, &c.CoolDown: time.Minute,
	} {
		if *d == 0 {
			*d = v
		}
	}
	if c.HealthMisses == 0 {
		c.HealthMisses = 3
	}
	if c.CrashBudget == 0 {
		c.CrashBudget = 5
	}
}

// Start makes spec what its alias shall run, from nothing: it returns once the engine is being started, under
// supervision, so that a start which fails is tried again. EnsureReady waits for it. Starting the same spec twice
// is nothing; an alias that runs another spec is changed with Prepare and Switch instead.
func (s *Supervisor) Start(ctx context.Context, spec Spec) error {
	o, err := s.own(spec)
	if err != nil {
		return fmt.Errorf("cannot start model %q: %w", spec.Alias, err)
	}
	if err := o.until(ctx, func() (bool, error) { return o.begin(spec) }); err != nil {
		return fmt.Errorf("cannot start model %q: %w", spec.Alias, err)
	}
	return nil
}

// Prepare starts a candidate of spec beside what the alias runs and returns its generation once it has given a
// real answer. It does not take requests yet. While an older generation drains, Prepare waits, so that an alias
// never has more than two. When it fails or ctx ends, the candidate is stopped.
func (s *Supervisor) Prepare(ctx context.Context, spec Spec) (uint64, error) {
	fail := func(err error) (uint64, error) {
		return 0, fmt.Errorf("cannot prepare %s for model %q: %w", spec.label(), spec.Alias, err)
	}
	o, err := s.own(spec)
	if err != nil {
		return fail(err)
	}
	// What still drains holds memory, so room is judged when it has gone.
	if err := o.until(ctx, o.vacant); err != nil {
		return fail(err)
	}
	if s.cfg.Fit != nil {
		if err := s.cfg.Fit(spec); err != nil {
			return fail(err)
		}
	}
	var g *generation
	err = o.until(ctx, func() (bool, error) {
		var err error
		g, err = o.nominate(spec)
		return g != nil, err
	})
	if err != nil {
		return fail(err)
	}
	err = o.until(ctx, func() (bool, error) { return g.phase == PhaseReady, g.err })
	if err != nil {
		o.post(func() { _, _ = o.discard(g.number) })
		return fail(err)
	}
	return g.number, nil
}

// Switch makes a prepared generation the one that takes new requests. The one before drains and ends in the
// background. Switching to the generation that is current already is nothing.
func (s *Supervisor) Switch(ctx context.Context, alias string, gen uint64) error {
	o := s.find(alias)
	if o == nil {
		return fmt.Errorf("cannot switch model %q to generation %d: %w", alias, gen, ErrUnknown)
	}
	var refused error
	err := o.call(ctx, func() { refused = o.switchTo(gen) })
	if err = errors.Join(err, refused); err != nil {
		return fmt.Errorf("cannot switch model %q to generation %d: %w", alias, gen, err)
	}
	return nil
}

// Recall makes the predecessor that still drains current again, at once and without a load, if it runs spec; what
// was current drains instead. It reports whether it did: otherwise Prepare and Switch are the way back.
func (s *Supervisor) Recall(ctx context.Context, spec Spec) (bool, error) {
	o := s.find(spec.Alias)
	if o == nil {
		return false, nil
	}
	var done bool
	if err := o.call(ctx, func() { done = o.recall(spec) }); err != nil {
		return false, fmt.Errorf("cannot recall %s for model %q: %w", spec.label(), spec.Alias, err)
	}
	return done, nil
}

// Discard ends a candidate and waits until its process is gone. A generation that never was, or has ended, is nothing.
func (s *Supervisor) Discard(ctx context.Context, gen uint64) error {
	for _, o := range s.all() {
		err := o.until(ctx, func() (bool, error) { return o.discard(gen) })
		if err != nil {
			return fmt.Errorf("cannot discard generation %d: %w", gen, err)
		}
	}
	return nil
}

// Stop ends everything an alias runs, waits until the processes are gone, and forgets what it shall run.
// Requests in flight are cut: use it to remove a model, not to change one.
func (s *Supervisor) Stop(ctx context.Context, alias string) error {
	o := s.find(alias)
	if o == nil {
		return nil
	}
	if err := o.until(ctx, func() (bool, error) { return o.halt(), nil }); err != nil {
		return fmt.Errorf("cannot stop model %q: %w", alias, err)
	}
	return nil
}

// EnsureReady returns nil once the alias answers. A failed alias is tried again by itself after its cool-down; until
// then the answer is a *Failed at once.
func (s *Supervisor) EnsureReady(ctx context.Context, alias string) error {
	l, err := s.Acquire(ctx, alias)
	if err != nil {
		return err
	}
	l.Done()
	return nil
}

// Acquire returns a lease on the current generation, waiting for it to be ready as long as ctx allows.
// Errors: ErrUnknown, *Failed, ErrClosed, or ctx's own, all wrapped. The caller must call Done.
func (s *Supervisor) Acquire(ctx context.Context, alias string) (*Lease, error) {
	o := s.find(alias)
	if o == nil {
		return nil, fmt.Errorf("cannot use model %q: %w", alias, ErrUnknown)
	}
	var l *Lease
	err := o.until(ctx, func() (bool, error) {
		var err error
		l, err = o.lease()
		return l != nil, err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use model %q: %w", alias, err)
	}
	return l, nil
}

// Inspect returns a lease on one living generation, current or not: acceptance checks use it on a candidate. While it
// is held the engine counts as busy, so that a long check is not taken for a hang. Discard ends the generation all
// the same. The caller must call Done.
func (s *Supervisor) Inspect(gen uint64) (*Lease, error) {
	for _, o := range s.all() {
		var l *Lease
		o.look(func() {
			if g := o.living(gen); g != nil {
				l = o.leaseOf(g)
			}
		})
		if l != nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("cannot reach generation %d: it does not run", gen)
}

// State is what the alias does at this moment. An alias that was never started is PhaseAbsent.
func (s *Supervisor) State(alias string) State {
	st := State{Alias: alias, Phase: PhaseAbsent}
	if o := s.find(alias); o != nil {
		o.look(func() { st = o.state() })
	}
	return st
}

// Status lists all aliases in alphabetical order.
func (s *Supervisor) Status() []AliasStatus {
	list := []AliasStatus{}
	for _, o := range s.all() {
		st := AliasStatus{Alias: o.alias, Phase: PhaseAbsent}
		o.look(func() { st = o.status() })
		list = append(list, st)
	}
	return list
}

// Logs returns the last n lines that the alias's engines wrote, oldest first; n <= 0 means all that are kept.
func (s *Supervisor) Logs(alias string, n int) []string {
	lines := s.Lines(alias, n)
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = l.Text
	}
	return out
}

// Lines is Logs with the time and the generation of each line.
func (s *Supervisor) Lines(alias string, n int) []Line {
	o := s.find(alias)
	if o == nil {
		return nil
	}
	return o.ring.last(n, 0)
}

// Close ends every engine with the bounded kill sequence and waits for it. Waiting calls return ErrClosed.
func (s *Supervisor) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	owners := s.all()
	for _, o := range owners {
		o.post(o.close)
	}
	for _, o := range owners {
		select {
		case <-o.done:
		case <-ctx.Done():
			return fmt.Errorf("cannot end the engines of model %q: %w", o.alias, ctx.Err())
		}
	}
	return s.cfg.Launcher.Close()
}

// own finds or makes the owner of a valid spec's alias.
func (s *Supervisor) own(spec Spec) (*owner, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	if s.cfg.Dir == "" {
		return nil, errors.New("no runtime directory is configured")
	}
	if s.cfg.Adapters[spec.Engine] == nil {
		return nil, fmt.Errorf("no engine of kind %q is configured", spec.Engine)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	o := s.owners[spec.Alias]
	if o == nil {
		o = newOwner(s, spec.Alias)
		s.owners[spec.Alias] = o
		go o.run()
	}
	return o, nil
}

func (s *Supervisor) find(alias string) *owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owners[alias]
}

func (s *Supervisor) all() []*owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*owner, 0, len(s.owners))
	for _, o := range s.owners {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b *owner) int { return strings.Compare(a.alias, b.alias) })
	return list
}

// makeDir makes the private folder of a generation, in which its socket will lie.
func (s *Supervisor) makeDir(dir, socket string) error {
	if err := checkSocketPath(socket); err != nil {
		return err
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the engines' folder: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot clear the engine's folder: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the engine's folder: %w", err)
	}
	return nil
}

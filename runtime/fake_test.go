package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// bench is a supervisor over scripted engines: no process, no socket, so that a test can run in virtual time.
type bench struct {
	*Supervisor
	mu        sync.Mutex
	script    func(n int) *fakeProcess // the n-th launched engine, from 1
	processes []*fakeProcess
}

func newBench(t *testing.T, cfg Config, script func(n int) *fakeProcess) *bench {
	t.Helper()
	b := &bench{script: script}
	cfg.Dir = t.TempDir()
	cfg.Adapters = map[string]Adapter{"fake": Template{Path: "/fake", Args: []string{"{socket}"}}}
	cfg.Launcher = b
	cfg.Jitter = func() float64 { return 0.5 }
	cfg.probe = func(g *generation) prober { return b.at(int(g.number)) }
	b.Supervisor = New(cfg)
	return b
}

// Launch implements Launcher.
func (b *bench) Launch(o Order) (Process, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.script(len(b.processes) + 1)
	p.launched, p.done = time.Now(), make(chan struct{})
	b.processes = append(b.processes, p)
	if p.refuse != nil {
		close(p.done)
		return nil, p.refuse
	}
	if p.says != "" {
		io.WriteString(o.Output, p.says)
	}
	if p.lives > 0 {
		time.AfterFunc(p.lives, func() { p.exit(errors.New("exit status 7")) })
	}
	return p, nil
}

// Close implements Launcher; the supervisor's own Close calls it.
func (b *bench) Close() error { return nil }

func (b *bench) at(n int) *fakeProcess {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.processes[n-1]
}

func (b *bench) launches() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.processes)
}

func (b *bench) shut(t *testing.T) {
	t.Helper()
	if err := b.Supervisor.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// fakeProcess is one scripted engine: it loads for a while, lives for a while, and may fall silent or mute.
type fakeProcess struct {
	refuse   error         // Launch fails with it
	says     string        // written at once
	loads    time.Duration // answers errLoading before
	lives    time.Duration // then exits by itself; 0: for ever
	silentAt time.Duration // from then on health gets no answer; 0: never
	mute     bool          // health is fine, but no real answer ever
	muteAt   time.Duration // mute from then on; 0: never
	breaks   error         // what a real question gets

	launched time.Time
	done     chan struct{}
	once     sync.Once
	err      error

	mu     sync.Mutex
	graces []time.Duration // of the calls of Stop
	asks   int
}

func (p *fakeProcess) exit(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.done)
	})
}

func (p *fakeProcess) age() time.Duration { return time.Since(p.launched) }

func (p *fakeProcess) PID() int              { return 1 }
func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) Err() error            { return p.err }

// Stop implements Process.
func (p *fakeProcess) Stop(grace time.Duration) error {
	p.mu.Lock()
	p.graces = append(p.graces, grace)
	p.mu.Unlock()
	p.exit(errors.New("signal: terminated"))
	return nil
}

func (p *fakeProcess) health(ctx context.Context) error {
	select {
	case <-p.done:
		return errors.New("connection refused")
	default:
	}
	if p.silentAt > 0 && p.age() >= p.silentAt {
		<-ctx.Done()
		return ctx.Err()
	}
	if p.age() < p.loads {
		return errLoading
	}
	return nil
}

func (p *fakeProcess) ask(ctx context.Context) error {
	p.mu.Lock()
	p.asks++
	p.mu.Unlock()
	if p.mute || p.muteAt > 0 && p.age() >= p.muteAt {
		<-ctx.Done()
		return ctx.Err()
	}
	return p.breaks
}

func (p *fakeProcess) stops() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprint(p.graces)
}

func fakeSpec() Spec {
	return Spec{Alias: "m", Release: "m@1", Engine: "fake", Files: []string{"/model"}, Slots: 2}
}

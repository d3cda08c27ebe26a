package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// errHung marks an engine that holds its socket and does not answer any more.
var errHung = errors.New("the engine hangs")

// errEnded is what a generation ends with when it was told to.
var errEnded = errors.New("the engine was stopped")

// generation is one started engine. Its goroutine (runner.run) starts it, watches it and ends it; what becomes of the
// alias is decided by the owner's loop, which hears of each step as an event.
type generation struct {
	// Set before start.
	number  uint64
	spec    Spec
	command Command
	client  *http.Client
	started time.Time
	cancel  context.CancelFunc // ends the engine; its exit comes back as an event

	// leases is written by the owner's loop and read by the runner too.
	leases atomic.Int64

	// Owned by the owner's loop.
	phase  Phase
	pid    int
	ready  time.Time
	drains int   // how often it began to drain: a timer of an earlier time is void
	err    error // why it ended, with its last words
}

func (g *generation) status() *GenerationStatus {
	if g == nil {
		return nil
	}
	return &GenerationStatus{
		Generation: g.number, Release: g.spec.Release, Engine: g.spec.Engine, Program: g.spec.EngineRelease(), Phase: g.phase,
		PID: g.pid, Leases: int(g.leases.Load()), Started: g.started, Ready: g.ready,
	}
}

// runner drives one generation's process outside the owner's loop.
type runner struct {
	cfg    *Config
	g      *generation
	dir    string
	order  Order
	out    *lineWriter
	events interface {
		launched(g *generation, pid int)
		answered(g *generation)
		exited(g *generation, err error)
	}
}

// run starts the engine, waits until it answers, watches it until it dies or ctx ends, and leaves nothing of it behind.
func (r *runner) run(ctx context.Context) {
	err := r.live(ctx)
	r.g.client.CloseIdleConnections()
	if rmErr := os.RemoveAll(r.dir); rmErr != nil {
		r.cfg.Log.Warn("cannot remove the engine's folder", "generation", r.g.number, "error", rmErr)
	}
	r.events.exited(r.g, err)
}

func (r *runner) live(ctx context.Context) error {
	if whole := r.cfg.Whole; whole != nil {
		if err := whole(r.g.spec); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errEnded
	}
	p, err := r.cfg.Launcher.Launch(r.order)
	if err != nil {
		return err
	}
	r.events.launched(r.g, p.PID())
	probe := r.cfg.probe(r.g)
	err = r.awaitAnswer(ctx, p, probe)
	if err == nil {
		r.events.answered(r.g)
		err = r.watch(ctx, p, probe)
	}
	grace := r.cfg.Grace
	if errors.Is(err, errHung) {
		grace = 0 // it would not hear a polite signal either
	}
	if stopErr := p.Stop(grace); stopErr != nil {
		r.cfg.Log.Error("cannot end the engine", "generation", r.g.number, "error", stopErr)
		return errors.Join(err, stopErr)
	}
	r.out.finish()
	return err
}

// awaitAnswer returns nil once the engine is loaded and has given one real answer.
func (r *runner) awaitAnswer(ctx context.Context, p Process, probe prober) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.StartTimeout)
	defer cancel()
	pause := 10 * time.Millisecond
	for {
		err := r.healthy(ctx, probe)
		if err == nil {
			err = during(ctx, p, probe.ask)
			if err == nil {
				return nil
			}
		}
		var refused *refusal
		if errors.As(err, &refused) {
			return fmt.Errorf("the engine is not usable: %w", err)
		}
		select {
		case <-p.Done():
			return fmt.Errorf("the engine ended during start-up: %s", exitText(p))
		case <-ctx.Done():
			if context.Cause(ctx) == context.DeadlineExceeded {
				return fmt.Errorf("the engine was not ready within %v: %w", r.cfg.StartTimeout, err)
			}
			return errEnded
		case <-time.After(pause):
			pause = min(pause*3/2, 500*time.Millisecond)
		}
	}
}

// watch returns when the engine ends, hangs, or ctx ends.
func (r *runner) watch(ctx context.Context, p Process, probe prober) error {
	tick := time.NewTicker(r.cfg.HealthEvery)
	defer tick.Stop()
	misses, asked := 0, r.cfg.Now()
	for {
		select {
		case <-ctx.Done():
			return errEnded
		case <-p.Done():
			return fmt.Errorf("the engine crashed: %s", exitText(p))
		case <-tick.C:
		}
		err := r.healthy(ctx, probe)
		// A busy engine proves itself by what it streams; a question would only queue behind it.
		if err == nil && r.g.leases.Load() == 0 && r.cfg.Now().Sub(asked) >= r.cfg.AskEvery {
			if err = r.asked(ctx, p, probe); err == nil {
				asked = r.cfg.Now() // unanswered, it is asked again at the next tick
			}
		}
		if err == nil {
			misses = 0
			continue
		}
		if misses++; misses >= r.cfg.HealthMisses && ctx.Err() == nil {
			select {
			case <-p.Done(): // it did not hang, it was dying
			default:
				return fmt.Errorf("%w: no answer to %d probes in a row: %w", errHung, misses, err)
			}
		}
	}
}

// asked is one real question to an idle engine. Only silence counts against it: a refusal is an answer.
func (r *runner) asked(ctx context.Context, p Process, probe prober) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.AskTimeout)
	defer cancel()
	err := during(ctx, p, probe.ask)
	var ref *refusal
	if errors.As(err, &ref) {
		r.cfg.Log.Warn("the engine refused a probe", "generation", r.g.number, "error", err)
		return nil
	}
	return err
}

func (r *runner) healthy(ctx context.Context, probe prober) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.HealthTimeout)
	defer cancel()
	return probe.health(ctx)
}

// during runs ask and gives up on it when the process ends.
func during(ctx context.Context, p Process, ask func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ask(ctx)
}

func exitText(p Process) string {
	if err := p.Err(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// maxCoolDowns is how far the pause between the tries of a failed alias grows.
const maxCoolDowns = 10

// owner is the one loop that changes what an alias runs. Methods in this file run inside the loop, except the few
// at its end, which bring calls and events to it.
type owner struct {
	// Set before start.
	sup   *Supervisor
	cfg   *Config
	alias string
	log   *slog.Logger
	ring  *ring
	inbox chan func()
	done  chan struct{} // closed when the loop has ended

	// Owned by the loop.
	spec      *Spec       // what shall run; nil: nothing
	current   *generation // answers, or starts in order to
	candidate *generation // being prepared, or ready to be switched to
	draining  *generation // the predecessor, finishing its requests
	crashes   budget
	failed    *Failed     // crash budget spent
	failures  int         // how often in a row
	restart   *time.Timer // armed while in back-off or failed
	retryAt   time.Time
	lastErr   error
	armed     uint64        // number of the restart timer that counts; older ones are void
	startTook time.Duration // of the newest generation that got ready
	closing   bool
	changed   chan struct{} // closed and replaced at each change that a waiting call may be waiting for
}

func newOwner(s *Supervisor, alias string) *owner {
	return &owner{
		sup: s, cfg: &s.cfg, alias: alias, log: s.cfg.Log.With("alias", alias), ring: &ring{},
		inbox: make(chan func()), done: make(chan struct{}), changed: make(chan struct{}),
		crashes: budget{limit: s.cfg.CrashBudget, window: s.cfg.CrashWindow},
	}
}

func (o *owner) run() {
	defer close(o.done)
	for !o.closing || o.current != nil || o.candidate != nil || o.draining != nil {
		f := <-o.inbox
		f()
	}
}

// begin makes spec what shall run and starts it; it reports false while what ran before is still being ended.
func (o *owner) begin(spec Spec) (bool, error) {
	switch {
	case o.closing:
		return false, ErrClosed
	case o.spec != nil && o.spec.equal(spec):
		return true, nil
	case o.spec != nil:
		return false, fmt.Errorf("it runs %s: prepare a new generation and switch to it", o.spec.label())
	case o.current != nil:
		return false, nil
	}
	if _, err := o.cfg.Adapters[spec.Engine].Command(spec, "/check.sock"); err != nil {
		return false, err // what can never start is refused now, not after five crashes
	}
	o.spec = &spec
	o.startCurrent()
	return true, nil
}

// vacant reports whether a candidate may be started: not while the predecessor drains or another candidate is stopping.
func (o *owner) vacant() (bool, error) {
	switch {
	case o.closing:
		return false, ErrClosed
	case o.candidate != nil && o.candidate.phase != PhaseStopping:
		return false, fmt.Errorf("generation %d is being prepared already", o.candidate.number)
	}
	return o.candidate == nil && o.draining == nil, nil
}

// nominate starts a candidate, or returns nil while there is no place for one.
func (o *owner) nominate(spec Spec) (*generation, error) {
	if ok, err := o.vacant(); !ok {
		return nil, err
	}
	g, err := o.launch(spec)
	if err != nil {
		return nil, err
	}
	o.candidate = g
	return g, nil
}

// switchTo makes the candidate current.
func (o *owner) switchTo(gen uint64) error {
	if o.current != nil && o.current.number == gen {
		return nil
	}
	g := o.candidate
	if g == nil || g.number != gen {
		return errors.New("this generation does not run")
	}
	if g.phase != PhaseReady {
		return fmt.Errorf("this generation is %s", g.phase)
	}
	o.candidate = nil
	o.promote(g)
	return nil
}

// recall makes the predecessor current again if it runs spec and still drains; what was current drains in its place.
func (o *owner) recall(spec Spec) bool {
	g := o.draining
	if o.closing || g == nil || g.phase != PhaseDraining || !g.spec.equal(spec) {
		return false
	}
	g.phase, o.draining = PhaseReady, nil
	o.promote(g)
	return true
}

// promote makes a ready generation current, with a clean slate; the one before finishes its requests.
func (o *owner) promote(g *generation) {
	old := o.current
	o.disarm()
	o.current, o.spec = g, &g.spec
	o.failed, o.failures, o.lastErr = nil, 0, nil
	o.crashes.clear()
	o.log.Info("switched engine", "generation", g.number, "release", g.spec.Release, "before", numberOf(old))
	if old != nil {
		o.drain(old)
	}
	o.notify()
}

// drain lets a generation finish its requests, within the limit, and then ends it.
func (o *owner) drain(old *generation) {
	o.draining = old
	old.phase = PhaseDraining
	old.drains++
	if old.leases.Load() == 0 {
		o.end(old)
		return
	}
	n := old.drains
	time.AfterFunc(o.cfg.DrainTimeout, func() { o.post(func() { o.drainElapsed(old, n) }) })
}

// discard ends a candidate and reports whether it is gone.
func (o *owner) discard(gen uint64) (bool, error) {
	if o.current != nil && o.current.number == gen {
		return false, errors.New("it is the current one: switch away from it first")
	}
	if o.candidate == nil || o.candidate.number != gen {
		return true, nil
	}
	o.end(o.candidate)
	return false, nil
}

// halt ends everything and forgets the spec; it reports whether all is gone.
func (o *owner) halt() bool {
	o.disarm()
	o.spec, o.failed, o.failures, o.lastErr = nil, nil, 0, nil
	o.crashes.clear()
	gone := true
	for _, g := range o.generations() {
		o.end(g)
		gone = false
	}
	if gone {
		o.notify()
	}
	return gone
}

// close ends everything; the loop ends when all of it is gone.
func (o *owner) close() {
	o.closing = true
	o.halt()
}

// lease hands out the current generation, or nil while there is hope, or why there is none.
func (o *owner) lease() (*Lease, error) {
	switch {
	case o.closing:
		return nil, ErrClosed
	case o.spec == nil:
		return nil, ErrUnknown
	case o.failed != nil:
		return nil, o.failed
	case o.current == nil || o.current.phase != PhaseReady:
		return nil, nil
	}
	return o.leaseOf(o.current), nil
}

func (o *owner) leaseOf(g *generation) *Lease {
	g.leases.Add(1)
	return &Lease{
		Generation: g.number, Alias: o.alias, Release: g.spec.Release, Engine: g.spec.Engine,
		Client: g.client, URL: engineURL, done: func() { o.post(func() { o.returned(g) }) },
	}
}

// returned is the event of a lease given back.
func (o *owner) returned(g *generation) {
	if g.leases.Add(-1) == 0 && g.phase == PhaseDraining {
		o.end(g)
	}
}

// drainElapsed is the event of the limit of a generation's n-th drain.
func (o *owner) drainElapsed(g *generation, n int) {
	if o.draining != g || g.phase != PhaseDraining || g.drains != n {
		return
	}
	o.log.Warn("ending an engine that still has requests", "generation", g.number, "requests", g.leases.Load(), "after", o.cfg.DrainTimeout)
	o.end(g)
}

// startCurrent launches the wanted spec as the current generation; a launch that fails at once counts as a crash.
func (o *owner) startCurrent() {
	g, err := o.launch(*o.spec)
	if err != nil {
		o.crashed(err, nil)
		return
	}
	o.current = g
	o.notify()
}

// launched, answered and exited are the events of a generation's runner. They are posted, not run, by it.
func (o *owner) launched(g *generation, pid int) {
	o.post(func() {
		g.pid = pid
		o.log.Info("engine started", "generation", g.number, "engine", g.spec.Engine, "pid", pid)
	})
}

func (o *owner) answered(g *generation) {
	o.post(func() {
		if g.phase != PhaseStarting {
			return
		}
		g.phase, g.ready = PhaseReady, o.cfg.Now()
		o.startTook = g.ready.Sub(g.started)
		if g == o.current {
			o.lastErr = nil
		}
		o.log.Info("engine ready", "generation", g.number, "release", g.spec.Release, "after", o.startTook)
		o.notify()
	})
}

func (o *owner) exited(g *generation, err error) {
	o.post(func() { o.gone(g, err) })
}

func (o *owner) gone(g *generation, err error) {
	asked := g.phase == PhaseStopping
	g.phase, g.err = PhaseEnded, errEnded
	if !asked {
		g.err = fmt.Errorf("%w%s", err, quoteLines(o.ring.tail(g.number)))
	}
	defer o.notify()
	switch {
	case g == o.draining && asked:
		o.draining = nil
		o.log.Info("old engine ended", "generation", g.number)
	case g == o.draining:
		o.draining = nil
		o.log.Warn("old engine ended with requests in it", "generation", g.number, "requests", g.leases.Load(), "error", g.err)
	case g == o.candidate:
		o.candidate = nil
		o.log.Info("candidate engine ended", "generation", g.number, "error", g.err)
	case g == o.current && asked:
		o.current = nil
	case g == o.current:
		o.current = nil
		o.crashed(err, g)
	}
}

// crashed counts against the budget and arms the restart: soon while there is budget, after the cool-down when it is
// spent. A box that nobody looks after must come back by itself once the cause is gone.
func (o *owner) crashed(err error, g *generation) {
	now, gen := o.cfg.Now(), numberOf(g)
	o.lastErr = err
	n := o.crashes.add(now)
	answered := g != nil && !g.ready.IsZero()
	if answered && now.Sub(g.ready) >= o.cfg.CrashWindow {
		o.failures = 0
	}
	// Once failed, an engine that does not even start gets no new budget, however long ago the last try was.
	if n < o.crashes.limit && (answered || o.failures == 0) {
		pause := backoff(o.cfg.BackoffMin, o.cfg.BackoffMax, n, o.cfg.Jitter())
		o.log.Warn("engine ended, restarting", "generation", gen, "crashes", n, "in", pause, "error", err)
		o.arm(pause)
		return
	}
	pause := min(o.cfg.CoolDown<<min(o.failures, 10), maxCoolDowns*o.cfg.CoolDown)
	o.failures++
	o.failed = &Failed{Cause: err, Lines: o.ring.tail(gen), Until: now.Add(pause)}
	o.log.Error("engine failed", "generation", gen, "crashes", n, "again_in", pause, "error", err)
	o.arm(pause)
}

func (o *owner) arm(pause time.Duration) {
	o.armed++
	timer := o.armed
	o.retryAt = o.cfg.Now().Add(pause)
	o.restart = time.AfterFunc(pause, func() { o.post(func() { o.restartDue(timer) }) })
	o.notify()
}

// restartDue is the event of the end of a back-off or a cool-down.
func (o *owner) restartDue(timer uint64) {
	if timer != o.armed || o.restart == nil || o.closing {
		return
	}
	o.restart, o.retryAt, o.failed = nil, time.Time{}, nil
	o.startCurrent()
}

func (o *owner) disarm() {
	if o.restart != nil {
		o.restart.Stop()
	}
	o.restart, o.retryAt = nil, time.Time{}
}

// launch makes a generation and its runner. A new number even for the same spec: events of the old one must not match.
func (o *owner) launch(spec Spec) (*generation, error) {
	number := o.cfg.NextGeneration()
	dir, socket := socketPath(o.cfg.Dir, number)
	command, err := o.cfg.Adapters[spec.Engine].Command(spec, socket)
	if err != nil {
		return nil, err
	}
	if err := o.sup.makeDir(dir, socket); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &generation{
		number: number, spec: spec, command: command, client: socketClient(socket),
		started: o.cfg.Now(), cancel: cancel, phase: PhaseStarting,
	}
	out := &lineWriter{line: func(text string) {
		o.ring.add(Line{Time: o.cfg.Now(), Generation: number, Text: text})
		o.log.Debug("engine output", "generation", number, "line", text)
	}}
	r := &runner{cfg: o.cfg, g: g, dir: dir, out: out, events: o, order: Order{
		Alias: o.alias, Generation: number, Command: command, Dir: dir, Socket: socket, Output: out,
	}}
	go func() {
		r.run(ctx)
		cancel()
	}()
	return g, nil
}

// end tells a generation to stop; gone follows.
func (o *owner) end(g *generation) {
	g.phase = PhaseStopping
	g.cancel()
}

func (o *owner) generations() []*generation {
	var list []*generation
	for _, g := range []*generation{o.current, o.candidate, o.draining} {
		if g != nil {
			list = append(list, g)
		}
	}
	return list
}

func (o *owner) living(gen uint64) *generation {
	for _, g := range o.generations() {
		if g.number == gen {
			return g
		}
	}
	return nil
}

func numberOf(g *generation) uint64 {
	if g == nil {
		return 0
	}
	return g.number
}

func (o *owner) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// post brings an event to the loop; after the loop's end it is nothing.
func (o *owner) post(event func()) {
	select {
	case o.inbox <- event:
	case <-o.done:
	}
}

// look runs f in the loop, unless that has ended.
func (o *owner) look(f func()) { _ = o.call(context.Background(), f) }

// call runs f in the loop and waits for it. The loop never blocks, so ctx matters only while the loop is busy.
func (o *owner) call(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	select {
	case o.inbox <- func() { f(); close(ran) }:
		<-ran
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-o.done:
		return ErrClosed
	}
}

// until runs step in the loop, now and after each change, until it is done or fails.
func (o *owner) until(ctx context.Context, step func() (bool, error)) error {
	for {
		var done bool
		var err error
		var changed <-chan struct{}
		if callErr := o.call(ctx, func() { done, err = step(); changed = o.changed }); callErr != nil {
			return callErr
		}
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-o.done:
			return ErrClosed
		}
	}
}

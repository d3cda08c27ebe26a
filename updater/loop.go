package updater

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Delays between two tries of the same thing.
const (
	retryBase = time.Second
	retryCap  = 5 * time.Minute
	// windowLook is how often a closed window is looked at; windows are given in minutes.
	windowLook = 20 * time.Second
)

// worker is the one act that runs beside the loop.
type worker struct {
	cancel context.CancelFunc
	// name is the act's.
	name string
	// dropped: the change gave way, the outcome no longer matters.
	dropped bool
}

// outcome is how a worker's act ended.
type outcome struct {
	name string
	// state the change was in when the act began; empty for acts of no change.
	state State
	err   error
	// generation is what a prepare answered.
	generation uint64
}

// Run is the one writer: it brings the box to what the journal says, then
// follows the wants until ctx ends, which is no error. An end whose cause is not
// context.Canceled counts as a crash against the change under way. Run fails on
// a bug of our own or a fault point. It may be called once.
func (u *Updater) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer close(u.done)
	defer u.goroutine.Wait()
	defer cancel()
	defer u.disarm()
	defer u.offers.stop()
	u.Offer()
	var err error
	for {
		if err == nil {
			err = u.advance(ctx)
		}
		if fatal(err) {
			return err
		}
		if err != nil {
			u.retryStore(err)
		}
		if ctx.Err() != nil {
			return u.leave(context.Cause(ctx))
		}
		err = u.event(ctx)
	}
}

// fatal errors end Run; what is left is a store that cannot be written, which may pass.
func fatal(err error) bool {
	var c crash
	return errors.As(err, &c) || errors.Is(err, errInternal)
}

// retryStore waits after a failed write: what runs goes on, the change stands.
func (u *Updater) retryStore(err error) {
	u.cfg.Log.Error("change cannot be stored", "error", err)
	u.tries++
	u.arm(u.backoff(u.tries))
}

// event waits for one thing to happen and handles it.
func (u *Updater) event(ctx context.Context) error {
	var alarm, recheck <-chan time.Time
	if u.alarm != nil {
		alarm = u.alarm.C
	}
	if u.offers.timer != nil {
		recheck = u.offers.timer.C
	}
	select {
	case <-ctx.Done():
		return nil
	case <-u.poked:
		u.offers.queue(ask{kind: askCheck})
	case a := <-u.asks:
		return u.obey(a)
	case r := <-u.offers.refreshed:
		return u.settleOffer(r)
	case o := <-u.stepped:
		return u.ended(o)
	case <-recheck:
		u.offers.timer = nil
		u.offers.queue(ask{kind: askCheck})
	case <-alarm:
		return u.alarmed(ctx)
	}
	return nil
}

// advance starts whatever is due: a look for a new want, the next step of the
// change. It answers when something runs, waits, or nothing is to do.
func (u *Updater) advance(ctx context.Context) error {
	u.startRefresh(ctx)
	for u.worker == nil && !u.waiting && ctx.Err() == nil {
		idle, err := false, error(nil)
		switch {
		case !u.booted:
			err = u.boot(ctx)
		case u.change != nil:
			idle, err = u.next(ctx)
		case u.pending != nil:
			_, err = u.consider(*u.pending)
		case u.collectDue && u.offers.heard:
			err = u.collect(ctx)
		default:
			idle = true
		}
		if idle || err != nil {
			return err
		}
	}
	return nil
}

// next does the one thing that the change's state asks for; idle means that
// only an order can bring it on.
func (u *Updater) next(ctx context.Context) (idle bool, err error) {
	if u.change.Steps > maxSteps && u.change.State.givesWay() {
		return false, u.giveUp()
	}
	switch u.change.State {
	case Planned:
		return false, u.begin()
	case Preflight:
		u.work(ctx, "preflight", u.scene().preflight)
	case Fetching:
		u.work(ctx, "fetch", u.scene().fetch)
	case Paused:
		if u.change.Reason == reasonOperator {
			return true, nil
		}
		if begun, err := u.makeRoom(ctx); begun || err != nil {
			return false, err
		}
		u.tries++
		u.arm(u.backoff(u.tries))
	case Verified:
		u.work(ctx, "stage", u.scene().stage)
	case Staged, Waiting:
		return u.switchOrWait()
	case Switching:
		return false, u.nextTask(ctx)
	case Watch:
		u.arm(min(u.cfg.WatchEvery, u.cfg.WatchFor-u.watched))
	case Undoing:
		return false, u.nextUndo(ctx)
	}
	return false, nil
}

// begin refuses what cannot be carried out before anything is fetched for it.
func (u *Updater) begin() error {
	if engine := u.change.Want.Engine; engine != nil && engine.Program == nil {
		return u.fail(codeUnsupported, fmt.Errorf("cannot install engine release %s: it does not say how it is run; add it anew on the fleet's side and assign that", engine.ID()))
	}
	return u.move(Preflight, nil)
}

// giveUp ends a change that goes in circles.
func (u *Updater) giveUp() error {
	return u.fail(codeLoop, errors.New("too many steps without an end"))
}

// alarmed is called when the pause that arm began is over.
func (u *Updater) alarmed(ctx context.Context) error {
	passed := u.alarmFor
	u.disarm()
	if u.held != nil && u.worker == nil {
		o := *u.held
		u.held = nil
		return u.ended(o)
	}
	if u.change == nil || u.worker != nil || !u.booted {
		return nil // before the start is written down, the alarm is for trying that again
	}
	switch {
	case u.change.State == Paused && u.change.Reason != reasonOperator:
		return u.move(Preflight, nil)
	case u.change.State == Watch:
		u.watched += passed
		u.work(ctx, "watch", func(ctx context.Context) (uint64, error) { return 0, u.cfg.Healthy(ctx) })
	}
	return nil
}

// work runs an act beside the loop; ended gets its outcome.
func (u *Updater) work(ctx context.Context, name string, act func(context.Context) (uint64, error)) {
	ctx, cancel := context.WithCancel(ctx)
	u.worker = &worker{cancel: cancel, name: name}
	o := outcome{name: name}
	if u.change != nil {
		o.state = u.change.State
	}
	u.goroutine.Go(func() {
		defer cancel()
		if o.err = u.fault("before " + name); o.err == nil {
			o.generation, o.err = act(ctx)
			if err := u.fault("after " + name); err != nil {
				o.err = err
			}
		}
		u.stepped <- o
	})
}

// ended takes a worker's outcome. One whose change gave way or was paused
// meanwhile is dropped; one that could not be stored is kept and stored later.
func (u *Updater) ended(o outcome) error {
	dropped := u.worker != nil && u.worker.dropped
	u.worker = nil
	if err := u.catchUp(); err != nil {
		return err
	}
	if fatal(o.err) {
		return o.err
	}
	if dropped {
		u.collectDue = u.collectDue || o.name == actCollect // it was cut off
		u.adopt(o)
		return nil
	}
	err := u.record(o)
	if err != nil && !fatal(err) {
		u.held = &o
	}
	return err
}

// catchUp carries out the orders that waited for a collection.
func (u *Updater) catchUp() error {
	waited := u.afterwards
	u.afterwards = nil
	for _, a := range waited {
		if err := u.obey(a); err != nil {
			return err
		}
	}
	return nil
}

// adopt gives a candidate that came up while its change was being cancelled to
// the task that prepared it, which is about to be undone.
func (u *Updater) adopt(o outcome) {
	if u.change == nil || u.change.State != Undoing || o.generation == 0 {
		return
	}
	next := u.change.clone()
	for i := range next.Tasks {
		if next.Tasks[i].State == Doing {
			next.Tasks[i].Generation = o.generation
		}
	}
	u.change = &next
}

func (u *Updater) record(o outcome) error {
	switch o.name {
	case actSettle:
		return u.settled(o.err)
	case actCollect:
		return u.collected(o.err)
	}
	if u.change == nil || u.change.State != o.state {
		return nil
	}
	if o.err == nil && o.state != Preflight && o.state != Fetching {
		// What passes on every try of something later that fails must not shorten the next pause.
		u.tries = 0
	}
	switch o.state {
	case Preflight:
		return u.preflightEnded(o.err)
	case Fetching:
		return u.fetchEnded(o.err)
	case Verified:
		return u.stageEnded(o.err)
	case Switching:
		return u.taskEnded(o)
	case Watch:
		return u.watchEnded(o.err)
	case Undoing:
		return u.undoEnded(o)
	}
	return nil
}

// leave stops the worker and takes back the attempt that a stop on purpose would
// otherwise cost. A stop for another cause may be this change's fault: it counts.
func (u *Updater) leave(cause error) error {
	if u.worker != nil {
		u.worker.cancel()
		if o := <-u.stepped; fatal(o.err) {
			return o.err
		}
	}
	if u.change == nil || !errors.Is(cause, context.Canceled) || !u.booted {
		return nil
	}
	next := u.change.clone()
	switch next.State {
	case Switching, Watch:
		next.Attempts = max(0, next.Attempts-1)
	case Undoing:
		next.UndoAttempts = max(0, next.UndoAttempts-1)
	default:
		return nil
	}
	if err := u.save(next, nil); fatal(err) {
		return err
	}
	return nil
}

func (u *Updater) arm(d time.Duration) {
	u.disarm()
	u.alarm, u.alarmFor, u.waiting = time.NewTimer(d), d, true
}

func (u *Updater) disarm() {
	if u.alarm != nil {
		u.alarm.Stop()
	}
	u.alarm, u.alarmFor, u.waiting = nil, 0, false
}

// backoff is a capped exponential delay with full jitter, never under half the base.
func (u *Updater) backoff(tries int) time.Duration {
	d := min(retryCap, retryBase<<min(tries, 16))
	return retryBase/2 + time.Duration(u.cfg.Jitter()*float64(d))
}

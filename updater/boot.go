package updater

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/bothy-edge/bothy/updater/release"
)

// The acts that belong to no state of a change.
const (
	actSettle  = "settle"
	actCollect = "collect"
)

// boot decides what an interrupted change does next, stores that, and then
// makes the box what the journal says. The attempt is written before anything
// is touched: a change that brings the agent down is undone after the third
// time. Where it cannot be written the change stands still until it can, and
// the box serves what ran before, under both policies: a full disk must not end its service.
func (u *Updater) boot(ctx context.Context) error {
	err := u.resume()
	if fatal(err) {
		return err
	}
	u.booted = err == nil
	if u.booted || !u.settling {
		u.settling = true
		s := u.scene()
		if err != nil {
			s.state = Switching
		}
		u.work(ctx, actSettle, s.settle)
	}
	return err
}

func (u *Updater) resume() error {
	u.collectDue = true // what was being collected when we stopped, or came to lie here since
	if u.change == nil {
		return nil
	}
	if u.cfg.PutBack && u.change.State.givesWay() {
		// It may have ended since, or newer ones have come: only the fleet knows.
		return u.move(Superseded, func(c *Change) {
			c.Error = "the store was put back as of an earlier time; the fleet says what is to come"
		})
	}
	u.forgetGenerations()
	u.cfg.Log.Info("change goes on", "change", u.change.ID, "state", string(u.change.State), "attempts", u.change.Attempts)
	switch u.change.State {
	case Switching, Watch:
		if u.change.Attempts >= maxAttempts {
			return u.goBack(codeCrash, fmt.Errorf("the agent stopped %d times while it was %s", u.change.Attempts, u.change.State))
		}
		next := u.change.clone()
		next.Attempts++
		if next.State == Switching {
			next.Tasks = plan(u.running, next)
		}
		return u.save(next, nil)
	case Undoing:
		return u.resumeUndo()
	}
	return nil
}

// resumeUndo counts a start in the middle of undoing a task as a try of it: a
// task whose undo brings the agent down is given up, and the rest goes on.
func (u *Updater) resumeUndo() error {
	i := slices.IndexFunc(u.change.Tasks, func(t Task) bool { return t.State == Reverse })
	if i < 0 {
		return nil
	}
	if u.change.UndoAttempts+1 >= maxAttempts {
		return u.undoFailed(i, fmt.Errorf("the agent stopped %d times while it was being undone", maxAttempts))
	}
	return u.setTask(i, Reverse, func(c *Change) { c.UndoAttempts++ })
}

// forgetGenerations drops the numbers of candidates that ended with the process
// before us: in this one the same number may be another engine.
func (u *Updater) forgetGenerations() {
	next := u.change.clone()
	for i := range next.Tasks {
		next.Tasks[i].Generation = 0
	}
	u.change = &next
}

// settle puts the policies in force and every model in place. A model that
// does not come up does not keep the others.
func (s scene) settle(ctx context.Context) (uint64, error) {
	errs := []error{s.activate(s.inForce())}
	want := s.effective()
	aliases := map[string]release.Document{}
	maps.Copy(aliases, want.Models)
	maps.Copy(aliases, s.running.Want.Models) // what the want has no more may run since a start that could not be written down
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		errs = append(errs, s.settleModel(ctx, alias, want))
	}
	return 0, errors.Join(errs...)
}

func (s scene) settleModel(ctx context.Context, alias string, want release.Want) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.SwitchFor)
	defer cancel()
	if err := s.restoreModel(ctx, alias, want); err != nil {
		return fmt.Errorf("cannot bring up %s: %w", alias, err)
	}
	return nil
}

// settled: on watch a set that does not come up has failed its probation;
// anything else goes on, the fleet or the engine's own restarts may mend it.
func (u *Updater) settled(err error) error {
	if err != nil && u.booted && u.change != nil && u.change.State == Watch {
		return u.goBack(codeWatch, err)
	}
	if err != nil {
		u.cfg.Log.Error("what ran before is not all back", "error", err)
	}
	u.raiseMarks()
	return nil
}

// raiseMarks tells trust what is committed. It is repeated at every start, so
// that a crash between the commit and the mark costs nothing.
func (u *Updater) raiseMarks() {
	err := u.cfg.Installed(u.running.Want.Documents()...)
	if u.unmarked = err != nil; err != nil {
		u.cfg.Log.Error("anti-rollback marks cannot be raised, the next look for a want tries again", "error", err)
	}
}

package updater

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// The journal's tables. Names and JSON fields are part of the store's schema.
func changeTable() store.Table[Change]   { return store.Table[Change]{Name: "changes"} }
func runningTable() store.Table[Running] { return store.Table[Running]{Name: "running"} }
func badTable() store.Table[bad]         { return store.Table[bad]{Name: "bad_wants"} }
func refusedTable() store.Table[uint64]  { return store.Table[uint64]{Name: "refused_offers"} }

const runningKey = "now"

// Bounds of the tables, in records.
const (
	keepChanges = 300
	keepBad     = 300
	keepRefused = 100
)

// bad remembers a want that ended badly. A higher counter is a new order of the fleet and is tried again.
type bad struct {
	Counter uint64 `json:"counter"`
	Change  uint64 `json:"change"`
	// Unfit: this box lacked something. Every start tries once more, since the
	// agent or an engine may have been installed meanwhile.
	Unfit bool `json:"unfit,omitempty"`
	// Until is when it is tried again; zero is never.
	Until time.Time `json:"until,omitzero"`
}

// spaceRest is the pause before a want that was undone for want of space is tried again.
const spaceRest = 15 * time.Minute

// rest is how long the want is left alone still. A clock that was wrong when it
// was undone must not make that years.
func (b bad) rest(now time.Time) time.Duration {
	if left := b.Until.Sub(now); left <= spaceRest {
		return max(0, left)
	}
	return 0
}

func unfit(c Change) bool { return c.Code == codePreflight || c.Code == codeUnsupported }

// crash is the error of a fault point: Run stops as if killed.
type crash struct{ error }

// Unwrap gives the fault's own error.
func (c crash) Unwrap() error { return c.error }

func (u *Updater) fault(point string) error {
	if err := u.cfg.Fault(point); err != nil {
		return crash{err}
	}
	return nil
}

// load reads what runs and the change that was interrupted, if any.
func (u *Updater) load() error {
	return u.cfg.DB.View(func(tx *store.Tx) error {
		var err error
		if u.running, _, err = runningTable().Get(tx, runningKey); err != nil {
			return err
		}
		return changeTable().Back(tx, func(_ string, c Change) error {
			if c.State.Ended() {
				return nil
			}
			u.change, u.active = &c, c
			return store.ErrStop
		})
	})
}

// distrust notes, before anything is put in force, that the journal is an older
// one: the policies in it may be wider than those that replaced them.
func (u *Updater) distrust() error {
	if !u.cfg.PutBack {
		return nil
	}
	if !u.running.PutBack {
		u.running.PutBack = true
		err := u.cfg.DB.Update(func(tx *store.Tx) error { return runningTable().Put(tx, runningKey, u.running) })
		if err != nil {
			return err
		}
	}
	// Only now may the store forget it: the journal knows.
	return u.cfg.DB.Noted()
}

// move stores the change in its next state, with what edit says.
func (u *Updater) move(to State, edit func(*Change)) error {
	return u.moveRunning(to, edit, nil)
}

// moveRunning is move that also stores what runs from now on, in the same transaction.
func (u *Updater) moveRunning(to State, edit func(*Change), running *Running) error {
	next := u.change.clone()
	if !allowed(next.State, to) {
		return internalError(next, to)
	}
	if next.State != Undoing {
		// What began the way back stays the reason of its end.
		next.Code, next.Error = "", ""
	}
	next.State, next.Reason = to, ""
	if edit != nil {
		edit(&next)
	}
	next.step(u.cfg.Now())
	if err := u.save(next, running); err != nil {
		return err
	}
	u.cfg.Log.Info("change moved", "change", next.ID, "state", string(next.State), "reason", next.Reason, "error", next.Error)
	return nil
}

// errInternal marks our own bugs: Run ends with them.
var errInternal = errors.New("internal error")

func internalError(c Change, to State) error {
	return fmt.Errorf("%w: change %d: no transition from %q to %q", errInternal, c.ID, c.State, to)
}

// remembered says that the want of an ended change is not to be tried again.
func remembered(c Change) bool {
	switch c.State {
	case Undone, Failed, Cancelled, Refused:
		return c.Want.Counter != 0
	}
	return false
}

func rememberBad(tx *store.Tx, c Change) error {
	b := bad{Counter: c.Want.Counter, Change: c.ID, Unfit: unfit(c)}
	if c.Code == codeNoSpace {
		b.Until = c.Updated.Add(spaceRest)
	}
	// Trimmed first: the keys are digests, and the newest record must not be the one that goes.
	if err := badTable().Trim(tx, keepBad-1); err != nil {
		return err
	}
	return badTable().Put(tx, c.Want.Digest(), b)
}

// save stores the change as it is, and what runs when that is given, and shows both to readers.
func (u *Updater) save(next Change, running *Running) error {
	point := next.point()
	if err := u.fault("before " + point); err != nil {
		return err
	}
	err := u.cfg.DB.Update(func(tx *store.Tx) error {
		err := changeTable().Put(tx, store.Key(next.ID), next)
		if running != nil {
			err = errors.Join(err, runningTable().Put(tx, runningKey, *running))
		}
		if remembered(next) {
			err = errors.Join(err, rememberBad(tx, next))
		}
		return errors.Join(err, u.cfg.Report(tx, next))
	})
	if err != nil {
		return err
	}
	if err := u.fault("after " + point); err != nil {
		return err
	}
	u.publish(next, running)
	return nil
}

// point names the storing of this state for the fault seam.
func (c Change) point() string {
	for _, t := range c.Tasks {
		if t.State == Doing || t.State == Reverse {
			return fmt.Sprintf("store %s %s %s", c.State, t.State, t.label())
		}
	}
	return "store " + string(c.State)
}

// publish makes what was stored the loop's and the readers'.
func (u *Updater) publish(next Change, running *Running) {
	u.disarm()
	u.change = &next
	if next.State.Ended() {
		u.change, u.collectDue = nil, true
		u.unfit[next.Want.Digest()] = unfit(next)
		if next.Code == codeNoSpace {
			u.offers.after(spaceRest + time.Second)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active = next
	if running != nil {
		u.running = *running
	}
	u.announce()
}

// announce wakes everybody who waits for a change; mu is held.
func (u *Updater) announce() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// create stores a new change in its first state, with what also writes about
// it, and makes it the loop's unless it has ended already.
func (u *Updater) create(c Change, also ...func(tx *store.Tx, id uint64) error) (uint64, error) {
	now := u.cfg.Now()
	c.Created = now
	c.step(now)
	if err := u.fault("before store " + string(c.State)); err != nil {
		return 0, err
	}
	err := u.cfg.DB.Update(func(tx *store.Tx) error {
		var err error
		if c.ID, err = changeTable().Append(tx, c); err != nil {
			return err
		}
		// Once more, now that it knows its number.
		err = errors.Join(changeTable().Put(tx, store.Key(c.ID), c), pruneChanges(tx), u.cfg.Report(tx, c))
		for _, write := range also {
			err = errors.Join(err, write(tx, c.ID))
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := u.fault("after store " + string(c.State)); err != nil {
		return 0, err
	}
	u.cfg.Log.Info("change created", "change", c.ID, "state", string(c.State), "summary", c.Summary, "error", c.Error)
	if !c.State.Ended() {
		u.publish(c, nil)
		return c.ID, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.announce()
	return c.ID, nil
}

// pruneChanges bounds the history. Refused offers have a bound of their own:
// whoever can send offers must not be able to push out what the box did.
func pruneChanges(tx *store.Tx) error {
	refused, others := 0, 0
	var old []string
	err := changeTable().Back(tx, func(key string, c Change) error {
		n, keep := &others, keepChanges
		if c.State == Refused {
			n, keep = &refused, keepRefused
		}
		if *n++; *n > keep {
			old = append(old, key)
		}
		return nil
	})
	for _, key := range old {
		err = errors.Join(err, changeTable().Delete(tx, key))
	}
	return err
}

// refuse records a refused offer; the same offer again only raises a count.
func (u *Updater) refuse(r *trust.Refusal) (uint64, error) {
	key := refusalKey(r)
	var id uint64
	err := u.cfg.DB.Update(func(tx *store.Tx) error {
		known, found, err := refusedTable().Get(tx, key)
		if err != nil || !found {
			return err
		}
		c, found, err := changeTable().Get(tx, store.Key(known))
		if err != nil || !found {
			return err
		}
		id = known
		c.Seen++
		c.Updated = u.cfg.Now()
		return changeTable().Put(tx, store.Key(known), c)
	})
	if err != nil || id != 0 {
		return id, err
	}
	c := Change{State: Refused, Summary: r.Subject, Code: string(r.Code), Error: r.Error(), Seen: 1}
	return u.create(c, func(tx *store.Tx, id uint64) error {
		return errors.Join(refusedTable().Trim(tx, keepRefused-1), refusedTable().Put(tx, key, id))
	})
}

// refusalKey names an offer: what the source offered when that is known, else what was wrong with it.
func refusalKey(r *trust.Refusal) string {
	what := r.Offer
	if what == "" {
		what = r.Subject + "\x00" + r.Error()
	}
	sum := sha256.Sum256([]byte(string(r.Code) + "\x00" + what))
	return hex.EncodeToString(sum[:])
}

// isBad says that this want was tried and ended badly, and what is known of that.
func (u *Updater) isBad(want release.Want) (b bad, isBad bool, err error) {
	err = u.cfg.DB.View(func(tx *store.Tx) (err error) {
		b, isBad, err = badTable().Get(tx, want.Digest())
		return err
	})
	rests := b.Until.IsZero() || b.rest(u.cfg.Now()) > 0
	return b, isBad && want.Counter <= b.Counter && rests && (!b.Unfit || u.unfit[want.Digest()]), err
}

package updater

import (
	"errors"
	"fmt"
	"slices"
)

// askKind says what an ask is for.
type askKind string

const (
	askCheck   askKind = "check"
	askCancel  askKind = "cancel"
	askPause   askKind = "pause"
	askResume  askKind = "resume"
	askApprove askKind = "approve"
	askStart   askKind = "start"

	// About what is kept, not about a change.
	askPin          askKind = "pin"
	askUnpin        askKind = "unpin"
	askDropPrevious askKind = "drop the previous set"
)

// ask is one order to the loop. trust, fetcher and place stand in for the configured ones in an import.
type ask struct {
	kind    askKind
	change  uint64
	trust   Trust
	fetcher Fetcher
	place   string
	what    string      // of a pin
	reply   chan answer // capacity 1: the loop never waits for who asked
}

type answer struct {
	change uint64
	err    error
}

func (a ask) answer(change uint64, err error) {
	if a.reply != nil {
		a.reply <- answer{change, err}
	}
}

// obey carries out an order.
func (u *Updater) obey(a ask) error {
	if a.kind == askCheck {
		u.offers.queue(a)
		return nil
	}
	var err error
	switch a.kind {
	case askPin, askUnpin, askDropPrevious:
		if u.worker != nil && u.worker.name == actCollect {
			u.afterwards = append(u.afterwards, a) // what is pinned may be going at this moment
			return nil
		}
		err = u.keepOrder(a)
	default:
		err = u.order(a)
	}
	a.answer(a.change, err)
	if fatal(err) {
		return err
	}
	return nil
}

func (u *Updater) order(a ask) error {
	if o := u.held; o != nil && u.worker == nil {
		// What the last act came to is stored first: the order is about what is so now.
		u.held = nil
		if err := u.ended(*o); err != nil {
			return err
		}
	}
	if u.change == nil || u.change.ID != a.change {
		return fmt.Errorf("cannot %s change %d: it is not under way", a.kind, a.change)
	}
	switch a.kind {
	case askCancel:
		return u.cancel()
	case askPause:
		return u.halt()
	case askResume:
		return u.goOn()
	case askApprove:
		return u.approve()
	case askStart:
		return u.startNow()
	}
	return fmt.Errorf("%w: no order %q", errInternal, a.kind)
}

// cannot says why an order does not fit, and what does.
func (u *Updater) cannot(verb askKind, instead string) error {
	return fmt.Errorf("cannot %s change %d: it is %s; %s", verb, u.change.ID, u.change.State, instead)
}

// cancel ends a change: at once before it switches, by undoing it afterwards.
func (u *Updater) cancel() error {
	switch s := u.change.State; {
	case s.givesWay():
		u.dropWork()
		return u.move(Cancelled, nil)
	case s == Switching || s == Watch:
		if err := u.goBack(codeCancelled, errors.New("an operator cancelled it")); err != nil {
			return err
		}
		u.dropWork()
		return nil
	}
	return u.cannot(askCancel, "it ends by itself")
}

// halt stops a change until an operator lets it go on.
func (u *Updater) halt() error {
	if !u.change.State.givesWay() {
		return u.cannot(askPause, fmt.Sprintf("wait for its end, or undo it: bothy change cancel %d", u.change.ID))
	}
	u.dropWork()
	return u.pause(reasonOperator, nil)
}

// goOn lets a paused change go on, whatever it was waiting for.
func (u *Updater) goOn() error {
	id := u.change.ID
	switch {
	case u.change.State == Paused:
		return u.move(Preflight, nil)
	case u.change.Reason == reasonApproval:
		return u.cannot(askResume, fmt.Sprintf("it waits for your approval: bothy change approve %d", id))
	case u.change.Reason == reasonWindow:
		return u.cannot(askResume, fmt.Sprintf("it waits for its window; without it: bothy change start %d", id))
	}
	return u.cannot(askResume, "it is not paused")
}

// approve stores that an operator agrees to this change; it may be said before the change asks.
func (u *Updater) approve() error {
	c := u.change
	switch {
	case !c.Want.Approval:
		return fmt.Errorf("cannot approve change %d: the fleet asks for no approval of it", c.ID)
	case !c.Approved.IsZero():
		return nil
	case !c.State.givesWay():
		return u.cannot(askApprove, "it has begun without")
	}
	return u.note("approved", func(c *Change) { c.Approved = u.cfg.Now() })
}

// startNow stores that this change does not wait for its window. Its approval it still needs.
func (u *Updater) startNow() error {
	c := u.change
	switch {
	case !c.State.givesWay():
		return u.cannot(askStart, "it has begun")
	case c.Anytime:
		return nil
	}
	return u.note("start now", func(c *Change) { c.Anytime = true })
}

// note stores an operator's word about the change, which stays in its state.
func (u *Updater) note(word string, edit func(*Change)) error {
	next := u.change.clone()
	edit(&next)
	next.remember(Transition{State: next.State, At: u.cfg.Now(), Reason: word})
	return u.save(next, nil)
}

// heldBack says what a change that is ready must still wait for; empty when nothing.
func (u *Updater) heldBack() string {
	c := u.change
	if c.Want.Approval && c.Approved.IsZero() && !u.running.repairedBy(c.Want) {
		return reasonApproval
	}
	if w := c.Want.Window; w != nil && !c.Anytime && !w.Contains(u.cfg.Now()) {
		return reasonWindow
	}
	return ""
}

// switchOrWait begins switching when nothing holds the change back; idle means
// that only an order can.
func (u *Updater) switchOrWait() (idle bool, err error) {
	reason := u.heldBack()
	switch {
	case reason == "":
		return false, u.beginSwitch()
	case u.change.State != Waiting || u.change.Reason != reason:
		return false, u.move(Waiting, func(c *Change) { c.Reason = reason })
	case reason == reasonApproval:
		return true, nil
	}
	u.arm(windowLook)
	return false, nil
}

// queue adds a look for a new want; looks that nobody waits for are one, and imports go first.
func (o *offers) queue(a ask) {
	if a.trust != nil {
		o.queued = slices.Insert(o.queued, 0, a)
		return
	}
	for _, have := range o.queued {
		if have.reply == nil && a.reply == nil {
			return
		}
	}
	o.queued = append(o.queued, a)
}

package updater

import (
	"context"
	"errors"
	"fmt"

	"github.com/bothy-edge/bothy/agent/store"
)

// Offer says that there may be a new want. It returns at once.
func (u *Updater) Offer() {
	select {
	case u.poked <- struct{}{}:
	default:
	}
}

// Check looks for a new want now and answers how that went: nil, a refusal, or
// why the source could not be asked. It needs Run.
func (u *Updater) Check(ctx context.Context) error {
	_, err := u.ask(ctx, ask{kind: askCheck})
	return err
}

// Import looks for a new want in another place (a USB stick) and fetches from
// there; place names it for people. It answers the change that carries the want;
// 0 when there was none to make. After a restart of the agent the change goes on
// with the configured Fetcher, and says what to type where that has not all of it.
func (u *Updater) Import(ctx context.Context, place string, from Trust, files Fetcher) (uint64, error) {
	return u.ask(ctx, ask{kind: askCheck, trust: from, fetcher: files, place: place})
}

// Cancel ends a change: at once before it switches, by undoing it afterwards.
// Its want is not tried again until the fleet assigns anew.
func (u *Updater) Cancel(ctx context.Context, id uint64) error { return u.tell(ctx, askCancel, id) }

// Pause stops a change that has not begun to switch until Resume; what was fetched stays.
func (u *Updater) Pause(ctx context.Context, id uint64) error { return u.tell(ctx, askPause, id) }

// Resume lets a paused change go on at once, whatever it was waiting for.
func (u *Updater) Resume(ctx context.Context, id uint64) error { return u.tell(ctx, askResume, id) }

// Approve agrees to a change whose want asks for that. It may be said before
// the change waits for it, and counts for this change only.
func (u *Updater) Approve(ctx context.Context, id uint64) error { return u.tell(ctx, askApprove, id) }

// Start lets a change fetch and switch outside its window. It approves nothing.
func (u *Updater) Start(ctx context.Context, id uint64) error { return u.tell(ctx, askStart, id) }

func (u *Updater) tell(ctx context.Context, kind askKind, id uint64) error {
	_, err := u.ask(ctx, ask{kind: kind, change: id})
	return err
}

// errStopped answers an order that comes when Run has ended.
var errStopped = errors.New("cannot take orders: the updater has stopped")

func (u *Updater) ask(ctx context.Context, a ask) (uint64, error) {
	a.reply = make(chan answer, 1)
	select {
	case u.asks <- a:
	case <-u.done:
		return 0, errStopped
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case r := <-a.reply:
		return r.change, r.err
	case <-u.done:
		return 0, errStopped
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// List answers every change that is still known, newest first.
func (u *Updater) List() ([]Change, error) {
	var all []Change
	err := u.cfg.DB.View(func(tx *store.Tx) error {
		return changeTable().Back(tx, func(_ string, c Change) error {
			all = append(all, u.live(c))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list changes: %w", err)
	}
	return all, nil
}

// Latest answers the change under way, else the newest one that moved or was
// refused; false when there is none. An offer that is refused meanwhile does not
// hide what is under way: anybody who has the broker can send one.
func (u *Updater) Latest() (c Change, found bool, err error) {
	if c, found = u.Active(); found {
		return c, true, nil
	}
	err = u.cfg.DB.View(func(tx *store.Tx) error {
		return changeTable().Back(tx, func(_ string, newest Change) error {
			c, found = newest, true
			return store.ErrStop
		})
	})
	if err != nil {
		return Change{}, false, fmt.Errorf("cannot show the newest change: %w", err)
	}
	return c, found, nil
}

// Show answers one change; false when there is none of that number.
func (u *Updater) Show(id uint64) (Change, bool, error) {
	var c Change
	var found bool
	err := u.cfg.DB.View(func(tx *store.Tx) (err error) {
		c, found, err = changeTable().Get(tx, store.Key(id))
		return err
	})
	if err != nil {
		return Change{}, false, fmt.Errorf("cannot show change %d: %w", id, err)
	}
	return u.live(c), found, nil
}

// Active answers the change that is under way; false when there is none.
func (u *Updater) Active() (Change, bool) {
	u.mu.Lock()
	c := u.active
	u.mu.Unlock()
	return u.live(c), c.State != "" && !c.State.Ended()
}

// live adds the progress of the fetch under way, which is not stored at each block.
func (u *Updater) live(c Change) Change {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.ID == u.active.ID && c.State == Fetching {
		c.Progress = u.progress
	}
	return c
}

// Wait answers the change once it has ended. Its own bad end is no error.
func (u *Updater) Wait(ctx context.Context, id uint64) (Change, error) {
	for {
		changed := u.Changed()
		c, found, err := u.Show(id)
		switch {
		case err != nil:
			return Change{}, err
		case !found:
			return Change{}, fmt.Errorf("cannot wait for change %d: there is none; `bothy change list` shows them", id)
		case c.State.Ended():
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c, ctx.Err()
		}
	}
}

// Changed answers a channel that is closed at the next change of state.
func (u *Updater) Changed() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.changed
}

// Current answers what this box runs, as of the last commit or undo.
func (u *Updater) Current() Running {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.running
}

package updater

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// offers is the loop's side of looking for a new want.
type offers struct {
	queued    []ask
	current   *ask
	stopLook  context.CancelFunc // of current
	refreshed chan refreshed     // capacity 1: there is one look at a time
	timer     *time.Timer
	tries     int
	// heard: a want was verified since the start.
	heard bool
	// refusals in a row, and until when a mere poke finds nobody: whoever can send
	// messages must not keep the box busy with refusing them.
	refusals int
	rest     time.Time
}

type refreshed struct {
	want release.Want
	err  error
}

func (o *offers) after(d time.Duration) {
	o.stop()
	o.timer = time.NewTimer(d)
}

func (o *offers) stop() {
	if o.timer != nil {
		o.timer.Stop()
	}
	o.timer = nil
}

// startRefresh begins the next look that is queued. An import does not wait
// for a look at the network: that may hang as long as somebody there wishes.
func (u *Updater) startRefresh(ctx context.Context) {
	if len(u.offers.queued) == 0 {
		return
	}
	if u.offers.current != nil {
		if u.offers.current.trust == nil && u.offers.queued[0].trust != nil {
			u.offers.stopLook()
		}
		return
	}
	a := u.offers.queued[0]
	if left := u.offers.rest.Sub(u.cfg.Now()); left > 0 && a.reply == nil {
		u.offers.after(min(left, retryCap))
		u.offers.queued = u.offers.queued[1:]
		u.startRefresh(ctx)
		return
	}
	u.offers.queued = u.offers.queued[1:]
	u.offers.current = &a
	source := u.cfg.Trust
	if a.trust != nil {
		source = a.trust
	}
	ctx, u.offers.stopLook = context.WithTimeout(ctx, u.cfg.RefreshFor)
	stop := u.offers.stopLook
	u.goroutine.Go(func() {
		defer stop()
		want, err := source.Refresh(ctx)
		u.offers.refreshed <- refreshed{want, err}
	})
}

// settleOffer takes the answer to a look: a want, a refusal to record, or an
// error that is tried again.
func (u *Updater) settleOffer(r refreshed) error {
	a := *u.offers.current
	u.offers.current = nil
	if u.unmarked {
		u.raiseMarks()
	}
	var id uint64
	var stored error
	refusal, refused := errors.AsType[*trust.Refusal](r.err)
	switch {
	case r.err == nil:
		u.offers.heard, u.offers.tries, u.offers.refusals = true, 0, 0
		u.offers.after(u.cfg.Every - time.Duration(u.cfg.Jitter()*float64(u.cfg.Every)/10))
		id, stored = u.consider(offered{r.want, a.fetcher, a.place})
	case refused:
		u.offers.tries = 0
		u.offers.after(u.cfg.Every)
		if a.trust == nil {
			u.offers.refusals++
			u.offers.rest = u.cfg.Now().Add(u.backoff(u.offers.refusals))
		}
		id, stored = u.refuse(refusal)
	case errors.Is(r.err, ErrNobody):
		u.offers.tries = 0
		u.offers.after(u.cfg.Every)
	default:
		tell := u.cfg.Log.Warn
		if errors.Is(r.err, trust.ErrNotFound) {
			tell = u.cfg.Log.Info // a fleet that has assigned nothing yet is no failure
		}
		tell("cannot look for a new want", "error", r.err)
		u.offers.tries++
		u.offers.after(u.backoff(u.offers.tries))
	}
	if stored != nil {
		u.offers.tries++
		u.offers.after(u.backoff(u.offers.tries))
	}
	a.answer(id, errors.Join(r.err, stored))
	return stored
}

// offered is a verified want, and where an import of it fetches from; nil is the configured Fetcher.
type offered struct {
	want  release.Want
	from  Fetcher
	place string // for people
}

// consider makes a change of a verified want that is neither running, nor on
// its way, nor known to end badly. It answers the change that carries the want,
// or the one that it waits for.
func (u *Updater) consider(o offered) (uint64, error) {
	want := o.want
	u.pending = nil
	if c := u.change; c != nil {
		switch {
		case c.Want.Digest() == want.Digest() && c.Want.Counter == want.Counter:
			return c.ID, u.fetchElsewhere(o)
		case !c.State.givesWay():
			u.pending = &o
			return c.ID, nil
		}
	}
	if u.runs(want) {
		return u.running.Change, errors.Join(u.giveWay(), u.confirm(want))
	}
	b, isBad, err := u.isBad(want)
	if err != nil {
		return 0, err
	}
	if isBad {
		u.cfg.Log.Info("want ended badly before, not tried again", "change", b.Change, "counter", want.Counter)
		if !b.Until.IsZero() {
			u.offers.after(b.rest(u.cfg.Now()) + time.Second)
		}
		return b.Change, u.giveWay()
	}
	if err := u.giveWay(); err != nil {
		return 0, err
	}
	u.fetcher, u.imported = u.cfg.Fetcher, o.from != nil
	if u.imported {
		u.fetcher = o.from
	}
	u.tries = 0
	return u.create(Change{State: Planned, Summary: want.String(), Want: want, From: o.place})
}

// whole says that these files lie here.
func (u *Updater) whole(files []release.File) bool {
	return !slices.ContainsFunc(files, func(f release.File) bool {
		_, here := u.cfg.Fetcher.Have(f)
		return !here
	})
}

// runs says that nothing is to do for a want: it runs, its files lie here, and
// no narrowing waits for a newer order to end it.
func (u *Updater) runs(want release.Want) bool {
	if u.running.Want.Digest() != want.Digest() {
		return false
	}
	if len(u.running.Narrowing) > 0 && want.Counter > u.running.Want.Counter {
		return false
	}
	return u.whole(filesOf(want))
}

// confirm stores the newer numbers of a want that runs already, and that the
// journal is right again. Then its policies are put in force anew.
func (u *Updater) confirm(want release.Want) error {
	r := u.running
	if reflect.DeepEqual(r.Want, want) && !r.PutBack {
		return nil
	}
	r.Want, r.PutBack = want, false
	err := u.cfg.DB.Update(func(tx *store.Tx) error { return runningTable().Put(tx, runningKey, r) })
	if err != nil {
		return err
	}
	u.booted = u.booted && !u.running.PutBack
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running = r
	return nil
}

// fetchElsewhere lets the change that carries a want go on from the place that
// an import of the same want named.
func (u *Updater) fetchElsewhere(o offered) error {
	if o.from == nil {
		return nil
	}
	u.fetcher, u.imported = o.from, true
	place := func(c *Change) { c.From = o.place }
	if u.change.State != Fetching && u.change.State != Paused {
		if u.change.From == o.place {
			return nil
		}
		return u.note("import", place)
	}
	u.dropWork()
	if u.change.State == Fetching {
		if err := u.pause(reasonSource, nil); err != nil {
			return err
		}
	}
	return u.move(Preflight, place)
}

// giveWay ends the change that a newer want replaces.
func (u *Updater) giveWay() error {
	if u.change == nil {
		return nil
	}
	u.dropWork()
	return u.move(Superseded, func(c *Change) { c.Error = "a newer want came" })
}

// dropWork stops the change's act under way and forgets how it ends. What
// brings the box to the journal after a start is no change's: it goes on.
func (u *Updater) dropWork() {
	u.held = nil
	if u.worker != nil && u.worker.name != actSettle {
		u.worker.dropped = true
		u.worker.cancel()
	}
}

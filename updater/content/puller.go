package content

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

const timeoutsToStepDown = 3

// puller fetches blocks of one file through a lane: it asks for slices as far
// as the window and the flow allow, puts the frames together and delivers whole
// blocks. The depot keeps no state of it, so everything outstanding can be asked
// for again at any time; a frame that comes twice finds no slice and is dropped.
// Owned by one goroutine.
type puller struct {
	depot  *Depot
	lane   Lane
	digest [32]byte
	plan   *plan
	ear    ear

	win      *window
	serial   uint64
	epoch    uint64
	flying   map[uint64]*flight // by offset
	airborne int                // bytes of flying
	tried    map[*slice]int     // timeouts of slices that are asked for again
	silent   int                // timeouts since the last frame that fitted
	progress time.Time
}

// flight is a slice that was asked for.
type flight struct {
	slice *slice
	sent  time.Time
	tries int
}

func newPuller(d *Depot, lane Lane, digest [32]byte, want []Block, sink Sink) *puller {
	return &puller{
		depot: d, lane: lane, digest: digest, plan: newPlan(want, sink),
		flying: map[uint64]*flight{}, tried: map[*slice]int{},
	}
}

func (p *puller) run(ctx context.Context) error {
	p.progress = p.depot.now()
	if err := p.connect(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !p.plan.finished() {
		changed := p.lane.Changed()
		st := p.lane.State()
		if p.moved(st) {
			if err := p.connect(ctx); err != nil {
				return err
			}
			continue
		}
		p.listen(ctx, st)
		held, err := p.ask(ctx)
		if err != nil {
			return err
		}
		timer.Reset(p.patience(held))
		since := p.depot.now()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case m := <-p.lane.Frames():
			if err := p.takeAll(m); err != nil {
				return err
			}
		case <-timer.C:
			if len(p.lane.Frames()) > 0 {
				continue // they came in time, we are late
			}
			if held > 0 && len(p.flying) == 0 {
				p.progress = p.progress.Add(p.depot.now().Sub(since)) // nothing was owed to us
			}
			if err := p.expire(); err != nil {
				return err
			}
		}
	}
	p.leave(ctx)
	return nil
}

func (p *puller) moved(st mqtt.LaneState) bool {
	return !st.Connected || st.Serial != p.serial || st.Known && st.Depot.Epoch != p.epoch
}

// connect waits for broker and depot, and asks again for everything
// outstanding: it went to another connection or to another life of the depot.
func (p *puller) connect(ctx context.Context) error {
	left := p.depot.stall() - p.depot.now().Sub(p.progress)
	st, err := p.depot.ready(ctx, p.lane, max(left, 0))
	if err != nil {
		return err
	}
	p.serial, p.epoch = st.Serial, st.Depot.Epoch
	frame := min(p.depot.frame(), st.Depot.FrameMax)
	if p.plan.frame != 0 {
		frame = min(frame, p.plan.frame)
	}
	p.win = newWindow(frame, st.Depot.WindowMax, p.depot.now())
	p.forget()
	if frame != p.plan.frame {
		p.plan.cut(frame)
		clear(p.tried)
	}
	return nil
}

// forget takes back everything that was asked for; it is ready to be asked for again.
func (p *puller) forget() {
	for _, f := range p.flying {
		p.tried[f.slice] = f.tries
	}
	clear(p.flying)
	p.airborne = 0
	p.plan.requeue(nil)
}

// resize cuts everything that is not there yet into slices of another length.
// Blocks begun are begun anew: at most one window is fetched twice.
func (p *puller) resize(frame int) {
	p.forget()
	clear(p.tried)
	p.plan.cut(frame)
}

// ask fills the window. held is when the flow may be asked again, if it is what
// keeps the window from being full.
func (p *puller) ask(ctx context.Context) (held time.Duration, err error) {
	for held == 0 && !p.ear.waits() {
		var ranges []wire.Range
		var batch []*flight
		for len(ranges) < wire.MaxRanges && p.airborne < p.win.credit && len(p.flying) < windowFrames {
			if held = p.depot.Flow.Take(0); held > 0 {
				break
			}
			s := p.plan.take()
			if s == nil {
				break
			}
			if held = p.depot.Flow.Take(s.length); held > 0 {
				p.plan.ready = append([]*slice{s}, p.plan.ready...)
				break
			}
			f := &flight{slice: s, tries: p.tried[s] + 1}
			delete(p.tried, s)
			p.flying[s.offset] = f
			p.airborne += s.length
			batch = append(batch, f)
			ranges = append(ranges, wire.Range{Offset: s.offset, Length: uint32(s.length)})
		}
		p.win.used(p.airborne)
		if len(ranges) == 0 {
			return held, nil
		}
		now := p.depot.now()
		for _, f := range batch {
			f.sent = now
		}
		q := wire.Request{Kind: wire.KindBlob, Digest: p.digest, Clock: p.lane.Clock(), Ranges: ranges}
		if err := p.lane.Ask(ctx, q); err != nil {
			// Lost with the connection; the new one, or the timer, asks again.
			return held, ctx.Err()
		}
	}
	return held, nil
}

// takeAll handles a frame and those that came with it, so that one request answers them all.
func (p *puller) takeAll(m mqtt.Arrival) error {
	for range windowFrames {
		err := p.frameIn(m)
		m.Release() // what fitted was copied into its block
		if err != nil {
			return err
		}
		select {
		case m = <-p.lane.Frames():
		default:
			return nil
		}
	}
	return nil
}

func (p *puller) frameIn(m mqtt.Arrival) error {
	f, err := wire.ParseFrame(m.Payload)
	if err != nil {
		return nil // damaged on the way: its timer asks again
	}
	if m.Cast {
		return p.heard(f)
	}
	if err := answered(f.Code); err != nil {
		return err
	}
	a := p.flying[f.Offset]
	if a == nil || f.Kind != wire.KindBlob || len(f.Payload) != a.slice.length {
		return nil // asked for twice, or of another frame size
	}
	p.progress, p.silent = p.depot.now(), 0
	if a.tries == 1 { // Karn: which of two requests it answers is not known
		p.win.sample(m.At.Sub(a.sent), p.progress)
	}
	p.landed(a)
	if !p.plan.current(a.slice) {
		return nil // its block was given up for another
	}
	return p.plan.land(a.slice, f.Payload)
}

// landed takes a flight off the list.
func (p *puller) landed(a *flight) {
	delete(p.flying, a.slice.offset)
	p.airborne -= a.slice.length
}

// patience is how long until there is something to do without a frame.
func (p *puller) patience(held time.Duration) time.Duration {
	now := p.depot.now()
	wait := p.depot.stall() - now.Sub(p.progress)
	if held > 0 {
		wait = held
	}
	if next := p.ear.due(now); next > 0 {
		wait = min(wait, next)
	}
	for _, f := range p.flying {
		wait = min(wait, f.sent.Add(p.win.rto(f.tries)).Sub(now))
	}
	return max(wait, 0)
}

// expire puts overdue slices back to the front.
func (p *puller) expire() error {
	now := p.depot.now()
	if now.Sub(p.progress) >= p.depot.stall() {
		return fmt.Errorf("nothing for %s: %w", p.depot.stall(), ErrStalled)
	}
	var late []*slice
	for _, f := range p.flying {
		if now.Sub(f.sent) >= p.win.rto(f.tries) {
			late = append(late, f.slice)
			p.tried[f.slice] = f.tries
			p.landed(f)
		}
	}
	if len(late) == 0 || p.ear.waits() {
		return nil // a cast brings them, or leaving it makes them ready
	}
	slices.SortFunc(late, func(a, b *slice) int { return cmp.Compare(a.offset, b.offset) })
	p.plan.ready = append(late, p.plan.ready...)
	p.win.lost()
	p.silent++
	if p.silent < timeoutsToStepDown {
		return nil
	}
	p.silent = 0
	if smaller := stepDown(p.plan.frame); smaller < p.plan.frame {
		p.resize(smaller)
		p.win.restart(smaller, p.win.limit, now)
	}
	// If it was not the size of the frames, it may be a connection that has gone deaf.
	p.lane.Redial()
	return nil
}

package content

import (
	"context"
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

const timeoutsToStepDown = 3

// puller fetches blocks of one file through a lane: it asks for slices as far
// as the window allows, puts the frames together and delivers whole blocks. The
// depot keeps no state of it, so everything outstanding can be asked for again
// at any time; a frame that comes twice finds no slice and is dropped.
// Owned by one goroutine.
type puller struct {
	depot  *Depot
	lane   Lane
	digest [32]byte
	want   []Block
	sink   Sink

	frame    int
	win      *window
	serial   uint64
	epoch    uint64
	next     int      // index into want of the next block to open
	ready    []*slice // to be asked for, in order
	flying   map[uint64]*slice
	airborne int // bytes of flying
	silent   int // timeouts since the last frame that fitted
	progress time.Time
}

// slice is the unit of request: one frame's worth of one block.
type slice struct {
	block  *building
	offset uint64 // in the file
	length int
	sent   time.Time
	tries  int
}

// building is a block of which some slices are there.
type building struct {
	block Block
	data  []byte
	left  int // bytes
}

func (p *puller) run(ctx context.Context) error {
	p.progress = p.depot.now()
	if err := p.connect(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !p.finished() {
		changed := p.lane.Changed()
		if p.moved(p.lane.State()) {
			if err := p.connect(ctx); err != nil {
				return err
			}
			continue
		}
		if err := p.ask(ctx); err != nil {
			return err
		}
		timer.Reset(p.patience())
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
			if err := p.expire(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *puller) finished() bool {
	return p.next == len(p.want) && len(p.ready) == 0 && len(p.flying) == 0
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
	if p.frame != 0 {
		frame = min(frame, p.frame)
	}
	p.win = newWindow(frame, st.Depot.WindowMax, p.depot.now())
	if frame != p.frame {
		p.resize(frame)
		return nil
	}
	for _, s := range p.flying {
		p.ready = append(p.ready, s)
	}
	clear(p.flying)
	p.airborne = 0
	return nil
}

// resize cuts everything that is not there yet into slices of another length.
// Blocks begun are begun anew: at most one window is fetched twice.
func (p *puller) resize(frame int) {
	begun := map[*building]bool{}
	for _, s := range p.flying {
		begun[s.block] = true
	}
	for _, s := range p.ready {
		begun[s.block] = true
	}
	clear(p.flying)
	p.ready, p.airborne, p.frame = nil, 0, frame
	for b := range begun {
		b.left = b.block.Length
		p.slice(b)
	}
}

func (p *puller) slice(b *building) {
	for at := 0; at < b.block.Length; at += p.frame {
		p.ready = append(p.ready, &slice{block: b, offset: uint64(b.block.Offset) + uint64(at), length: min(p.frame, b.block.Length-at)})
	}
}

// ask fills the window.
func (p *puller) ask(ctx context.Context) error {
	for {
		var ranges []wire.Range
		var batch []*slice
		bytes := 0
		for len(ranges) < wire.MaxRanges && p.airborne < p.win.credit && len(p.flying) < windowFrames {
			s := p.take()
			if s == nil {
				break
			}
			s.tries++
			p.flying[s.offset] = s
			batch = append(batch, s)
			p.airborne += s.length
			bytes += s.length
			ranges = append(ranges, wire.Range{Offset: s.offset, Length: uint32(s.length)})
		}
		if len(ranges) == 0 {
			return nil
		}
		if p.depot.Pace != nil {
			if err := p.depot.Pace(ctx, bytes); err != nil {
				return err
			}
		}
		for _, s := range batch {
			s.sent = p.depot.now()
		}
		q := wire.Request{Kind: wire.KindBlob, Digest: p.digest, Clock: p.lane.Clock(), Ranges: ranges}
		if err := p.lane.Ask(ctx, q); err != nil {
			// Lost with the connection; the new one, or the timer, asks again.
			return ctx.Err()
		}
	}
}

// take is the next slice to ask for; it opens the next block when there is none.
func (p *puller) take() *slice {
	if len(p.ready) == 0 && p.next < len(p.want) {
		k := p.want[p.next]
		p.next++
		p.slice(&building{block: k, data: p.sink.Buffer(k.Length), left: k.Length})
	}
	if len(p.ready) == 0 {
		return nil
	}
	s := p.ready[0]
	p.ready = p.ready[1:]
	return s
}

// takeAll handles a frame and those that came with it, so that one request answers them all.
func (p *puller) takeAll(m mqtt.Arrival) error {
	for range windowFrames {
		if err := p.frameIn(m); err != nil {
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
	if err := answered(f.Code); err != nil {
		return err
	}
	s := p.flying[f.Offset]
	if s == nil || f.Kind != wire.KindBlob || len(f.Payload) != s.length {
		return nil // asked for twice, or of another frame size
	}
	delete(p.flying, f.Offset)
	p.airborne -= s.length
	p.silent, p.progress = 0, p.depot.now()
	if s.tries == 1 { // Karn: which of two requests it answers is not known
		p.win.sample(m.At.Sub(s.sent), p.progress)
	}
	b := s.block
	copy(b.data[s.offset-uint64(b.block.Offset):], f.Payload)
	b.left -= s.length
	if b.left > 0 {
		return nil
	}
	return p.sink.Deliver(b.block, b.data)
}

// patience is how long until the first slice is overdue or the whole has stalled.
func (p *puller) patience() time.Duration {
	now := p.depot.now()
	wait := p.depot.stall() - now.Sub(p.progress)
	for _, s := range p.flying {
		wait = min(wait, s.sent.Add(p.win.rto(s.tries)).Sub(now))
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
	for _, s := range p.flying {
		if now.Sub(s.sent) >= p.win.rto(s.tries) {
			late = append(late, s)
			delete(p.flying, s.offset)
			p.airborne -= s.length
		}
	}
	if len(late) == 0 {
		return nil
	}
	p.ready = append(late, p.ready...)
	p.win.lost()
	p.silent++
	if p.silent < timeoutsToStepDown {
		return nil
	}
	p.silent = 0
	if stepDown(p.frame) < p.frame {
		p.resize(stepDown(p.frame))
		p.win.restart(p.frame, p.win.limit, now)
	}
	// If it was not the size of the frames, it may be a connection that has gone deaf.
	p.lane.Redial()
	return nil
}

package content

import (
	"context"
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

const (
	objectAhead = 4               // frames asked for at once; objects are small
	objectWait  = 2 * time.Second // before asking again
	objectTries = 3               // with one frame size
)

// object fetches a thing of unknown length in frames: an index or a metadata file.
func (d *Depot) object(ctx context.Context, q wire.Request, limit int64) ([]byte, error) {
	lane, err := d.join()
	if err != nil {
		return nil, err
	}
	defer lane.Close()
	a := &assembly{depot: d, lane: lane, ask: q, limit: limit, end: d.now().Add(d.stall())}
	st, err := d.ready(ctx, lane, d.stall())
	if err != nil {
		return nil, err
	}
	a.frame, a.serial, a.epoch = min(d.frame(), st.Depot.FrameMax), st.Serial, st.Depot.Epoch
	for tries := 1; !a.whole(); tries++ {
		if tries > objectTries {
			// Frames may be too large for the broker, or the connection deaf.
			a.frame, tries = stepDown(a.frame), 1
			a.reset()
			lane.Redial()
		}
		if !d.now().Before(a.end) {
			return nil, fmt.Errorf("nothing for %s: %w", d.stall(), ErrStalled)
		}
		got, err := a.attempt(ctx)
		if err != nil {
			return nil, err
		}
		if got {
			tries, a.end = 0, d.now().Add(d.stall())
		}
	}
	return a.data, nil
}

func stepDown(frame int) int {
	ladder := frameLadder()
	for i := len(ladder) - 1; i >= 0; i-- {
		if ladder[i] < frame {
			return ladder[i]
		}
	}
	return frame
}

// assembly is an object on its way. Everything before got is there.
type assembly struct {
	depot  *Depot
	lane   Lane
	ask    wire.Request
	limit  int64
	frame  int
	end    time.Time
	serial uint64
	epoch  uint64

	known  bool // the total is known, data has its length
	id     [16]byte
	data   []byte
	offset map[uint64]bool // frames that are there, by offset
	spent  int64           // bytes taken, also for what was replaced since; a frame counts at least minFrame
}

// minFrame is the least that a frame costs of an object's budget, in bytes.
const minFrame = 1 << 10

// budget is how many bytes may be taken for one object, which may be replaced on
// its way. An object that is another one with every frame would never end.
func (a *assembly) budget() int64 { return 4*a.limit + 64<<10 }

func (a *assembly) reset() { a.known, a.data, a.offset = false, nil, nil }

func (a *assembly) whole() bool {
	return a.known && len(a.missing(1)) == 0
}

// missing is the first n ranges that are not there.
func (a *assembly) missing(n int) []wire.Range {
	if !a.known {
		return []wire.Range{{Offset: 0, Length: uint32(a.frame)}}
	}
	var out []wire.Range
	for at := 0; at < len(a.data) && len(out) < n; at += a.frame {
		if !a.offset[uint64(at)] {
			out = append(out, wire.Range{Offset: uint64(at), Length: uint32(min(a.frame, len(a.data)-at))})
		}
	}
	return out
}

// attempt asks for what is missing and takes what comes until all of that is
// there or nothing came for a while. It says whether anything came.
func (a *assembly) attempt(ctx context.Context) (bool, error) {
	if _, err := a.depot.ready(ctx, a.lane, a.end.Sub(a.depot.now())); err != nil {
		return false, err
	}
	q := a.ask
	q.Ranges, q.Clock = a.missing(objectAhead), a.lane.Clock()
	changed := a.lane.Changed()
	if err := a.lane.Ask(ctx, q); err != nil && ctx.Err() != nil {
		return false, ctx.Err()
	}
	timer := time.NewTimer(objectWait)
	defer timer.Stop()
	for left, got := len(q.Ranges), false; ; {
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-timer.C:
			return got, nil
		case <-changed: // what was asked may be lost with the old connection
			changed = a.lane.Changed()
			if st := a.lane.State(); st.Serial != a.serial || st.Depot.Epoch != a.epoch {
				a.serial, a.epoch = st.Serial, st.Depot.Epoch
				return got, nil
			}
		case m := <-a.lane.Frames():
			ok, err := a.take(m.Payload)
			if err != nil {
				return got, err
			}
			if ok {
				got = true
				left--
			}
			if left == 0 || a.whole() {
				return got, nil
			}
		}
	}
}

func (a *assembly) take(b []byte) (bool, error) {
	f, err := wire.ParseFrame(b)
	if err != nil || f.Kind != a.ask.Kind {
		return false, nil // damaged on the way: it will be asked for again
	}
	if err := answered(f.Code); err != nil {
		return false, err
	}
	if f.Total > uint64(a.limit) {
		return false, fmt.Errorf("it has %d bytes, the limit is %d: %w", f.Total, a.limit, ErrCorrupt)
	}
	if a.known && (f.ID != a.id || f.Total != uint64(len(a.data))) {
		a.reset() // it was replaced between two frames: begin again with the new one
	}
	if !a.known {
		a.known, a.id, a.data, a.offset = true, f.ID, make([]byte, f.Total), map[uint64]bool{}
	}
	if f.Offset%uint64(a.frame) != 0 || len(f.Payload) != min(a.frame, len(a.data)-int(f.Offset)) {
		return false, nil // of another frame size
	}
	if len(f.Payload) > 0 && a.offset[f.Offset] {
		return false, nil
	}
	if a.spent += int64(max(len(f.Payload), minFrame)); a.spent > a.budget() {
		return false, fmt.Errorf("%d bytes came and it is not whole, the limit is %d: %w", a.spent, a.limit, ErrCorrupt)
	}
	copy(a.data[f.Offset:], f.Payload)
	a.offset[f.Offset] = true
	return true, nil
}

package content

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// stage is a path beside which a cast of the same bytes runs.
type stage struct {
	*path
	id        [16]byte
	cast      mqtt.Cast
	deaf      bool // the broker lets nobody listen
	edit      func(n int, f *wire.Frame) bool
	every     time.Duration // between two frames
	listening atomic.Bool
	listened  int
	said      []wire.Feedback
}

func newStage(data []byte) *stage {
	f, _ := fileOf(data)
	raw, _ := hex.DecodeString(f.SHA256)
	s := &stage{path: newPath(data, 2e6, time.Millisecond), id: [16]byte(raw[:16]), every: 20 * time.Millisecond}
	s.cast = mqtt.Cast{ID: f.SHA256[:32], Stream: 9, Frame: 120 << 10}
	s.state.Depot.Cast = []mqtt.Cast{s.cast}
	return s
}

func (s *stage) Listen([16]byte) {
	s.listened++
	time.AfterFunc(10*time.Millisecond, func() {
		s.move(func(st *mqtt.LaneState) { st.Hears, st.Deaf = !s.deaf, s.deaf })
		if !s.deaf && s.listening.CompareAndSwap(false, true) {
			go s.play()
		}
	})
}

func (s *stage) Mute() {
	s.listening.Store(false)
	s.move(func(st *mqtt.LaneState) { st.Hears, st.Deaf = false, false })
}

func (s *stage) Feedback(_ context.Context, f wire.Feedback) error {
	s.said = append(s.said, f)
	return nil
}

// play streams the data once, then takes the announcement back.
func (s *stage) play() {
	pos := 0
	for at := 0; at < len(s.data); at += BlockSize {
		block := min(BlockSize, len(s.data)-at)
		for within := 0; within < block; within += s.cast.Frame {
			n := min(s.cast.Frame, block-within)
			f := wire.Frame{Kind: wire.KindBlob, Transfer: s.cast.Stream, ID: s.id, Offset: uint64(at + within), Total: uint64(len(s.data)),
				Clock: time.Duration(pos), Payload: slices.Clone(s.data[at+within : at+within+n])}
			pos += n
			<-time.After(s.every)
			if !s.listening.Load() {
				return
			}
			if s.edit == nil || s.edit(pos, &f) {
				select {
				case s.frames <- mqtt.Arrival{Payload: f.Encode(), At: time.Now(), Cast: true}:
				default:
				}
			}
		}
	}
	<-time.After(time.Second)
	s.move(func(st *mqtt.LaneState) { st.Depot.Cast = nil })
}

// end lets the stream come to its end.
func (s *stage) end() {
	s.listening.Store(false)
	<-time.After(3 * time.Second)
}

// hear pulls the data with the cast at hand and answers how many bytes were asked for.
func (s *stage) hear(t *testing.T, edit func(*Depot), sink Sink) (asked int, err error) {
	t.Helper()
	d := &Depot{join: func() (Lane, error) { return s, nil }}
	if edit != nil {
		edit(d)
	}
	f, _ := fileOf(s.data)
	err = d.Blocks(t.Context(), f, mustIndex(t, s.data).Blocks, sink)
	s.end()
	for _, r := range s.asked {
		asked += int(r.Length)
	}
	return asked, err
}

func TestCastBringsWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 20*BlockSize+777)
		s, g := newStage(data), &gather{out: make([]byte, len(data))}
		asked, err := s.hear(t, nil, g)
		if err != nil || g.seen != len(data) || asked != 0 {
			t.Errorf("got %d of %d bytes, %d asked for, %v", g.seen, len(data), asked, err)
		}
		last := s.said[len(s.said)-1]
		if s.said[0].Missing != uint64(len(data)) || !last.Leaving || last.Missing != 0 || last.Got != uint64(len(data)) || last.Lost != 0 {
			t.Errorf("said %+v at first and %+v at last", s.said[0], last)
		}
		if len(s.said) < 4 { // it took four seconds
			t.Errorf("said %d times how it goes", len(s.said))
		}
	})
}

func TestCastIsLeftWhenItGoesBadly(t *testing.T) {
	for name, c := range map[string]struct {
		edit  func(*stage)
		depot func(*Depot)
		least float64 // share that must have been asked for
		heard bool
	}{
		"a frame lost now and then": {func(s *stage) { s.edit = func(n int, _ *wire.Frame) bool { return n/(120<<10)%30 != 7 } }, nil, 0.01, true},
		"half of the frames lost":   {func(s *stage) { s.edit = func(n int, _ *wire.Frame) bool { return n/(120<<10)%2 == 0 } }, nil, 0.5, true},
		"it falls silent":           {func(s *stage) { s.edit = func(n int, _ *wire.Frame) bool { return n < 5<<20 } }, nil, 0.6, true},
		"of another stream":         {func(s *stage) { s.edit = func(_ int, f *wire.Frame) bool { f.Transfer++; return true } }, nil, 1, true},
		"of another blob":           {func(s *stage) { s.edit = func(_ int, f *wire.Frame) bool { f.ID[1]++; return true } }, nil, 1, true},
		"askew":                     {func(s *stage) { s.edit = func(_ int, f *wire.Frame) bool { f.Offset++; f.Total++; return true } }, nil, 1, true},
		"the broker lets us not in": {func(s *stage) { s.deaf = true }, nil, 1, true},
		"we have a rate":            {func(*stage) {}, func(d *Depot) { d.Flow = &Flow{Rate: 9 << 20} }, 1, false},
		"we are told not to":        {func(*stage) {}, func(d *Depot) { d.Alone = true }, 1, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			data := noise(1, 20*BlockSize)
			s, g := newStage(data), &gather{out: make([]byte, len(data))}
			c.edit(s)
			asked, err := s.hear(t, c.depot, g)
			if err != nil || g.seen != len(data) {
				t.Errorf("%s: got %d of %d bytes, %v", name, g.seen, len(data), err)
			}
			if share := float64(asked) / float64(len(data)); share < c.least || share > c.least+0.4 {
				t.Errorf("%s: %.0f %% asked for, want about %.0f %%", name, share*100, c.least*100)
			}
			if (s.listened > 0) != c.heard || s.listened > 2 {
				t.Errorf("%s: listened %d times, want any: %v", name, s.listened, c.heard)
			}
		})
	}
}

// A wrong block of a cast is nobody's fault whom we ask: the fetch goes on without the cast.
func TestWrongBlockOfACastIsAskedForFromTheDepot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 20*BlockSize)
		s := newStage(data)
		_, s.kind = fileOf(data)
		s.edit = func(n int, f *wire.Frame) bool {
			if n > 3<<20 {
				f.Payload[5] ^= 1
			}
			return true
		}
		d := &Depot{join: func() (Lane, error) { return s, nil }}
		f, _ := fileOf(data)
		store := openStore(t)
		var last Progress
		if _, err := store.Fetch(t.Context(), f, []Source{d}, func(p Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		s.end()
		wantFile(t, store, f, data)
		if last.BySource["cast"] < 2<<20 || last.BySource["mqtt"] < 10<<20 {
			t.Errorf("got %v, want the first blocks by cast and the rest from the depot", last.BySource)
		}
	})
}

func TestCastedFetchCanBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 20*BlockSize)
		s := newStage(data)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		d := &Depot{join: func() (Lane, error) { return s, nil }}
		f, _ := fileOf(data)
		err := d.Blocks(ctx, f, mustIndex(t, data).Blocks, &gather{out: make([]byte, len(data))})
		if !errors.Is(err, context.Canceled) || time.Since(s.start) > 2*time.Second {
			t.Errorf("got %v after %s", err, time.Since(s.start))
		}
		s.end()
	})
}

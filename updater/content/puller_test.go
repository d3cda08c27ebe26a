package content

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

// path is a depot behind a link with a rate and a delay, in virtual time. It is
// a Lane. Frames leave one after the other, as through a bottleneck.
type path struct {
	data   []byte
	kind   []byte // answered for anything but blobs
	rate   int    // bytes a second
	delay  time.Duration
	mangle func(n int, f []byte) []byte // of the n-th frame; nil result loses it

	start  time.Time
	frames chan mqtt.Arrival
	busy   time.Time     // the bottleneck is taken until then
	queued time.Duration // the longest that a frame waited for the bottleneck, after the first seconds
	count  int
	asked  []wire.Range

	mu      sync.Mutex
	changed chan struct{}
	state   mqtt.LaneState
	lost    atomic.Bool // nothing arrives any more
}

func newPath(data []byte, rate int, delay time.Duration) *path {
	return &path{
		data: data, rate: rate, delay: delay, start: time.Now(), busy: time.Now(),
		frames: make(chan mqtt.Arrival, 4*windowFrames), changed: make(chan struct{}),
		state: mqtt.LaneState{Connected: true, Serial: 1, Known: true, Depot: mqtt.Info{V: 1, FrameMax: wire.MaxFrame, WindowMax: 16 << 20, Epoch: 1}},
	}
}

func (p *path) Frames() <-chan mqtt.Arrival { return p.frames }
func (p *path) Clock() time.Duration        { return time.Since(p.start) }
func (p *path) Close()                      {}
func (p *path) Redial()                     {}
func (p *path) Listen([16]byte)             {}
func (p *path) Mute()                       {}

func (p *path) Feedback(context.Context, wire.Feedback) error { return nil }

func (p *path) State() mqtt.LaneState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *path) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// move changes the connection as the puller sees it.
func (p *path) move(f func(*mqtt.LaneState)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.state)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *path) Ask(_ context.Context, q wire.Request) error {
	object := p.data
	if q.Kind != wire.KindBlob {
		object = p.kind
	}
	for _, r := range q.Ranges {
		p.asked = append(p.asked, r)
		end := min(r.Offset+uint64(r.Length), uint64(len(object)))
		f := wire.Frame{Kind: q.Kind, Offset: r.Offset, Total: uint64(len(object)), Payload: object[r.Offset:end]}.Encode()
		p.count++
		if p.mangle != nil {
			f = p.mangle(p.count, f)
		}
		if f == nil {
			continue
		}
		if wait := time.Until(p.busy); wait > p.queued && time.Since(p.start) > 5*time.Second {
			p.queued = wait
		}
		p.busy = later(p.busy, time.Now()).Add(time.Duration(len(f)) * time.Second / time.Duration(p.rate))
		time.AfterFunc(time.Until(p.busy.Add(p.delay)), func() { p.frames <- mqtt.Arrival{Payload: f, At: time.Now()} })
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (p *path) depot() *Depot { return &Depot{join: func() (Lane, error) { return p, nil }} }

// gather is a Sink that keeps everything.
type gather struct {
	out  []byte
	seen int
}

func (g *gather) Buffer(n int) []byte { return make([]byte, n) }

func (g *gather) Deliver(k Block, b []byte) error {
	g.seen += copy(g.out[k.Offset:], b)
	return nil
}

// pull fetches all blocks of data through p and compares them.
func pull(t *testing.T, p *path, data []byte) error {
	t.Helper()
	g := &gather{out: make([]byte, len(data))}
	f, _ := fileOf(data)
	x := mustIndex(t, data)
	if err := p.depot().Blocks(t.Context(), f, x.Blocks, g); err != nil {
		return err
	}
	if g.seen != len(data) || !bytes.Equal(g.out, data) {
		t.Errorf("got %d bytes, want the %d sent", g.seen, len(data))
	}
	return nil
}

func TestWindowFillsTheLinkAndNotItsQueue(t *testing.T) {
	const rate = 100e6 / 8 // 100 Mbit/s
	for _, c := range []struct {
		delay time.Duration
		share float64 // of the link
	}{{20 * time.Millisecond, 0.90}, {100 * time.Millisecond, 0.80}, {time.Millisecond, 0.90}} {
		synctest.Test(t, func(t *testing.T) {
			data := patterned(256 << 20)
			p := newPath(data, rate, c.delay)
			if err := pull(t, p, data); err != nil {
				t.Fatal(err)
			}
			took := time.Since(p.start).Seconds()
			if got := float64(len(data)) / took / rate; got < c.share {
				t.Errorf("%s: used %.0f %% of the link, want %.0f %%", c.delay, got*100, c.share*100)
			}
			if p.queued > 250*time.Millisecond {
				t.Errorf("%s: a frame of ours waited %s, want under 250ms", c.delay, p.queued)
			}
		})
	}
}

func TestLostAndDamagedFramesAreAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 24*BlockSize+99)
		p := newPath(data, 50e6, 10*time.Millisecond)
		p.mangle = func(n int, f []byte) []byte {
			switch n % 17 {
			case 3:
				return nil
			case 9:
				f[100] ^= 1
			case 11:
				return f[:40]
			}
			return f
		}
		if err := pull(t, p, data); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFrameSizeStepsDownWhenLargeOnesAreSwallowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 8*BlockSize+99)
		p := newPath(data, 50e6, time.Millisecond)
		p.mangle = func(_ int, f []byte) []byte {
			if len(f) > 130<<10 {
				return nil
			}
			return f
		}
		if err := pull(t, p, data); err != nil {
			t.Fatal(err)
		}
		if last := p.asked[len(p.asked)-1].Length; last > 120<<10 {
			t.Errorf("still asks for %d bytes at the end", last)
		}
	})
}

func TestSmallerFrameOfTheDepotIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 2*BlockSize)
		p := newPath(data, 50e6, time.Millisecond)
		p.state.Depot.FrameMax = 50_000
		if err := pull(t, p, data); err != nil {
			t.Fatal(err)
		}
		for _, r := range p.asked {
			if r.Length > 50_000 {
				t.Fatalf("asked for %d bytes", r.Length)
			}
		}
	})
}

func TestSilentDepotIsGivenUpAfterAMinute(t *testing.T) {
	for name, edit := range map[string]func(*path){
		"no answers":      func(p *path) { p.mangle = func(int, []byte) []byte { return nil } },
		"no broker":       func(p *path) { p.state.Connected = false },
		"not announced":   func(p *path) { p.state.Known = false },
		"dies on the way": func(p *path) { p.mangle = func(n int, f []byte) []byte { return map[bool][]byte{true: f}[n < 20] } },
		"broker goes away": func(p *path) {
			time.AfterFunc(time.Second, func() { p.move(func(s *mqtt.LaneState) { s.Connected = false }) })
			p.rate = 1e6
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			data := noise(1, 20*BlockSize)
			p := newPath(data, 50e6, time.Millisecond)
			edit(p)
			err := pull(t, p, data)
			if took := time.Since(p.start); !errors.Is(err, ErrStalled) || took < time.Minute || took > 2*time.Minute {
				t.Errorf("%s: got %v after %s, want a stall after a minute", name, err, took)
			}
		})
	}
}

func TestEverythingOutstandingIsAskedAgainOnANewConnectionOrDepot(t *testing.T) {
	for name, edit := range map[string]func(*mqtt.LaneState){
		"connection": func(s *mqtt.LaneState) { s.Serial++ },
		"epoch":      func(s *mqtt.LaneState) { s.Depot.Epoch++ },
	} {
		synctest.Test(t, func(t *testing.T) {
			data := noise(1, 4*BlockSize)
			p := newPath(data, 50e6, time.Millisecond)
			p.lost.Store(true)
			p.mangle = func(_ int, f []byte) []byte {
				if p.lost.Load() {
					return nil
				}
				return f
			}
			time.AfterFunc(100*time.Millisecond, func() {
				p.lost.Store(false)
				p.move(edit)
			})
			if err := pull(t, p, data); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(p.start); took > time.Second {
				t.Errorf("%s: took %s: it waited for a timer", name, took)
			}
		})
	}
}

func TestRefusalEndsAPullAtOnce(t *testing.T) {
	for code, want := range map[uint16]error{wire.CodeForbidden: ErrForbidden, wire.CodeNotFound: ErrNotFound, wire.CodeRange: ErrCorrupt} {
		synctest.Test(t, func(t *testing.T) {
			data := noise(1, BlockSize)
			p := newPath(data, 50e6, time.Millisecond)
			p.mangle = func(int, []byte) []byte { return wire.Frame{Kind: wire.KindBlob, Code: code}.Encode() }
			if err := pull(t, p, data); !errors.Is(err, want) || time.Since(p.start) > time.Second {
				t.Errorf("code %d: got %v after %s, want %v at once", code, err, time.Since(p.start), want)
			}
		})
	}
}

func TestObjectThatIsReplacedOnTheWayIsNotMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(nil, 50e6, time.Millisecond)
		old, fresh := bytes.Repeat([]byte("a"), 3*DefaultFrame), bytes.Repeat([]byte("b"), 3*DefaultFrame)
		p.kind = old
		p.mangle = func(n int, f []byte) []byte {
			x, err := wire.ParseFrame(f)
			if err != nil {
				t.Fatal(err)
			}
			if n == 2 { // one frame of the old version, then only the new
				p.kind = fresh
				x.Payload = fresh[x.Offset:min(int(x.Offset)+DefaultFrame, len(fresh))]
			}
			x.ID = [16]byte{p.kind[0]}
			if n == 3 {
				return nil
			}
			return x.Encode()
		}
		got, err := p.depot().Metadata(t.Context(), "catalog", "targets.json", 1<<20)
		if err != nil || !bytes.Equal(got, fresh) {
			t.Errorf("got %d bytes beginning %.3q, %v, want the new version whole", len(got), got, err)
		}
	})
}

func TestEndlessObjectIsRefusedByItsAnnouncedSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(nil, 50e6, time.Millisecond)
		p.kind = make([]byte, 100_001)
		if _, err := p.depot().Metadata(t.Context(), "catalog", "timestamp.json", 100_000); !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v, want %v", err, ErrCorrupt)
		}
		if _, err := p.depot().Index(t.Context(), release.File{SHA256: "xx"}); err == nil {
			t.Error("an index without a digest was asked for")
		}
	})
}

func TestRTOFollowsTheRoundTripWithinItsBounds(t *testing.T) {
	now := time.Now()
	w := newWindow(DefaultFrame, 16<<20, now)
	if got := w.rto(1); got != rtoMin {
		t.Errorf("before a sample: got %s", got)
	}
	for range 50 {
		w.sample(4*time.Second, now)
	}
	if got := w.rto(1); got < 4*time.Second || got > 6*time.Second {
		t.Errorf("at 4 s a round trip: got %s", got)
	}
	if got := w.rto(9); got != rtoMax {
		t.Errorf("after nine tries: got %s, want %s", got, rtoMax)
	}
}

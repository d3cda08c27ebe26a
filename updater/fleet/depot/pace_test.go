package depot

import (
	"fmt"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// hearer is a device behind a line of so many bytes a second, that a broker has
// a queue for.
type hearer struct {
	line    float64
	pos     float64
	since   uint64 // where it joined
	gone    bool
	missing uint64
}

// theatre moves a cast on in steps of ten milliseconds of no real time.
type theatre struct {
	cast    *cast
	now     time.Time
	hearers map[string]*hearer
}

func newTheatre(size int64, lines ...float64) *theatre {
	var x content.Index
	x.Size = size
	for at := int64(0); at < size; at += content.BlockSize {
		x.Blocks = append(x.Blocks, content.Block{N: len(x.Blocks), Offset: at, Length: int(min(content.BlockSize, size-at))})
	}
	now := time.Unix(1e9, 0)
	th := &theatre{cast: newCast([32]byte{1}, 7, x, content.DefaultFrame, now), now: now, hearers: map[string]*hearer{}}
	for i, line := range lines {
		name := fmt.Sprintf("box%d", i)
		th.cast.expected[name] = true
		th.hearers[name] = &hearer{line: line, missing: uint64(size)}
	}
	return th
}

// run plays until the cast is over or time is up, and answers whether it is over.
func (th *theatre) run(limit time.Duration) bool {
	const step = 10 * time.Millisecond
	for at := time.Duration(0); at < limit; at += step {
		if at%time.Second == 0 {
			for name, h := range th.hearers {
				if !h.gone {
					got := uint64(h.pos) - h.since
					th.cast.feedback(name, wire.Feedback{Stream: 7, ID: th.cast.id, Pos: uint64(h.pos), Got: got, Missing: h.missing - min(h.missing, got), Last: uint64(th.cast.size)}, th.now)
				}
			}
		}
		if _, over := th.cast.step(th.now); over {
			return true
		}
		th.cast.sent.Store(th.cast.pos)
		for _, h := range th.hearers {
			h.pos = min(h.pos+h.line*step.Seconds(), float64(th.cast.pos))
		}
		th.now = th.now.Add(step)
	}
	return false
}

func TestPaceIsThatOfTheSlowestOfTheBestNineTenths(t *testing.T) {
	fast := func(n int, line float64) []float64 {
		all := make([]float64, n)
		for i := range all {
			all[i] = line
		}
		return all
	}
	for name, c := range map[string]struct {
		lines []float64
		want  float64
	}{
		"three alike":                  {fast(3, 2e6), 2e6},
		"the slowest of three":         {[]float64{9e6, 9e6, 1e6}, 1e6},
		"one straggler of twenty":      {append(fast(19, 5e6), 1e5), 5e6},
		"a third of thirty are slower": {append(fast(20, 9e6), fast(10, 2e6)...), 2e6},
		"slower than it begins":        {fast(4, 3e5), 3e5},
		"much faster than it begins":   {fast(4, 60e6), 60e6},
	} {
		th := newTheatre(1<<40, c.lines...)
		th.run(30 * time.Second)
		before := th.cast.pos
		if th.run(60 * time.Second) {
			t.Errorf("%s: it is over", name)
			continue
		}
		if got := float64(th.cast.pos-before) / 60; got < c.want*0.6 || got > c.want*1.1 {
			t.Errorf("%s: got %.2g bytes a second, want about %.2g", name, got, c.want)
		}
	}
}

func TestCastEndsWhenNobodyListensAnyMore(t *testing.T) {
	for name, act := range map[string]func(*theatre){
		"they say so": func(th *theatre) {
			for device := range th.hearers {
				th.hearers[device].gone = true
				th.cast.feedback(device, wire.Feedback{Stream: 7, ID: th.cast.id, Leaving: true}, th.now)
			}
		},
		"they fall silent": func(th *theatre) {
			for _, h := range th.hearers {
				h.gone = true
			}
		},
	} {
		th := newTheatre(1<<40, 1e6, 1e6, 1e6)
		if th.run(10 * time.Second) {
			t.Fatalf("%s: over before", name)
		}
		act(th)
		if !th.run(castSilent + time.Second) {
			t.Errorf("%s: it goes on for nobody", name)
		}
	}
}

func TestCastGoesOverTheBlobAgainForThoseWhoCameLate(t *testing.T) {
	const size = 64 << 20
	for late, want := range map[int]int{1: 1, 4: 2} {
		th := newTheatre(size, 20e6, 20e6, 20e6)
		th.run(3 * time.Second)
		for i := range late {
			h := &hearer{line: 20e6, pos: float64(th.cast.pos), since: th.cast.pos, missing: size}
			th.hearers[fmt.Sprintf("late%d", i)] = h
		}
		if !th.run(time.Minute) {
			t.Fatalf("%d late: it does not end", late)
		}
		if th.cast.pass < want || want == 1 && th.cast.pass > 1 {
			t.Errorf("%d late: got %d passes, want %d", late, th.cast.pass, want)
		}
	}
}

func TestNonsenseInFeedbackIsNotBelieved(t *testing.T) {
	th := newTheatre(1<<30, 1e6, 1e6, 1e6)
	th.run(5 * time.Second)
	good := wire.Feedback{Stream: 7, ID: th.cast.id}
	for name, edit := range map[string]func(*wire.Feedback){
		"another stream": func(f *wire.Feedback) { f.Stream = 8 }, "another blob": func(f *wire.Feedback) { f.ID[3]++ },
		"ahead of the stream": func(f *wire.Feedback) { f.Pos = 1 << 40 }, "more than was sent": func(f *wire.Feedback) { f.Got = 1 << 40 },
		"misses more than there is": func(f *wire.Feedback) { f.Missing = 1 << 50 },
	} {
		f := good
		edit(&f)
		if th.cast.feedback("ghost", f, th.now) || th.cast.members["ghost"] != nil {
			t.Errorf("%s: it is a member", name)
		}
	}
}

// newTestCaster is a caster of a clock and of blobs of a size; everybody but "thief" may have them.
func newTestCaster(now *time.Time, size int64) (c *caster, told *[]mqtt.Cast) {
	told = new([]mqtt.Cast)
	c = newCaster(1, func() time.Time { return *now })
	c.frame = content.DefaultFrame
	c.may = func(device, _ string) uint16 {
		if device == "thief" {
			return wire.CodeForbidden
		}
		return wire.CodeOK
	}
	c.index = func(string) (content.Index, error) {
		return content.Index{Size: size, Blocks: []content.Block{{Length: content.BlockSize}}}, nil
	}
	c.send = func(*cast, wire.Range, uint64) {}
	c.drop = func([32]byte) {}
	c.tell = func(all []mqtt.Cast) { *told = all }
	return c, told
}

func TestCastBeginsAtThreeWhoMayHaveIt(t *testing.T) {
	for name, c := range map[string]struct {
		size  int64
		pause time.Duration
		who   []string
		never bool
		want  int
	}{
		"three":                 {64 << 20, 0, []string{"a", "b", "c"}, false, 1},
		"one, three times":      {64 << 20, 0, []string{"a", "a", "a"}, false, 0},
		"two and a thief":       {64 << 20, 0, []string{"a", "thief", "b"}, false, 0},
		"over a long time":      {64 << 20, 9 * time.Second, []string{"a", "b", "c"}, false, 0},
		"of a small blob":       {1 << 20, 0, []string{"a", "b", "c"}, false, 0},
		"where nothing is cast": {64 << 20, 0, []string{"a", "b", "c"}, true, 0},
	} {
		now := time.Unix(1e9, 0)
		r, told := newTestCaster(&now, c.size)
		r.never = c.never
		for i, device := range c.who {
			answer := r.asked(device, [32]byte{5})
			if last := i == len(c.who)-1; answer == (last && c.want == 1) {
				t.Errorf("%s: request %d answered by itself: %v", name, i, answer)
			}
			now = now.Add(c.pause)
		}
		if len(*told) != c.want {
			t.Errorf("%s: got %d casts, want %d", name, len(*told), c.want)
		}
	}
}

// A broker that lets nobody listen must not make everybody wait again and again.
func TestCastThatNobodyJoinsIsNotTriedAgainAtOnce(t *testing.T) {
	now := time.Unix(1e9, 0)
	r, told := newTestCaster(&now, 64<<20)
	ask := func() (answered int) {
		for _, device := range names(5) {
			if r.asked(device, [32]byte{5}) {
				answered++
			}
		}
		return answered
	}
	if ask(); len(*told) != 1 {
		t.Fatalf("got %d casts, want 1", len(*told))
	}
	now = now.Add(gatherFor)
	r.step()
	if len(*told) != 0 || ask() != 5 || len(*told) != 0 {
		t.Errorf("a cast that nobody joined goes on, or is begun again")
	}
	now = now.Add(castRest)
	if ask(); len(*told) != 1 {
		t.Error("it is not tried again after a rest")
	}
}

func TestFloodOfAskersIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	r, _ := newTestCaster(&now, 64<<20)
	r.may = func(string, string) uint16 { return wire.CodeForbidden }
	for i := range 20_000 {
		r.asked(fmt.Sprintf("d%d", i%9000), [32]byte{byte(i), byte(i >> 8)})
	}
	held := 0
	for _, a := range r.askers {
		held += len(a)
	}
	if len(r.askers) > blobsWatched || held > blobsWatched*askersKept {
		t.Errorf("watches %d blobs and %d askers", len(r.askers), held)
	}
}

package content

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
)

// pullAt pulls data through p with a flow, and answers how long it took.
func pullAt(t *testing.T, p *path, f *Flow, data []byte) (time.Duration, error) {
	t.Helper()
	d := p.depot()
	d.Flow = f
	file, _ := fileOf(data)
	g := &gather{out: make([]byte, len(data))}
	err := d.Blocks(t.Context(), file, mustIndex(t, data).Blocks, g)
	if err == nil && g.seen != len(data) {
		t.Errorf("got %d bytes, want %d", g.seen, len(data))
	}
	return time.Since(p.start), err
}

func utc() time.Time { return time.Now().UTC() } // 2000-01-01 00:00, a Saturday, when a bubble begins

func TestRateHoldsBackWhatIsAskedFor(t *testing.T) {
	for name, f := range map[string]*Flow{
		"by configuration":                {Rate: 1 << 20},
		"by assignment":                   {signed: release.Transfer{Rate: 1 << 20}},
		"the lower of both":               {Rate: 9 << 20, signed: release.Transfer{Rate: 1 << 20}},
		"of the box, though not busy":     {Rate: 1 << 20, BusyRate: 1 << 10},
		"while busy":                      {BusyRate: 1 << 20, Busy: func() bool { return true }},
		"while busy, lower than the rate": {Rate: 9 << 20, BusyRate: 1 << 20, Busy: func() bool { return true }},
		"though busy could be faster":     {Rate: 1 << 20, BusyRate: 9 << 20, Busy: func() bool { return true }},
	} {
		synctest.Test(t, func(t *testing.T) {
			data := noise(1, 20*BlockSize)
			took, err := pullAt(t, newPath(data, 500e6, time.Millisecond), f, data)
			if err != nil || took < 19*time.Second || took > 21*time.Second {
				t.Errorf("%s: 20 MiB at 1 MiB/s took %s, %v", name, took, err)
			}
		})
	}
}

// Two transfers share one limit: it is the box's.
func TestRateIsSharedByTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Flow{Rate: 2 << 20}
		data := noise(1, 10*BlockSize)
		done := make(chan time.Duration, 2)
		for range 2 {
			go func() {
				took, err := pullAt(t, newPath(data, 500e6, time.Millisecond), f, data)
				if err != nil {
					t.Error(err)
				}
				done <- took
			}()
		}
		if took := max(<-done, <-done); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("twice 10 MiB at 2 MiB/s took %s", took)
		}
	})
}

func TestFetchYieldsWhileInferenceIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		f := &Flow{BusyRate: 1 << 20, Busy: busy.Load}
		data := noise(1, 60*BlockSize)
		p := newPath(data, 4<<20, time.Millisecond) // alone: 15 s
		time.AfterFunc(5*time.Second, func() { busy.Store(true) })
		time.AfterFunc(10*time.Second, func() {
			if got := f.Slowed(); got != SlowedByBusy {
				t.Errorf("while busy: got reason %q, want %q", got, SlowedByBusy)
			}
		})
		time.AfterFunc(15*time.Second, func() { busy.Store(false) })
		took, err := pullAt(t, p, f, data)
		if err != nil {
			t.Fatal(err)
		}
		// Five seconds at full speed, ten and a little at a quarter of it, the rest at full speed.
		if took < 21*time.Second || took > 26*time.Second {
			t.Errorf("took %s, want about 23s", took)
		}
		if got := f.Slowed(); got != "" {
			t.Errorf("after: got reason %q, want none", got)
		}
	})
}

func TestNothingIsAskedForOutsideTheWindow(t *testing.T) {
	hours := release.Window{From: "02:00", Until: "03:00"}
	for name, f := range map[string]*Flow{
		"of the box":       {Now: utc, Window: &hours},
		"of the fleet":     {Now: utc, signed: release.Transfer{Window: &hours}},
		"where both agree": {Now: utc, Window: &release.Window{From: "01:00", Until: "03:00"}, signed: release.Transfer{Window: &release.Window{From: "02:00", Until: "04:00"}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			data := noise(1, 8*BlockSize)
			p := newPath(data, 50e6, time.Millisecond)
			joined := false
			d := p.depot()
			d.Flow = f
			d.join = func() (Lane, error) { joined = true; return p, nil }
			time.AfterFunc(time.Hour, func() {
				if joined || len(p.asked) > 0 || f.Slowed() != SlowedByWindow {
					t.Errorf("%s: before it: connected %v, asked for %d ranges, reason %q", name, joined, len(p.asked), f.Slowed())
				}
			})
			file, _ := fileOf(data)
			g := &gather{out: make([]byte, len(data))}
			if err := d.Blocks(t.Context(), file, mustIndex(t, data).Blocks, g); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(p.start); took < 2*time.Hour || took > 2*time.Hour+time.Minute || f.Slowed() != "" {
				t.Errorf("%s: done after %s, reason %q, want soon after two hours", name, took, f.Slowed())
			}
		})
	}
}

// The window closes in the middle, and opens again a day later: that is no stall.
func TestFetchGoesOnWhenItsWindowOpensAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 40*BlockSize)
		p := newPath(data, 1<<20, time.Millisecond)
		took, err := pullAt(t, p, &Flow{Now: func() time.Time { return utc().Add(59*time.Minute + 40*time.Second) }, Window: &release.Window{From: "00:00", Until: "01:00"}}, data)
		if err != nil || took < 23*time.Hour || took > 24*time.Hour {
			t.Errorf("took %s, %v, want about a day", took, err)
		}
	})
}

func TestWaitingForTheWindowCanBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Flow{Now: utc, Window: &release.Window{From: "12:00", Until: "13:00"}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		began := time.Now()
		if err := f.Wait(ctx, 1); !errors.Is(err, context.Canceled) || time.Since(began) != time.Minute {
			t.Errorf("got %v after %s, want it cancelled after a minute", err, time.Since(began))
		}
	})
}

// A limit is no excuse: a depot that is asked and says nothing is given up.
func TestSilentDepotIsGivenUpUnderALimitToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 20*BlockSize)
		p := newPath(data, 50e6, time.Millisecond)
		p.mangle = func(int, []byte) []byte { return nil }
		if took, err := pullAt(t, p, &Flow{Rate: 100 << 10}, data); !errors.Is(err, ErrStalled) || took > 5*time.Minute {
			t.Errorf("got %v after %s, want a stall within minutes", err, took)
		}
	})
}

// While the limit keeps the window from being full nothing is learned of the
// path; when it is lifted the queue must not be flooded.
func TestLimitThatIsLiftedLeavesNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		busy.Store(true)
		data := patterned(128 << 20)
		p := newPath(data, 100e6/8, 20*time.Millisecond)
		time.AfterFunc(30*time.Second, func() { busy.Store(false) })
		if _, err := pullAt(t, p, &Flow{BusyRate: 1 << 20, Busy: busy.Load}, data); err != nil {
			t.Fatal(err)
		}
		if p.queued > 250*time.Millisecond {
			t.Errorf("a frame of ours waited %s, want under 250ms", p.queued)
		}
	})
}

func TestProgressSaysWhyAFetchIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise(1, 8*BlockSize)
		p := newPath(data, 50e6, time.Millisecond)
		_, p.kind = fileOf(data)
		f := &Flow{Now: utc, Rate: 1 << 20, Window: &release.Window{From: "00:01", Until: "03:00"}}
		d := p.depot()
		d.Flow = f
		file, _ := fileOf(data)
		var told []string
		var last string
		s := openStore(t)
		_, err := s.Fetch(t.Context(), file, []Source{d}, func(g Progress) {
			if g.Slowed != "" && (len(told) == 0 || told[len(told)-1] != g.Slowed) {
				told = append(told, g.Slowed)
			}
			last = g.Slowed
		})
		if err != nil || !slices.Equal(told, []string{SlowedByWindow, SlowedByRate}) || last != "" {
			t.Errorf("got %v, %q and %q at the end, want window, rate and none", err, told, last)
		}
	})
}

func TestOperatorPassesTheHoursOver(t *testing.T) {
	hours := release.Window{From: "22:00", Until: "23:00"}
	noon := func() time.Time { return time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC) }
	anytime := false
	f := &Flow{Now: noon, Window: &hours, Anytime: func() bool { return anytime }}
	if f.Take(1) == 0 || f.Slowed() != SlowedByWindow {
		t.Errorf("got leave at noon (%q), want none outside the hours", f.Slowed())
	}
	anytime = true
	if wait := f.Take(1); wait != 0 || f.Slowed() != "" {
		t.Errorf("got a wait of %s (%q) after an operator said so, want none", wait, f.Slowed())
	}
}

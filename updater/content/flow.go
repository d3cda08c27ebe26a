package content

import (
	"context"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
)

// Why less is asked for than the line could bring.
const (
	SlowedByRate   = "rate"   // a limit in bytes a second
	SlowedByBusy   = "busy"   // inference has the box
	SlowedByWindow = "window" // outside the hours in which to fetch
)

const (
	flowLook  = time.Second      // how soon a changed load is noticed
	flowHours = 15 * time.Second // how soon an open window is
	busyStays = 2 * time.Second  // after the last look that found the box busy
	flowBurst = 4                // a rate's tokens are for a quarter of a second
)

// Flow bounds what a device asks its sources for: a rate, a lower one while
// inference is busy, and hours. A limit on what is asked for needs no help from
// the other side. The exported fields are set before use, and zero ones limit
// nothing; a nil Flow neither. Safe for concurrent use: several transfers share it.
type Flow struct {
	Rate     int64           // bytes a second
	BusyRate int64           // bytes a second while Busy
	Busy     func() bool     // inference has more to do than it can
	Window   *release.Window // when to fetch, in local time
	Anytime  func() bool     // an operator said not to wait for any window; nil: nobody did
	Now      func() time.Time

	mu     sync.Mutex
	signed release.Transfer // what the fleet asks for beside
	tokens float64          // bytes that may be asked for; below zero they were lent
	filled time.Time
	looked time.Time // at Busy
	busy   time.Time // until then
	denied time.Time
	reason string // of that
}

// Govern sets what the fleet's signed assignment asks for; the narrower of it
// and the box's own configuration holds. Nil asks for nothing.
func (f *Flow) Govern(t *release.Transfer) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signed = release.Transfer{}
	if t != nil {
		f.signed = *t
	}
}

func (f *Flow) now() time.Time {
	if f.Now != nil {
		return f.Now()
	}
	return time.Now()
}

// Take asks for leave to ask for n bytes. It is given at once, with wait zero,
// or to be asked for again after wait at the latest.
func (f *Flow) Take(n int) (wait time.Duration) {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if !f.open(now) {
		f.denied, f.reason = now, SlowedByWindow
		return flowHours
	}
	rate, reason := f.limit(now)
	if rate == 0 {
		f.tokens, f.filled = 0, now
		return 0
	}
	f.tokens = min(f.tokens+float64(rate)*now.Sub(f.filled).Seconds(), float64(rate)/flowBurst)
	f.filled = now
	if f.tokens > 0 || n == 0 {
		f.tokens -= float64(n)
		return 0
	}
	f.denied, f.reason = now, reason
	wait = time.Duration(-f.tokens/float64(rate)*float64(time.Second)) + time.Millisecond
	return min(wait, flowLook)
}

// Wait blocks until n bytes may be asked for, or ctx ends.
func (f *Flow) Wait(ctx context.Context, n int) error {
	for {
		wait := f.Take(n)
		if wait == 0 {
			return ctx.Err()
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// Slowed says why less is asked for than the line could bring: "" when it is not so.
func (f *Flow) Slowed() string {
	if f == nil {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	switch {
	case f.denied.IsZero():
		return ""
	case f.reason == SlowedByWindow:
		if f.open(now) {
			return ""
		}
	case now.Sub(f.denied) > 2*flowLook:
		return ""
	}
	return f.reason
}

// limited says that a rate is in force now, so that a stream at the fleet's pace is not for us.
func (f *Flow) limited() bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	rate, _ := f.limit(f.now())
	return rate > 0 || !f.open(f.now())
}

// open says whether it is an hour to fetch in. The caller holds mu.
func (f *Flow) open(now time.Time) bool {
	for _, w := range []*release.Window{f.Window, f.signed.Window} {
		if w != nil && !w.Contains(now) {
			return f.Anytime != nil && f.Anytime()
		}
	}
	return true
}

// limit is the rate in force, 0 for none, and its reason. The caller holds mu.
func (f *Flow) limit(now time.Time) (rate int64, reason string) {
	for _, r := range []int64{f.Rate, f.signed.Rate} {
		if r > 0 && (rate == 0 || r < rate) {
			rate, reason = r, SlowedByRate
		}
	}
	if f.BusyRate > 0 && (rate == 0 || f.BusyRate < rate) && f.isBusy(now) {
		rate, reason = f.BusyRate, SlowedByBusy
	}
	return rate, reason
}

// isBusy looks now and then, and remembers a little: a queue that is empty for a
// moment will fill again. The caller holds mu.
func (f *Flow) isBusy(now time.Time) bool {
	if f.Busy == nil {
		return false
	}
	if now.Sub(f.looked) >= flowLook/4 {
		f.looked = now
		if f.Busy() {
			f.busy = now.Add(busyStays)
		}
	}
	return now.Before(f.busy)
}

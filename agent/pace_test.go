package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A hostile broker that repeats an offer without end makes this device look at
// the pace of offerPace, and never misses the last.
func TestOffersWithoutEndAreLookedAtInTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, ended := make(chan struct{}), make(chan struct{})
		var looked atomic.Int64
		looks := func() int { return int(looked.Load()) }
		p := offerPace()
		go func() {
			defer close(ended)
			relay(ctx, in, p, func() { looked.Add(1) })
		}()
		storm := func(length time.Duration) {
			for end := time.Now().Add(length); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
				in <- struct{}{}
			}
			synctest.Wait()
		}
		storm(10*time.Minute + p.every/2)
		if want := p.burst + int(10*time.Minute/p.every); looks() < want-1 || looks() > want {
			t.Errorf("got %d looks in ten minutes of offers, want about %d", looks(), want)
		}
		before := looks()
		<-time.After(p.every)
		synctest.Wait()
		if looks() != before+1 {
			t.Errorf("got %d looks after the storm, want the last offer looked at once", looks()-before)
		}
		<-time.After(time.Hour) // it has recovered: a few at once are looked at at once
		for range p.burst {
			in <- struct{}{}
		}
		synctest.Wait()
		if looks() != before+1+p.burst {
			t.Errorf("got %d looks at once after an hour's rest, want %d", looks()-before-1, p.burst)
		}
		cancel()
		<-ended
	})
}

func TestPaceBearsAClockThatIsSetBack(t *testing.T) {
	p := pace{burst: 2, every: time.Minute}
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, c := range []struct {
		at   time.Duration
		want time.Duration
	}{{0, 0}, {0, 0}, {0, time.Minute}, {59 * time.Second, time.Second}, {time.Minute, 0}, {90 * time.Second, 30 * time.Second}, {-time.Hour, 0}, {-time.Hour, 0}, {-time.Hour, time.Minute}} {
		if got := p.take(now.Add(c.at)); got != c.want {
			t.Errorf("take %d at %s: got %s, want %s", i, c.at, got, c.want)
		}
	}
}

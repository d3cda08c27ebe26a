package cloud

import (
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func testBreaker() (*breaker, *clock) {
	c := &clock{t: time.Unix(1000, 0)}
	return newBreaker(c.now, func() float64 { return 0 }), c
}

func TestBreakerOpensAfterFailuresInARow(t *testing.T) {
	b, _ := testBreaker()
	for range 2 {
		b.failed(0)
	}
	b.succeeded()
	for range 2 {
		b.failed(0)
	}
	if !b.allow() {
		t.Fatal("breaker open after failures that were not in a row")
	}
	b.failed(0)
	if b.allow() || b.ready() {
		t.Fatal("breaker closed after three failures in a row")
	}
}

func TestBreakerHalfOpenLetsOneTry(t *testing.T) {
	b, c := testBreaker()
	for range tripAfter {
		b.failed(0)
	}
	c.t = c.t.Add(firstRest/2 - 1)
	if b.allow() {
		t.Fatal("allowed before the rest was over")
	}
	c.t = c.t.Add(1)
	if !b.ready() || !b.allow() || b.allow() || b.ready() {
		t.Fatal("want exactly one trial after the rest")
	}
	b.failed(0)
	if b.allow() {
		t.Fatal("allowed right after a failed trial")
	}
	// The second rest is twice the first.
	c.t = c.t.Add(firstRest - 1)
	if b.allow() {
		t.Fatal("the rest did not double")
	}
	c.t = c.t.Add(1)
	if !b.allow() {
		t.Fatal("no second trial")
	}
	b.succeeded()
	for range 2 {
		if !b.allow() {
			t.Fatal("not closed after a good trial")
		}
	}
}

func TestBreakerWithdrawnTrialIsFreeAgain(t *testing.T) {
	b, c := testBreaker()
	for range tripAfter {
		b.failed(0)
	}
	c.t = c.t.Add(firstRest)
	b.allow()
	b.withdrawn()
	if !b.allow() {
		t.Fatal("a trial that was given back blocks the next one")
	}
}

func TestBreakerHonoursRetryAfter(t *testing.T) {
	b, c := testBreaker()
	b.failed(20 * time.Second)
	if state, _, wait := b.snapshot(); state != Open || wait != 20*time.Second {
		t.Fatalf("got %s for %s, want open for 20s", state, wait)
	}
	b.failed(0) // one that was under way
	c.t = c.t.Add(20 * time.Second)
	if !b.allow() {
		t.Fatal("still open after the upstream's own retry-after")
	}
}

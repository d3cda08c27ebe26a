package router

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func testQueue(limit int) (*queue, *clock) {
	c := &clock{time.Unix(1000, 0)}
	return newQueue(limit, c.now), c
}

func state(q *queue, t *ticket) ticketState { return q.outcome(t) }

func TestSlotsBoundWhatRuns(t *testing.T) {
	q, _ := testQueue(10)
	a, b, c := q.enter("x", 1, false, 2), q.enter("x", 1, false, 2), q.enter("x", 1, false, 2)
	if state(q, a) != granted || state(q, b) != granted || state(q, c) != waiting {
		t.Fatal("want two running and one waiting")
	}
	q.leave(a, true)
	if state(q, c) != granted {
		t.Fatal("a free slot was not handed on")
	}
	select {
	case <-c.turn:
	default:
		t.Fatal("the waiting request was not woken")
	}
	q.leave(b, true)
	q.leave(c, true)
	q.leave(c, true) // twice is nothing
	if s := q.status(); s.Waiting != 0 || s.Running != 0 {
		t.Errorf("got %+v, want an empty queue", s)
	}
}

func TestMoreSlotsAreUsedAtOnce(t *testing.T) {
	q, _ := testQueue(10)
	q.enter("x", 1, false, 1)
	b, c := q.enter("x", 1, false, 1), q.enter("x", 1, false, 1)
	q.observe("x", false, 3, time.Hour, 0)
	if state(q, b) != granted || state(q, c) != granted {
		t.Error("requests wait while the engine has free slots")
	}
}

func TestLeavingEarlyCostsNothing(t *testing.T) {
	q, _ := testQueue(100)
	running := q.enter("x", 1, false, 1)
	for range 50 {
		q.leave(q.enter("patient", 500, false, 1), false)
	}
	mine, theirs := q.enter("patient", 100, false, 1), q.enter("other", 100, false, 1)
	q.leave(running, true)
	if state(q, mine) != granted || state(q, theirs) != waiting {
		t.Error("requests that left are charged to their caller")
	}
}

// TestFloodDoesNotStarveOthers: one caller with a hundred waiting requests, nine with one now and then.
func TestFloodDoesNotStarveOthers(t *testing.T) {
	q, _ := testQueue(256)
	r := rand.New(rand.NewPCG(1, 2))
	run := []*ticket{q.enter("flood", 100, false, 1)}
	held := map[*ticket]int{} // round in which a modest request came
	worst, served := 0, map[string]float64{}
	for round := range 2000 {
		for len(q.lines[0].flows["flood"].ticketsOrNone()) < 100 {
			q.enter("flood", 50+r.Float64()*100, false, 1)
		}
		for i := range 9 {
			name := fmt.Sprint("modest", i)
			if q.lines[0].flows[name] == nil {
				held[q.enter(name, 50+r.Float64()*100, false, 1)] = round
			}
		}
		t := run[0]
		served[t.caller] += t.cost
		q.leave(t, true)
		run = append(run[:0], q.running...)
		if since, modest := held[run[0]]; modest {
			worst = max(worst, round-since)
		}
	}
	// With ten callers that always have work, each gets a tenth; a turn comes within a few rounds of the ring.
	if worst > 40 {
		t.Errorf("a modest request waited %d rounds", worst)
	}
	if j := jain(served); j < 0.95 {
		t.Errorf("Jain's index is %.3f, want at least 0.95: %v", j, served)
	}
}

func (f *flow) ticketsOrNone() []*ticket {
	if f == nil {
		return nil
	}
	return f.tickets
}

func jain(share map[string]float64) float64 {
	sum, squares := 0.0, 0.0
	for _, s := range share {
		sum, squares = sum+s, squares+s*s
	}
	return sum * sum / (float64(len(share)) * squares)
}

func TestFairnessIsByCostNotByCount(t *testing.T) {
	q, _ := testQueue(1000)
	q.enter("x", 1, false, 1)
	for range 200 {
		q.enter("large", 1000, false, 1)
	}
	for range 800 {
		q.enter("small", 100, false, 1)
	}
	cost := map[string]float64{}
	for range 400 {
		q.leave(q.running[0], true)
		cost[q.running[0].caller] += q.running[0].cost
	}
	if j := jain(cost); j < 0.95 {
		t.Errorf("got %v, want equal shares of the engine's time", cost)
	}
}

func TestBatchWaitsButIsNotStarved(t *testing.T) {
	q, _ := testQueue(1000)
	q.enter("x", 1, false, 1)
	batch := q.enter("nightly", 1, true, 1)
	for range 100 {
		q.enter("web", 1, false, 1)
	}
	for n := 1; ; n++ {
		q.leave(q.running[0], true)
		if state(q, batch) == granted {
			if n != patience+1 {
				t.Errorf("batch ran as number %d, want %d", n, patience+1)
			}
			return
		}
		if n > 100 {
			t.Fatal("batch was starved")
		}
	}
}

func TestFullQueueDropsTheGreediest(t *testing.T) {
	q, _ := testQueue(4)
	q.enter("flood", 1, false, 1)
	var last *ticket
	for range 4 {
		last = q.enter("flood", 1, false, 1)
	}
	if q.enter("flood", 1, false, 1) != nil {
		t.Error("a full queue took another one of the same caller")
	}
	if l := q.observe("modest", false, 1, time.Hour, 0); l.full {
		t.Error("full for a caller that has nothing waiting")
	}
	modest := q.enter("modest", 1, false, 1)
	if modest == nil || state(q, modest) != waiting || state(q, last) != evicted {
		t.Fatal("want the newest request of the flood pushed out")
	}
	if s := q.status(); s.Waiting != 4 {
		t.Errorf("%d wait, want 4", s.Waiting)
	}
	q.leave(last, false) // what its owner does when it wakes
	if s := q.status(); s.Waiting != 4 {
		t.Errorf("%d wait after the evicted left, want 4", s.Waiting)
	}
}

func TestWaitIsPredictedFromServiceTimes(t *testing.T) {
	q, c := testQueue(100)
	for range 100 { // one second for a cost of 100
		tk := q.enter("x", 100, false, 2)
		c.t = c.t.Add(time.Second)
		q.leave(tk, true)
	}
	near := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want-want/20-time.Millisecond || got > want+want/20+time.Millisecond {
			t.Errorf("%s: got %s, want about %s", what, got, want)
		}
	}
	wait := func(caller string) time.Duration { return q.observe(caller, false, 2, time.Hour, 0).wait }
	near("idle", wait("x"), 0)
	q.enter("x", 100, false, 2)
	near("one slot free", wait("x"), 0)
	c.t = c.t.Add(500 * time.Millisecond)
	q.enter("x", 200, false, 2)
	near("first of two to end", wait("x"), 500*time.Millisecond)
	for range 4 {
		q.enter("x", 100, false, 2)
	}
	// Slots free at 0.5 and 2 s; four of a second each before the newcomer: 1.5 2.5 | 3 3.5.
	near("behind four", wait("x"), 3*time.Second)
	// Another caller's first request goes before all but one of x's: x's next ends the wait at 1.5 s.
	near("fair share", wait("y"), 1500*time.Millisecond)
	if r := q.retryAfter("x", false); r < 2*time.Second {
		t.Errorf("retry-after %s is not true", r)
	}
}

func TestSpillHasHysteresis(t *testing.T) {
	q, _ := testQueue(100)
	q.service = service{cost: 1, seconds: 1}
	busy := func() bool { return q.observe("x", false, 1, 4*time.Second, 0).busy }
	var in []*ticket
	for range 4 {
		in = append(in, q.enter("x", 1, false, 1))
	}
	if busy() {
		t.Error("busy at a wait of 4s, want only above")
	}
	in = append(in, q.enter("x", 1, false, 1))
	if !busy() {
		t.Error("not busy at 5s")
	}
	for range 2 {
		q.leave(in[0], false)
		in = in[1:]
		if !busy() {
			t.Errorf("not busy any more with %d left, want that only at half", len(in))
		}
	}
	q.leave(in[0], false)
	if busy() {
		t.Error("still busy at 2s")
	}
}

func TestQueueLengthSpills(t *testing.T) {
	q, _ := testQueue(100)
	q.enter("x", 1, false, 1)
	for range 3 {
		q.enter("x", 1, false, 1)
	}
	if l := q.observe("x", false, 1, time.Hour, 3); l.busy {
		t.Error("busy with 3 waiting, want only above")
	}
	q.enter("x", 1, false, 1)
	if l := q.observe("x", false, 1, time.Hour, 3); !l.busy || !l.overLong {
		t.Error("not busy with 4 waiting")
	}
}

func TestCostIsBounded(t *testing.T) {
	if c := Cost(1<<30, 1<<30, true); c != maxCost {
		t.Errorf("got %f, want %f", c, float64(maxCost))
	}
	if Cost(100, 10, true) >= Cost(100, 100, true) || Cost(100, 0, false) >= Cost(100, 0, true) || Cost(0, 0, false) <= 0 {
		t.Error("costs are not ordered by work")
	}
}

// TestQueueKeepsItsBooks runs random sequences and checks the invariants after every step.
func TestQueueKeepsItsBooks(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 7))
		q, c := testQueue(20)
		var in []*ticket
		slots := 2
		for range 2000 {
			c.t = c.t.Add(time.Duration(r.IntN(1000)) * time.Millisecond)
			switch k := r.IntN(10); {
			case k < 5:
				if tk := q.enter(fmt.Sprint(r.IntN(5)), r.Float64()*maxCost, r.IntN(4) == 0, slots); tk != nil {
					in = append(in, tk)
				}
			case k < 9 && len(in) > 0:
				i := r.IntN(len(in))
				q.leave(in[i], r.IntN(2) == 0)
				in = append(in[:i], in[i+1:]...)
			default:
				slots = 1 + r.IntN(4)
				q.observe("x", false, slots, time.Second, 3)
			}
			checkBooks(t, q, in)
		}
	}
}

func checkBooks(t *testing.T, q *queue, in []*ticket) {
	t.Helper()
	count := map[ticketState]int{}
	for _, tk := range in {
		count[tk.state]++
	}
	lined := 0
	for _, l := range q.lines {
		if len(l.active) != len(l.flows) {
			t.Fatalf("%d callers in turn, %d known", len(l.active), len(l.flows))
		}
		for _, f := range l.active {
			if len(f.tickets) == 0 {
				t.Fatal("a caller in turn has nothing waiting")
			}
			lined += len(f.tickets)
		}
	}
	switch {
	case lined != q.waiting || count[waiting] != q.waiting || count[granted] != len(q.running):
		t.Fatalf("waiting %d, lined up %d, tickets %v, running %d", q.waiting, lined, count, len(q.running))
	case q.waiting > q.max:
		t.Fatalf("%d wait, the limit is %d", q.waiting, q.max)
	case q.waiting > 0 && len(q.running) < q.slots:
		t.Fatalf("%d wait while %d of %d slots are used", q.waiting, len(q.running), q.slots)
	}
}

func BenchmarkEnterLeave(b *testing.B) {
	q := newQueue(256, time.Now)
	for b.Loop() {
		q.observe("x", false, 4, time.Second, 0)
		q.leave(q.enter("x", 100, false, 4), true)
	}
}

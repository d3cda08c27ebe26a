package router

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// patience is how many interactive requests may pass a waiting batch request.
const patience = 8

// queue hands an engine's slots to waiting requests: start-time fair queuing by
// caller over predicted cost (Goyal, Vin and Cheng 1996), interactive before batch.
// Deficit round robin was measured too: it favours whoever always has a line over
// callers with one request at a time (Jain's index 0.93 against 1.00). When the queue
// is full, the caller with the longest line loses its newest request, so a flood
// cannot keep others out.
type queue struct {
	now func() time.Time
	max int // requests that may wait

	mu      sync.Mutex
	slots   int
	running []*ticket
	lines   [2]line // interactive, batch
	waiting int
	passed  int // interactive grants in a row while batch waited
	service service
	busy    bool // spilling, until the load is well below the threshold again
}

// line is the fair order of one priority. Virtual time is measured in cost served.
type line struct {
	flows  map[string]*flow
	active []*flow            // callers with something waiting, in order of arrival
	now    float64            // virtual time: the start of what was served last
	debts  map[string]float64 // of callers with nothing waiting: until when they have had their share
}

// flow is what one caller has waiting.
type flow struct {
	caller  string
	start   float64 // virtual time from which its next request has its turn
	tickets []*ticket
}

// ticket is one request's place in the queue.
type ticket struct {
	caller  string
	cost    float64
	batch   int // index of the line
	arrived time.Time
	started time.Time
	state   ticketState
	turn    chan struct{} // closed when state leaves waiting
}

type ticketState uint8

const (
	waiting ticketState = iota
	granted
	evicted
	gone
)

func newQueue(limit int, now func() time.Time) *queue {
	q := &queue{now: now, max: limit, slots: 1, service: newService()}
	for i := range q.lines {
		q.lines[i].flows, q.lines[i].debts = map[string]*flow{}, map[string]float64{}
	}
	return q
}

// enter takes a ticket; it may be granted already. It gives nil when the queue is full.
func (q *queue) enter(caller string, cost float64, batch bool, slots int) *ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.slots = max(1, slots)
	t := &ticket{caller: caller, cost: cost, arrived: q.now()}
	if batch {
		t.batch = 1
	}
	if q.waiting == 0 && len(q.running) < q.slots {
		q.start(t)
		return t
	}
	if q.waiting >= q.max && !q.evictFor(caller) {
		return nil
	}
	t.turn = make(chan struct{})
	q.lines[t.batch].add(t)
	q.waiting++
	q.dispatch()
	return t
}

// start gives t a slot. Call with mu held.
func (q *queue) start(t *ticket) {
	t.state, t.started = granted, q.now()
	q.running = append(q.running, t)
	if t.turn != nil {
		close(t.turn)
	}
}

// leave gives the ticket back, waiting or running. A good run teaches the service time.
func (q *queue) leave(t *ticket, served bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch t.state {
	case waiting:
		q.lines[t.batch].remove(t)
		q.waiting--
	case granted:
		if served {
			q.service.observe(t.cost, q.now().Sub(t.started))
		}
		if i := slices.Index(q.running, t); i >= 0 {
			q.running = slices.Delete(q.running, i, i+1)
		}
		q.dispatch()
	}
	t.state = gone
}

// dispatch grants free slots. Call with mu held.
func (q *queue) dispatch() {
	for q.waiting > 0 && len(q.running) < q.slots {
		t := q.lines[q.nextLine()].pop()
		q.waiting--
		q.start(t)
	}
}

// nextLine prefers interactive requests but lets batch ones through now and then.
func (q *queue) nextLine() int {
	interactive, batch := len(q.lines[0].active) > 0, len(q.lines[1].active) > 0
	if interactive && batch && q.passed < patience {
		q.passed++
		return 0
	}
	if batch {
		q.passed = 0
		return 1
	}
	return 0
}

// evictFor makes room for a caller by dropping the newest request of the longest
// line, if that line is longer than the caller's would be.
func (q *queue) evictFor(caller string) bool {
	mine := 1
	var longest *flow
	for i := range q.lines {
		for _, f := range q.lines[i].active {
			if f.caller == caller {
				mine += len(f.tickets)
			} else if longest == nil || len(f.tickets) > len(longest.tickets) {
				longest = f
			}
		}
	}
	if longest == nil || len(longest.tickets) <= mine {
		return false
	}
	t := longest.tickets[len(longest.tickets)-1]
	q.lines[t.batch].remove(t)
	q.waiting--
	t.state = evicted
	close(t.turn)
	return true
}

// outcome reads a ticket's state after its turn channel was closed.
func (q *queue) outcome(t *ticket) ticketState {
	q.mu.Lock()
	defer q.mu.Unlock()
	return t.state
}

// status describes the queue to an operator.
func (q *queue) status() QueueStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := QueueStatus{Waiting: q.waiting, Running: len(q.running), Slots: q.slots, Busy: q.busy}
	if q.waiting > 0 || len(q.running) >= q.slots {
		s.Wait = q.predict("", false).Seconds()
	}
	return s
}

// observe describes the queue to a newcomer and updates the spill state: busy
// begins above the threshold and ends below half of it.
func (q *queue) observe(caller string, batch bool, slots int, maxWait time.Duration, maxQueue int) load {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.slots = max(1, slots)
	q.dispatch() // there may be more slots than before
	l := load{queued: q.waiting}
	if q.waiting > 0 || len(q.running) >= q.slots {
		l.wait = q.predict(caller, batch)
	}
	over := l.wait > maxWait
	l.overLong = maxQueue > 0 && q.waiting > maxQueue
	below := l.wait <= maxWait/2 && (maxQueue == 0 || q.waiting <= maxQueue/2)
	q.busy = over || l.overLong || q.busy && !below
	l.busy = q.busy
	l.full = q.waiting >= q.max && !q.couldEvict(caller)
	return l
}

func (q *queue) couldEvict(caller string) bool {
	mine, longest := 1, 0
	for i := range q.lines {
		for _, f := range q.lines[i].active {
			if f.caller == caller {
				mine += len(f.tickets)
			} else {
				longest = max(longest, len(f.tickets))
			}
		}
	}
	return longest > mine
}

// predict estimates the wait of a request that entered now: the slots' remaining
// times, then everything that would be served before it.
func (q *queue) predict(caller string, batch bool) time.Duration {
	now := q.now()
	free := make([]time.Duration, 0, q.slots)
	for _, t := range q.running {
		whole := q.service.predict(t.cost)
		// A request that outlives its prediction is still not nearly done.
		free = append(free, max(whole-now.Sub(t.started), whole/10))
	}
	slices.Sort(free)
	for len(free) < q.slots {
		free = slices.Insert(free, 0, 0)
	}
	count, cost := q.ahead(caller, batch)
	if count > 0 {
		each := q.service.predict(cost / float64(count))
		for range count {
			first := free[0] + each
			i, _ := slices.BinarySearch(free[1:], first)
			copy(free, free[1:i+1])
			free[i] = first
		}
	}
	// More may run than there are slots after a switch to fewer.
	return free[max(0, len(q.running)-q.slots)]
}

// ahead counts what is served before a newcomer of the caller: its own line, and of
// every other line as much as gets its turn meanwhile.
func (q *queue) ahead(caller string, batch bool) (count int, cost float64) {
	last := 0
	if batch {
		last = 1
	}
	for i := 0; i <= last; i++ {
		l := &q.lines[i]
		mine := 0
		if f := l.flows[caller]; f != nil {
			mine = len(f.tickets)
		}
		for _, f := range l.active {
			n := len(f.tickets)
			if f.caller != caller && i == last {
				n = min(n, mine+1)
			}
			count += n
			for _, t := range f.tickets[:n] {
				cost += t.cost
			}
		}
	}
	return count, cost
}

// retryAfter is when a request that is refused now would probably get a slot.
func (q *queue) retryAfter(caller string, batch bool) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(time.Second, q.predict(caller, batch))
}

func (l *line) add(t *ticket) {
	f := l.flows[t.caller]
	if f == nil {
		f = &flow{caller: t.caller, start: max(l.now, l.debts[t.caller])}
		delete(l.debts, t.caller)
		l.flows[t.caller] = f
		l.active = append(l.active, f)
	}
	f.tickets = append(f.tickets, t)
}

// pop takes the ticket whose caller has had the least. The line is not empty.
func (l *line) pop() *ticket {
	f := slices.MinFunc(l.active, func(a, b *flow) int { return cmp.Compare(a.start, b.start) })
	t := f.tickets[0]
	f.tickets = f.tickets[1:]
	l.now = f.start
	f.start += t.cost
	l.retire(f)
	return t
}

// remove takes out a ticket that was not served; its caller is not charged.
func (l *line) remove(t *ticket) {
	f := l.flows[t.caller]
	if i := slices.Index(f.tickets, t); i >= 0 {
		f.tickets = slices.Delete(f.tickets, i, i+1)
	}
	l.retire(f)
}

// retire forgets a caller with nothing waiting, except for what it has had beyond
// its share. When nobody waits, nobody was held up, and all debts are forgiven.
func (l *line) retire(f *flow) {
	if len(f.tickets) > 0 {
		return
	}
	delete(l.flows, f.caller)
	if i := slices.Index(l.active, f); i >= 0 {
		l.active = slices.Delete(l.active, i, i+1)
	}
	if len(l.active) == 0 {
		l.now = 0
		clear(l.debts)
		return
	}
	if f.start > l.now {
		l.debts[f.caller] = f.start
	}
	maps.DeleteFunc(l.debts, func(_ string, until float64) bool { return until <= l.now })
}

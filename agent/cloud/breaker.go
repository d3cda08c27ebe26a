package cloud

import (
	"sync"
	"time"
)

// BreakerState says whether an upstream is tried. It reaches the status JSON.
type BreakerState string

// The states of a breaker.
const (
	Closed   BreakerState = "closed"    // requests go out
	Open     BreakerState = "open"      // failed too often or asked us to wait: no request goes out
	HalfOpen BreakerState = "half-open" // one request is trying
)

const (
	tripAfter = 3                // failures in a row
	firstRest = time.Second      // the first time the breaker stays open
	longRest  = 60 * time.Second // and the longest
)

// breaker opens after tripAfter failures in a row, rests for a doubling, jittered
// time and then lets one request try.
type breaker struct {
	now    func() time.Time
	jitter func() float64 // in [0,1)

	mu       sync.Mutex
	state    BreakerState
	failures int           // in a row
	rest     time.Duration // of the next opening
	until    time.Time     // end of the present opening
}

func newBreaker(now func() time.Time, jitter func() float64) *breaker {
	return &breaker{now: now, jitter: jitter, state: Closed, rest: firstRest}
}

// ready tells whether allow would say yes, without taking the half-open trial.
func (b *breaker) ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state == Closed || b.state == Open && !b.now().Before(b.until)
}

// allow takes the right to send one request. Each yes is followed by exactly one
// of answered, failed or withdrawn.
func (b *breaker) allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open && !b.now().Before(b.until) {
		b.state = HalfOpen
		return true
	}
	return b.state == Closed
}

// answered ends a trial: an answer has begun. It may still break off, so the
// failures in a row stay, and after a trial the next one opens the breaker again.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != Closed {
		b.state, b.failures = Closed, tripAfter-1
	}
}

// succeeded closes the breaker: an answer has come to its end.
func (b *breaker) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state, b.failures, b.rest = Closed, 0, firstRest
}

// failed counts a failure. With wait > 0 the upstream itself asked to be left
// alone that long, and the breaker opens at once.
func (b *breaker) failed(wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	if b.state == Open && wait <= 0 {
		return // a request from before the opening
	}
	if b.state == Closed && b.failures < tripAfter && wait <= 0 {
		return
	}
	if wait <= 0 {
		// Half fixed, half random: devices that lost the upstream together must not come back together.
		wait = b.rest/2 + time.Duration(b.jitter()*float64(b.rest/2))
		b.rest = min(b.rest*2, longRest)
	}
	b.state, b.until = Open, b.now().Add(min(wait, 10*longRest))
}

// withdrawn gives a right back that was not used: the gate refused, or the client left.
func (b *breaker) withdrawn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == HalfOpen {
		// The rest is over already, so the next request tries.
		b.state, b.until = Open, b.now()
	}
}

func (b *breaker) snapshot() (state BreakerState, failures int, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open {
		wait = max(0, b.until.Sub(b.now()))
	}
	return b.state, b.failures, wait
}

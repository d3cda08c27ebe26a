package router

import (
	"time"

	"github.com/bothy-edge/bothy/agent/policy"
)

// Reason says why a place was taken. The strings appear in headers, records and metrics.
type Reason string

// The closed set of reasons.
const (
	Preferred    Reason = "preferred"     // the first place of the policy's set
	QueueFull    Reason = "queue-full"    // the engine's queue is full, or longer than the policy's spill threshold
	WaitTooLong  Reason = "wait-too-long" // the wait is longer than the policy's spill threshold
	IsLoading    Reason = "loading"       // the engine starts
	IsSwitching  Reason = "switching"     // the engine changes to another release
	EngineDown   Reason = "engine-down"   // the engine is not there, or failed on this request
	TooLarge     Reason = "too-large"     // the request does not fit the engine's context
	UpstreamDown Reason = "upstream-down" // the preferred upstream is not there, or failed on this request
	AuditDown    Reason = "audit-down"    // the departure cannot be recorded, so it did not happen
	ByPolicy     Reason = "policy"        // load spoke against the place, but the policy leaves no other
)

// Reasons lists the closed set, for metrics and documentation.
func Reasons() []Reason {
	return []Reason{Preferred, QueueFull, WaitTooLong, IsLoading, IsSwitching, EngineDown, TooLarge, UpstreamDown, AuditDown, ByPolicy}
}

// Choice is the place taken and why.
type Choice struct {
	Place  policy.Place
	Reason Reason
}

// load is what is known of the places at one moment.
type load struct {
	phase    Phase
	wait     time.Duration // predicted until an engine slot is free
	queued   int
	full     bool // the queue takes no more, not even by pushing out a greedier caller
	busy     bool // over the spill threshold, hysteresis included
	overLong bool // busy because of the queue's length rather than the wait
	// usable tells whether an upstream may be tried now.
	usable func(policy.Place) bool
}

// obstacle says what speaks against a place, or "".
func (l *load) obstacle(p policy.Place) Reason {
	if p != policy.Local {
		if l.usable(p) {
			return ""
		}
		return UpstreamDown
	}
	switch l.phase {
	case Unknown, Down:
		return EngineDown
	case Loading:
		return IsLoading
	case Switching:
		return IsSwitching
	}
	if l.full || l.busy && l.overLong {
		return QueueFull
	}
	if l.busy {
		return WaitTooLong
	}
	return ""
}

// pick takes the first place that nothing speaks against. When there is none, a
// request that may stay waits here. It never yields a place outside places; first
// is the reason left by earlier attempts, or "".
func pick(places []policy.Place, l *load, first Reason) (Choice, bool) {
	reason := first
	waitHere := false
	for _, p := range places {
		why := l.obstacle(p)
		if why == "" {
			if reason == "" {
				reason = Preferred
			}
			return Choice{p, reason}, true
		}
		if reason == "" {
			reason = why
		}
		waitHere = waitHere || p == policy.Local && l.phase != Unknown && !l.full
	}
	if !waitHere {
		return Choice{Reason: reason}, false
	}
	if first == "" {
		reason = ByPolicy
	}
	return Choice{policy.Local, reason}, true
}

package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/policy"
)

// trip is one request under way. One goroutine owns it.
type trip struct {
	*Router
	req    *Request
	ask    policy.Ask      // with what was found on the way
	parent context.Context // of the client
	ctx    context.Context // of the work; ends with the client, the deadline or a stall
	cancel context.CancelCauseFunc
	began  time.Time

	snap    *snapshot
	minute  int64
	verdict policy.Verdict // the intersection of every verdict so far
	decided bool

	local  LocalState
	tried  []policy.Place
	reason Reason // why the preferred place was not taken, "" so far
	last   *Error // of the latest attempt that failed
	queued time.Duration
	// impatient says that the wait here has already outlived the spill threshold, whatever was predicted.
	impatient bool
}

// run tries places until one answers or none is left.
func (t *trip) run() (*Answer, error) {
	for {
		choice, err := t.choose()
		if err != nil {
			return nil, err
		}
		var answer *Answer
		if choice.Place == policy.Local {
			answer, err = t.tryLocal(choice)
		} else {
			answer, err = t.tryCloud(choice)
		}
		if answer != nil {
			return answer, nil
		}
		if ended := t.ended(); ended != nil {
			return nil, ended
		}
		t.note(err)
	}
}

// note remembers a failed attempt. The first reason is what the client is told.
func (t *trip) note(err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Code: CodeEngine, Message: "internal error", Reason: EngineDown, Err: err}
	}
	t.last = e
	if t.reason == "" {
		t.reason = e.Reason
	}
	t.config.Log.Debug("attempt failed", "request", t.req.ID, "place", e.Place, "reason", e.Reason, "error", e.Err)
}

// ended is the typed error of a trip whose context ended, or nil.
func (t *trip) ended() *Error {
	if t.ctx.Err() == nil {
		return nil
	}
	if cause := context.Cause(t.ctx); errors.Is(cause, errDeadline) {
		return &Error{Code: CodeDeadline, Message: fmt.Sprintf("no content within %s", t.config.Deadline), Rule: t.verdict.Rule, Err: cause}
	}
	return &Error{Code: CodeHangUp, Message: "the client closed the connection", Rule: t.verdict.Rule, Err: t.ctx.Err()}
}

// hungUp tells whether it was the client that ended the work.
func (t *trip) hungUp() bool { return t.parent.Err() != nil }

// decide intersects what is allowed so far with what the policy in force says now.
func (t *trip) decide() {
	snap, now := t.upstreams.current(), t.config.Now()
	minute := now.Unix() / 60
	if t.decided && snap == t.snap && minute == t.minute {
		return // the same immutable policy and the same question: rules know no unit below a minute
	}
	t.ask.Time = now
	v := snap.decider.Decide(t.req.Caller, t.ask)
	if t.decided {
		v = policy.Intersect(t.verdict, v)
	}
	t.verdict, t.snap, t.minute, t.decided = v, snap, minute, true
}

// choose revises the verdict and takes one of the places that were not tried yet.
func (t *trip) choose() (Choice, error) {
	t.decide()
	if len(t.verdict.Places) == 0 {
		return Choice{}, &Error{Code: CodeDenied, Message: t.verdict.Deny, Reason: ByPolicy, Rule: t.verdict.Rule}
	}
	t.local = t.config.Local.State(t.req.Ask.Model)
	places := t.untried()
	l := t.load(places)
	choice, ok := pick(places, &l, t.reason)
	if !ok {
		return choice, t.exhausted(choice.Reason, &l)
	}
	return choice, nil
}

func (t *trip) untried() []policy.Place {
	if len(t.tried) == 0 {
		return t.verdict.Places
	}
	var out []policy.Place
	for _, p := range t.verdict.Places {
		if !slices.Contains(t.tried, p) {
			out = append(out, p)
		}
	}
	return out
}

func (t *trip) load(places []policy.Place) load {
	var l load
	if t.local.Phase != Unknown && slices.Contains(places, policy.Local) {
		spill := t.snap.decider.Spill()
		l = t.queue(t.req.Ask.Model).observe(t.req.Key, t.batch(), t.local.Slots, spill.MaxWait, spill.MaxQueue)
	}
	l.phase = t.local.Phase
	l.busy = l.busy || t.impatient
	l.usable = func(p policy.Place) bool { return t.snap.usable(p, t.req.Ask.Model) }
	return l
}

func (t *trip) batch() bool { return t.verdict.Priority == policy.Batch }

// exhausted says why no place is left.
func (t *trip) exhausted(reason Reason, l *load) *Error {
	if t.last != nil {
		t.last.Rule = t.verdict.Rule
		return t.last
	}
	e := &Error{Rule: t.verdict.Rule, Reason: reason}
	switch {
	case !t.verdict.Allows(policy.Local):
		e.Code, e.Place = CodeUpstream, string(t.verdict.Places[0])
		e.Message, e.RetryAfter = "no upstream that the policy allows can be used now", t.upstreamWait()
	case l.phase == Unknown && !t.snap.names(t.req.Ask.Model):
		e.Code, e.Message = CodeNoModel, fmt.Sprintf("the model %q does not exist on this box", t.req.Ask.Model)
	case l.phase == Unknown:
		e.Code, e.Message = CodeUpstream, "the model is not on this box and no upstream that the policy allows can be used now"
		e.RetryAfter = t.upstreamWait()
	default:
		e.Code, e.Place = CodeQueueFull, string(policy.Local)
		e.Message = fmt.Sprintf("%d requests wait for this model already", l.queued)
		e.RetryAfter = t.queue(t.req.Ask.Model).retryAfter(t.req.Key, t.batch())
	}
	return e
}

// upstreamWait is the shortest time until an upstream of the set may be tried again.
func (t *trip) upstreamWait() time.Duration {
	wait := time.Duration(0)
	for _, p := range t.verdict.Places {
		if c := t.snap.clients[p]; c != nil {
			left := time.Duration(c.Status().RetryIn * float64(time.Second))
			if wait == 0 || left < wait {
				wait = left
			}
		}
	}
	return max(wait, time.Second)
}

// alternative tells whether the request could go to the cloud instead of waiting here.
func (t *trip) alternative() bool {
	for _, p := range t.untried() {
		if p != policy.Local && t.snap.usable(p, t.req.Ask.Model) {
			return true
		}
	}
	return false
}

// permitted asks the policy in force at this very moment whether the request may
// go to the upstream as the client dials it. It changes nothing and may be called
// from any goroutine while the trip waits.
func (t *trip) permitted(place policy.Place, client *cloud.Client, ask policy.Ask) error {
	snap := t.upstreams.current()
	ask.Time = t.config.Now()
	v := snap.decider.Decide(t.req.Caller, ask)
	if !v.Allows(place) {
		return fmt.Errorf("rule %s does not allow the place %s any more", strings.TrimSpace(v.Rule), place)
	}
	if snap.clients[place] != client {
		return fmt.Errorf("the policy now defines the place %s differently", place)
	}
	return nil
}

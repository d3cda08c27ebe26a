package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// tryLocal waits for a slot and sends the request to the engine. An error that is
// not WaitTooLong counts as a try.
func (t *trip) tryLocal(choice Choice) (*Answer, error) {
	q := t.queue(t.req.Ask.Model)
	ticket := q.enter(t.req.Key, t.req.Cost, t.batch(), t.local.Slots)
	if ticket == nil {
		return nil, t.turnedAway(q)
	}
	engine, err := t.engine(q, ticket)
	if err != nil {
		q.leave(ticket, false)
		return nil, err
	}
	t.tried = append(t.tried, policy.Local)
	give := func(served bool) {
		engine.Done()
		q.leave(ticket, served)
	}
	resp, err := t.send(engine)
	if err != nil {
		give(false)
		return nil, &Error{Code: CodeEngine, Message: "the engine does not answer", Place: "local", Reason: EngineDown, RetryAfter: t.engineWait(), Err: err}
	}
	a, err := t.commit(resp, choice, give)
	if a != nil {
		a.Release = engine.Release
	}
	return a, err
}

// turnedAway is the answer of a full queue.
func (t *trip) turnedAway(q *queue) *Error {
	t.tried = append(t.tried, policy.Local)
	return &Error{Code: CodeQueueFull, Message: "too many requests wait for this model already", Place: "local",
		Reason: QueueFull, RetryAfter: q.retryAfter(t.req.Key, t.batch())}
}

// engine waits for the ticket's turn and then for the engine itself. A request
// with somewhere else to go does not wait longer than the policy's threshold.
func (t *trip) engine(q *queue, ticket *ticket) (Engine, error) {
	patience, spill := t.config.MaxWait, false
	if t.alternative() {
		patience, spill = min(patience, t.snap.decider.Spill().MaxWait), true
	}
	ctx := t.ctx
	if ticket.turn != nil || t.local.Phase != Ready {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(t.ctx, patience)
		defer cancel()
	}
	if err := t.turn(ctx, q, ticket); err != nil {
		return Engine{}, t.waited(err, q, spill)
	}
	t.queued += t.config.Now().Sub(ticket.arrived)
	// The wait may have been long: the policy in force now must allow this place too.
	if t.decide(); !t.verdict.Allows(policy.Local) {
		return Engine{}, &Error{Code: CodeDenied, Message: "the policy changed while the request waited", Reason: ByPolicy, Rule: t.verdict.Rule}
	}
	engine, err := t.config.Local.Acquire(ctx, t.req.Ask.Model)
	if err != nil && ctx.Err() != nil && t.ctx.Err() == nil {
		return Engine{}, t.waited(err, q, spill)
	}
	if err != nil {
		t.tried = append(t.tried, policy.Local)
		return Engine{}, &Error{Code: CodeEngine, Message: "the engine is not available", Place: "local", Reason: EngineDown, RetryAfter: t.engineWait(), Err: err}
	}
	return engine, nil
}

var errEvicted = errors.New("pushed out of a full queue")

func (t *trip) turn(ctx context.Context, q *queue, ticket *ticket) error {
	if ticket.turn == nil {
		return nil
	}
	select {
	case <-ticket.turn:
		if q.outcome(ticket) == evicted {
			return errEvicted
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waited is the outcome of a wait that led nowhere. With spill the cloud comes
// next, and this box may be tried again after it.
func (t *trip) waited(err error, q *queue, spill bool) *Error {
	reason := WaitTooLong
	switch t.local.Phase {
	case Loading:
		reason = IsLoading
	case Switching:
		reason = IsSwitching
	case Down:
		reason = EngineDown
	}
	e := &Error{Code: CodeWaitTooLong, Message: "waited too long for the engine", Place: "local", Reason: reason, Err: err}
	if errors.Is(err, errEvicted) {
		e.Code, e.Reason, e.Message = CodeQueueFull, QueueFull, "too many requests wait for this model already"
	}
	if t.impatient = spill; !spill {
		t.tried = append(t.tried, policy.Local)
		e.RetryAfter = max(q.retryAfter(t.req.Key, t.batch()), t.engineWait())
	}
	return e
}

// engineWait is a true retry-after for an engine that is not there.
func (t *trip) engineWait() time.Duration {
	return max(t.local.ReadyIn, time.Second)
}

// send writes the request to the engine.
func (t *trip) send(engine Engine) (*http.Response, error) {
	body, err := t.req.Body.Local(t.verdict.MaxTokens)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(engine.URL)
	if err != nil {
		return nil, err
	}
	u.Path = t.req.Path
	req := (&http.Request{
		Method: http.MethodPost, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {t.req.ID}},
		Body:   io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}).WithContext(t.ctx)
	return engine.Transport.RoundTrip(req)
}

// tryCloud records the departure and sends the request to an upstream.
func (t *trip) tryCloud(choice Choice) (*Answer, error) {
	t.tried = append(t.tried, choice.Place)
	client := t.snap.clients[choice.Place]
	fail := func(code Code, reason Reason, message string, err error) error {
		return &Error{Code: code, Message: message, Place: string(choice.Place), Reason: reason, Err: err}
	}
	model, _ := client.Model(t.req.Ask.Model)
	body, kinds, err := t.req.Body.Cloud(model, t.verdict.MaxTokens)
	if err != nil {
		return nil, fail(CodeUnprocessed, ByPolicy, "this request cannot be sent to the cloud: "+err.Error(), err)
	}
	t.learn(kinds)
	if !t.verdict.Allows(choice.Place) {
		return nil, fail(CodeDenied, ByPolicy, "the policy keeps this request on the box", nil)
	}
	if err := t.depart(choice, kinds); err != nil {
		return nil, fail(CodeAudit, AuditDown, "a request may not leave while its record cannot be written", err)
	}
	ctx, cancel := context.WithCancelCause(t.ctx)
	limit := t.snap.defs[choice.Place].Timeout
	if limit <= 0 {
		limit = policy.DefaultTimeout
	}
	timeout := time.AfterFunc(limit, func() { cancel(errTimeout) })
	give := func(bool) {
		timeout.Stop()
		cancel(nil)
	}
	// The gate runs in the transport's goroutine, so it gets its own copy of the question.
	ask := t.ask
	resp, err := client.Do(ctx, t.req.Path, body, t.req.Header, func() error { return t.permitted(choice.Place, client, ask) })
	if err != nil {
		give(false)
		return nil, t.refused(choice, err)
	}
	a, err := t.commit(resp, choice, give)
	var e *Error
	switch {
	case a != nil:
		a.client = client
	case errors.As(err, &e) && e.Code == CodeTooLarge:
		client.Served() // it is the request that does not fit
	case t.ctx.Err() == nil:
		client.Broke(err)
	}
	return a, err
}

// learn adds what the detectors found in the very bytes that would be sent.
func (t *trip) learn(kinds []detect.Kind) {
	for _, k := range kinds {
		if !slices.Contains(t.ask.Kinds, k) {
			t.ask.Kinds = append(slices.Clone(t.ask.Kinds), k)
			t.minute = -1 // another question than the one that was answered
		}
	}
	t.decide()
}

func (t *trip) depart(choice Choice, kinds []detect.Kind) error {
	if t.config.Audit == nil {
		return errors.New("there is no audit log")
	}
	found := make([]string, len(kinds))
	for i, k := range kinds {
		found[i] = string(k)
	}
	c := t.req.Caller
	return t.config.Audit.Depart(t.ctx, audit.Record{Request: t.req.ID, UID: c.UID, Unit: c.Unit, Container: c.Container, Exe: c.Exe,
		API: t.ask.API, Model: t.ask.Model, Place: string(choice.Place), Reason: string(choice.Reason), Rule: t.verdict.Rule,
		Classes: t.verdict.Classes, Kinds: found, BytesIn: int64(t.ask.Bytes)})
}

// refused turns a client's error into a typed one.
func (t *trip) refused(choice Choice, err error) error {
	e := &Error{Code: CodeUpstream, Message: "the upstream does not answer", Place: string(choice.Place), Reason: UpstreamDown, RetryAfter: time.Second, Err: err}
	var c *cloud.Error
	if errors.As(err, &c) {
		e.RetryAfter = max(c.Wait, time.Second)
		if c.Kind == cloud.Refused {
			e.Code, e.Reason, e.Message, e.RetryAfter = CodeDenied, ByPolicy, "the policy keeps this request on the box", 0
		}
	}
	return e
}

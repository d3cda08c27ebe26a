package gateway

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/router"
)

// Headers of the product. Requests may narrow with the first and the last named; answers carry all but that.
const (
	headerPlace   = "X-Bothy-Place"
	headerReason  = "X-Bothy-Reason"
	headerRule    = "X-Bothy-Rule"
	headerRelease = "X-Bothy-Model-Release"
	headerClass   = "X-Bothy-Class"
)

// exchange is one completion request, from its body to its record.
type exchange struct {
	g     *Gateway
	w     http.ResponseWriter
	peer  peer
	req   router.Request
	began time.Time

	status int
	code   string // of the error, "" when there was none
	answer *router.Answer
	out    int64
}

// complete serves a request that an engine or an upstream answers.
func (g *Gateway) complete(w http.ResponseWriter, r *http.Request, to route, id string) {
	x := &exchange{g: g, w: w, peer: peerOf(r), began: g.config.Now()}
	raw, mem, bad := g.read(w, r)
	if bad != nil {
		g.refuse(w, bad)
		return
	}
	defer mem.free()
	if bad := x.prepare(r, raw, to, id); bad != nil {
		g.refuse(w, bad)
		return
	}
	done := g.stats.enter(&x.req, x.began)
	defer func() {
		done(x)
		x.record()
	}()
	answer, err := g.config.Router.Do(r.Context(), &x.req)
	if err != nil {
		x.fail(err)
		return
	}
	defer answer.Close()
	x.answer = answer
	x.send()
}

// prepare makes the router's request out of the client's.
func (x *exchange) prepare(r *http.Request, raw []byte, to route, id string) *problem {
	b, err := parse(raw)
	if err != nil {
		p := &problem{status: http.StatusBadRequest, code: "invalid_body", message: err.Error()}
		var bad *badRequest
		if errors.As(err, &bad) {
			p.param = bad.param
		}
		return p
	}
	ask := policy.Ask{Model: b.model, API: to.api, Kinds: b.kinds, Opaque: b.opaque, Bytes: len(raw)}
	// Two readers of an ambiguous body may see two requests; an engine here is the only one that matters then.
	ask.OnlyLocal = b.ambiguous || !x.peer.known
	for _, v := range r.Header.Values(headerPlace) {
		if v != string(policy.Local) {
			return &problem{status: http.StatusBadRequest, code: "invalid_header", message: "the header x-bothy-place can only be \"local\"", param: "x-bothy-place"}
		}
		ask.OnlyLocal = true
	}
	for _, v := range r.Header.Values(headerClass) {
		for label := range strings.SplitSeq(v, ",") {
			if label = strings.TrimSpace(label); label != "" {
				ask.Labels = append(ask.Labels, label)
			}
		}
	}
	x.req = router.Request{ID: id, Caller: x.peer.caller, Key: x.peer.key, Ask: ask, Path: r.URL.Path, Header: r.Header, Body: b,
		Stream: b.stream, Cost: router.Cost(len(raw), b.output, to.generates)}
	return nil
}

// fail answers with the router's error.
func (x *exchange) fail(err error) {
	var e *router.Error
	if !errors.As(err, &e) {
		e = &router.Error{Code: router.CodeEngine, Message: "internal error", Err: err}
	}
	x.status, x.code = e.Status(), string(e.Code)
	if e.Code == router.CodeHangUp {
		return // nobody reads it
	}
	h := x.w.Header()
	set(h, headerRule, e.Rule)
	set(h, headerReason, string(e.Reason))
	set(h, headerPlace, e.Place)
	if e.Err != nil {
		x.g.config.Log.Info("request not served", "request", x.req.ID, "model", short(x.req.Ask.Model), "code", e.Code, "error", e.Err)
	}
	problemOf(e).write(x.w)
}

func set(h http.Header, key, value string) {
	if value != "" {
		h[key] = []string{value}
	}
}

// send passes the answer on.
func (x *exchange) send() {
	a, h := x.answer, x.w.Header()
	for k, v := range a.Header {
		h[k] = v
	}
	set(h, headerPlace, string(a.Choice.Place))
	set(h, headerReason, string(a.Choice.Reason))
	set(h, headerRule, a.Rule)
	set(h, headerRelease, a.Release)
	x.status = a.Status
	if whole, ok := a.Whole(); ok {
		// A client that does not read must not keep the engine.
		http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(x.g.writeTimeout))
		h["Content-Length"] = []string{strconv.Itoa(len(whole))}
		x.w.WriteHeader(a.Status)
		n, _ := x.w.Write(whole)
		x.out = int64(n)
		return
	}
	x.w.WriteHeader(a.Status)
	x.stream()
}

// stream flushes every chunk. An answer that breaks off ends with an error event,
// or, where there are no events, with a connection that is visibly cut.
func (x *exchange) stream() {
	flusher, _ := x.w.(http.Flusher)
	control := http.NewResponseController(x.w)
	var armed time.Time
	for {
		chunk, err := x.answer.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			x.interrupt(err, flusher)
			return
		}
		if now := time.Now(); now.Sub(armed) > time.Second {
			control.SetWriteDeadline(now.Add(x.g.writeTimeout))
			armed = now
		}
		n, err := x.w.Write(chunk)
		x.out += int64(n)
		if err != nil {
			x.code = string(router.CodeHangUp)
			return
		}
		if flusher != nil {
			flusher.Flush()
		}
	}
}

func (x *exchange) interrupt(err error, flusher http.Flusher) {
	var e *router.Error
	if !errors.As(err, &e) {
		e = &router.Error{Code: router.CodeStreamBroken, Message: "the answer broke off", Err: err}
	}
	x.code = string(e.Code)
	if e.Code == router.CodeHangUp {
		return
	}
	x.g.config.Log.Warn("answer broke off", "request", x.req.ID, "place", x.answer.Choice.Place, "error", e.Err)
	if !x.answer.Events {
		// Deferred work still runs; the server closes the connection without the final chunk.
		panic(http.ErrAbortHandler)
	}
	x.w.Write(problemOf(e).event())
	if flusher != nil {
		flusher.Flush()
	}
}

// record writes what happened to the audit log.
func (x *exchange) record() {
	if x.g.config.Audit == nil {
		return
	}
	c, ask := x.req.Caller, &x.req.Ask
	rec := audit.Record{Event: audit.Finished, Request: x.req.ID, UID: c.UID, Unit: c.Unit, Container: c.Container, Exe: c.Exe,
		API: ask.API, Model: ask.Model, BytesIn: int64(ask.Bytes), BytesOut: x.out, Status: x.status, Code: x.code,
		Took: x.g.config.Now().Sub(x.began).Seconds()}
	for _, k := range ask.Kinds {
		rec.Kinds = append(rec.Kinds, string(k))
	}
	if a := x.answer; a != nil {
		rec.Place, rec.Reason, rec.Rule, rec.Release, rec.Classes = string(a.Choice.Place), string(a.Choice.Reason), a.Rule, a.Release, a.Classes
		rec.Queued, rec.First = a.Queued.Seconds(), a.First.Seconds()
		rec.TokensIn, rec.TokensOut = a.Usage().In, a.Usage().Out
	}
	x.g.config.Audit.Record(rec)
}

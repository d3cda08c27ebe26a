package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/agent/cloud"
)

const (
	maxHeld  = 1 << 20 // bytes of an answer held back before it is committed
	readSize = 8 << 10
)

// Answer is a committed answer: content exists and will be sent. One goroutine owns it.
type Answer struct {
	Choice  Choice
	Rule    string
	Classes []string
	Release string // of the engine; "" from the cloud
	Status  int
	Header  http.Header // only what the client may see
	Events  bool        // server-sent events
	Queued  time.Duration
	First   time.Duration // from the request's start to the first content byte

	trip   *trip
	resp   *http.Response
	client *cloud.Client // of the upstream, or nil
	give   func(served bool)
	stall  *time.Timer

	buf     []byte // read and not yet handed out; pooled
	at      int    // what of buf was handed out
	err     error  // of the upstream's body, sticky
	sawDone bool
	events  int
	usage   Usage
}

// Usage counts tokens, as the place reported them; an answer without a report has
// its events counted instead.
type Usage struct{ In, Out int }

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, readSize); return &b }}

// commit reads until the first content and makes the answer, or gives the place
// back with the reason why another one may be tried.
func (t *trip) commit(resp *http.Response, choice Choice, give func(bool)) (*Answer, error) {
	a := &Answer{Choice: choice, Rule: t.verdict.Rule, Classes: t.verdict.Classes, Status: resp.StatusCode, Queued: t.queued,
		trip: t, resp: resp, give: give, buf: (*buffers.Get().(*[]byte))[:0]}
	a.Header = visible(resp.Header)
	a.Events = strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	if err := a.hold(); err != nil {
		a.release(false)
		return nil, a.failure(err)
	}
	// 501 says that the engine will never do this (embeddings of a chat model, say): an answer, not a failure.
	failed := resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented
	if failed || !a.Events && tooLarge(resp.StatusCode, a.buf) {
		err := a.status()
		a.release(false)
		return nil, err
	}
	a.First = t.config.Now().Sub(t.began)
	if a.err == nil {
		a.stall = time.AfterFunc(t.config.Stall, func() { t.cancel(errStalled) })
	}
	return a, nil
}

// visible keeps the headers of an answer that concern the client.
func visible(in http.Header) http.Header {
	out := http.Header{}
	for _, k := range []string{"Content-Type", "Cache-Control"} {
		if v := in[k]; len(v) == 1 {
			out[k] = v
		}
	}
	return out
}

// hold fills the buffer up to the first content of a stream, or with the whole of
// an answer that is not too large for that.
func (a *Answer) hold() error {
	seen := 0
	for len(a.buf) < maxHeld {
		if a.Events {
			content, upTo, err := firstContent(a.buf[seen:])
			if content || err != nil {
				return err
			}
			seen += upTo
		}
		if a.err == io.EOF {
			return nil
		}
		if a.err != nil {
			return a.err
		}
		a.fill()
	}
	return nil
}

// fill reads once from the place.
func (a *Answer) fill() {
	if cap(a.buf)-len(a.buf) < readSize/2 {
		grown := make([]byte, len(a.buf), 2*cap(a.buf)+readSize)
		copy(grown, a.buf)
		a.buf = grown
	}
	n, err := a.resp.Body.Read(a.buf[len(a.buf):cap(a.buf)])
	a.buf = a.buf[:len(a.buf)+n]
	if err == io.EOF && a.Events && !a.framed() && !a.sawDone && !bytes.Contains(a.buf, doneMark) {
		err = io.ErrUnexpectedEOF // closing the connection is all that ends such a body
	}
	a.err = err
}

// framed tells whether HTTP itself would notice a body that was cut short.
func (a *Answer) framed() bool {
	return a.resp.ContentLength >= 0 || len(a.resp.TransferEncoding) > 0 || a.resp.ProtoMajor >= 2
}

var (
	doneMark = []byte("data: [DONE]")
	dataMark = []byte("data:")
	eventEnd = []byte("\n\n")
)

// event is what of a chunk tells content from preliminaries.
type event struct {
	Choices []struct {
		Delta *struct {
			Content   string          `json:"content"`
			Reasoning string          `json:"reasoning_content"`
			Refusal   string          `json:"refusal"`
			ToolCalls json.RawMessage `json:"tool_calls"`
		} `json:"delta"`
		Text   string `json:"text"`
		Finish string `json:"finish_reason"`
	} `json:"choices"`
	Error json.RawMessage `json:"error"`
}

var errEvent = errors.New("the stream began with an error event")

// firstContent looks through whole lines for content. upTo bytes were preliminary.
func firstContent(b []byte) (content bool, upTo int, err error) {
	for {
		end := bytes.IndexByte(b[upTo:], '\n')
		if end < 0 {
			return false, upTo, nil
		}
		line := bytes.TrimSpace(b[upTo : upTo+end])
		data, isData := bytes.CutPrefix(line, dataMark)
		if isData {
			content, err := isContent(bytes.TrimSpace(data))
			if content || err != nil {
				return content, upTo, err
			}
		}
		upTo += end + 1
	}
}

func isContent(data []byte) (bool, error) {
	var e event
	if json.Unmarshal(data, &e) != nil {
		return true, nil // "[DONE]", or a format that is not ours to judge
	}
	if len(e.Error) > 0 && string(e.Error) != "null" {
		return false, errEvent
	}
	if e.Choices == nil {
		return true, nil
	}
	for _, c := range e.Choices {
		if c.Text != "" || c.Finish != "" {
			return true, nil
		}
		if d := c.Delta; d != nil && (d.Content != "" || d.Reasoning != "" || d.Refusal != "" || len(d.ToolCalls) > 0 && string(d.ToolCalls) != "null") {
			return true, nil
		}
	}
	return false, nil
}

// tooLarge recognises an engine's refusal of a prompt that does not fit its context.
func tooLarge(status int, body []byte) bool {
	return status == http.StatusBadRequest && (bytes.Contains(body, []byte("exceed_context_size")) || bytes.Contains(body, []byte("context_length_exceeded")))
}

// failure is the error of a place that gave no content.
func (a *Answer) failure(err error) *Error {
	e := &Error{Code: CodeEngine, Message: "the engine broke off before its answer began", Place: string(a.Choice.Place), Reason: EngineDown, RetryAfter: time.Second, Err: err}
	if a.Choice.Place != "local" {
		e.Code, e.Reason, e.Message = CodeUpstream, UpstreamDown, "the upstream broke off before its answer began"
	}
	return e
}

// status is the error of a place that answered with one.
func (a *Answer) status() *Error {
	e := a.failure(fmt.Errorf("it answered %d", a.Status))
	e.Message = fmt.Sprintf("the %s answered %d", map[bool]string{true: "engine", false: "upstream"}[a.Choice.Place == "local"], a.Status)
	var body struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(a.buf, &body) == nil && body.Error.Message != "" {
		e.Message += ": " + body.Error.Message
	}
	if a.Status == http.StatusBadRequest {
		e.Code, e.Reason, e.RetryAfter = CodeTooLarge, TooLarge, 0
	}
	return e
}

// Whole is the complete answer, if it was short enough to be held until it was;
// ok is false when it must be read with Next. The bytes are valid until Close.
func (a *Answer) Whole() (body []byte, ok bool) {
	if a.err != io.EOF || a.Events {
		return nil, false
	}
	a.at = len(a.buf)
	a.count(a.buf)
	return a.buf, true
}

// Next gives the following bytes, valid until the next call: whole events of a
// stream, so that an interruption never falls inside one. It ends with io.EOF; any
// other error is an answer that broke off.
func (a *Answer) Next() ([]byte, error) {
	for {
		if end := a.ready(); end > a.at {
			chunk := a.buf[a.at:end]
			a.at = end
			a.count(chunk)
			return chunk, nil
		}
		if a.err != nil {
			return nil, a.broken()
		}
		a.buf = append(a.buf[:0], a.buf[a.at:]...)
		a.at = 0
		a.stall.Reset(a.trip.config.Stall)
		a.fill()
	}
}

// ready is the end of what may be handed out.
func (a *Answer) ready() int {
	if !a.Events || a.err == io.EOF || len(a.buf)-a.at > maxHeld {
		return len(a.buf)
	}
	if i := bytes.LastIndex(a.buf[a.at:], eventEnd); i >= 0 {
		return a.at + i + len(eventEnd)
	}
	if bytes.Contains(a.buf[a.at:], []byte("\r\n\r\n")) {
		return len(a.buf) // an upstream with the other line ends: events are not held together
	}
	return a.at
}

// broken is io.EOF, or why the answer broke off.
func (a *Answer) broken() error {
	// Whoever has the end mark has the whole answer, whatever happens to the connection after it.
	if a.err == io.EOF || a.sawDone {
		return io.EOF
	}
	if a.trip.hungUp() {
		return a.trip.ended()
	}
	return &Error{Code: CodeStreamBroken, Message: "the answer broke off", Place: string(a.Choice.Place), Reason: a.Choice.Reason, Rule: a.Rule, Err: a.err}
}

// count follows tokens and the end mark in what goes out.
func (a *Answer) count(chunk []byte) {
	if !a.Events {
		a.report(chunk)
		return
	}
	a.events += bytes.Count(chunk, dataMark)
	a.sawDone = a.sawDone || bytes.Contains(chunk, doneMark)
	if i := bytes.LastIndex(chunk, []byte(`"usage":{`)); i >= 0 {
		a.report(chunk[i:])
	}
}

// report reads the last usage object out of a piece of JSON.
func (a *Answer) report(b []byte) {
	i := bytes.LastIndex(b, []byte(`"usage":`))
	if i < 0 {
		return
	}
	var u struct {
		In  int `json:"prompt_tokens"`
		Out int `json:"completion_tokens"`
	}
	if json.NewDecoder(bytes.NewReader(b[i+len(`"usage":`):])).Decode(&u) == nil {
		a.usage = Usage{u.In, u.Out}
	}
}

// Usage is the token count so far.
func (a *Answer) Usage() Usage {
	if a.usage == (Usage{}) && a.Events {
		return Usage{Out: a.events}
	}
	return a.usage
}

// Close gives the place back. An answer that was not read to its end is cancelled there.
func (a *Answer) Close() {
	if a.stall != nil {
		a.stall.Stop()
	}
	served := a.err == io.EOF && a.Status < 300
	switch {
	case a.client == nil:
	case a.err == io.EOF:
		a.client.Served()
	case a.err != nil && !a.trip.hungUp():
		a.client.Broke(a.err)
	}
	a.release(served)
	a.trip.cancel(nil)
}

func (a *Answer) release(served bool) {
	a.resp.Body.Close()
	a.give(served)
	if cap(a.buf) <= 8*readSize {
		b := a.buf[:0]
		buffers.Put(&b)
	}
}

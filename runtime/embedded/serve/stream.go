package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// stallLimit is how long one write to a client may take before it counts as gone.
const stallLimit = 30 * time.Second

// stream writes the answer as server-sent events. The status goes out with the
// first event, so an error before any token still has its own status.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, j *job, base reply, shape writer, withUsage bool) error {
	out := &events{w: w, control: http.NewResponseController(w)}
	for {
		got, err := j.answer.take(ctx)
		if err != nil {
			return out.fail(gone(err))
		}
		for _, e := range got {
			if e.err != nil {
				return out.fail(gone(e.err))
			}
			if first := shape.first(); !out.begun && first != nil {
				out.add(base.with(first))
			}
			out.add(base.with(shape.chunk(e)))
			if e.finish != "" {
				out.close(base, e, withUsage)
				return nil
			}
		}
		if err := out.flush(); err != nil {
			return nil // the client has gone; the job ends with the handler
		}
	}
}

func (r reply) with(choices ...any) reply {
	r.Choices = choices
	return r
}

// events is a stream of server-sent events, buffered between flushes.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buf     bytes.Buffer
	begun   bool
}

func (o *events) add(v any) {
	if !o.begun {
		o.begun = true
		h := o.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no")
		o.w.WriteHeader(http.StatusOK)
	}
	o.buf.WriteString("data: ")
	enc := json.NewEncoder(&o.buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // only our own types, which all encode
	o.buf.WriteByte('\n')
}

func (o *events) flush() error {
	// Not supported by test recorders; a real connection always takes a deadline.
	_ = o.control.SetWriteDeadline(time.Now().Add(stallLimit))
	if _, err := o.buf.WriteTo(o.w); err != nil {
		return err
	}
	return o.control.Flush()
}

// close ends the stream as OpenAI does: usage in a chunk without choices, then [DONE].
func (o *events) close(base reply, e event, withUsage bool) {
	if withUsage {
		last := base.with()
		last.Choices, last.Usage = []any{}, usageOf(e)
		o.add(last)
	}
	o.buf.WriteString("data: [DONE]\n\n")
	_ = o.flush() // the stream is over, whether the client hears it or not
}

// fail reports an error: as the answer if nothing has gone out, else as an event.
func (o *events) fail(err error) error {
	if !o.begun {
		return err
	}
	o.add(map[string]*apiError{"error": asAPIError(err)})
	_ = o.flush() // as above
	return nil
}

package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// held is the memory that a body counts for until free is called.
type held struct {
	g *Gateway
	n int64
}

func (h *held) free() { h.g.inMemory.Add(-h.n) }

// read takes the whole body, at most MaxBody, before the deadline. One that says it
// is larger is refused unread.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request) ([]byte, *held, *problem) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, nil, &problem{status: http.StatusUnsupportedMediaType, code: "unsupported_encoding", message: "a body must not be compressed"}
	}
	if r.ContentLength > g.config.MaxBody {
		return nil, nil, g.tooLarge(w)
	}
	size := r.ContentLength
	if size < 0 {
		size = g.config.MaxBody
	}
	mem := &held{g, size}
	if g.inMemory.Add(size) > buffered*g.config.MaxBody {
		mem.free()
		return nil, nil, &problem{status: http.StatusServiceUnavailable, code: "too_many_bodies", message: "too much request data is in memory already", retryAfter: time.Second}
	}
	control := http.NewResponseController(w)
	// Wall-clock time on purpose: the deadline belongs to the socket.
	control.SetReadDeadline(time.Now().Add(g.config.BodyTimeout))
	body, err := g.readAll(r)
	if err != nil {
		mem.free()
		// What is left of the body is not worth waiting for.
		w.Header().Set("Connection", "close")
		return nil, nil, g.unread(w, err)
	}
	// The server goes on reading in the background to notice a hang-up; that read must not time out.
	control.SetReadDeadline(time.Time{})
	g.inMemory.Add(int64(len(body)) - mem.n)
	mem.n = int64(len(body))
	return body, mem, nil
}

var errTooLarge = errors.New("body too large")

func (g *Gateway) readAll(r *http.Request) ([]byte, error) {
	if r.ContentLength >= 0 {
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, err
		}
		// The server notices a hang-up only once it has seen the end of the body.
		if _, err := r.Body.Read(make([]byte, 1)); err != io.EOF {
			return nil, fmt.Errorf("body goes on after its length: %w", err)
		}
		return body, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, g.config.MaxBody+1))
	if err == nil && int64(len(body)) > g.config.MaxBody {
		return nil, errTooLarge
	}
	return body, err
}

func (g *Gateway) tooLarge(w http.ResponseWriter) *problem {
	w.Header().Set("Connection", "close")
	return &problem{status: http.StatusRequestEntityTooLarge, code: "body_too_large", message: fmt.Sprintf("the body is larger than %d bytes", g.config.MaxBody)}
}

func (g *Gateway) unread(w http.ResponseWriter, err error) *problem {
	var timeout net.Error
	switch {
	case errors.Is(err, errTooLarge):
		return g.tooLarge(w)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &problem{status: http.StatusRequestTimeout, code: "body_timeout", message: fmt.Sprintf("the body did not arrive within %s", g.config.BodyTimeout)}
	}
	return &problem{status: http.StatusBadRequest, code: "incomplete_body", message: "the body ended before its time"}
}

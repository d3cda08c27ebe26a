package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// memory counts the bytes of bodies that are held, of all callers and of each, so
// that neither a crowd nor one flood fills the box or keeps the others out.
type memory struct {
	most int64 // of all; half of it for one caller

	mu  sync.Mutex
	all int64
	by  map[string]int64
}

func (m *memory) add(caller string, n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > 0 && (m.all+n > m.most || m.by[caller]+n > m.most/2) {
		return false
	}
	m.all += n
	if m.by[caller] += n; m.by[caller] == 0 {
		delete(m.by, caller)
	}
	return true
}

// held is the memory that one body counts for until free is called.
type held struct {
	m      *memory
	caller string
	n      int64
}

func (h *held) grow(n int64) bool {
	ok := h.m.add(h.caller, n)
	if ok {
		h.n += n
	}
	return ok
}

func (h *held) free() { h.m.add(h.caller, -h.n) }

// read takes the whole body, at most MaxBody, before the deadline. One that says it
// is larger is refused unread.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request) ([]byte, *held, *problem) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, nil, &problem{status: http.StatusUnsupportedMediaType, code: "unsupported_encoding", message: "a body must not be compressed"}
	}
	if r.ContentLength > g.config.MaxBody {
		return nil, nil, g.tooLarge(w)
	}
	mem := &held{m: &g.inMemory, caller: peerOf(r).key}
	control := http.NewResponseController(w)
	// Wall-clock time on purpose: the deadline belongs to the socket.
	control.SetReadDeadline(time.Now().Add(g.config.BodyTimeout))
	body, err := g.readAll(r, mem)
	if err != nil {
		mem.free()
		// What is left of the body is not worth waiting for.
		w.Header().Set("Connection", "close")
		return nil, nil, g.unread(w, err)
	}
	// The server goes on reading in the background to notice a hang-up; that read must not time out.
	control.SetReadDeadline(time.Time{})
	return body, mem, nil
}

var (
	errTooLarge = errors.New("body too large")
	errMemory   = errors.New("too much request data is in memory")
)

// firstRead is the buffer that a body begins with, in bytes. It grows with what has
// arrived: a length that was only announced takes no memory from others.
const firstRead = 64 << 10

func (g *Gateway) readAll(r *http.Request, mem *held) ([]byte, error) {
	most := r.ContentLength
	if most < 0 {
		most = g.config.MaxBody
	}
	var body []byte
	for {
		have := int64(len(body))
		if have == most {
			return body, atEnd(r.Body)
		}
		if have == int64(cap(body)) {
			next := min(most, max(firstRead, 2*have))
			if !mem.grow(next - have) {
				return nil, errMemory
			}
			body = append(make([]byte, 0, next), body...)
		}
		n, err := r.Body.Read(body[have:cap(body)])
		body = body[:have+int64(n)]
		if err == io.EOF {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// atEnd reads the end of a body that should have come; the server notices a hang-up
// only once it has been seen.
func atEnd(body io.Reader) error {
	n, err := io.ReadFull(body, make([]byte, 1))
	if n > 0 {
		return errTooLarge
	}
	if err == io.EOF {
		return nil
	}
	return err
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
	case errors.Is(err, errMemory):
		return &problem{status: http.StatusServiceUnavailable, code: "too_many_bodies", message: errMemory.Error() + " already", retryAfter: time.Second}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &problem{status: http.StatusRequestTimeout, code: "body_timeout", message: fmt.Sprintf("the body did not arrive within %s", g.config.BodyTimeout)}
	}
	return &problem{status: http.StatusBadRequest, code: "incomplete_body", message: "the body ended before its time"}
}

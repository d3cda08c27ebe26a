package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// silentLimit is how long a connection that has sent nothing may hold up a stop.
	silentLimit = 2 * time.Second
	// drainLook is how often a stop looks whether the last answer is out.
	drainLook = 5 * time.Millisecond
)

// server is one HTTP server on one listener, which can stop without dropping a request.
//
// http.Server.Shutdown drops them: a connection that was accepted, and whose request arrives after Shutdown began, is
// closed without an answer (net/http, conn.serve). With socket activation every restart meets such connections.
type server struct {
	*http.Server
	name     string
	listener net.Listener
	done     chan struct{} // closed when no further connection can be accepted
	silent   time.Duration // silentLimit
	ending   func()        // called once no further connection can be accepted

	mu   sync.Mutex
	open map[net.Conn]http.ConnState
}

func newServer(name string, h *http.Server, l net.Listener) *server {
	s := &server{Server: h, name: name, listener: l, done: make(chan struct{}), silent: silentLimit, ending: func() {}, open: map[net.Conn]http.ConnState{}}
	h.ConnState = s.track
	return s
}

func (s *server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(s.open, c)
		return
	}
	s.open[c] = state
}

// serve answers until drain. It may be called once.
func (s *server) serve() error {
	defer close(s.done)
	err := s.Serve(s.listener)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain takes no further connection, lets what was accepted be answered, and closes the rest when ctx ends. Clients
// that come meanwhile wait in the backlog where the socket is systemd's. serve must have been called.
func (s *server) drain(ctx context.Context) error {
	defer s.Close()
	s.listener.Close()
	<-s.done
	s.ending()
	s.SetKeepAlivesEnabled(false) // closes what idles now, and the others after their answer
	patience := time.NewTimer(s.silent)
	defer patience.Stop()
	look := time.NewTicker(drainLook)
	defer look.Stop()
	waiting := true
	for !s.drained(waiting) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-patience.C:
			waiting = false
		case <-look.C:
		}
	}
	return nil
}

// drained tells whether every connection is closed, or has sent nothing and need not be waited for.
func (s *server) drained(waitForSilent bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range s.open {
		if state != http.StateNew || waitForSilent {
			return false
		}
	}
	return true
}

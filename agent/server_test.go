package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

const getRequest = "GET / HTTP/1.1\r\nHost: bothy\r\n\r\n"

// served is a running server, and a connection that it has accepted and that has sent nothing.
func served(t *testing.T, h http.HandlerFunc) (*server, net.Conn) {
	t.Helper()
	path := filepath.Join(parts.SocketDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer("test", &http.Server{Handler: h}, l)
	go s.serve()
	silent := dialed(t, path)
	// Accepted in their order: once this one is answered, the silent one is in as well.
	if got := asked(t, dialed(t, path)); got != "ok" {
		t.Fatalf("got %q, want ok", got)
	}
	return s, silent
}

func dialed(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// asked sends a request and returns the answer's body, or the error in words.
func asked(t *testing.T, c net.Conn) string {
	t.Helper()
	if _, err := io.WriteString(c, getRequest); err != nil {
		return err.Error()
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }

func TestDrainAnswersWhoWasAcceptedAndAsksLate(t *testing.T) {
	s, late := served(t, ok)
	s.silent = time.Minute
	ended := make(chan error, 1)
	go func() { ended <- s.drain(context.Background()) }()
	<-s.done
	if got := asked(t, late); got != "ok" {
		t.Errorf("got %q for a request that arrived during the stop, want ok", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestDrainDoesNotWaitForTheSilent(t *testing.T) {
	s, _ := served(t, ok)
	s.silent = time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.drain(ctx); err != nil {
		t.Errorf("got %v, want the silent connection closed", err)
	}
}

func TestDrainEndsAnAnswerAtItsLimit(t *testing.T) {
	started, first := make(chan struct{}), true
	s, c := served(t, func(w http.ResponseWriter, r *http.Request) {
		if first { // the one that served asks
			first = false
			ok(w, r)
			return
		}
		close(started)
		<-r.Context().Done()
	})
	go io.WriteString(c, getRequest)
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the limit named", err)
	}
}

package agent

import (
	"context"
	"log"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

func TestWaitingOperatorDoesNotHoldUpTheStop(t *testing.T) {
	waiting := make(chan struct{})
	socket := parts.SocketDir(t) + "/s"
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := operatorServer("admin", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(waiting)
		<-r.Context().Done()
	}), log.Default(), l)
	go s.serve()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: b\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	<-waiting
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.drain(ctx); err != nil {
		t.Errorf("got %v, want the waiting request to end with the server", err)
	}
}

package delaylink

import (
	"io"
	"net"
	"testing"
	"time"
)

// A stream over the link is as fast as the link says, and an answer takes the round trip.
func TestLinkHasItsRateAndDelay(t *testing.T) {
	const rate, trip, size = 4 << 20, 40 * time.Millisecond, 4 << 20
	l, err := New(rate, trip)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	var listener net.Listener
	l.Near.Do(func() { listener, err = net.Listen("tcp", Near+":7777") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Write(make([]byte, size))
	}()
	began := time.Now()
	c, err := l.Far.Dial(t.Context(), Near+":7777")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// No more than a lower bound: a busy machine only makes it slower.
	if took := time.Since(began); took < trip {
		t.Errorf("connected after %s, want at least a round trip of %s", took, trip)
	}
	n, err := io.Copy(io.Discard, c)
	if took := time.Since(began); err != nil || n != size || took < time.Second {
		t.Errorf("got %d bytes after %s (%v), want %d after a second at the earliest", n, took, err, size)
	}
}

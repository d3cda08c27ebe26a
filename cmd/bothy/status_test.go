package main

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

func TestStatusOfAStuckAgentIsAnError(t *testing.T) {
	socket := parts.SocketDir(t) + "/admin.sock"
	l, err := net.Listen("unix", socket) // accepts in the kernel, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = (&options{admin: socket}).status(t.Context(), 20*time.Millisecond)
	var hinted withHint
	if !errors.As(err, &hinted) || hinted.Hint() == "" {
		t.Errorf("got %v, want an error with a hint", err)
	}
}

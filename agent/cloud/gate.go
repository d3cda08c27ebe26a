package cloud

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	dialLimit      = 10 * time.Second
	handshakeLimit = 10 * time.Second
)

// newTransport makes an HTTP/1.1 transport whose connections carry a gate. One
// request at a time owns such a connection, which HTTP/2 would not allow.
func newTransport(c Config) *http.Transport {
	dialer := &net.Dialer{Timeout: dialLimit, KeepAlive: 30 * time.Second}
	plain := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &gatedConn{Conn: conn}, nil
	}
	secure := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return handshake(ctx, conn, addr, c)
	}
	return &http.Transport{
		Proxy:                 nil, // an environment variable must not decide where prompts go
		DialContext:           plain,
		DialTLSContext:        secure,
		ResponseHeaderTimeout: c.Timeout,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true, // a compressed stream is not flushed event by event
	}
}

func handshake(ctx context.Context, conn net.Conn, addr string, c Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		conn.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	secured := tls.Client(conn, &tls.Config{RootCAs: c.RootCAs, ServerName: host, MinVersion: tls.VersionTLS12})
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot agree on TLS: %w", err)
	}
	return &gatedConn{Conn: secured}, nil
}

// gatedConn asks its gate at the first write of each request. Standing below
// net/http it sees every byte, headers included, wherever those are buffered.
type gatedConn struct {
	net.Conn

	mu      sync.Mutex
	gate    func() error // of the request that owns the connection; nil once asked
	refusal error        // sticky: net/http closes the connection, and until then nothing may pass
}

func (c *gatedConn) arm(gate func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate = gate
}

// Write asks the gate, once a request, and then writes.
func (c *gatedConn) Write(p []byte) (int, error) {
	if err := c.ask(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *gatedConn) ask() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gate := c.gate; gate != nil {
		c.gate = nil
		if err := gate(); err != nil {
			c.refusal = &gateError{err}
		}
	}
	return c.refusal
}

// gateError marks an error that came from the gate.
type gateError struct{ cause error }

func (e *gateError) Error() string { return e.cause.Error() }

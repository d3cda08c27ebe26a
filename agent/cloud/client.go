package cloud

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxKey bounds an API key: a whole file named by mistake must not be sent as a header.
const maxKey = 8 << 10

// APIOpenAI is the only API spoken so far.
const APIOpenAI = "openai"

// Config describes one upstream. It is not changed after New.
type Config struct {
	Name    string                 // the place's name in the policy
	API     string                 // APIOpenAI; empty means that
	BaseURL string                 // for example https://api.example.com/v1; https, or http to a loopback address
	Key     func() (string, error) // the API key, asked for at every request; nil or an empty key sends none
	Models  map[string]string      // alias here -> model name there; empty: every alias under its own name
	Timeout time.Duration          // until the response's header; 0: one minute
	RootCAs *x509.CertPool         // nil: the system's
	Now     func() time.Time       // nil: time.Now
	Jitter  func() float64         // in [0,1), of the breaker; nil: random
}

// Client sends requests to one upstream. It is safe for concurrent use; close it when the upstream is gone from the policy.
type Client struct {
	config    Config
	base      *url.URL
	transport *http.Transport
	breaker   *breaker

	mu        sync.Mutex
	lastError string
	requests  uint64
	failures  uint64
}

// Status is what `bothy status` shows of an upstream.
type Status struct {
	Name      string       `json:"name"`
	Host      string       `json:"host"`
	Breaker   BreakerState `json:"breaker"`
	RetryIn   float64      `json:"retry_in_seconds,omitempty"` // until an open breaker tries again
	Requests  uint64       `json:"requests"`
	Failures  uint64       `json:"failures"`
	LastError string       `json:"last_error,omitempty"` // of the latest failure, empty after a success
}

// ErrorKind says what went wrong with an upstream.
type ErrorKind string

// The kinds of failure. Only Refused and Broken come from this side of the wire.
const (
	Broken      ErrorKind = "breaker-open" // the breaker is open, nothing was sent
	Refused     ErrorKind = "refused"      // the gate said no, nothing was sent
	NoKey       ErrorKind = "no-key"       // the key cannot be read, nothing was sent
	Unreachable ErrorKind = "unreachable"  // no connection, or it broke before the answer
	Failed      ErrorKind = "failed"       // the upstream answered with 5xx, 408, 429, 401, 403 or a redirect
)

// Error is a request that the upstream did not serve. It may be tried elsewhere.
type Error struct {
	Place  string
	Kind   ErrorKind
	Status int           // HTTP status for Failed
	Wait   time.Duration // retry-after that the upstream asked for, or 0
	Err    error         // cause, or nil
}

func (e *Error) Error() string {
	switch {
	case e.Kind == Failed:
		return fmt.Sprintf("cannot use upstream %s: it answered %d", e.Place, e.Status)
	case e.Err != nil:
		return fmt.Sprintf("cannot use upstream %s: %s: %v", e.Place, e.Kind, e.Err)
	}
	return fmt.Sprintf("cannot use upstream %s: %s", e.Place, e.Kind)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New checks the description and makes a client. Nothing is dialled.
func New(c Config) (*Client, error) {
	base, err := checkURL(c)
	if err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	return &Client{config: c, base: base, transport: newTransport(c), breaker: newBreaker(c.Now, c.Jitter)}, nil
}

func checkURL(c Config) (*url.URL, error) {
	if c.API != "" && c.API != APIOpenAI {
		return nil, fmt.Errorf("cannot use upstream %s: its API %q is not spoken here, only %q is", c.Name, c.API, APIOpenAI)
	}
	base, err := url.Parse(c.BaseURL)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("cannot use upstream %s: its base URL must be scheme, host and path only", c.Name)
	}
	if base.Scheme == "https" || base.Scheme == "http" && loopback(base.Hostname()) {
		return base, nil
	}
	return nil, fmt.Errorf("cannot use upstream %s: its base URL must begin with https:// (plain http only to a loopback address)", c.Name)
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Name is the place's name.
func (c *Client) Name() string { return c.config.Name }

// Model is the upstream's name for an alias; ok is false when the upstream does not have it.
func (c *Client) Model(alias string) (name string, ok bool) {
	if len(c.config.Models) == 0 {
		return alias, true
	}
	name, ok = c.config.Models[alias]
	return name, ok
}

// Ready tells whether a request would be sent now rather than refused by the breaker.
func (c *Client) Ready() bool { return c.breaker.ready() }

// Status describes the upstream as seen by its requests.
func (c *Client) Status() Status {
	state, _, wait := c.breaker.snapshot()
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{Name: c.config.Name, Host: c.base.Host, Breaker: state, RetryIn: wait.Seconds(),
		Requests: c.requests, Failures: c.failures, LastError: c.lastError}
}

// Close ends idle connections. Requests that run go on.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Do posts body to path under the base URL; path is the local one, for example
// /v1/chat/completions, and header the client's, of which only listed ones are sent.
//
// gate is asked after the connection stands and before the request's first byte is
// written to it; an error from it means that nothing left. The answer's status is below
// 500, and the caller must close its body and then call Served or Broke. Everything else is an *Error, or ctx's
// error when the caller ended it.
func (c *Client) Do(ctx context.Context, path string, body []byte, header http.Header, gate func() error) (*http.Response, error) {
	if !c.breaker.allow() {
		_, _, wait := c.breaker.snapshot()
		return nil, &Error{Place: c.config.Name, Kind: Broken, Wait: wait}
	}
	req, err := c.request(ctx, path, body, header, gate)
	if err != nil {
		c.breaker.withdrawn()
		return nil, &Error{Place: c.config.Name, Kind: NoKey, Err: err}
	}
	resp, err := c.transport.RoundTrip(req)
	return c.judge(ctx, resp, err)
}

func (c *Client) request(ctx context.Context, path string, body []byte, header http.Header, gate func() error) (*http.Request, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + strings.TrimPrefix(strings.TrimPrefix(path, "/"), "v1/")
	// A dead idle connection makes the transport take another; the gate is armed on that one too.
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { info.Conn.(*gatedConn).arm(gate) }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = allowed(header)
	if c.config.Key == nil {
		return req, nil
	}
	key, err := c.config.Key()
	if err != nil {
		return nil, fmt.Errorf("cannot read the key: %w", err)
	}
	if len(key) > maxKey {
		return nil, fmt.Errorf("cannot use the key: it is longer than %d bytes", maxKey)
	}
	if key = strings.TrimSpace(key); key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	return req, nil
}

// allowed keeps what the upstream needs and nothing that tells about the client.
func allowed(in http.Header) http.Header {
	out := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"bothy"}}
	if v := in.Get("Accept"); v != "" && len(v) < 256 {
		out.Set("Accept", v)
	}
	return out
}

// judge turns the outcome into an answer or a typed error and tells the breaker.
func (c *Client) judge(ctx context.Context, resp *http.Response, err error) (*http.Response, error) {
	var refused *gateError
	switch {
	case errors.As(err, &refused):
		c.breaker.withdrawn()
		return nil, &Error{Place: c.config.Name, Kind: Refused, Err: refused.cause}
	case err != nil && ctx.Err() != nil:
		c.breaker.withdrawn()
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, c.fail(&Error{Place: c.config.Name, Kind: Unreachable, Err: err})
	}
	if servable(resp.StatusCode) {
		c.breaker.answered()
		c.note(nil)
		return resp, nil
	}
	wait := retryAfter(resp.Header, c.config.Now())
	resp.Body.Close()
	return nil, c.fail(&Error{Place: c.config.Name, Kind: Failed, Status: resp.StatusCode, Wait: wait})
}

// servable tells which statuses are an answer to the client. A refused key is
// our failure, not the client's, and a redirect is not followed.
func servable(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return status >= 200 && status < 300 || status >= 400 && status < 500
}

func (c *Client) fail(e *Error) *Error {
	c.count(e)
	return e
}

func (c *Client) count(e *Error) {
	c.breaker.failed(e.Wait)
	c.note(e)
}

func (c *Client) note(e *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	c.lastError = ""
	if e != nil {
		c.failures++
		c.lastError = e.Error()
	}
}

// Served tells the breaker that an answer came to its end.
func (c *Client) Served() { c.breaker.succeeded() }

// Broke tells the breaker that an answer ended before its time.
func (c *Client) Broke(err error) {
	c.count(&Error{Place: c.config.Name, Kind: Unreachable, Err: err})
}

// retryAfter reads the header in seconds or as a date (RFC 9110 section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

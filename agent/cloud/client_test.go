package cloud

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func upstream(t *testing.T, h http.HandlerFunc, change ...func(*Config)) *Client {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	config := Config{Name: "there", BaseURL: srv.URL + "/v1", RootCAs: pool, Jitter: func() float64 { return 0 },
		Key: func() (string, error) { return "sekret\n", nil }}
	for _, f := range change {
		f(&config)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func yes() error { return nil }

func TestDoSendsKeyModelAndOnlyListedHeaders(t *testing.T) {
	var got *http.Request
	var body string
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		io.WriteString(w, "{}")
	})
	in := http.Header{"Authorization": {"Bearer of the client"}, "Cookie": {"a=b"}, "X-Secret": {"1"},
		"Accept": {"text/event-stream"}, "X-Bothy-Class": {"phi"}, "Openai-Organization": {"o"}, "User-Agent": {"client/1"}}
	resp, err := c.Do(t.Context(), "/v1/chat/completions", []byte(`{"a":1}`), in, yes)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got.URL.Path != "/v1/chat/completions" || body != `{"a":1}` || got.ContentLength != 7 {
		t.Errorf("got %s %q", got.URL.Path, body)
	}
	want := map[string]string{"Authorization": "Bearer sekret", "Accept": "text/event-stream", "User-Agent": "bothy",
		"Content-Type": "application/json", "Content-Length": "7"}
	for k := range got.Header {
		if got.Header.Get(k) != want[k] {
			t.Errorf("header %s: got %q, want %q", k, got.Header.Get(k), want[k])
		}
	}
}

func TestGateIsAskedBeforeAnyByteLeaves(t *testing.T) {
	var served atomic.Int32
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) { served.Add(1) })
	refusal := errors.New("kill switch")
	for range 2 { // on a new connection, then with an idle one at hand
		_, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, func() error { return refusal })
		var e *Error
		if !errors.As(err, &e) || e.Kind != Refused || !errors.Is(err, refusal) {
			t.Fatalf("got %v, want the gate's refusal", err)
		}
		if served.Load() != 0 {
			t.Fatal("a refused request arrived")
		}
	}
	resp, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if _, err := c.Do(t.Context(), "/v1/x", []byte("{}"), nil, func() error { return refusal }); !errors.Is(err, refusal) || served.Load() != 1 {
		t.Fatalf("got %v and %d requests, want a refusal on the reused connection and 1", err, served.Load())
	}
	if s := c.Status(); s.Breaker != Closed || s.Failures != 0 {
		t.Errorf("got %+v: a refusal of ours is no failure of theirs", s)
	}
}

func TestRedirectIsAFailureAndNotFollowed(t *testing.T) {
	var other atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other.Add(1) }))
	defer elsewhere.Close()
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	_, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Failed || e.Status != 307 || other.Load() != 0 {
		t.Fatalf("got %v, %d requests elsewhere", err, other.Load())
	}
}

func TestStatusesAreSortedIntoAnswersAndFailures(t *testing.T) {
	var status atomic.Int32
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(int(status.Load())) })
	for code, answer := range map[int32]bool{200: true, 400: true, 404: true, 422: true, 401: false, 429: false, 500: false, 503: false} {
		status.Store(code)
		c.breaker.succeeded()
		resp, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes)
		if (err == nil) != answer {
			t.Errorf("status %d: got error %v, want answer %v", code, err, answer)
		}
		if resp != nil {
			resp.Body.Close()
		}
	}
}

func TestBreakerKeepsRequestsHere(t *testing.T) {
	var served atomic.Int32
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes)
	_, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Broken || e.Wait <= 0 || e.Wait > 30*time.Second || served.Load() != 1 {
		t.Fatalf("got %v after %d requests, want a breaker open for up to 30s after 1", err, served.Load())
	}
	if c.Ready() {
		t.Error("ready while the breaker is open")
	}
}

func TestHangUpIsNotTheUpstreamsFailure(t *testing.T) {
	arrived := make(chan struct{})
	ended := make(chan struct{})
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := c.Do(ctx, "/v1/chat/completions", []byte("{}"), nil, yes)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context canceled", err)
	}
	<-ended // the upstream's work is cancelled too
	if s := c.Status(); s.Failures != 0 {
		t.Errorf("got %d failures, want 0", s.Failures)
	}
}

func TestUpstreamThatDoesNotAnswerTimesOut(t *testing.T) {
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() },
		func(c *Config) { c.Timeout = 20 * time.Millisecond })
	_, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Unreachable {
		t.Fatalf("got %v, want unreachable", err)
	}
}

func TestUnknownCertificateIsRefused(t *testing.T) {
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) { t.Error("request arrived") },
		func(c *Config) { c.RootCAs = x509.NewCertPool() })
	if _, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("got %v, want a certificate error", err)
	}
}

func TestMissingKeySendsNothing(t *testing.T) {
	for name, key := range map[string]func() (string, error){
		"unreadable": func() (string, error) { return "", os.ErrNotExist },
		"endless":    func() (string, error) { return strings.Repeat("k", maxKey+1), nil },
	} {
		c := upstream(t, func(w http.ResponseWriter, r *http.Request) { t.Error("request arrived") }, func(c *Config) { c.Key = key })
		_, err := c.Do(t.Context(), "/v1/chat/completions", []byte("{}"), nil, yes)
		var e *Error
		if !errors.As(err, &e) || e.Kind != NoKey {
			t.Errorf("%s: got %v, want no-key", name, err)
		}
	}
}

func TestNewRefusesUnsafeBaseURLs(t *testing.T) {
	for _, u := range []string{"", "api.example.com", "http://api.example.com/v1", "https://u:p@h/v1", "https://h/v1?x=1", "ftp://h", "http://localhost/"} {
		if _, err := New(Config{Name: "x", BaseURL: u}); err == nil {
			t.Errorf("%q accepted", u)
		}
	}
	for _, u := range []string{"https://api.example.com/v1", "http://127.0.0.1:8080/v1", "http://[::1]:1"} {
		if _, err := New(Config{Name: "x", BaseURL: u}); err != nil {
			t.Errorf("%q refused: %v", u, err)
		}
	}
	if _, err := New(Config{Name: "x", BaseURL: "https://h", API: "smoke"}); err == nil {
		t.Error("unknown API accepted")
	}
}

func TestModelMap(t *testing.T) {
	plain, _ := New(Config{BaseURL: "https://h"})
	mapped, _ := New(Config{BaseURL: "https://h", Models: map[string]string{"a": "A"}})
	if m, ok := plain.Model("a"); m != "a" || !ok {
		t.Errorf("got %q %v, want the alias itself", m, ok)
	}
	if m, ok := mapped.Model("a"); m != "A" || !ok {
		t.Errorf("got %q %v, want A", m, ok)
	}
	if _, ok := mapped.Model("b"); ok {
		t.Error("an alias outside the map is served")
	}
}

func TestRetryAfterForms(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: got %s, want %s", v, got, want)
		}
	}
}

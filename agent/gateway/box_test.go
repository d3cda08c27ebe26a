package gateway

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/router"
	"github.com/bothy-edge/bothy/internal/parts"
)

// box is a gateway on a unix socket with one engine, "mote", and one upstream, "there".
type box struct {
	t      testing.TB
	socket string
	dir    string
	gate   *Gateway
	client *http.Client
	policy atomic.Pointer[policy.Policy]
	audit  *audit.Log
	disk   atomic.Bool // the audit log's disk is full
	logs   *syncBuffer

	mu     sync.Mutex
	state  router.LocalState
	refuse error        // of Acquire
	engine http.Handler // what the engine does
	cloud  http.Handler // what the upstream does

	leases  atomic.Int32
	arrived atomic.Int32 // requests that reached the upstream
	transit *http.Transport
	server  *httptest.Server
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

const (
	localFirst = `rules: [{name: cards stay, when: {class: payment}, places: local}, {name: all, places: [local, there]}]`
	cloudFirst = `rules: [{name: cards stay, when: {class: payment}, places: local}, {name: all, places: [there, local]}]`
	cloudOnly  = `rules: [{name: all, places: there}]`
	localOnly  = `rules: [{name: all, places: local}]`
)

// newBox starts one. Options change the configurations before they are used.
func newBox(t testing.TB, rules string, change ...func(*router.Config, *Config)) *box {
	t.Helper()
	b := &box{t: t, dir: parts.SocketDir(t), logs: &syncBuffer{},
		state: router.LocalState{Phase: router.Ready, Slots: 2, Release: "mote@1"}, engine: says("from the engine"), cloud: says("from the cloud")}
	b.serveCloud()
	b.serveEngine()
	b.setPolicy(rules)
	var err error
	b.audit, _, err = audit.Open(audit.Options{Dir: filepath.Join(b.dir, "audit"), Fault: func(string) error {
		if b.disk.Load() {
			return errors.New("no space left on device")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.audit.Close() })
	log := slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	rc := router.Config{Local: b, Policy: func() policy.Decider { return b.policy.Load() }, Connect: b.connect, Audit: b.audit, Log: log}
	gc := Config{Models: func() []ModelInfo {
		return []ModelInfo{{ID: "mote", Release: "mote@1", State: "ready", Created: time.Unix(1700000000, 0)}}
	}, Audit: b.audit, Log: log}
	for _, f := range change {
		f(&rc, &gc)
	}
	gc.Router = router.New(rc)
	b.gate = New(gc)
	b.serve(log)
	return b
}

func (b *box) serve(log *slog.Logger) {
	b.socket = filepath.Join(b.dir, "api.sock")
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	srv := NewServer(b.gate, log)
	go srv.Serve(l)
	transport := unixTransport(b.socket)
	b.client = &http.Client{Transport: transport}
	b.t.Cleanup(func() { transport.CloseIdleConnections(); srv.Close() })
}

func unixTransport(socket string) *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
}

func (b *box) serveEngine() {
	socket := filepath.Join(b.dir, "engine.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		h := b.engine
		b.mu.Unlock()
		h.ServeHTTP(w, r)
	}), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go srv.Serve(l)
	b.transit = unixTransport(socket)
	b.t.Cleanup(func() { b.transit.CloseIdleConnections(); srv.Close() })
}

func (b *box) serveCloud() {
	b.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.arrived.Add(1)
		b.mu.Lock()
		h := b.cloud
		b.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	b.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	b.server.StartTLS()
	b.t.Cleanup(b.server.Close)
}

func (b *box) connect(u policy.Upstream) (*cloud.Client, error) {
	pool := x509.NewCertPool()
	pool.AddCert(b.server.Certificate())
	return cloud.New(cloud.Config{Name: u.Name, API: u.API, BaseURL: u.BaseURL, Models: u.Models, Timeout: u.Timeout, RootCAs: pool,
		Key: func() (string, error) { return "cloud-key", nil }, Jitter: func() float64 { return 0 }})
}

func (b *box) setPolicy(rules string) {
	b.t.Helper()
	src := fmt.Sprintf("schema: 1\nname: test\nupstreams: [{name: there, api: openai, base_url: %q, models: {mote: big-mote}}]\nclasses: [{name: payment, detectors: card, labels: [secret]}]\n%s\n", b.server.URL+"/v1", rules)
	p, err := policy.Parse([]byte(src))
	if err != nil {
		// A document without the class is a document too.
		if p, err = policy.Parse([]byte(strings.Replace(src, "classes: [{name: payment, detectors: card, labels: [secret]}]\n", "", 1))); err != nil {
			b.t.Fatal(err)
		}
	}
	b.policy.Store(p)
}

func (b *box) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// State and Acquire make the box a router.Local.
func (b *box) State(alias string) router.LocalState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if alias != "mote" {
		return router.LocalState{}
	}
	return b.state
}

func (b *box) Acquire(ctx context.Context, alias string) (router.Engine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return router.Engine{}, b.refuse
	}
	b.leases.Add(1)
	return router.Engine{Release: b.state.Release, Transport: b.transit, URL: "http://engine", Done: func() { b.leases.Add(-1) }}, nil
}

// says answers like an OpenAI server, with one word a chunk when streaming.
func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req struct {
			Model  string `json:"model"`
			Stream bool   `json:"stream"`
		}
		json.NewDecoder(r.Body).Decode(&req)
		io.Copy(io.Discard, r.Body)
		if !req.Stream {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"object":"chat.completion","model":%q,"choices":[{"message":{"role":"assistant","content":%q}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`, req.Model, text)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, chunk(""))
		for _, word := range strings.Fields(text) {
			io.WriteString(w, chunk(word+" "))
			w.(http.Flusher).Flush()
		}
		io.WriteString(w, "data: [DONE]\n\n")
	})
}

// chunk is one event of a stream; without content it is the role's preliminary one.
func chunk(content string) string {
	return fmt.Sprintf("data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":%q},\"finish_reason\":null}]}\n\n", content)
}

// reply is an answer read to its end.
type reply struct {
	*http.Response
	body string
	err  error
}

func (r *reply) place() string  { return r.Header.Get("X-Bothy-Place") }
func (r *reply) reason() string { return r.Header.Get("X-Bothy-Reason") }

// problem is the error object of the reply.
func (r *reply) problem(t testing.TB) (typ, code, message string) {
	t.Helper()
	var e struct {
		Error *struct{ Message, Type, Code string } `json:"error"`
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.Error == nil || e.Error.Message == "" || e.Error.Type == "" {
		t.Fatalf("got body %q with status %d, want an OpenAI error object", r.body, r.StatusCode)
	}
	return e.Error.Type, e.Error.Code, e.Error.Message
}

const hello = `{"model":"mote","messages":[{"role":"user","content":"hello"}]}`
const helloStream = `{"model":"mote","stream":true,"messages":[{"role":"user","content":"hello"}]}`
const card = `{"model":"mote","messages":[{"role":"user","content":"my card is 4111 1111 1111 1111"}]}`

func (b *box) post(body string, headers ...string) *reply {
	b.t.Helper()
	return b.do(b.t.Context(), http.MethodPost, "/v1/chat/completions", body, headers...)
}

func (b *box) do(ctx context.Context, method, path, body string, headers ...string) *reply {
	req, err := http.NewRequestWithContext(ctx, method, "http://bothy"+path, strings.NewReader(body))
	if err != nil {
		b.t.Error(err)
		return &reply{err: err}
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return &reply{Response: &http.Response{}, err: err}
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return &reply{resp, string(out), err}
}

// await polls for a state that another goroutine brings about.
func (b *box) await(what string, ok func() bool) {
	b.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			b.t.Fatalf("never happened: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// hang is an engine that takes requests and answers only when told.
type hang struct {
	entered  chan struct{} // one for each request
	release  chan struct{} // closed: all go on
	canceled atomic.Int32
}

func newHang() *hang { return &hang{entered: make(chan struct{}, 1000), release: make(chan struct{})} }

func (h *hang) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.entered <- struct{}{}
	select {
	case <-h.release:
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		says("late").ServeHTTP(w, r)
	case <-r.Context().Done():
		h.canceled.Add(1)
	}
}

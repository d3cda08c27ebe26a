package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/router"
)

func TestBadRequestsGetAnErrorObject(t *testing.T) {
	b := newBox(t, localFirst)
	const post, chat = "POST", "/v1/chat/completions"
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"empty":            {post, chat, "", 400, "invalid_body"},
		"blank":            {post, chat, " \n\t", 400, "invalid_body"},
		"cut off":          {post, chat, hello[:20], 400, "invalid_body"},
		"not JSON":         {post, chat, "model=mote", 400, "invalid_body"},
		"two values":       {post, chat, hello + hello, 400, "invalid_body"},
		"NUL":              {post, chat, "\x00", 400, "invalid_body"},
		"array":            {post, chat, "[" + hello + "]", 400, "invalid_body"},
		"string":           {post, chat, `"mote"`, 400, "invalid_body"},
		"no model":         {post, chat, `{"messages":[]}`, 400, "invalid_body"},
		"model a number":   {post, chat, `{"model":7}`, 400, "invalid_body"},
		"model null":       {post, chat, `{"model":null}`, 400, "invalid_body"},
		"stream a string":  {post, chat, `{"model":"mote","stream":"yes"}`, 400, "invalid_body"},
		"tokens a float":   {post, chat, `{"model":"mote","max_tokens":1.5}`, 400, "invalid_body"},
		"deep":             {post, chat, `{"model":"mote","x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, 400, "invalid_body"},
		"unknown model":    {post, chat, `{"model":"nobody","messages":[]}`, 404, "model_not_found"},
		"wrong path":       {post, "/v1/chat", hello, 404, "unknown_url"},
		"root":             {"GET", "/", "", 404, "unknown_url"},
		"engine's own":     {"GET", "/slots", "", 404, "unknown_url"},
		"path with dots":   {post, "/v1/models/../chat/completions", hello, 405, "method_not_allowed"},
		"wrong method":     {"GET", chat, "", 405, "method_not_allowed"},
		"method of models": {post, "/v1/models", hello, 405, "method_not_allowed"},
		"delete":           {"DELETE", chat, hello, 405, "method_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			r := b.do(t.Context(), c.method, c.path, c.body)
			_, code, _ := r.problem(t)
			if r.StatusCode != c.status || code != c.code || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Request-Id") == "" {
				t.Errorf("got %d %s %s, want %d %s", r.StatusCode, code, r.body, c.status, c.code)
			}
			if c.status == 405 && r.Header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
		})
	}
	if n := b.gate.Stats().Recent.Errors["invalid_body"]; n != 14 {
		t.Errorf("%d refusals counted, want 14", n)
	}
	if r := b.do(t.Context(), post, chat, hello, "Content-Encoding", "gzip"); r.StatusCode != 415 {
		t.Errorf("compressed: got %d, want 415", r.StatusCode)
	}
}

// endless is a body of n bytes that are made while they are read.
type endless struct{ n, read int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.read >= e.n {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), e.n-e.read))
	for i := range p[:n] {
		p[i] = 'a'
	}
	e.read += int64(n)
	return n, nil
}

func TestHugeBodyIsRefusedUnread(t *testing.T) {
	b := newBox(t, localFirst)
	for name, length := range map[string]int64{"with its length": 200 << 20, "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			body := &endless{n: 200 << 20}
			req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://bothy/v1/chat/completions", body)
			req.ContentLength = length
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			resp, err := b.client.Do(req)
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			out, _ := io.ReadAll(resp.Body)
			r := reply{Response: resp, body: string(out)}
			if _, code, _ := r.problem(t); resp.StatusCode != 413 || code != "body_too_large" {
				t.Errorf("got %d %s", resp.StatusCode, out)
			}
			// Chunked, it cannot be known before the limit is passed; growing the buffer allocates a few times that.
			limit := uint64(8 << 20)
			if length < 0 {
				limit = 8 * DefaultMaxBody
			}
			if grew := after.TotalAlloc - before.TotalAlloc; grew > limit {
				t.Errorf("%d MiB allocated for a body that is refused", grew>>20)
			}
			if n := b.inMemory(); n != 0 {
				t.Errorf("%d bytes still counted", n)
			}
		})
	}
}

func (b *box) inMemory() int64 {
	b.gate.inMemory.mu.Lock()
	defer b.gate.inMemory.mu.Unlock()
	return b.gate.inMemory.all
}

func TestAnnouncedBodiesDoNotKeepOthersOut(t *testing.T) {
	b := newBox(t, localFirst)
	for range 2 * buffered {
		b.raw("POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nContent-Length: " + strconv.Itoa(DefaultMaxBody) + "\r\n\r\n{")
		b.raw("POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
	}
	b.await("all have begun", func() bool { return b.inMemory() >= 4*buffered*firstRead })
	if r := b.post(hello); r.StatusCode != 200 {
		t.Errorf("got %d %s", r.StatusCode, r.body)
	}
}

func TestOneCallerDoesNotFillTheMemory(t *testing.T) {
	m := memory{most: 100, by: map[string]int64{}}
	for _, step := range []struct {
		caller string
		n      int64
		ok     bool
	}{{"a", 50, true}, {"a", 1, false}, {"b", 40, true}, {"c", 11, false}, {"a", -50, true}, {"c", 11, true}} {
		if got := m.add(step.caller, step.n); got != step.ok {
			t.Errorf("%+v: got %v", step, got)
		}
	}
	m.add("b", -40)
	m.add("c", -11)
	if m.all != 0 || len(m.by) != 0 {
		t.Errorf("got %d bytes of %d callers at the end, want none", m.all, len(m.by))
	}
}

func TestBodiesInMemoryAreBounded(t *testing.T) {
	b := newBox(t, localFirst, func(_ *router.Config, c *Config) { c.MaxBody = 1000 })
	h := newHang()
	b.set(func() { b.engine = h; b.state.Slots = 100 })
	big := hello + strings.Repeat(" ", 1000-len(hello))
	var wait sync.WaitGroup
	for range buffered / 2 { // as much as one caller may hold
		wait.Go(func() { b.post(big) })
	}
	for range buffered / 2 {
		<-h.entered
	}
	r := b.post(big)
	if _, code, _ := r.problem(t); r.StatusCode != 503 || code != "too_many_bodies" {
		t.Errorf("got %d %s", r.StatusCode, code)
	}
	close(h.release)
	wait.Wait()
	if r := b.post(big); r.StatusCode != 200 {
		t.Errorf("afterwards: got %d", r.StatusCode)
	}
}

// raw opens a connection without HTTP's manners.
func (b *box) raw(text string) net.Conn {
	b.t.Helper()
	conn, err := net.Dial("unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, text)
	return conn
}

func TestSlowBodyTimesOut(t *testing.T) {
	b := newBox(t, localFirst, func(_ *router.Config, c *Config) { c.BodyTimeout = 50 * time.Millisecond })
	conn := b.raw("POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nContent-Length: 100\r\n\r\n{")
	go func() { // a byte now and then does not move the deadline
		for range 100 {
			if _, err := io.WriteString(conn, " "); err != nil {
				return
			}
			<-time.After(10 * time.Millisecond)
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	r := reply{Response: resp, body: string(body)}
	if _, code, _ := r.problem(t); resp.StatusCode != 408 || code != "body_timeout" || !resp.Close {
		t.Errorf("got %d %s, closes %v", resp.StatusCode, code, resp.Close)
	}
}

func TestSlowHeadersTimeOut(t *testing.T) {
	b := newBox(t, localFirst)
	srv := NewServer(b.gate, b.gate.config.Log)
	if srv.ReadHeaderTimeout <= 0 || srv.ReadHeaderTimeout > 30*time.Second || srv.MaxHeaderBytes <= 0 || srv.IdleTimeout <= 0 {
		t.Fatalf("got limits %s %d %s", srv.ReadHeaderTimeout, srv.MaxHeaderBytes, srv.IdleTimeout)
	}
	srv.ReadHeaderTimeout = 50 * time.Millisecond
	l, err := net.Listen("unix", b.dir+"/slow.sock")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	conn, err := net.Dial("unix", b.dir+"/slow.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nX-")
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("got %v, want the server to close the connection", err)
	}
}

func TestSlowBodyDeadlineDoesNotEndTheWork(t *testing.T) {
	b := newBox(t, localFirst, func(_ *router.Config, c *Config) { c.BodyTimeout = 30 * time.Millisecond })
	h := newHang()
	b.set(func() { b.engine = h })
	time.AfterFunc(150*time.Millisecond, func() { close(h.release) })
	if r := b.post(hello); r.StatusCode != 200 || h.canceled.Load() != 0 {
		t.Errorf("got %d: an answer that takes longer than the body's deadline must not be cancelled", r.StatusCode)
	}
}

func TestBodyThatEndsEarly(t *testing.T) {
	b := newBox(t, localFirst)
	conn := b.raw("POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nContent-Length: 1000\r\n\r\n" + hello)
	conn.(*net.UnixConn).CloseWrite()
	out, _ := io.ReadAll(conn)
	if !strings.Contains(string(out), "incomplete_body") {
		t.Errorf("got %q", out)
	}
	if b.leases.Load() != 0 {
		t.Error("half a body reached the engine")
	}
}

func TestHeaderFloodIsRefused(t *testing.T) {
	b := newBox(t, localFirst)
	conn := b.raw("POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\n")
	for i := range 4000 {
		if _, err := fmt.Fprintf(conn, "X-%d: %s\r\n", i, strings.Repeat("x", 100)); err != nil {
			break
		}
	}
	out, _ := io.ReadAll(conn)
	if len(out) > 0 && !strings.Contains(string(out), "431") {
		t.Errorf("got %q, want 431", out)
	}
}

func TestUnattestedConnectionStaysLocal(t *testing.T) {
	b := newBox(t, cloudFirst)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(b.gate, b.gate.config.Log)
	go srv.Serve(l)
	defer srv.Close()
	resp, err := http.Post("http://"+l.Addr().String()+"/v1/chat/completions", "application/json", strings.NewReader(hello))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("X-Bothy-Place") != "local" || b.arrived.Load() != 0 {
		t.Errorf("got %d at %q: a caller that nobody attests must stay here", resp.StatusCode, resp.Header.Get("X-Bothy-Place"))
	}
}

// Names go into records, and a record has a line of bounded length.
func TestModelNameIsBounded(t *testing.T) {
	b := newBox(t, localFirst)
	if r := b.post(`{"model":"` + strings.Repeat("m", 100<<10) + `"}`); r.StatusCode != 400 || len(r.body) > 1000 {
		t.Errorf("got %d and %d bytes, want a short 400", r.StatusCode, len(r.body))
	}
	b.post(hello)
	if err := b.audit.Close(); err != nil {
		t.Fatal(err)
	}
	if head, err := audit.Verify(b.dir+"/audit", nil); err != nil {
		t.Errorf("the log does not verify after record %d: %v", head.Seq, err)
	}
}

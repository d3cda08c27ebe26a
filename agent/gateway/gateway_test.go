package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/router"
)

func TestChatIsAnsweredHere(t *testing.T) {
	b := newBox(t, localFirst)
	r := b.post(hello)
	if r.StatusCode != 200 || !strings.Contains(r.body, "from the engine") {
		t.Fatalf("got %d %s", r.StatusCode, r.body)
	}
	for k, want := range map[string]string{"X-Bothy-Place": "local", "X-Bothy-Reason": "preferred", "X-Bothy-Rule": "all", "X-Bothy-Model-Release": "mote@1", "Content-Type": "application/json"} {
		if got := r.Header.Get(k); got != want {
			t.Errorf("%s: got %q, want %q", k, got, want)
		}
	}
	if len(r.Header.Get("X-Request-Id")) != 32 {
		t.Errorf("got request id %q", r.Header.Get("X-Request-Id"))
	}
	b.await("lease given back", func() bool { return b.leases.Load() == 0 })
}

func TestBodyReachesTheEngineByteForByte(t *testing.T) {
	b := newBox(t, localFirst)
	var got string
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			raw, _ := io.ReadAll(r.Body)
			got = string(raw) + r.URL.Path
			io.WriteString(w, "{}")
		})
	})
	odd := " {\"model\" : \"mote\",\n \"x\": 1.50, \"messages\":[ ] ,\"seed\":12345678901234567890}\n"
	b.do(t.Context(), "POST", "/v1/completions", odd)
	if got != odd+"/v1/completions" {
		t.Errorf("got %q", got)
	}
}

func TestStreamArrivesChunkByChunk(t *testing.T) {
	b := newBox(t, localFirst)
	step := make(chan struct{})
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			for _, s := range []string{"one", "two", "three"} {
				io.WriteString(w, chunk(s))
				w.(http.Flusher).Flush()
				<-step
			}
			io.WriteString(w, "data: [DONE]\n\n")
		})
	})
	resp, err := b.client.Post("http://bothy/v1/chat/completions", "application/json", strings.NewReader(helloStream))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 4096)
	for _, want := range []string{"one", "two", "three"} {
		n, err := resp.Body.Read(buf) // blocks for ever if the chunk is held back
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Fatalf("got %q, %v; want the chunk with %q", buf[:n], err, want)
		}
		step <- struct{}{}
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(rest), "[DONE]") {
		t.Errorf("got end %q, %v", rest, err)
	}
}

func TestEngineDownSpillsWhatMayLeave(t *testing.T) {
	b := newBox(t, localFirst)
	b.set(func() { b.state.Phase = router.Down; b.refuse = errors.New("crashed") })
	var got *http.Request
	var sent string
	b.set(func() {
		b.cloud = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			raw, _ := io.ReadAll(r.Body)
			got, sent = r, string(raw)
			r.Body = io.NopCloser(strings.NewReader(sent))
			says("from the cloud").ServeHTTP(w, r)
		})
	})
	r := b.post(hello, "Authorization", "Bearer the-client's", "Cookie", "a=b")
	if r.StatusCode != 200 || r.place() != "there" || r.reason() != "engine-down" || !strings.Contains(r.body, "from the cloud") {
		t.Fatalf("got %d %s/%s %s", r.StatusCode, r.place(), r.reason(), r.body)
	}
	if sent != `{"model":"big-mote","messages":[{"role":"user","content":"hello"}]}` {
		t.Errorf("the cloud got %s", sent)
	}
	if got.Header.Get("Authorization") != "Bearer cloud-key" || got.Header.Get("Cookie") != "" {
		t.Errorf("the cloud got headers %v", got.Header)
	}
	if r := b.post(card); r.StatusCode != 503 || b.arrived.Load() != 1 {
		t.Errorf("a card number: got %d and %d requests in the cloud, want 503 and 1", r.StatusCode, b.arrived.Load())
	} else if _, code, _ := r.problem(t); code != "engine_unavailable" || r.Header.Get("Retry-After") == "" {
		t.Errorf("got code %s retry-after %q", code, r.Header.Get("Retry-After"))
	}
}

func TestLoadingAndSwitchingSpill(t *testing.T) {
	b := newBox(t, localFirst)
	for phase, reason := range map[router.Phase]string{router.Loading: "loading", router.Switching: "switching"} {
		b.set(func() { b.state.Phase = phase })
		if r := b.post(hello); r.place() != "there" || r.reason() != reason {
			t.Errorf("%s: got %s/%s", phase, r.place(), r.reason())
		}
		if r := b.post(card); r.place() != "local" || r.reason() != "policy" || r.StatusCode != 200 {
			t.Errorf("%s with a card: got %d %s/%s", phase, r.StatusCode, r.place(), r.reason())
		}
	}
}

func TestHeadersNarrowOnly(t *testing.T) {
	b := newBox(t, cloudFirst)
	if r := b.post(hello); r.place() != "there" || r.reason() != "preferred" {
		t.Errorf("got %s/%s, want there/preferred", r.place(), r.reason())
	}
	for _, h := range [][]string{{"X-Bothy-Place", "local"}, {"X-Bothy-Class", "payment"}, {"X-Bothy-Class", "public, secret"}, {"X-Bothy-Class", "never heard of"}} {
		if r := b.post(hello, h...); r.StatusCode != 200 || r.place() != "local" {
			t.Errorf("%v: got %d %s, want local", h, r.StatusCode, r.place())
		}
	}
	if r := b.post(hello, "X-Bothy-Place", "", "X-Bothy-Place", "local"); r.StatusCode == 200 && r.place() != "local" {
		t.Errorf("an empty header before it hid x-bothy-place: got %s", r.place())
	}
	if r := b.post(card, "X-Bothy-Class", "public"); r.place() != "local" {
		t.Errorf("a label widened: %s", r.place())
	}
	if r := b.post(hello, "X-Bothy-Place", "there"); r.StatusCode != 400 {
		t.Errorf("x-bothy-place with a cloud place: got %d, want 400", r.StatusCode)
	}
}

func TestAmbiguousAndOpaqueBodiesStay(t *testing.T) {
	b := newBox(t, cloudFirst)
	for _, body := range []string{
		`{"model":"mote","messages":[],"messages":[{"role":"user","content":"x"}]}`,
		`{"model":"mote","Model":"other","messages":[]}`,
		`{"model":"mote","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]}`,
		`{"model":"mote","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}]}]}`,
		`{"model":"mote","prompt":[1,2,3]}`,
		`{"model":"mote","messages":[],"previous_response_id":"r"}`,
		`{"model":"mote","messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}`,
		`{"model":"mote","messages":[{"role":"user","content":[{"type":"audio_url","audio_url":{"url":"https://x/y.wav"}}]}]}`,
		`{"model":"mote","messages":[{"role":"user","content":"x","images":["AAAA"]}]}`,
		`{"model":"mote","messages":[{"role":"user","content":[{"type":"something new","data":"AAAA"}]}]}`,
		`{"model":"mote","messages":[],"Prompt":[1,2,3]}`,
		`{"model":"mote","messages":[],"prompt_token_ids":[1,2,3]}`,
		`{"model":"mote","prompt":"","prompt_embeds":"AAAA"}`,
		`{"model":"mote","messages":[],"Image_URL":"https://x/y.png"}`,
	} {
		if r := b.post(body); r.StatusCode != 200 || r.place() != "local" {
			t.Errorf("%s: got %d at %q, want local", body, r.StatusCode, r.place())
		}
	}
	for _, body := range []string{
		`{"model":"mote","messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"file":{"type":"string"}}}}}]}`,
		`{"model":"mote","prompt":["a","b"],"seed":1}`,
		`{"model":"mote","messages":[{"role":"user","content":[{"type":"text","text":"x"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":[1]}"}}]}]}`,
		`{"model":"mote","messages":[],"logit_bias":[[12,-100]],"stop":["a"],"tool_choice":{"type":"function","function":{"name":"f"}}}`,
	} {
		if r := b.post(body); r.place() != "there" {
			t.Errorf("%s: got %q, want there", body, r.place())
		}
	}
	if n := b.arrived.Load(); n != 4 {
		t.Errorf("%d requests left, want 4", n)
	}
	b.setPolicy(cloudOnly)
	if r := b.post(`{"model":"mote","a":1,"a":2}`); r.StatusCode != 403 {
		t.Errorf("ambiguous and cloud only: got %d, want 403", r.StatusCode)
	}
}

func TestDenied(t *testing.T) {
	b := newBox(t, `rules: [{name: no keys, when: {class: payment}, deny: take the card out}, {name: all, places: [local, there]}]`)
	r := b.post(card)
	typ, code, message := r.problem(t)
	if r.StatusCode != 403 || typ != "permission_error" || code != "policy_denied" || message != "take the card out" || r.Header.Get("X-Bothy-Rule") != "no keys" {
		t.Errorf("got %d %s %s %q rule %q", r.StatusCode, typ, code, message, r.Header.Get("X-Bothy-Rule"))
	}
}

func TestPolicyBoundsTheAnswer(t *testing.T) {
	b := newBox(t, `rules: [{name: all, places: local, max_tokens: 9}]`)
	var got string
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			raw, _ := io.ReadAll(r.Body)
			got = string(raw)
			io.WriteString(w, "{}")
		})
	})
	for in, want := range map[string]string{
		`{"model":"mote"}`:                                           `{"model":"mote","max_tokens":9}`,
		`{"model":"mote","max_tokens":100}`:                          `{"model":"mote","max_tokens":9}`,
		`{"max_completion_tokens":100,"model":"mote"}`:               `{"max_completion_tokens":9,"model":"mote"}`,
		`{"model":"mote", "max_tokens":5}`:                           `{"model":"mote", "max_tokens":5}`,
		`{"model":"mote","max_tokens":5,"n_predict":100}`:            `{"model":"mote","max_tokens":5,"n_predict":9}`,
		`{"model":"mote","n_predict":5}`:                             `{"model":"mote","n_predict":5,"max_tokens":9}`,
		`{"max_tokens":5,"max_completion_tokens":-1,"model":"mote"}`: `{"max_tokens":5,"max_completion_tokens":9,"model":"mote"}`,
		`{"model":"mote","max_tokens":-1,"x":["a\u00e9"]}`:           `{"model":"mote","max_tokens":9,"x":["aé"]}`,
	} {
		if b.post(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestQueueFullSpillsOrRefusesWithRetryAfter(t *testing.T) {
	b := newBox(t, localFirst, func(rc *router.Config, _ *Config) { rc.MaxQueue = 1 })
	h := newHang()
	b.set(func() { b.engine = h; b.state.Slots = 1 })
	var wait sync.WaitGroup
	wait.Go(func() { b.post(card) })
	<-h.entered
	wait.Go(func() { b.post(card) }) // waits
	b.await("one waiting", func() bool { return b.gate.Stats().Queues["mote"].Waiting == 1 })
	if r := b.post(hello); r.place() != "there" || r.reason() != "queue-full" {
		t.Errorf("got %s/%s, want there/queue-full", r.place(), r.reason())
	}
	r := b.post(card)
	if _, code, _ := r.problem(t); r.StatusCode != 503 || code != "queue_full" || r.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %s retry-after %q", r.StatusCode, code, r.Header.Get("Retry-After"))
	}
	close(h.release)
	wait.Wait()
}

func TestLongPredictedWaitSpillsAtOnce(t *testing.T) {
	b := newBox(t, localFirst+"\nspill: {max_wait: 1ms}")
	h := newHang()
	b.set(func() { b.engine = h; b.state.Slots = 1 })
	var wait sync.WaitGroup
	wait.Go(func() { b.post(card) })
	<-h.entered
	if r := b.post(hello); r.place() != "there" || r.reason() != "wait-too-long" {
		t.Errorf("got %s/%s, want there/wait-too-long", r.place(), r.reason())
	}
	close(h.release)
	wait.Wait()
}

func TestWaitThatOutlivesItsPredictionSpills(t *testing.T) {
	b := newBox(t, localFirst+"\nspill: {max_wait: 300ms}")
	for range 60 {
		b.post(hello) // teaches that requests take a millisecond
	}
	h := newHang()
	b.set(func() { b.engine = h; b.state.Slots = 1 })
	var wait sync.WaitGroup
	wait.Go(func() { b.post(card) })
	<-h.entered
	began := time.Now()
	r := b.post(hello)
	if r.place() != "there" || r.reason() != "wait-too-long" || time.Since(began) < 250*time.Millisecond {
		t.Errorf("got %s/%s after %s, want there/wait-too-long after 300ms in the queue", r.place(), r.reason(), time.Since(began))
	}
	close(h.release)
	wait.Wait()
}

func TestWaitIsBounded(t *testing.T) {
	b := newBox(t, localOnly, func(rc *router.Config, _ *Config) { rc.MaxWait = 20 * time.Millisecond })
	h := newHang()
	b.set(func() { b.engine = h; b.state.Slots = 1 })
	var wait sync.WaitGroup
	wait.Go(func() { b.post(hello) })
	<-h.entered
	r := b.post(hello)
	if _, code, _ := r.problem(t); r.StatusCode != 503 || code != "wait_too_long" || r.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %s", r.StatusCode, code)
	}
	close(h.release)
	wait.Wait()
}

func TestHangUpCancelsRunningAndQueuedWork(t *testing.T) {
	b := newBox(t, localOnly)
	h := newHang()
	b.set(func() { b.engine = h; b.state.Slots = 1 })
	running, stop := context.WithCancel(t.Context())
	queued, leave := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { b.do(running, "POST", "/v1/chat/completions", hello) })
	<-h.entered
	wait.Go(func() { b.do(queued, "POST", "/v1/chat/completions", hello) })
	b.await("one waiting", func() bool { return b.gate.Stats().Queues["mote"].Waiting == 1 })
	leave()
	b.await("the queue empty", func() bool { return b.gate.Stats().Queues["mote"].Waiting == 0 })
	stop()
	b.await("the engine's work cancelled", func() bool { return h.canceled.Load() == 1 })
	b.await("the slot free", func() bool { return b.gate.Stats().Queues["mote"].Running == 0 && b.leases.Load() == 0 })
	wait.Wait()
	if len(h.entered) != 0 {
		t.Error("the request that left the queue was run")
	}
}

func TestHangUpMidStreamCancels(t *testing.T) {
	for _, place := range []string{localOnly, cloudOnly} {
		b := newBox(t, place)
		canceled := make(chan struct{})
		endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, chunk("x"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(canceled)
		})
		b.set(func() { b.engine, b.cloud = endless, endless })
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://bothy/v1/chat/completions", strings.NewReader(helloStream))
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Read(make([]byte, 10))
		cancel()
		<-canceled
		resp.Body.Close()
		b.await("nothing in flight", func() bool { return len(b.gate.Stats().InFlight) == 0 })
	}
}

func TestFailureBeforeContentGoesElsewhere(t *testing.T) {
	cases := map[string]http.HandlerFunc{
		"500":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"503":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) },
		"abort": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"abort after headers": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, chunk("")+": ping\n\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"error event": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, chunk("")+"data: {\"error\":{\"message\":\"out of memory\"}}\n\n")
		},
		"half a JSON body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"choices":[`)
		},
		"context": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			io.WriteString(w, `{"error":{"type":"exceed_context_size_error","message":"too long"}}`)
		},
	}
	for name, engine := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, localFirst)
			b.set(func() { b.engine = engine })
			want := "engine-down"
			if name == "context" {
				want = "too-large"
			}
			if r := b.post(helloStream); r.StatusCode != 200 || r.place() != "there" || r.reason() != want || !strings.HasSuffix(r.body, "[DONE]\n\n") {
				t.Errorf("got %d %s/%s %q", r.StatusCode, r.place(), r.reason(), r.body)
			}
			b.await("leases back", func() bool { return b.leases.Load() == 0 })
			// The same failure of a request that may not leave is an error, and nothing leaves.
			r := b.post(card)
			r.problem(t)
			if n := b.arrived.Load(); n != 1 {
				t.Errorf("%d requests left, want 1", n)
			}
			// The other way round: the upstream fails, this box answers.
			b.setPolicy(cloudFirst)
			b.set(func() { b.engine, b.cloud = says("from the engine"), engine })
			want = "upstream-down"
			if name == "context" {
				want = "too-large"
			}
			if r := b.post(helloStream); r.place() != "local" || r.reason() != want || !strings.HasSuffix(r.body, "[DONE]\n\n") {
				t.Errorf("got %d %s/%s %q", r.StatusCode, r.place(), r.reason(), r.body)
			}
		})
	}
}

func TestFailureAfterContentEndsWithAnErrorEvent(t *testing.T) {
	for _, rules := range []string{localFirst, cloudFirst} {
		b := newBox(t, rules)
		breaks := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, chunk("")+chunk("some")+`data: {"choices":[{"del`) // broken inside an event
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
		b.set(func() { b.engine, b.cloud = breaks, breaks })
		r := b.post(helloStream)
		want := chunk("") + chunk("some") + "event: error\ndata: "
		rest, ok := strings.CutPrefix(r.body, want)
		if r.err != nil || !ok {
			t.Fatalf("got %q, %v; want it to begin with %q", r.body, r.err, want)
		}
		last := reply{Response: r.Response, body: rest}
		if typ, code, _ := last.problem(t); typ != "server_error" || code != "stream_interrupted" {
			t.Errorf("got %s %s", typ, code)
		}
		b.await("counted", func() bool { return b.gate.Stats().Recent.Errors["stream_interrupted"] == 1 })
	}
}

func TestCloseDelimitedStreamWithoutDoneIsBroken(t *testing.T) {
	b := newBox(t, localOnly)
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, _ := http.NewResponseController(w).Hijack()
			rw.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + chunk("some"))
			rw.Flush()
			conn.Close()
		})
	})
	if r := b.post(helloStream); !strings.Contains(r.body, "stream_interrupted") {
		t.Errorf("got %q, want an error event", r.body)
	}
}

func TestStalledStreamEnds(t *testing.T) {
	b := newBox(t, localOnly, func(rc *router.Config, _ *Config) { rc.Stall = 30 * time.Millisecond })
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, chunk("some"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
	})
	if r := b.post(helloStream); !strings.Contains(r.body, "stream_interrupted") {
		t.Errorf("got %q, want an error event", r.body)
	}
}

func TestDeadlineCoversAllPlaces(t *testing.T) {
	b := newBox(t, localFirst, func(rc *router.Config, _ *Config) { rc.Deadline = 30 * time.Millisecond })
	h := newHang()
	b.set(func() { b.engine = h })
	r := b.post(hello)
	if _, code, _ := r.problem(t); r.StatusCode != 504 || code != "deadline_exceeded" || b.arrived.Load() != 0 {
		t.Errorf("got %d %s", r.StatusCode, code)
	}
}

func TestLargeAnswerIsStreamed(t *testing.T) {
	b := newBox(t, localOnly)
	big := strings.Repeat("x", 3<<20)
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"x":"`+big+`"}`)
		})
	})
	if r := b.post(hello); r.err != nil || len(r.body) != len(big)+8 {
		t.Errorf("got %d bytes, %v", len(r.body), r.err)
	}
	// One that breaks off is visibly cut, not silently short.
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"x":"`+big)
			panic(http.ErrAbortHandler)
		})
	})
	if r := b.post(hello); r.err == nil {
		t.Errorf("a truncated answer of %d bytes looked whole", len(r.body))
	}
}

func TestAuditIsDurableBeforeTheFirstByteLeaves(t *testing.T) {
	b := newBox(t, cloudFirst)
	var recorded atomic.Bool
	b.set(func() {
		b.cloud = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			audit.Verify(b.dir+"/audit", func(rec audit.Record) error {
				if rec.Event == audit.Departed && rec.Place == "there" && rec.Rule == "all" && rec.Request != "" {
					recorded.Store(true)
				}
				return nil
			})
			says("ok").ServeHTTP(w, r)
		})
	})
	if b.post(hello); !recorded.Load() {
		t.Error("the request arrived before its record was on the disk")
	}
	b.disk.Store(true)
	before := b.arrived.Load()
	if r := b.post(hello); r.StatusCode != 200 || r.place() != "local" || r.reason() != "audit-down" {
		t.Errorf("with a full disk: got %d %s/%s, want local/audit-down", r.StatusCode, r.place(), r.reason())
	}
	b.setPolicy(cloudOnly)
	r := b.post(hello)
	if _, code, _ := r.problem(t); r.StatusCode != 503 || code != "audit_unavailable" {
		t.Errorf("got %d %s", r.StatusCode, code)
	}
	if b.arrived.Load() != before {
		t.Error("a request left without a record")
	}
}

func TestRecordsAndLogsHoldNoText(t *testing.T) {
	b := newBox(t, localFirst)
	const secret = "xyzzy-plugh"
	body := `{"model":"mote","user":"` + secret + `","messages":[{"role":"user","content":"` + secret + ` 4111111111111111"}]}`
	b.post(body)
	b.post(body[:len(body)-4] + "!")
	b.set(func() { b.refuse = errors.New("crashed") })
	b.post(body)
	b.await("two records", func() bool { return len(b.audit.Recent(10)) == 2 })
	out, _ := json.Marshal(b.audit.Recent(10))
	for what, text := range map[string]string{"audit": string(out), "log": b.logs.String()} {
		if strings.Contains(text, secret) || strings.Contains(text, "4111") {
			t.Errorf("the %s holds prompt text: %s", what, text)
		}
	}
	rec := b.audit.Recent(2)[1]
	if rec.Event != audit.Finished || rec.Place != "local" || rec.Model != "mote" || rec.Status != 200 || rec.TokensIn != 3 || rec.TokensOut != 4 || len(rec.Kinds) != 1 || rec.Kinds[0] != "card" || rec.Release != "mote@1" {
		t.Errorf("got %+v", rec)
	}
}

func TestModels(t *testing.T) {
	b := newBox(t, localFirst)
	r := b.do(t.Context(), "GET", "/v1/models", "")
	want := `{"data":[{"id":"mote","object":"model","created":1700000000,"owned_by":"bothy","bothy":{"state":"ready","release":"mote@1"}}],"object":"list"}`
	if strings.TrimSpace(r.body) != want {
		t.Errorf("got %s", r.body)
	}
	if r := b.do(t.Context(), "GET", "/v1/models/mote", ""); r.StatusCode != 200 || !strings.Contains(r.body, `"id":"mote"`) {
		t.Errorf("got %d %s", r.StatusCode, r.body)
	}
	if r := b.do(t.Context(), "GET", "/v1/models/none", ""); r.StatusCode != 404 {
		t.Errorf("got %d, want 404", r.StatusCode)
	} else if _, code, _ := r.problem(t); code != "model_not_found" {
		t.Errorf("got %s", code)
	}
}

// An upstream that takes every request and answers none is left alone, and one that
// is asked for too much is not.
func TestUpstreamWhoseAnswersBreakOffIsLeftAlone(t *testing.T) {
	b := newBox(t, cloudFirst)
	breaks := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {\"error\":{\"message\":\"overloaded\"}}\n\n")
	}
	large := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":{"message":"too long","code":"context_length_exceeded"}}`)
	}
	for _, c := range []struct {
		cloud   http.HandlerFunc
		arrived int32
	}{{large, 6}, {breaks, 3}} {
		b.set(func() { b.cloud = c.cloud })
		b.arrived.Store(0)
		for range 6 {
			if r := b.post(helloStream); r.StatusCode != 200 || r.place() != "local" {
				t.Errorf("got %d from %q, want it served here", r.StatusCode, r.place())
			}
		}
		if n := b.arrived.Load(); n != c.arrived {
			t.Errorf("%d requests went there, want %d", n, c.arrived)
		}
	}
}

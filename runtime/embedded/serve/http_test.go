package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/internal/reference"
)

func TestBadRequestsAreRefusedInWords(t *testing.T) {
	r := start(t, Config{Slots: 1, Context: 64, MaxBody: 4096})
	chat, text := "/v1/chat/completions", "/v1/completions"
	for _, c := range []struct {
		path   string
		body   any
		status int
		words  string // in the message
		code   any
	}{
		{chat, ask("x", object{"n": 2}), 400, "one choice", "unsupported_parameter"},
		{chat, ask("x", object{"max_tokens": 0}), 400, "max_tokens is 0", nil},
		{chat, ask("x", object{"max_completion_tokens": -5}), 400, "max_completion_tokens is -5", nil},
		{chat, ask("x", object{"temperature": -1}), 400, "temperature", nil},
		{chat, ask("x", object{"temperature": "hot"}), 400, "temperature must be a number", nil},
		{chat, ask("x", object{"top_p": 2}), 400, "top_p", nil},
		{chat, ask("x", object{"logit_bias": object{"x": 1}}), 400, "logit_bias", nil},
		{chat, ask("x", object{"stop": 5}), 400, "stop must be", nil},
		{chat, ask("x", object{"stop": strings.Split(strings.Repeat("a,", 20), ",")}), 400, "stop strings", nil},
		{chat, ask("x", object{"logprobs": true, "top_logprobs": 21}), 400, "top_logprobs is 21", nil},
		{chat, ask("x", object{"top_logprobs": 2}), 400, "needs logprobs", nil},
		{chat, ask("x", object{"response_format": object{"type": "json_object"}}), 400, "llama-server", "unsupported_parameter"},
		{chat, ask("x", object{"tool_choice": "required"}), 400, "tool_choice", "unsupported_parameter"},
		{chat, ask("x", object{"messages": []object{}}), 400, "messages is required", nil},
		{chat, ask("x", object{"messages": []object{{"content": "x"}}}), 400, "role", nil},
		{chat, ask("x", object{"messages": []object{{"role": "user", "content": []object{{"type": "image_url"}}}}}), 400, "image_url", nil},
		{chat, ask(strings.Repeat("hello ", 60)), 400, "does not fit the context", "context_length_exceeded"},
		{chat, `{"messages":[{"role":"user","content":"x"}],}`, 400, "not valid JSON", nil},
		{chat, `[]`, 400, "", nil},
		{chat, "", 400, "JSON", nil},
		{chat, ask(strings.Repeat("a", 5000)), 413, "4096", "request_too_large"},
		{text, object{}, 400, "prompt is required", nil},
		{text, object{"prompt": ""}, 400, "no tokens", nil},
		{text, object{"prompt": []int{}}, 400, "no tokens", nil},
		{text, object{"prompt": []int{99999}}, 400, "99999", nil},
		{text, object{"prompt": []string{"a", "b"}}, 400, "one prompt", nil},
		{text, object{"prompt": "x", "echo": true}, 400, "echo", "unsupported_parameter"},
		{text, object{"prompt": "x", "best_of": 3}, 400, "best_of", "unsupported_parameter"},
		{"/v1/embeddings", object{"input": "x"}, 501, "embedding", "no_embeddings"},
		{"/tokenize", object{}, 400, "content", nil},
		{"/detokenize", object{"tokens": []int{-1}}, 400, "-1", nil},
		{"/v1/none", object{}, 404, "/v1/none", nil},
	} {
		code, raw := post(t, r.url+c.path, c.body)
		got := decode[completion](t, raw)
		if code != c.status || got.Error == nil || !strings.Contains(got.Error.Message, c.words) || got.Error.Code != c.code || got.Error.Type == "" {
			t.Errorf("%s %.80v: status %d, want %d with %q and code %v: %s", c.path, c.body, code, c.status, c.words, c.code, raw)
		}
	}
	if got := r.chat(t, ask("What is the capital of France?")).Choices[0].Message.Content; got != "The capital of France is Paris." {
		t.Errorf("after the bad requests: %q", got)
	}
}

// What a text that cannot fit costs is bounded by reading it, not by tokenizing it.
func TestHopelessPromptIsRefusedBeforeItIsTokenized(t *testing.T) {
	r := start(t, Config{Slots: 1, Context: 64})
	huge := strings.Repeat("a ", 9<<20) // over token.MaxText, which Encode refuses with other words
	for path, body := range map[string]object{
		"/v1/completions":      {"prompt": huge},
		"/v1/chat/completions": ask(huge),
	} {
		code, raw := post(t, r.url+path, body)
		got := decode[completion](t, raw)
		if code != 400 || got.Error == nil || got.Error.Code != "context_length_exceeded" {
			t.Errorf("%s: got %d %.200s, want context_length_exceeded", path, code, raw)
		}
	}
}

func TestMoreMessagesThanTokensAreRefusedBeforeTheyAreRendered(t *testing.T) {
	r := start(t, Config{Slots: 1, Context: 64})
	many := make([]object, 65)
	for i := range many {
		many[i] = object{"role": "user", "content": "x"}
	}
	code, raw := post(t, r.url+"/apply-template", object{"messages": many})
	if got := decode[completion](t, raw); code != 400 || got.Error == nil || got.Error.Code != "context_length_exceeded" {
		t.Errorf("got %d %.200s, want context_length_exceeded", code, raw)
	}
	if code, raw := post(t, r.url+"/apply-template", object{"messages": many[:64]}); code != 200 {
		t.Errorf("got %d %.200s for as many messages as the context has tokens", code, raw)
	}
}

func TestTooManyBiasesAreRefused(t *testing.T) {
	r := start(t, Config{Slots: 1, Context: 64})
	biases := object{}
	for i := range maxBiases + 1 {
		biases[fmt.Sprint(i)] = 1
	}
	if code, raw := post(t, r.url+"/v1/chat/completions", ask("x", object{"logit_bias": biases})); code != 400 || !strings.Contains(string(raw), "at most 4096") {
		t.Errorf("got %d %.200s, want a refusal of %d biases", code, raw, len(biases))
	}
}

func TestEverythingAnswers503WhileTheModelLoads(t *testing.T) {
	s, err := New(Config{Model: "x.gguf"})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.routes())
	defer web.Close()
	for _, path := range []string{"/health", "/v1/models"} {
		resp, err := http.Get(web.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(raw), "Loading model") {
			t.Errorf("%s: status %d, %s", path, resp.StatusCode, raw)
		}
	}
	if code, _ := post(t, web.URL+"/v1/chat/completions", ask("x")); code != http.StatusServiceUnavailable {
		t.Errorf("chat: status %d", code)
	}
}

func TestModelThatCannotBeServedEndsServe(t *testing.T) {
	whole, err := os.ReadFile(parts.Model(t, "mote-chat-q8_0.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.gguf")
	if err := os.WriteFile(cut, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	odd := reference.Model(t, 4, reference.KV{Key: "tokenizer.ggml.model", Value: "bert"}, reference.KV{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b", "c", "d"}})
	for path, words := range map[string]string{cut: "", odd: "llama-server", filepath.Join(t.TempDir(), "none.gguf"): "none.gguf"} {
		s, err := New(Config{Model: path})
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: got %v, want an error with %q", path, err, words)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener is still open", path)
		}
	}
	for _, c := range []Config{{}, {Model: "x", Slots: -1}} {
		if _, err := New(c); err == nil {
			t.Errorf("New(%+v) is fine", c)
		}
	}
}

// metric reads one value from /metrics.
func (r *running) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	resp, err := http.Get(r.url + "/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var v float64
		if n, _ := fmt.Sscanf(strings.TrimPrefix(line, name+" "), "%g", &v); n == 1 && strings.HasPrefix(line, name+" ") {
			return v
		}
	}
	tb.Fatalf("no metric %s", name)
	return 0
}

// open sends a streaming request that would go on for long and waits for its first bytes.
func (r *running) open(t *testing.T, ctx context.Context) *http.Response {
	t.Helper()
	raw, _ := json.Marshal(ask("Tell me a long story.", object{"stream": true, "logit_bias": object{"4": -100, "2": -100}}))
	req, err := http.NewRequestWithContext(ctx, "POST", r.url+"/v1/chat/completions", strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if _, err := io.ReadFull(resp.Body, make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	return resp
}

func (r *running) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.After(20 * time.Second); !ok(); {
		select {
		case <-limit:
			t.Fatalf("not within 20 s: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func TestHangUpOfAClientEndsItsAnswer(t *testing.T) {
	r := start(t, Config{Slots: 1})
	ctx, hangUp := context.WithCancel(t.Context())
	r.open(t, ctx)
	hangUp()
	r.await(t, "the slot is free", func() bool { return r.metric(t, "bothy_engine_slots_busy") == 0 })
	if made := r.metric(t, "bothy_engine_generated_tokens_total"); made > 900 {
		t.Errorf("%g tokens were made for a client that had gone", made)
	}
}

func TestEndOfServeDrainsThenCancels(t *testing.T) {
	r := start(t, Config{Slots: 1, Drain: 20 * time.Millisecond})
	resp := r.open(t, t.Context())
	r.stop()
	rest, _ := io.ReadAll(resp.Body)
	if strings.Count(string(rest), "data:") > 1100 {
		t.Errorf("the answer went on for %d chunks", strings.Count(string(rest), "data:"))
	}
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
		r.ended <- nil
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not end")
	}
}

func TestMetricsCount(t *testing.T) {
	r := start(t, Config{Slots: 2})
	r.chat(t, ask("What is the capital of France?"))
	for name, want := range map[string]float64{
		"bothy_engine_slots": 2, "bothy_engine_prompt_tokens_total": 20, "bothy_engine_generated_tokens_total": 8,
		`bothy_engine_requests_total{endpoint="POST /v1/chat/completions",outcome="ok"}`: 1,
	} {
		if got := r.metric(t, name); got != want {
			t.Errorf("%s is %g, want %g", name, got, want)
		}
	}
}

func TestTextLogprobsHaveOpenAIsShape(t *testing.T) {
	r := start(t, Config{Slots: 1})
	code, raw := post(t, r.url+"/v1/completions", object{"prompt": "<|im_start|>user\nWhat is the capital of Spain?<|im_end|>\n<|im_start|>assistant\n", "temperature": 0, "max_tokens": 3, "logprobs": 2})
	got := decode[completion](t, raw)
	if code != 200 || got.Choices[0].Text != "The capital of" || got.Object != "text_completion" {
		t.Fatalf("status %d: %s", code, raw)
	}
	p := got.Choices[0].Logprobs
	if fmt.Sprint(p.Tokens, p.Offsets) != "[The  capital  of] [0 3 11]" || len(p.Chosen) != 3 {
		t.Errorf("logprobs %s", raw)
	}
}

package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

// running is a served model.
type running struct {
	url    string
	server *Server
	stop   context.CancelFunc
	ended  chan error
}

// start serves one of the project's models until the test ends.
func start(tb testing.TB, c Config) *running {
	tb.Helper()
	if c.Model == "" {
		c.Model = parts.Model(tb, "mote-chat-q8_0.gguf")
	}
	if c.Alias == "" {
		c.Alias = "mote"
	}
	c.Threads = 1
	c.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	s, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(tb.Context())
	r := &running{url: "http://" + l.Addr().String(), server: s, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- s.Serve(ctx, l) }()
	tb.Cleanup(func() {
		stop()
		if err := <-r.ended; err != nil {
			tb.Errorf("Serve: %v", err)
		}
		r.ended <- nil
	})
	r.awaitReady(tb)
	return r
}

func (r *running) awaitReady(tb testing.TB) {
	tb.Helper()
	for limit := time.After(30 * time.Second); ; {
		resp, err := http.Get(r.url + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-limit:
			tb.Fatal("not ready after 30 s")
		case err := <-r.ended:
			tb.Fatalf("Serve ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// post sends a body, given as JSON text or as a value, and returns status and answer.
func post(tb testing.TB, url string, body any) (int, []byte) {
	tb.Helper()
	raw, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			tb.Fatal(err)
		}
		raw = string(b)
	}
	resp, err := http.Post(url, "application/json", strings.NewReader(raw))
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, out
}

// decode reads JSON or fails the test with it.
func decode[T any](tb testing.TB, raw []byte) T {
	tb.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		tb.Fatalf("%v: %s", err, raw)
	}
	return v
}

// object is any JSON object.
type object = map[string]any

func ask(question string, more ...object) object {
	body := object{"model": "mote", "temperature": 0, "messages": []object{{"role": "user", "content": question}}}
	for _, m := range more {
		for k, v := range m {
			body[k] = v
		}
	}
	return body
}

// completion is what tests look at in an answer of either endpoint.
type completion struct {
	ID      string
	Object  string
	Model   string
	Choices []struct {
		Text     string
		Message  struct{ Role, Content string }
		Delta    struct{ Role, Content *string }
		Finish   *string `json:"finish_reason"`
		Logprobs *struct {
			Content []struct {
				Token   string
				Logprob float64
				Bytes   []byte_
				Top     []struct {
					Token   string
					Logprob float64
				} `json:"top_logprobs"`
			}
			Tokens  []string
			Offsets []int     `json:"text_offset"`
			Chosen  []float64 `json:"token_logprobs"`
		}
	}
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Total      int `json:"total_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
	Error *struct {
		Message, Type, Param string
		Code                 any // OpenAI writes a word, llama-server the status
		PromptTokens         int `json:"n_prompt_tokens"`
	}
}

// byte_ reads bytes written as numbers.
type byte_ = uint16

func (r *running) chat(tb testing.TB, body any) completion {
	tb.Helper()
	code, raw := post(tb, r.url+"/v1/chat/completions", body)
	if code != http.StatusOK {
		tb.Fatalf("status %d: %s", code, raw)
	}
	c := decode[completion](tb, raw)
	if len(c.Choices) != 1 {
		tb.Fatalf("got %d choices: %s", len(c.Choices), raw)
	}
	return c
}

// chunks reads server-sent events up to [DONE].
func chunks(tb testing.TB, url string, body any) []completion {
	tb.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.Post(url, "application/json", bytes.NewReader(raw))
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		out, _ := io.ReadAll(resp.Body)
		tb.Fatalf("content type %q: %s", got, out)
	}
	var out []completion
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case lines.Text() == "":
		case !ok:
			tb.Fatalf("line %q is no event", lines.Text())
		case data == "[DONE]":
			return out
		default:
			out = append(out, decode[completion](tb, []byte(data)))
		}
	}
	tb.Fatalf("the stream ended without [DONE] after %d chunks: %v", len(out), lines.Err())
	return nil
}

func joined(chunks []completion) (text, finish string) {
	for _, c := range chunks {
		for _, choice := range c.Choices {
			if choice.Delta.Content != nil {
				text += *choice.Delta.Content
			}
			text += choice.Text
			if choice.Finish != nil {
				finish = *choice.Finish
			}
		}
	}
	return text, finish
}

func TestAnswersLikeTheModelWasTrained(t *testing.T) {
	r := start(t, Config{Slots: 2})
	c := r.chat(t, ask("What is the capital of France?"))
	if got, want := c.Choices[0].Message.Content, "The capital of France is Paris."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if c.Choices[0].Message.Role != "assistant" || *c.Choices[0].Finish != "stop" || c.Object != "chat.completion" || c.Model != "mote" {
		t.Errorf("got %+v", c)
	}
	text, finish := joined(chunks(t, r.url+"/v1/chat/completions", ask("What is the capital of France?", object{"stream": true})))
	if text != "The capital of France is Paris." || finish != "stop" {
		t.Errorf("stream: got %q, %q", text, finish)
	}
}

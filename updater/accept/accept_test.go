package accept

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater/release"
)

// toServer sends every request to one test server, as the runtime's clients send every request to one engine.
type toServer struct{ host string }

func (t toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Host = t.host
	return http.DefaultTransport.RoundTrip(r)
}

func engine(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *http.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server notices a client that hangs up only once the body is read.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: toServer{u.Host}}
}

func says(text string, tokens int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"choices":[{"message":{"content":%q}}],"usage":{"completion_tokens":%d}}`, text, tokens)
	}
}

func TestChecksAreJudged(t *testing.T) {
	for _, c := range []struct {
		name  string
		check release.Check
		want  string // part of the failure; "" when it passes
	}{
		{"text", release.Check{Prompt: "?", Want: "Paris"}, ""},
		{"wrong text", release.Check{Name: "capital", Prompt: "?", Want: "Rome"}, `check "capital" failed: the answer "It is Paris." does not contain "Rome"`},
		{"pattern", release.Check{Prompt: "?", Pattern: `^It is \w+\.$`}, ""},
		{"wrong pattern", release.Check{Prompt: "?", Pattern: `^\d+$`}, `does not match`},
		{"bad pattern", release.Check{Prompt: "?", Pattern: `(`}, `cannot use the pattern`},
		{"too slow", release.Check{Prompt: "?", MinTokensPerSecond: 1e12}, `want at least`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Run(t.Context(), engine(t, says("It is Paris.", 4)), "m", []release.Check{{Prompt: "first"}, c.check})
			var f *Failure
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want no failure", err)
			case c.want != "" && (!errors.As(err, &f) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want a failure with %q", err, c.want)
			}
		})
	}
}

func TestTheQuestionIsAskedGreedilyWithItsMessages(t *testing.T) {
	var got struct {
		Model       string            `json:"model"`
		Messages    []release.Message `json:"messages"`
		Temperature *float64          `json:"temperature"`
		MaxTokens   int               `json:"max_tokens"`
	}
	client := engine(t, func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		says("yes", 1)(w, r)
	})
	check := release.Check{Messages: []release.Message{{Role: "system", Content: "s"}}, Prompt: "p", MaxTokens: 7}
	if err := Run(t.Context(), client, "alias", []release.Check{check}); err != nil {
		t.Fatal(err)
	}
	if got.Model != "alias" || len(got.Messages) != 2 || got.Messages[1].Content != "p" || got.Temperature == nil || *got.Temperature != 0 || got.MaxTokens != 7 {
		t.Errorf("got %+v, want alias, system and user message, temperature 0, 7 tokens", got)
	}
}

func TestAnEngineThatDoesNotAnswerFailsTheCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		want   string
	}{
		{"error status", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "boom", 500) }, "500"},
		{"not JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, "not a chat completion"},
		{"no choice", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"choices":[]}`) }, "not a chat completion"},
		{"hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 1s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Run(t.Context(), engine(t, c.answer), "m", []release.Check{{Prompt: "?", TimeoutSeconds: 1}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestACancelledRunIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := engine(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	err := Run(ctx, client, "m", []release.Check{{Prompt: "?"}})
	var f *Failure
	if !errors.Is(err, context.Canceled) || errors.As(err, &f) {
		t.Errorf("got %v, want only context.Canceled", err)
	}
}

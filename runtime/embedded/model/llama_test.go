package model_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

// llama is a llama-server child with one model, spoken to over a unix socket.
type llama struct {
	client *http.Client
	log    *bytes.Buffer
}

func startLlama(tb testing.TB, model string, flags ...string) *llama {
	tb.Helper()
	socket := filepath.Join(parts.SocketDir(tb), "l.sock")
	l := &llama{log: &bytes.Buffer{}}
	// One thread: its threads wait for each other spinning, which on a busy machine takes seconds a token.
	args := append([]string{"-m", model, "--host", socket, "-c", "512", "-np", "1", "-t", "1", "--no-warmup", "--no-webui"}, flags...)
	cmd := exec.Command(parts.Llama(tb, "llama-server"), args...)
	cmd.Stdout, cmd.Stderr = l.log, l.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start llama-server: %v", err)
	}
	tb.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if err := parts.WaitDial("unix", socket, 30*time.Second); err != nil {
		tb.Fatalf("llama-server does not listen: %v", err)
	}
	var d net.Dialer
	l.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", socket)
	}}}
	l.awaitReady(tb)
	return l
}

// awaitReady asks until the weights are loaded: until then the answer is 503.
func (l *llama) awaitReady(tb testing.TB) {
	tb.Helper()
	for end := time.Now().Add(60 * time.Second); ; <-time.After(5 * time.Millisecond) {
		res, err := l.client.Get("http://llama/health")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			tb.Fatalf("llama-server is not ready: %v\n%s", err, l.log)
		}
	}
}

func (l *llama) post(tb testing.TB, path string, body, answer any) {
	tb.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	res, err := l.client.Post("http://llama"+path, "application/json", bytes.NewReader(raw))
	if err != nil {
		tb.Fatalf("llama-server %s: %v", path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	if err == nil {
		err = json.Unmarshal(text, answer)
	}
	if err != nil {
		tb.Fatalf("llama-server %s: %v", path, err)
	}
}

// tokens is the prompt as token numbers, with the model's own special tokens.
func (l *llama) tokens(tb testing.TB, text string) []int32 {
	tb.Helper()
	var answer struct{ Tokens []int32 }
	l.post(tb, "/tokenize", map[string]any{"content": text, "add_special": true, "parse_special": true}, &answer)
	if len(answer.Tokens) == 0 {
		tb.Fatalf("llama-server made no tokens of %q", text)
	}
	return answer.Tokens
}

type probability struct {
	ID      int32   `json:"id"`
	LogProb float64 `json:"logprob"`
	Top     []struct {
		ID      int32   `json:"id"`
		LogProb float64 `json:"logprob"`
	} `json:"top_logprobs"`
}

// greedy is llama-server's answer to the prompt with the five likeliest tokens
// at every step.
func (l *llama) greedy(tb testing.TB, prompt []int32, most int) []probability {
	tb.Helper()
	var answer struct {
		Tokens        []int32       `json:"tokens"`
		Probabilities []probability `json:"completion_probabilities"`
	}
	l.post(tb, "/completion", map[string]any{
		"prompt": prompt, "n_predict": most, "temperature": 0, "n_probs": 5,
		"cache_prompt": false, "return_tokens": true,
	}, &answer)
	if len(answer.Probabilities) == 0 {
		tb.Fatalf("llama-server gave no tokens: %+v\n%s", answer, l.log)
	}
	return answer.Probabilities
}

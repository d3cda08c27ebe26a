// Package reference runs llama-server beside the embedded engine, so that tests
// can ask both the same thing.
//
// It also writes small GGUF models with a vocabulary of the test's choosing and
// weights of no meaning, because llama-server tokenizes only for a model that it
// can load. Test code only: everything here fails the test rather than return an
// error, and whatever it starts ends with the test.
package reference

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

// Server is a running llama-server.
type Server struct {
	URL string // http://127.0.0.1:port
}

// Start runs llama-server on the model file and waits until it answers. Chat
// templates are rendered as the file has them (--jinja); args are added.
func Start(tb testing.TB, model string, args ...string) *Server {
	tb.Helper()
	addr := parts.FreeAddr(tb)
	host, port, _ := bytes.Cut([]byte(addr), []byte(":"))
	all := append([]string{"-m", model, "--host", string(host), "--port", string(port), "--jinja", "--no-webui", "--no-warmup", "-t", "1"}, args...)
	var log bytes.Buffer
	cmd := exec.Command(parts.Llama(tb, "llama-server"), all...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start llama-server: %v: run scripts/test-tools", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its output
		close(ended)
	}()
	tb.Cleanup(func() { cmd.Process.Kill(); <-ended })
	s := &Server{URL: "http://" + addr}
	for limit := time.After(60 * time.Second); ; {
		if resp, err := http.Get(s.URL + "/health"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s
			}
		}
		select {
		case <-ended:
			tb.Fatalf("llama-server ended: %s", log.Bytes())
		case <-limit:
			tb.Fatal("llama-server is not ready after 60 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Post sends in as JSON to path and reads the answer into out. It returns the status.
func (s *Server) Post(tb testing.TB, path string, in, out any) int {
	tb.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.Post(s.URL+path, "application/json", bytes.NewReader(body))
	if err != nil {
		tb.Fatalf("llama-server %s: %v", path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		tb.Fatalf("llama-server %s: %v: %s", path, err, raw)
	}
	return resp.StatusCode
}

// Tokens asks /tokenize.
func (s *Server) Tokens(tb testing.TB, text string, addSpecial, parseSpecial bool) []int32 {
	tb.Helper()
	var out struct{ Tokens []int32 }
	in := map[string]any{"content": text, "add_special": addSpecial, "parse_special": parseSpecial}
	if code := s.Post(tb, "/tokenize", in, &out); code != http.StatusOK {
		tb.Fatalf("llama-server /tokenize %q: status %d", text, code)
	}
	return out.Tokens
}

// Text asks /detokenize.
func (s *Server) Text(tb testing.TB, ids []int32) string {
	tb.Helper()
	var out struct{ Content string }
	if code := s.Post(tb, "/detokenize", map[string]any{"tokens": ids}, &out); code != http.StatusOK {
		tb.Fatalf("llama-server /detokenize: status %d", code)
	}
	return out.Content
}

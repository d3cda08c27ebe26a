package gateway

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/agent/router"
	"github.com/bothy-edge/bothy/internal/parts"
)

// canned answers without looking, as fast as net/http allows.
func canned(answer, contentType string, chunks int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{contentType}
		for range chunks {
			io.WriteString(w, answer)
			if chunks > 1 {
				w.(http.Flusher).Flush()
			}
		}
		if chunks > 1 {
			io.WriteString(w, "data: [DONE]\n\n")
		}
	})
}

// BenchmarkHop compares the gateway, everything on, with the bare reverse proxy of
// the standard library and with no hop at all, on the same engine stub.
func BenchmarkHop(b *testing.B) {
	answer := `{"object":"chat.completion","choices":[{"message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}`
	for _, kind := range []struct {
		name, body string
		engine     http.Handler
	}{
		{"whole", hello, canned(answer, "application/json", 1)},
		{"stream100", helloStream, canned(chunk("word"), "text/event-stream", 100)},
	} {
		for _, hop := range []string{"direct", "proxy", "bothy"} {
			b.Run(kind.name+"/"+hop, func(b *testing.B) {
				x := newBox(b, localFirst, func(rc *router.Config, c *Config) {
					rc.Log, c.Log = slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
				})
				x.set(func() { x.engine = kind.engine; x.state.Slots = 64 })
				benchmarkHop(b, x, hop, kind.body)
			})
		}
	}
}

func benchmarkHop(b *testing.B, x *box, hop, body string) {
	socket := x.socket
	switch hop {
	case "direct":
		socket = filepath.Join(x.dir, "engine.sock")
	case "proxy":
		socket = bareProxy(b, x)
	}
	client := &http.Client{Transport: unixTransport(socket)}
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Post("http://x/v1/chat/completions", "application/json", strings.NewReader(body))
			if err != nil || resp.StatusCode != 200 {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}

// bareProxy serves httputil.ReverseProxy on a socket of its own.
func bareProxy(b *testing.B, x *box) string {
	socket := filepath.Join(parts.SocketDir(b), "proxy.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	target := &url.URL{Scheme: "http", Host: "engine"}
	srv := &http.Server{Handler: &httputil.ReverseProxy{FlushInterval: -1, Transport: x.transit,
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}}
	go srv.Serve(l)
	b.Cleanup(func() { srv.Close() })
	return socket
}

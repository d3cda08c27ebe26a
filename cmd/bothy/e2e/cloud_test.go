package e2e

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

// cloudKey is what the cloud asks for.
const cloudKey = "e2e-cloud-key"

// away is a model that this box does not have: addPolicyAway lets it run in the cloud only.
const away = "away"

// cloud is a second real engine behind TLS on loopback, which counts what reaches it.
type cloud struct {
	url  string
	seen atomic.Int64
}

// startCloud starts it and leaves its key and its certificate in the world's
// folder, which cloudConfig names.
func startCloud(t *testing.T, w *world) *cloud {
	t.Helper()
	socket := w.path("cloud.sock")
	engine := w.spawn(parts.Bothy(t), "engine", "serve", "--listen", "unix:"+socket, "--model", parts.Model(t, "mote-chat-q8_0.gguf"), "--alias", "mote", "--slots", "4", "--context", "512")
	t.Cleanup(engine.stop)
	if err := parts.WaitDial("unix", socket, patience); err != nil {
		t.Fatalf("the cloud's engine: %v\n%s", err, engine.log)
	}
	c := &cloud{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	proxy.ErrorLog = log.New(io.Discard, "", 0) // a killed agent hangs up
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c.seen.Add(1)
		if r.Header.Get("authorization") != "Bearer "+cloudKey {
			http.Error(rw, `{"error":{"message":"wrong key"}}`, http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(rw, r)
	}))
	server.Config.ErrorLog = proxy.ErrorLog
	server.StartTLS()
	t.Cleanup(server.Close)
	c.url = server.URL + "/v1"
	for name, content := range map[string][]byte{
		"cloud.key": []byte(cloudKey + "\n"),
		"cloud.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	} {
		if err := os.WriteFile(w.path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// useCloud adds the cloud to the configuration of an agent that is not started yet.
func (w *world) useCloud() {
	w.t.Helper()
	f, err := os.OpenFile(w.path("bothy.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "upstreams:\n  cloud:\n    key_file: %s\n    ca: %s\n", w.path("cloud.key"), w.path("cloud.pem"))
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// addPolicyAway publishes a policy under which the model away runs in the cloud and everything else here.
func (w *world) addPolicyAway(c *cloud) {
	w.t.Helper()
	text := fmt.Sprintf(`schema: 1
name: site
upstreams:
  - name: cloud
    api: openai
    base_url: %s
    credential: cloud
    models: {away: mote}
rules:
  - name: away from here
    when: {model: away}
    places: [cloud]
  - name: everything else
    places: [local]
`, c.url)
	path := w.path("away.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.must("fleet", "add", w.fleet.Dir(), "--policy", "site", path)
	w.must("fleet", "sign", w.fleet.Dir())
}

// settled waits until no more requests reach the cloud and answers how many did.
func (c *cloud) settled() int64 {
	for {
		n := c.seen.Load()
		<-time.After(100 * time.Millisecond)
		if n == c.seen.Load() {
			return n
		}
	}
}

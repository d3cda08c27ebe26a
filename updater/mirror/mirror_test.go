package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

const mib = 1 << 20

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func fileOf(t testing.TB, b []byte) (release.File, content.Index) {
	t.Helper()
	x, err := content.BuildIndex(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return release.File{Path: "m.gguf", Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:]), IndexSHA256: x.SHA256()}, x
}

// serve is a TLS server and a source that trusts it.
func serve(t testing.TB, h http.Handler, edit func(*Config)) (*httptest.Server, *Source) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c := Config{URL: srv.URL, Device: "box-1", TLS: &tls.Config{RootCAs: pool}, Jitter: func() float64 { return -0.49 }}
	if edit != nil {
		edit(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return srv, s
}

// folder lays out files as a mirror has them.
func folder(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sink takes blocks and keeps those that are right.
type sink struct {
	got map[int][]byte
	bad int
}

func (s *sink) Buffer(n int) []byte { return make([]byte, n) }

func (s *sink) Deliver(k content.Block, b []byte) error {
	if sha256.Sum256(b) != k.SHA256 {
		s.bad++
		return nil
	}
	if s.got == nil {
		s.got = map[int][]byte{}
	}
	s.got[k.N] = b
	return nil
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestFetchFromAFileServerOverTLS(t *testing.T) {
	b := noise(1, 70*mib+12345)
	f, x := fileOf(t, b)
	var requests, connections atomic.Int32
	files := http.FileServer(http.Dir(folder(t, map[string][]byte{"blobs/" + f.SHA256: b, "blobs/" + f.SHA256 + ".index": x.Encode()})))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		files.ServeHTTP(w, r)
	}))
	srv.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			connections.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	s, err := New(Config{URL: srv.URL + "/", TLS: &tls.Config{RootCAs: pool}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	store, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	path, err := store.Fetch(bounded(t), f, []content.Source{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
		t.Errorf("got %d bytes (%v), want the file", len(got), err)
	}
	// The index, and 71 blocks in runs of 32 MiB.
	if n := requests.Load(); n != 4 {
		t.Errorf("got %d requests, want 4", n)
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("got %d connections, want one for all", n)
	}
}

func TestOnlyWhatIsWantedIsAskedFor(t *testing.T) {
	b := noise(2, 12*mib)
	f, x := fileOf(t, b)
	var ranges []string
	files := http.FileServer(http.Dir(folder(t, map[string][]byte{"blobs/" + f.SHA256: b})))
	_, s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		files.ServeHTTP(w, r)
	}), nil)
	want := []content.Block{x.Blocks[7], x.Blocks[2], x.Blocks[1], x.Blocks[11]}
	var got sink
	if err := s.Blocks(bounded(t), f, want, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.got) != 4 || got.bad != 0 {
		t.Errorf("got %d right blocks and %d wrong ones, want 4 and 0", len(got.got), got.bad)
	}
	if s := strings.Join(ranges, " "); s != "bytes=1048576-3145727 bytes=7340032-8388607 bytes=11534336-12582911" {
		t.Errorf("asked for %s", s)
	}
}

// TestHostileServers: whatever a server answers, the call ends soon, takes no
// more than it asked for, and says what was wrong.
func TestHostileServers(t *testing.T) {
	b := noise(3, 8*mib)
	f, x := fileOf(t, b)
	part := func(w http.ResponseWriter, contentRange string, length string, body []byte) {
		w.Header().Set("Content-Range", contentRange)
		if length != "" {
			w.Header().Set("Content-Length", length)
		}
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body)
	}
	endless := func(w http.ResponseWriter) {
		junk := make([]byte, 64<<10)
		for {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		cause  error  // in the chain; nil: any
		text   string // in the message
		bad    bool   // wrong blocks come through to be judged by their hash
	}{
		"other range": {func(w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes 0-1048575/8388608", "", b[:mib])
		}, content.ErrCorrupt, "asked for were", false},
		"other size": {func(w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes 2097152-4194303/9999999", "", b[2*mib:4*mib])
		}, content.ErrCorrupt, "9999999", false},
		"no range at all": {func(w http.ResponseWriter, _ *http.Request) { part(w, "", "", b[2*mib:4*mib]) }, content.ErrCorrupt, "range", false},
		"range in odd spelling": {func(w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes +2097152-4194303/8388608", "", b[2*mib:4*mib])
		}, content.ErrCorrupt, "range", false},
		"several ranges": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
			w.WriteHeader(http.StatusPartialContent)
		}, content.ErrCorrupt, "range", false},
		"length that contradicts": {func(w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes 2097152-4194303/8388608", "5", []byte("hello"))
		}, content.ErrCorrupt, "5 long", false},
		"short body": {func(w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes 2097152-4194303/8388608", "2097152", b[2*mib:2*mib+5])
		}, nil, "closed early", false},
		"endless body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 2097152-4194303/8388608")
			w.WriteHeader(http.StatusPartialContent)
			endless(w)
		}, nil, "", true},
		"endless file": {func(w http.ResponseWriter, _ *http.Request) { endless(w) }, nil, "", true},
		"whole file of another size": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "7")
			_, _ = w.Write([]byte("welcome"))
		}, content.ErrCorrupt, "7 bytes", false},
		"not there":       {http.NotFound, content.ErrNotFound, "", false},
		"not allowed":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, nil, "403", false},
		"not satisfiable": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(416) }, content.ErrCorrupt, "416", false},
		"broken":          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, nil, "502", false},
		"redirect elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/x", http.StatusFound)
		}, nil, "not followed", false},
		"redirect to plain": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+r.URL.Path, http.StatusFound)
		}, nil, "not followed", false},
		"redirect for ever": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		}, nil, "not followed", false},
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil, "", false},
		"trickle": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 2097152-4194303/8388608")
			w.WriteHeader(http.StatusPartialContent)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-r.Context().Done():
					return
				case <-tick.C:
					_, _ = w.Write([]byte{1})
					w.(http.Flusher).Flush()
				}
			}
		}, content.ErrStalled, "64 KiB", false},
		"header for ever": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		}, nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, s := serve(t, http.HandlerFunc(c.answer), func(c *Config) { c.Stall, c.Tries = 500*time.Millisecond, 2 })
			var got sink
			err := s.Blocks(bounded(t), f, x.Blocks[2:4], &got)
			if (err == nil) != c.bad || c.cause != nil && !errors.Is(err, c.cause) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want cause %v and %q", err, c.cause, c.text)
			}
			if c.bad && got.bad == 0 || !c.bad && got.bad > 0 {
				t.Errorf("got %d wrong blocks", got.bad)
			}
		})
	}
}

func TestServerWithoutRangesIsUsedWithinABound(t *testing.T) {
	b := noise(4, 150*mib)
	f, x := fileOf(t, b)
	var sent atomic.Int64
	_, s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n, _ := w.Write(b)
		sent.Add(int64(n))
	}), nil)
	var got sink
	if err := s.Blocks(bounded(t), f, append(x.Blocks[3:5:5], x.Blocks[60]), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.got) != 3 {
		t.Errorf("got %d blocks, want 3", len(got.got))
	}
	err := s.Blocks(bounded(t), f, x.Blocks[140:141], &got)
	if err == nil || !strings.Contains(err.Error(), "knows no ranges") {
		t.Errorf("one block at the end of 150 MiB: got %v, want a refusal", err)
	}
}

func TestCutConnectionGoesOnWithTheNextBlock(t *testing.T) {
	b := noise(5, 6*mib)
	f, x := fileOf(t, b)
	var ranges []string
	files := http.FileServer(http.Dir(folder(t, map[string][]byte{"blobs/" + f.SHA256: b})))
	_, s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if len(ranges) == 1 {
			w = &cutter{w, 2*mib + 100}
		}
		files.ServeHTTP(w, r)
	}), nil)
	var got sink
	if err := s.Blocks(bounded(t), f, x.Blocks, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.got) != 6 || got.bad != 0 {
		t.Errorf("got %d right and %d wrong blocks, want 6 and 0", len(got.got), got.bad)
	}
	if s := strings.Join(ranges, " "); s != "bytes=0-6291455 bytes=2097152-6291455 bytes=2097152-6291455" {
		t.Errorf("asked for %s, want to go on from the last whole block", s)
	}
}

// cutter closes the connection after some bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if _, err := c.ResponseWriter.Write(p[:n]); err != nil || c.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

func TestCallEndsWithItsContext(t *testing.T) {
	b := noise(6, 2*mib)
	f, x := fileOf(t, b)
	asked := make(chan struct{}, 8)
	_, s := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Blocks(ctx, f, x.Blocks, &sink{}) }()
	<-asked
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the call goes on")
	}
}

func TestMetadataByTheNamesOfASource(t *testing.T) {
	dir := folder(t, map[string][]byte{
		"catalog/metadata/timestamp.json":   []byte("catalog time"),
		"director/box-1/timestamp.json":     []byte("director time"),
		"director/_root/2.root.json":        []byte("second root"),
		"director/box-2/timestamp.json":     []byte("somebody else's"),
		"catalog/metadata/3.snapshot.json":  bytes.Repeat([]byte("x"), 5000),
		"catalog/metadata/secret/keys.json": []byte("no"),
	})
	_, s := serve(t, http.FileServer(http.Dir(dir)), nil)
	for _, c := range []struct {
		repo trust.Repo
		name string
		want string // "": not found
	}{
		{trust.Catalog, "timestamp.json", "catalog time"},
		{trust.Director, "timestamp.json", "director time"},
		{trust.Director, "2.root.json", "second root"},
		{trust.Director, "3.root.json", ""},
		{trust.Catalog, "secret/keys.json", ""},
		{trust.Director, "../box-2/timestamp.json", ""},
		{trust.Repo("other"), "timestamp.json", ""},
	} {
		got, err := s.Metadata(t.Context(), c.repo, c.name, 1000)
		if c.want == "" && !errors.Is(err, trust.ErrNotFound) || c.want != "" && (err != nil || string(got) != c.want) {
			t.Errorf("%s %s: got %q, %v, want %q", c.repo, c.name, got, err, c.want)
		}
	}
	if got, err := s.Metadata(t.Context(), trust.Catalog, "3.snapshot.json", 1000); err != nil || len(got) != 1001 {
		t.Errorf("over the limit: got %d bytes, %v, want one more than the limit", len(got), err)
	}
	if _, err := s.Index(t.Context(), release.File{SHA256: "../../etc/passwd"}); err == nil {
		t.Error("an index of what is no digest was asked for")
	}
}

func TestOddAddressesAreRefused(t *testing.T) {
	for _, u := range []string{"", "mirror.example", "ftp://mirror.example/", "http://mirror.example/", "https://", "https://m/?q=1", "https://m/#a", "://"} {
		if _, err := New(Config{URL: u}); err == nil {
			t.Errorf("%q was accepted", u)
		}
	}
	for _, c := range []Config{{URL: "http://127.0.0.1:80/"}, {URL: "http://localhost/x"}, {URL: "http://mirror.example", AllowPlain: true}, {URL: "https://mirror.example/fleet"}} {
		if _, err := New(c); err != nil {
			t.Errorf("%s: %v", c.URL, err)
		}
	}
}

func TestUnknownAuthorityIsRefusedAtOnce(t *testing.T) {
	srv, _ := serve(t, http.NotFoundHandler(), nil)
	s, err := New(Config{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := fileOf(t, []byte("x"))
	if _, err := s.Index(bounded(t), f); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want a refused certificate", err)
	}
}

func TestProxyIsUsed(t *testing.T) {
	var through atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through.Add(1)
		fmt.Fprint(w, "by proxy for "+r.Host)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{URL: "http://mirror.example", AllowPlain: true, Device: "box-1", Proxy: http.ProxyURL(at)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Metadata(t.Context(), trust.Catalog, "timestamp.json", 1000)
	if err != nil || string(got) != "by proxy for mirror.example" || through.Load() != 1 {
		t.Errorf("got %q, %v, %d requests at the proxy", got, err, through.Load())
	}
}

func TestPaceIsAskedBeforeBytesAre(t *testing.T) {
	b := noise(7, 3*mib)
	f, x := fileOf(t, b)
	paced := 0
	_, s := serve(t, http.FileServer(http.Dir(folder(t, map[string][]byte{"blobs/" + f.SHA256: b}))), func(c *Config) {
		c.Pace = func(_ context.Context, n int) error { paced += n; return nil }
	})
	if err := s.Blocks(bounded(t), f, x.Blocks, &sink{}); err != nil || paced != 3*mib {
		t.Errorf("got %v and %d bytes paced, want %d", err, paced, 3*mib)
	}
	s.cfg.Pace = func(context.Context, int) error { return errors.New("not now") }
	if err := s.Blocks(bounded(t), f, x.Blocks, &sink{}); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("got %v, want the pace's error", err)
	}
}

package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/fleettest"
	"github.com/bothy-edge/bothy/updater/mirror"
	"github.com/bothy-edge/bothy/updater/peer/peertest"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

const mib = 1 << 20

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// certificates are a device's, of one fleet.
func certificates(a *peertest.Authority, device string) Certificates {
	own := a.Device(device)
	return Certificates{
		Own:       func() (*tls.Certificate, error) { return own, nil },
		Authority: func() (*x509.CertPool, error) { return a.Pool, nil },
	}
}

// box is a device with its own trust and artifacts.
type box struct {
	trust *trust.Client
	store *content.Store
	certs Certificates
	now   atomic.Pointer[time.Time]
}

func newBox(t testing.TB, f *fleet.Fleet, a *peertest.Authority, name string) *box {
	t.Helper()
	dir := t.TempDir()
	b := &box{certs: certificates(a, name)}
	now := time.Now()
	b.now.Store(&now)
	id := fleettest.Enrol(t, f, filepath.Join(dir, "identity"), name)
	db, _, err := store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "bothy.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	slots, err := store.OpenSlots(dir, "marks")
	if err != nil {
		t.Fatal(err)
	}
	b.trust, err = trust.Open(trust.Config{DB: db, Slots: slots, Device: id.Device, CatalogRoot: id.CatalogRoot, DirectorRoot: id.DirectorRoot,
		Now: func() time.Time { return *b.now.Load() }, Synchronised: func() bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	if b.store, err = content.Open(filepath.Join(dir, "artifacts")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.store.Close() })
	if _, err := b.trust.Refresh(t.Context(), trust.Directory{Dir: f.Dir(), Device: name}); err != nil {
		t.Fatal(err)
	}
	return b
}

// serve runs a server until the test ends and returns its address.
func serve(t testing.TB, c Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(c).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func (b *box) config() Config {
	return Config{Store: b.store, Check: b.trust.CheckProof, Certificates: b.certs}
}

func (b *box) asks(t testing.TB, address string) *mirror.Source {
	t.Helper()
	s, err := NewSource(ClientConfig{Address: address, Certificates: b.certs, Proof: b.trust.Proof})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// scene is a fleet with three boxes: two run mote, the third something else.
type scene struct {
	fleet          *fleet.Fleet
	authority      *peertest.Authority
	mote, other    release.File
	bytes          []byte
	giver, twin, c *box
}

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{fleet: fleettest.Make(t, ""), authority: peertest.New(t), bytes: noise(1, 5*mib+77)}
	mote := fleettest.Publish(t, s.fleet, fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{fleettest.Bytes(t, "m.gguf", s.bytes)}})
	other := fleettest.Publish(t, s.fleet, fleet.AddOptions{Kind: release.Model, Name: "other", Files: []string{fleettest.Bytes(t, "o.gguf", noise(2, 9000))}})
	s.mote, s.other = mote.Primary(), other.Primary()
	for device, id := range map[string]string{"giver": "mote@1", "twin": "mote@1", "stranger": "other@1"} {
		fleettest.Assign(t, s.fleet, device, map[string]string{"chat": id}, "")
	}
	s.giver, s.twin, s.c = newBox(t, s.fleet, s.authority, "giver"), newBox(t, s.fleet, s.authority, "twin"), newBox(t, s.fleet, s.authority, "stranger")
	from := []content.Source{content.Directory{Dir: s.fleet.Dir()}}
	if _, err := s.giver.store.Fetch(bounded(t), s.mote, from, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPeerGivesWhatTheAskersSetNames(t *testing.T) {
	s := newScene(t)
	at := serve(t, s.giver.config())
	path, err := s.twin.store.Fetch(bounded(t), s.mote, []content.Source{s.twin.asks(t, at)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, s.bytes) {
		t.Errorf("got %d bytes (%v), want the file", len(got), err)
	}
	if spans, err := s.twin.store.Origin(s.mote.SHA256); err != nil || len(spans) != 1 || spans[0].Source != "peer giver" {
		t.Errorf("got origin %v, %v, want the peer by the name in its certificate", spans, err)
	}
	// The stranger's set names something else, whether the peer has it or not.
	for name, f := range map[string]release.File{"what the peer has": s.mote, "what it lacks": s.other} {
		if _, err := s.c.asks(t, at).Index(bounded(t), f); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("stranger, %s: got %v, want status 401", name, err)
		}
	}
	// Allowed, and not here: the giver was assigned it too, but has not fetched it.
	fleettest.Assign(t, s.fleet, "giver", map[string]string{"second": "other@1"}, "")
	if _, err := s.giver.trust.Refresh(t.Context(), trust.Directory{Dir: s.fleet.Dir(), Device: "giver"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.c.asks(t, at).Index(bounded(t), s.other); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("what is allowed and not here: got %v, want %v", err, content.ErrNotFound)
	}
}

func TestAssignmentThatEndedClosesThePeer(t *testing.T) {
	s := newScene(t)
	old, err := s.twin.trust.Proof()
	if err != nil {
		t.Fatal(err)
	}
	at := serve(t, s.giver.config())
	fleettest.Assign(t, s.fleet, "twin", map[string]string{"chat": "other@1"}, "")
	if _, err := s.twin.trust.Refresh(t.Context(), trust.Directory{Dir: s.fleet.Dir(), Device: "twin"}); err != nil {
		t.Fatal(err)
	}
	newest, err := s.twin.trust.Proof()
	if err != nil {
		t.Fatal(err)
	}
	showing := newest
	src, err := NewSource(ClientConfig{Address: at, Certificates: s.twin.certs, Proof: func() ([]byte, error) { return showing, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.Index(bounded(t), s.mote); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("by the newest word: got %v, want status 401", err)
	}
	showing = old
	if _, err := src.Index(bounded(t), s.mote); err == nil || !strings.Contains(err.Error(), "claim: the server answers 403") {
		t.Errorf("by an older word, after the newest: got %v, want the claim refused", err)
	}
	// A peer that never heard the newer one takes the older, until it expires.
	ignorant := serve(t, s.giver.config())
	fresh, err := NewSource(ClientConfig{Address: ignorant, Certificates: s.twin.certs, Proof: func() ([]byte, error) { return old, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if _, err := fresh.Index(bounded(t), s.mote); err != nil {
		t.Errorf("older word within its life: %v", err)
	}
	later := time.Now().AddDate(0, 0, 8)
	s.giver.now.Store(&later)
	expired := serve(t, s.giver.config())
	gone, err := NewSource(ClientConfig{Address: expired, Certificates: s.twin.certs, Proof: func() ([]byte, error) { return old, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if _, err := gone.Index(bounded(t), s.mote); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("after its life: got %v, want the claim refused", err)
	}
}

func TestProofIsBoundToTheCertificate(t *testing.T) {
	s := newScene(t)
	at := serve(t, s.giver.config())
	thief, err := NewSource(ClientConfig{Address: at, Certificates: s.c.certs, Proof: s.twin.trust.Proof})
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	if _, err := thief.Index(bounded(t), s.mote); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("another device's proof: got %v, want the claim refused", err)
	}
	for name, certs := range map[string]Certificates{
		"another fleet": certificates(peertest.New(t), "twin"),
		"no certificate": {Own: func() (*tls.Certificate, error) { return &tls.Certificate{}, nil },
			Authority: s.twin.certs.Authority},
	} {
		src, err := NewSource(ClientConfig{Address: at, Certificates: certs, Proof: s.twin.trust.Proof})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := src.Index(bounded(t), s.mote); err == nil {
			t.Errorf("%s: served", name)
		}
		src.Close()
	}
	// A stranger's server gets no request from us.
	foreign := s.giver.config()
	foreign.Certificates = certificates(peertest.New(t), "giver")
	if _, err := s.twin.asks(t, serve(t, foreign)).Index(bounded(t), s.mote); err == nil || !strings.Contains(err.Error(), "no device of this fleet") && !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server of another fleet: got %v", err)
	}
}

func TestBusyBoxServesNothingAndCutsWhatItServes(t *testing.T) {
	s := newScene(t)
	c := s.giver.config()
	var busy atomic.Bool
	var looks atomic.Int32
	c.Busy = func() bool {
		// Free for the claim, the index and a part of the file.
		return busy.Load() || looks.Add(1) > 6
	}
	at := serve(t, c)
	src := s.twin.asks(t, at)
	index, err := src.Index(bounded(t), s.mote)
	if err != nil {
		t.Fatal(err)
	}
	x, err := content.ParseIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	var got counting
	if err := src.Blocks(bounded(t), s.mote, x.Blocks, &got); err == nil || got.n >= len(x.Blocks) {
		t.Errorf("got %v after %d blocks, want the transfer cut", err, got.n)
	}
	busy.Store(true)
	if _, err := src.Index(bounded(t), s.mote); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("busy: got %v, want status 503", err)
	}
	// Another source has the rest.
	sources := []content.Source{src, content.Directory{Dir: s.fleet.Dir()}}
	if _, err := s.twin.store.Fetch(bounded(t), s.mote, sources, nil); err != nil {
		t.Errorf("with another source: %v", err)
	}
}

type counting struct{ n int }

func (c *counting) Buffer(n int) []byte { return make([]byte, n) }

func (c *counting) Deliver(content.Block, []byte) error { c.n++; return nil }

// TestRequestsThatAreRefused speaks HTTP itself: what a device's own code never sends.
func TestRequestsThatAreRefused(t *testing.T) {
	s := newScene(t)
	at := serve(t, s.giver.config())
	src := s.twin.asks(t, at)
	if _, err := src.Index(bounded(t), s.mote); err != nil {
		t.Fatal(err)
	}
	own, err := s.twin.certs.Own()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*own}}}}
	defer client.CloseIdleConnections()
	blob := "/blobs/" + s.mote.SHA256
	for _, c := range []struct {
		name, method, path, ranges string
		want                       int
	}{
		{"a range", "GET", blob, "bytes=0-99", 206},
		{"the last byte", "GET", blob, "bytes=5242956-5242956", 206},
		{"everything at once", "GET", blob, "", 416},
		{"past the end", "GET", blob, "bytes=0-99999999", 416},
		{"backwards", "GET", blob, "bytes=9-0", 416},
		{"negative", "GET", blob, "bytes=-5", 416},
		{"open end", "GET", blob, "bytes=5-", 416},
		{"two ranges", "GET", blob, "bytes=0-1,3-4", 416},
		{"other unit", "GET", blob, "lines=0-1", 416},
		{"overflowing", "GET", blob, "bytes=0-9223372036854775807", 416},
		{"other name", "GET", "/blobs/../lock", "", 404},
		{"no digest", "GET", "/blobs/lock", "", 403},
		{"listing", "GET", "/blobs/", "", 404},
		{"other method", "PUT", blob, "", 405},
		{"metadata", "GET", "/director/twin/timestamp.json", "", 404},
		{"claim without proof", "POST", "/claim", "", 403},
	} {
		q, err := http.NewRequestWithContext(bounded(t), c.method, "https://"+at, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.URL.Path = c.path
		if c.ranges != "" {
			q.Header.Set("Range", c.ranges)
		}
		r, err := client.Do(q)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != c.want && !(c.want == 404 && r.StatusCode == 403) {
			t.Errorf("%s: got status %d, want %d", c.name, r.StatusCode, c.want)
		}
		if c.name == "a range" && !bytes.Equal(body, s.bytes[:100]) {
			t.Errorf("got %d bytes, want the first 100", len(body))
		}
	}
}

func TestTransfersAreBounded(t *testing.T) {
	c := newCallers(time.Now)
	f := release.File{SHA256: strings.Repeat("a", 64)}
	if err := c.admit(trust.Shown{Device: "d", Version: 5, Expires: time.Now().Add(time.Hour), Files: []release.File{f}}); err != nil {
		t.Fatal(err)
	}
	var ends []func()
	for range maxOfOne {
		done, err := c.begin("d", f.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, done)
	}
	if _, err := c.begin("d", f.SHA256); !errors.Is(err, errMany) {
		t.Errorf("one more: got %v, want %v", err, errMany)
	}
	ends[0]()
	ends[0]() // twice is once
	if _, err := c.begin("d", f.SHA256); err != nil {
		t.Errorf("after one ended: %v", err)
	}
	if _, err := c.begin("d", f.SHA256); !errors.Is(err, errMany) {
		t.Errorf("and one more: got %v, want %v", err, errMany)
	}
	// However many devices show something, what is remembered is bounded.
	for n := range 2 * maxCallers {
		sum := sha256.Sum256([]byte{byte(n), byte(n >> 8)})
		if err := c.admit(trust.Shown{Device: hex.EncodeToString(sum[:8]), Version: 1, Expires: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.of); n > maxCallers {
		t.Errorf("got %d callers remembered, want at most %d", n, maxCallers)
	}
	if c.of["d"] == nil {
		t.Error("a device with transfers under way was forgotten")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limit(inner, 2)
	accepted := make(chan net.Conn, 8)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	var open []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	first := <-accepted
	<-accepted
	select {
	case <-accepted:
		t.Error("a third connection was accepted beside two")
	case <-time.After(100 * time.Millisecond):
	}
	first.Close()
	select {
	case <-accepted:
	case <-time.After(30 * time.Second):
		t.Error("a freed place was not used")
	}
	l.Close()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("Accept goes on after Close")
	}
	_ = open
}

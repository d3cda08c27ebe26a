package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/agent/router"
	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/fleettest"
	"github.com/bothy-edge/bothy/updater/peer/peertest"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// enrolledBox is a box with trust and artifacts, and none of what serves.
func enrolledBox(t *testing.T, f *fleet.Fleet, device string, edit func(*Config)) *box {
	t.Helper()
	dir := t.TempDir()
	id := fleettest.Enrol(t, f, filepath.Join(dir, IdentityFolder), device)
	c := Config{State: dir, Runtime: dir}
	if edit != nil {
		edit(&c)
	}
	b := &box{o: Options{Config: c}, log: slog.New(slog.DiscardHandler), identity: &id, router: router.New(router.Config{})}
	b.gateway = gateway.New(gateway.Config{Router: b.router})
	t.Cleanup(b.close)
	db, _, err := store.Open(t.Context(), store.Options{Path: b.path("bothy.db")})
	if err != nil {
		t.Fatal(err)
	}
	b.closing("store", db.Close)
	slots, err := store.OpenSlots(dir, "marks")
	if err != nil {
		t.Fatal(err)
	}
	b.trust, err = trust.Open(trust.Config{DB: db, Slots: slots, Device: id.Device, CatalogRoot: id.CatalogRoot, DirectorRoot: id.DirectorRoot})
	if err != nil {
		t.Fatal(err)
	}
	if b.artifacts, err = content.Open(b.path("artifacts")); err != nil {
		t.Fatal(err)
	}
	b.closing("artifacts", b.artifacts.Close)
	return b
}

// certify gives boxes certificates of one authority, in the files of an identity.
func certify(t *testing.T, boxes ...*box) {
	t.Helper()
	a := peertest.New(t)
	for _, b := range boxes {
		own := a.Issue(b.identity.Device, b.identity.Key.Public().(ed25519.PublicKey))
		for name, text := range map[string][]byte{trust.CertificateFile: own, trust.AuthorityFile: a.PEM} {
			if err := os.WriteFile(filepath.Join(b.path(IdentityFolder), name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func names(all []content.Source) string {
	var out []string
	for _, s := range all {
		out = append(out, s.Name())
	}
	return strings.Join(out, " ")
}

func TestSourcesAreAskedInTheConfiguredOrder(t *testing.T) {
	f := fleettest.Make(t, "")
	everything := func(c *Config) {
		c.Updates.Directory = "/mnt/updates"
		c.Peers.Addresses = []string{"10.0.0.8:7443", "10.0.0.9:7443"}
		c.Mirror.URL = "https://mirror.example/fleet"
	}
	for _, c := range []struct {
		order []string
		edit  func(*Config)
		want  string
	}{
		{nil, func(*Config) {}, ""},
		{nil, everything, "directory peer 10.0.0.8:7443 peer 10.0.0.9:7443 mirror"},
		{[]string{"mirror", "directory"}, everything, "mirror directory"},
		{[]string{"mqtt", "mirror"}, everything, "mirror"},
		{[]string{"peers"}, func(*Config) {}, ""},
	} {
		b := enrolledBox(t, f, "box-1", func(config *Config) { c.edit(config); config.Updates.Sources = c.order })
		if err := b.openSupply(); err != nil {
			t.Fatal(err)
		}
		if got := names(b.supply.sources()); got != c.want {
			t.Errorf("order %v: got %q, want %q", c.order, got, c.want)
		}
	}
}

func TestSourcesThatCannotBeAreRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"updates: {sources: [mqtt, usb]}", `"usb"`},
		{"updates: {sources: [mqtt, mqtt]}", "at most once"},
		{"updates: {directory: mnt/x}", "absolute path"},
		{"mirror: {url: ftp://m/x}", "https://host/folder"},
		{"mirror: {url: http://m/x}", "allow_plaintext"},
		{"mirror: {url: https://m/x, proxy: maybe}", "environment, none"},
		{"mirror: {url: https://m/x, cert: a}", "name both"},
		{"peers: {listen: 7443}", "host:port"},
		{"peers: {addresses: [press-8]}", "host:port"},
		{"peers: {rate: fast}", "32MiB"},
	} {
		if _, err := LoadConfig(configFile(t, c.text), true); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := LoadConfig(configFile(t, "mirror: {url: https://m/x, proxy: http://p:3128}\npeers: {listen: ':7443'}\n"), true); err != nil {
		t.Errorf("a sound one: %v", err)
	}
}

// broken is a source of metadata that nobody answers at.
type broken struct{ asked *int }

func (b broken) Metadata(context.Context, trust.Repo, string, int64) ([]byte, error) {
	*b.asked++
	return nil, errors.New("no route to host")
}

func TestNewsComeFromWhoeverHasThem(t *testing.T) {
	f := fleettest.Make(t, "")
	for _, text := range []string{"one", "two"} {
		fleettest.Publish(t, f, fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{fleettest.Bytes(t, "m.gguf", []byte(text))}})
	}
	old := t.TempDir()
	fleettest.Assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	if _, err := f.Mirror(t.Context(), fleet.MirrorOptions{To: old}); err != nil {
		t.Fatal(err)
	}
	fleettest.Assign(t, f, "box-1", map[string]string{"chat": "mote@2"}, "")
	b := enrolledBox(t, f, "box-1", nil)
	stale, fresh := trust.Directory{Dir: old, Device: "box-1"}, trust.Directory{Dir: f.Dir(), Device: "box-1"}
	asked := 0
	o := offering{client: b.trust, broker: broken{&asked}, there: func() bool { return false }, log: b.log}
	refresh := func(others ...trust.Source) (uint64, error) {
		o.others = others
		want, err := o.Refresh(t.Context())
		return want.Counter, err
	}
	if n, err := refresh(broken{&asked}, stale); n != 1 || err != nil || asked != 1 {
		t.Errorf("one is down: got want %d, %v, %d askings in vain, want 1 from the other, and the broker left alone", n, err, asked)
	}
	if n, err := refresh(fresh); n != 2 || err != nil {
		t.Errorf("newer: got want %d, %v, want 2", n, err)
	}
	if n, err := refresh(stale, fresh); n != 2 || err != nil {
		t.Errorf("one lags behind: got want %d, %v, want 2 from the other", n, err)
	}
	if _, err := refresh(stale); trust.CodeOf(err) != trust.Rollback {
		t.Errorf("only one that lags behind: got %v, want a refusal %q", err, trust.Rollback)
	}
	asked = 0
	if _, err := refresh(); err == nil || asked != 1 {
		t.Errorf("nobody but the broker: got %v and %d askings, want it asked", err, asked)
	}
	o.there = func() bool { return true }
	asked = 0
	if n, err := refresh(fresh); n != 2 || err != nil || asked != 1 {
		t.Errorf("the broker is there and fails: got want %d, %v, %d askings, want both asked", n, err, asked)
	}
}

func TestBoxesGiveEachOtherFiles(t *testing.T) {
	f := fleettest.Make(t, "")
	weights := bytes.Repeat([]byte("weights "), 300_000)
	doc := fleettest.Publish(t, f, fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{fleettest.Bytes(t, "m.gguf", weights)}})
	address := parts.FreeAddr(t)
	giver := enrolledBox(t, f, "giver", func(c *Config) { c.Peers = PeersConfig{Listen: address, Rate: 64 << 20} })
	taker := enrolledBox(t, f, "taker", func(c *Config) { c.Peers.Addresses = []string{address} })
	for _, b := range []*box{giver, taker} {
		fleettest.Assign(t, f, b.identity.Device, map[string]string{"chat": "mote@1"}, "")
		if _, err := b.trust.Refresh(t.Context(), trust.Directory{Dir: f.Dir(), Device: b.identity.Device}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := giver.artifacts.Fetch(t.Context(), doc.Primary(), []content.Source{content.Directory{Dir: f.Dir()}}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- giver.servePeers(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := parts.WaitDial("tcp", address, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := taker.openSupply(); err != nil {
		t.Fatal(err)
	}
	fetch := func() error {
		_, err := taker.artifacts.Fetch(t.Context(), doc.Primary(), taker.supply.sources(), nil)
		return err
	}
	if err := fetch(); err == nil || !strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "tls") {
		t.Errorf("without certificates: got %v", err)
	}
	// Certificates that come later are used without a restart.
	certify(t, giver, taker)
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	spans, err := taker.artifacts.Origin(doc.Primary().SHA256)
	if want := fmt.Sprint([]content.Span{{Offset: 0, Length: int64(len(weights)), Source: "peer giver"}}); err != nil || fmt.Sprint(spans) != want {
		t.Errorf("got origin %v, %v, want %s", spans, err, want)
	}
}

func TestDoctorKnocksAtTheMirror(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for url, want := range map[string]Health{
		"https://" + l.Addr().String() + "/fleet":        HealthOK,
		"https://" + parts.FreeAddr(t) + "/fleet":        HealthWarning,
		"http://name.invalid/without/a/port/and/address": HealthWarning,
	} {
		if got := examineMirror(t.Context(), url); got.Severity != want {
			t.Errorf("%s: got %+v, want %s", url, got, want)
		}
	}
}

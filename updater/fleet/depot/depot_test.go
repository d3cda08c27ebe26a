package depot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

var _ Fleet = (*fleet.Fleet)(nil)

// folder is a fleet of one blob folder, with metadata in memory.
type folder struct {
	dir   string
	kept  string // path of the one file of the suite of sources
	whole []byte // what belongs there

	mu       sync.Mutex
	devices  []string
	metadata map[string][]byte // repo/device/name
	allowed  map[string]bool   // "device digest"
}

func newFolder(t testing.TB) *folder {
	return &folder{dir: t.TempDir(), metadata: map[string][]byte{}, allowed: map[string]bool{}}
}

func (f *folder) Devices() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.devices...), nil
}

func (f *folder) Metadata(repo trust.Repo, device, name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if repo == trust.Catalog {
		device = ""
	}
	if b, ok := f.metadata[string(repo)+"/"+device+"/"+name]; ok {
		return b, nil
	}
	return nil, trust.ErrNotFound
}

func (f *folder) Blob(digest string) (string, error) { return filepath.Join(f.dir, digest), nil }

func (f *folder) Index(digest string) ([]byte, error) {
	return os.ReadFile(filepath.Join(f.dir, digest+".index"))
}

func (f *folder) Allowed(device, digest string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.allowed[device+" "+digest], nil
}

func (f *folder) set(repo trust.Repo, device, name, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.metadata[string(repo)+"/"+device+"/"+name] = []byte(text)
}

// add puts a blob in the folder and gives it to the devices.
func (f *folder) add(t testing.TB, b []byte, devices ...string) release.File {
	t.Helper()
	x, err := content.BuildIndex(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	file := release.File{Path: "model.gguf", Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:]), IndexSHA256: x.SHA256()}
	if err := errors.Join(os.WriteFile(filepath.Join(f.dir, file.SHA256), b, 0o600),
		os.WriteFile(filepath.Join(f.dir, file.SHA256+".index"), x.Encode(), 0o600)); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range devices {
		f.allowed[d+" "+file.SHA256] = true
	}
	return file
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// serve runs a depot until stop, and waits until it has announced itself.
func serve(t testing.TB, url string, f Fleet, edit func(*Config)) (stats Stats, stop func()) {
	t.Helper()
	ready := make(chan Stats, 1)
	cfg := Config{
		Fleet: f, Tenant: "acme", Depot: "depot1", FrameMax: content.DefaultFrame, Poll: 20 * time.Millisecond, Ready: ready,
		Session: mqtt.Config{Broker: url, Jitter: func() float64 { return 0.05 }},
	}
	if edit != nil {
		edit(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case stats = <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("the depot ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the depot does not get ready")
	}
	return stats, stop
}

// source is a device's side: a bulk connection and a source on it.
func source(t testing.TB, url, device string) *content.Depot {
	t.Helper()
	b, err := mqtt.NewBulk(mqtt.Config{Broker: url, Jitter: func() float64 { return 0.05 }}, wire.Topics{Tenant: "acme", Device: device}, "depot1")
	if err != nil {
		t.Fatal(err)
	}
	return content.NewDepot(b)
}

func openStore(t testing.TB, dir string) *content.Store {
	t.Helper()
	s, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// mustFetch fetches and compares every byte.
func mustFetch(t testing.TB, s *content.Store, f release.File, want []byte, src content.Source, progress func(content.Progress)) {
	t.Helper()
	path, err := s.Fetch(timeout(t), f, []content.Source{src}, progress)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes (%v), want the %d that were served", len(got), err, len(want))
	}
}

func TestFetchOverMosquitto(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	want := noise(1, 20<<20+12345)
	f := fleet.add(t, want, "box1")
	serve(t, b.URL, fleet, nil)
	var last content.Progress
	mustFetch(t, openStore(t, t.TempDir()), f, want, source(t, b.URL, "box1"), func(p content.Progress) { last = p })
	if last.State != content.StateDone || last.Done != f.Size || last.BySource["mqtt"] != f.Size {
		t.Errorf("got last progress %+v, want %d bytes from mqtt", last, f.Size)
	}
}

func TestEmptyFileAndMetadataOverMosquitto(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	f := fleet.add(t, nil, "box1")
	long := string(noise(3, 700<<10))
	fleet.set(trust.Catalog, "", "targets.json", long)
	fleet.set(trust.Director, "box1", "timestamp.json", "mine")
	serve(t, b.URL, fleet, nil)
	src := source(t, b.URL, "box1")
	mustFetch(t, openStore(t, t.TempDir()), f, nil, src, nil)
	for _, c := range []struct {
		repo, name, want string
		max              int64
		err              error
	}{
		{"catalog", "targets.json", long, 1 << 20, nil},
		{"catalog", "targets.json", "", 1 << 19, content.ErrCorrupt},
		{"director", "timestamp.json", "mine", 100, nil},
		{"director", "9.root.json", "", 100, content.ErrNotFound},
		{"keys", "root.pem", "", 100, content.ErrNotFound},
		{"director", "../box2/timestamp.json", "", 100, content.ErrNotFound},
	} {
		got, err := src.Metadata(timeout(t), c.repo, c.name, c.max)
		if string(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s/%s: got %d bytes, %v, want %d bytes, %v", c.repo, c.name, len(got), err, len(c.want), c.err)
		}
	}
}

func TestDeviceIsRefusedWhatItsSetDoesNotName(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	f := fleet.add(t, noise(1, 1<<20), "box1")
	serve(t, b.URL, fleet, nil)
	_, err := openStore(t, t.TempDir()).Fetch(timeout(t), f, []content.Source{source(t, b.URL, "box2")}, nil)
	if !errors.Is(err, content.ErrForbidden) {
		t.Fatalf("got %v, want a refusal", err)
	}
}

// during runs act once, in the middle of a fetch of 48 MiB, and fails unless the fetch still succeeds.
func during(t *testing.T, url string, fleet *folder, act func()) {
	t.Helper()
	want := noise(7, 48<<20)
	f := fleet.add(t, want, "box1")
	var once sync.Once
	acted := make(chan struct{})
	mustFetch(t, openStore(t, t.TempDir()), f, want, source(t, url, "box1"), func(p content.Progress) {
		if p.Done > f.Size/3 {
			once.Do(func() {
				go func() { defer close(acted); act() }()
			})
		}
	})
	select {
	case <-acted:
	case <-time.After(30 * time.Second):
		t.Fatal("the fetch ended before the fault")
	}
}

func TestFetchSurvivesABrokerKilledAndRestarted(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	serve(t, b.URL, fleet, nil)
	during(t, b.URL, fleet, func() {
		b.Kill()
		b.Start(t)
	})
}

func TestFetchSurvivesADepotRestarted(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	_, stop := serve(t, b.URL, fleet, nil)
	during(t, b.URL, fleet, func() {
		stop()
		serve(t, b.URL, fleet, nil)
	})
}

func TestOffersAreRetainedAndFollowTheFleet(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	fleet.devices = []string{"box1", "box2"}
	fleet.set(trust.Catalog, "", timestamp, "catalog 1")
	fleet.set(trust.Director, "box1", timestamp, "want 1")
	fleet.set(trust.Director, "box2", timestamp, "of another")
	reports := make(chan Report, 16)
	serve(t, b.URL, fleet, func(c *Config) { c.Reports = func(r Report) { reports <- r } })
	d, err := mqtt.NewDevice(mqtt.Config{Broker: b.URL, Jitter: func() float64 { return 0.05 }}, wire.Topics{Tenant: "acme", Device: "box1"}, 5)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	awaitOffer(t, d, "want 1", "catalog 1")
	fleet.set(trust.Director, "box1", timestamp, "want 2")
	awaitOffer(t, d, "want 2", "catalog 1")
	// A broker that comes back without its memory is told everything again, by both sides.
	b.Kill()
	b.Start(t)
	fleet.set(trust.Catalog, "", timestamp, "catalog 2")
	awaitOffer(t, d, "want 2", "catalog 2")
	d.Report([]byte("signed state"))
	awaitReport(t, reports, "state", "signed state")
	stop()
	<-done
	awaitReport(t, reports, "online", `{"v":1,"online":false,"epoch":5}`)
}

func awaitOffer(t *testing.T, d *mqtt.Device, want, catalog string) {
	t.Helper()
	end := time.After(30 * time.Second)
	for {
		w, c := d.Offered()
		if string(w) == want && string(c) == catalog {
			return
		}
		select {
		case <-d.Offers():
		case <-end:
			t.Fatalf("got want %q and catalog %q, want %q and %q", w, c, want, catalog)
		}
	}
}

func awaitReport(t *testing.T, reports <-chan Report, kind, payload string) {
	t.Helper()
	end := time.After(30 * time.Second)
	for {
		select {
		case r := <-reports:
			if r.Kind == kind && string(r.Payload) == payload && r.Device == "box1" {
				return
			}
		case <-end:
			t.Fatalf("no %s report %q", kind, payload)
		}
	}
}

func TestStaleLastWillIsDropped(t *testing.T) {
	s := &server{epochs: map[string]uint64{}}
	for i, c := range []struct {
		payload string
		want    bool
	}{
		{`{"v":1,"online":true,"epoch":4}`, true},
		{`{"v":1,"online":true,"epoch":6}`, true},
		{`{"v":1,"online":false,"epoch":4}`, false},
		{`{"v":1,"online":false,"epoch":6}`, true},
		{`nonsense`, false},
	} {
		if got := s.newer("box1", []byte(c.payload)); got != c.want {
			t.Errorf("step %d, %s: got %v, want %v", i, c.payload, got, c.want)
		}
	}
}

func TestProbeFindsWhatTheBrokerLetsThrough(t *testing.T) {
	for _, c := range []struct {
		conf string
		want int
	}{
		{"", 960 << 10},
		{"message_size_limit 300000", 240 << 10}, // drops in silence
		{"max_packet_size 130000", 120 << 10},    // disconnects the publisher
	} {
		b, fleet := parts.Mosquitto(t, c.conf), newFolder(t)
		stats, stop := serve(t, b.URL, fleet, func(cfg *Config) { cfg.FrameMax = 0 })
		if stats.FrameMax != c.want {
			t.Errorf("%q: got frames of %d, want %d", c.conf, stats.FrameMax, c.want)
		}
		stop()
	}
}

func TestFetchOverTheEmbeddedBroker(t *testing.T) {
	b, err := EmbeddedBroker(BrokerOptions{Addr: "127.0.0.1:0", Tenant: "acme", Depot: "depot1"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	fleet := newFolder(t)
	want := noise(4, 5<<20)
	f := fleet.add(t, want, "box1")
	_, stop := serve(t, b.URL(), fleet, nil)
	mustFetch(t, openStore(t, t.TempDir()), f, want, source(t, b.URL(), "box1"), nil)
	stop()
}

func TestEmbeddedBrokerKeepsDevicesApart(t *testing.T) {
	a := &access{root: "bothy/1/acme/", operator: "depot1", hears: func(device, id string) bool {
		return device == "box1" && id == "01000000000000000000000000000000"
	}}
	topics := wire.Topics{Tenant: "acme", Device: "box1"}
	other := topics.For("box2")
	for _, c := range []struct {
		client, topic string
		write, want   bool
	}{
		{"box1", topics.Want(), false, true},
		{"box1", topics.Want(), true, false},
		{"box1", topics.State(), true, true},
		{"box1-bulk", topics.Request("depot1"), true, true},
		{"box1-bulk", topics.Reply(), false, true},
		{"box1-bulk", topics.Info("depot1"), false, true},
		{"box1", topics.Info("depot1"), true, false},
		{"box1", other.Reply(), false, false},
		{"box1", other.Request("depot1"), true, false},
		{"box1", other.Event(), true, false},
		{"box1", "bothy/1/acme/#", false, false},
		{"box1", "bothy/1/acme/d/+/rx", false, false},
		{"box1", "bothy/1/acme/d/box1/#", false, false},
		{"box1", "bothy/1/other/catalog", false, false},
		{"depot1", topics.Want(), true, true},
		{"depot1-bulk", topics.Requests("depot1"), false, true},
		{"depot1-probe", topics.Probe("depot1"), true, true},
		{"box1-probe", topics.Want(), false, false},
		{"box1-bulk", topics.Cast([16]byte{1}), false, true},
		{"box1-bulk", topics.Cast([16]byte{2}), false, false},
		{"box2-bulk", topics.Cast([16]byte{1}), false, false},
		{"box1-bulk", topics.Cast([16]byte{1}), true, false},
		{"box1-bulk", "bothy/1/acme/b/+/cast", false, false},
		{"box1-bulk", topics.Feedback([16]byte{1}), true, true},
		{"box1-bulk", topics.Feedback([16]byte{1}), false, false},
		{"box1-bulk", other.Feedback([16]byte{1}), true, false},
		{"depot1-bulk", topics.Feedbacks(), false, true},
		{"depot1-bulk", topics.Cast([16]byte{2}), true, true},
	} {
		if got := a.OnACLCheck(client(c.client), c.topic, c.write); got != c.want {
			t.Errorf("%s on %s, write %v: got %v, want %v", c.client, c.topic, c.write, got, c.want)
		}
	}
}

func TestEmbeddedBrokerIsNoPlaceToPassForAnother(t *testing.T) {
	for _, c := range []struct {
		o    BrokerOptions
		want string
	}{
		{BrokerOptions{Addr: "0.0.0.0:0"}, "--allow-plaintext"},
		{BrokerOptions{Addr: ":0"}, "--allow-plaintext"},
		{BrokerOptions{Addr: "127.0.0.1:0", TLS: &tls.Config{MinVersion: tls.VersionTLS12}}, "--ca"},
		{BrokerOptions{Addr: "nonsense"}, "port"},
		{BrokerOptions{Addr: "0.0.0.0:0", AllowPlain: true}, ""},
		{BrokerOptions{Addr: "localhost:0"}, ""},
	} {
		c.o.Tenant, c.o.Depot = "acme", "depot1"
		b, err := EmbeddedBroker(c.o)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.o, err, c.want)
		}
		if err == nil {
			b.Close()
		}
	}
}

func TestEmbeddedBrokerRefusesALastWillForAnother(t *testing.T) {
	b, err := EmbeddedBroker(BrokerOptions{Addr: "127.0.0.1:0", Tenant: "acme", Depot: "depot1"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	box1 := wire.Topics{Tenant: "acme", Device: "box1"}
	for topic, want := range map[string]bool{box1.Online(): true, box1.For("box2").Online(): false, box1.Want(): false} {
		s, err := mqtt.New(mqtt.Config{Broker: b.URL(), ClientID: "box1", Will: &mqtt.Message{Topic: topic, QoS: 1, Retain: true, Payload: []byte("{}")}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		var got bool
		for changed := s.Changed(); ; changed = s.Changed() {
			if st := s.Status(); st.Connected || st.LastError != "" {
				got = st.Connected
				break
			}
			<-changed
		}
		if got != want {
			t.Errorf("last will on %s: connected %v (%s), want %v", topic, got, s.Status().LastError, want)
		}
		stop()
		<-done
	}
}

func client(id string) *mochi.Client { return &mochi.Client{ID: id} }

package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/depot"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/trust"
)

// certified is a fleet and one device of it, in a folder, at a time that a test sets.
type certified struct {
	t   *testing.T
	f   *fleet.Fleet
	dir string // of the identity
	now time.Time
}

func newCertified(t *testing.T, broker string) *certified {
	t.Helper()
	c := &certified{t: t, dir: filepath.Join(t.TempDir(), IdentityFolder), now: time.Now()}
	f, err := fleet.Init(fleet.Options{Dir: t.TempDir(), Tenant: "acme", Broker: broker, Keys: 1, Threshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	f.Now = func() time.Time { return c.now }
	c.f = f
	return c
}

// enrol makes the device press-7 as `bothy enroll` does, with a file in between.
func (c *certified) enrol(device string) trust.Identity {
	c.t.Helper()
	token, err := c.f.NewToken(fleet.TokenOptions{Device: device, Approve: true})
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := trust.DeviceKey(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	raw, err := enrolment.MakeRequest(token, key)
	if err != nil {
		c.t.Fatal(err)
	}
	if raw, err = c.f.Enrol(raw); err != nil {
		c.t.Fatal(err)
	}
	a, err := enrolment.OpenAnswer(token, key.Public().(ed25519.PublicKey), raw)
	if err != nil {
		c.t.Fatal(err)
	}
	id, err := trust.EnrollWith(c.dir, a.Ticket(token), a.Device, trust.Credentials{
		Certificate: []byte(a.Certificate), Authority: []byte(a.Authority), BrokerCA: []byte(token.BrokerCA),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

// renewal is the fleet's answer to a device that asks by this key.
func (c *certified) renewal(device string, key ed25519.PrivateKey) []byte {
	c.t.Helper()
	raw, err := enrolment.MakeRenewal(device, key)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := c.f.RenewDevice(device, raw)
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := enrolment.EncodeRenewal(text)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

func (c *certified) credentials(id trust.Identity) *credentials {
	c.t.Helper()
	creds := newCredentials(c.dir, id, func() time.Time { return c.now }, slog.New(slog.DiscardHandler))
	if creds == nil {
		c.t.Fatal("the certificate cannot be used")
	}
	return creds
}

func TestCertificateIsAskedForAtTwoThirdsOfItsLife(t *testing.T) {
	c := newCertified(t, "")
	creds := c.credentials(c.enrol("press-7"))
	begin, end := creds.cert.Leaf.NotBefore, creds.expires()
	life := end.Sub(begin)
	for _, step := range []struct {
		at   time.Time
		want bool
	}{
		{begin, false}, {begin.Add(life * 2 / 3), false}, // spread behind that
		{begin.Add(life*2/3 + life/20), true},
		{begin.Add(life*2/3 + life/20 + time.Minute), false}, // it was just asked for
		{begin.Add(life*2/3 + life/20 + renewAgain), true},
		{begin.Add(life * 3 / 4), true},
		{end.Add(time.Hour), true}, // late, too: the broker may let it in
	} {
		c.now = step.at
		if got := creds.due(); got != step.want {
			t.Errorf("at %s of %s: got due %v, want %v", step.at.Sub(begin), life, got, step.want)
		}
	}
	if a, b := spread("press-7"), spread("press-8"); a == b || a < 0 || a >= 1 || b < 0 || b >= 1 {
		t.Errorf("got %v and %v, want two different shares", a, b)
	}
}

func TestOnlyALaterCertificateOfTheDeviceIsTaken(t *testing.T) {
	c := newCertified(t, "")
	id := c.enrol("press-7")
	creds := c.credentials(id)
	first := c.renewal("press-7", id.Key)
	if taken, err := creds.take(first); taken || err != nil {
		t.Errorf("got taken %v, %v for the certificate that it has, want neither", taken, err)
	}
	before, err := os.ReadFile(creds.path)
	if err != nil {
		t.Fatal(err)
	}
	// Of another device of the fleet, of another fleet, and nonsense.
	neighbour := newCertified(t, "")
	neighbour.f = c.f
	strange := newCertified(t, "")
	for name, answer := range map[string][]byte{
		"neighbour": neighbour.renewal("press-8", neighbour.enrol("press-8").Key),
		"strange":   strange.renewal("press-7", strange.enrol("press-7").Key),
		"nonsense":  []byte(`{"v":1,"certificate":"x"}`), "no JSON": []byte("x"), "version": []byte(`{"v":2}`), "large": make([]byte, 1<<20),
	} {
		if taken, err := creds.take(answer); taken || err == nil {
			t.Errorf("%s: got taken %v, %v, want a refusal", name, taken, err)
		}
	}
	if after, err := os.ReadFile(creds.path); err != nil || string(after) != string(before) {
		t.Errorf("the file changed (%v), want it kept", err)
	}
	c.now = c.now.Add(300 * 24 * time.Hour)
	next := c.renewal("press-7", id.Key)
	if taken, err := creds.take(next); !taken || err != nil {
		t.Fatalf("got taken %v, %v for a later certificate, want it", taken, err)
	}
	if taken, err := creds.take(first); taken || err != nil {
		t.Errorf("got taken %v, %v for a replayed one, want it ignored", taken, err)
	}
	again, err := trust.LoadIdentity(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.credentials(again).expires(); !got.Equal(creds.expires()) || !again.Key.Equal(id.Key) {
		t.Errorf("got a certificate until %s after a restart, want %s and the same key", got, creds.expires())
	}
}

// A damaged certificate costs the broker's connection, never the agent.
func TestDamagedCertificateDoesNotKeepTheAgentFromServing(t *testing.T) {
	c := newCertified(t, "tls://127.0.0.1:1")
	c.enrol("press-7")
	if err := os.WriteFile(filepath.Join(c.dir, trust.CertificateFile), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := trust.LoadIdentity(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := newLink(BrokerConfig{}, c.dir, id, openTestStore(t), store.Report{}, slog.New(slog.DiscardHandler)); err != nil || l.credentials != nil {
		t.Errorf("got %v, want a link without a certificate", err)
	}
	if e := examineCertificate(id, time.Now()); e.Severity != HealthWarning || !strings.Contains(e.Hint, "bothy enroll TOKEN") {
		t.Errorf("the doctor says %+v, want a warning", e)
	}
}

func TestExpiringCertificateIsAFinding(t *testing.T) {
	now := time.Now()
	for _, step := range []struct {
		end  time.Time
		want string
	}{{time.Time{}, ""}, {now.Add(60 * 24 * time.Hour), ""}, {now.Add(20 * 24 * time.Hour), "expires on"}, {now.Add(-time.Hour), "expired on"}} {
		f, bad := certificateFinding(step.end, now)
		if bad != (step.want != "") || !strings.Contains(f.What, step.want) {
			t.Errorf("%s: got %+v, want %q", step.end, f, step.want)
		}
	}
}

// The whole way over a real connection: the agent asks, the depot answers, the
// agent shows the new certificate, and the fleet never sees another key.
func TestCertificateIsRenewedOverTheBrokerWithoutARestart(t *testing.T) {
	b := parts.Mosquitto(t)
	c := newCertified(t, b.URL)
	id := c.enrol("press-7")
	c.now = c.now.Add(300 * 24 * time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	served := make(chan error, 1)
	ready := make(chan depot.Stats, 1)
	go func() {
		served <- depot.Serve(ctx, depot.Config{Fleet: c.f, Enroll: c.f, Tenant: "acme", Depot: "depot", FrameMax: 60 << 10, Session: mqtt.Config{Broker: b.URL}, Ready: ready})
	}()
	select {
	case <-ready:
	case err := <-served:
		t.Fatalf("got %v, want a depot", err)
	}
	db, log := openTestStore(t), slog.New(slog.DiscardHandler)
	l, err := newLink(BrokerConfig{}, c.dir, id, db, store.Report{}, log)
	if err != nil {
		t.Fatal(err)
	}
	l.orders = newOrders(&judge{}, db, l.outbox, log)
	before := l.expires()
	l.credentials.now = func() time.Time { return before.Add(-24 * time.Hour) }
	ran := make(chan error, 2)
	go func() { ran <- l.control.Run(ctx) }()
	go func() { ran <- l.renew(ctx) }()
	// renew looks at once and then every minute; the connection may come after its first look.
	if err := l.control.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	l.askCertificate(ctx)
	for !l.expires().After(before) {
		select {
		case <-ctx.Done():
			t.Fatal("no new certificate came")
		case <-time.After(10 * time.Millisecond):
		}
	}
	shown, err := l.credentials.show(nil)
	if err != nil || !shown.Leaf.NotAfter.After(before) {
		t.Errorf("got a certificate until %v, %v, want the new one shown", shown.Leaf.NotAfter, err)
	}
	if d, err := c.f.Device("press-7"); err != nil || len(d.Issued) != 2 || !d.PublicKey.Equal(id.Key.Public()) {
		t.Errorf("got %+v, %v, want two certificates for one key", d, err)
	}
	cancel()
	for range 2 {
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func openTestStore(t *testing.T) *store.DB {
	t.Helper()
	db, _, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "bothy.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestStrangeKeyMakesNoCredentials(t *testing.T) {
	c := newCertified(t, "")
	id := c.enrol("press-7")
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id.Key = other
	if newCredentials(c.dir, id, time.Now, slog.New(slog.DiscardHandler)) != nil {
		t.Error("a certificate for another key was taken")
	}
}

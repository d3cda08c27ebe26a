package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

// fenced is a fleet with a Mosquitto that is configured by nothing but `fleet acl`.
type fenced struct {
	t      *testing.T
	f      *fleet.Fleet
	out    string // the broker's files
	broker *parts.Broker
	topics wire.Topics
}

func newFenced(t *testing.T) *fenced {
	t.Helper()
	w := &fenced{t: t, out: filepath.Join(t.TempDir(), "broker"), topics: wire.Topics{Tenant: "acme", Device: "press-7"}}
	devices, boxes := parts.FreeAddr(t), parts.FreeAddr(t)
	var err error
	w.f, err = fleet.Init(fleet.Options{
		Dir: t.TempDir(), Tenant: "acme", Broker: "tls://" + devices, EnrollBroker: "tls://" + boxes, Keys: 1, Threshold: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.write()
	conf, err := os.ReadFile(filepath.Join(w.out, "mosquitto.conf"))
	if err != nil {
		t.Fatal(err)
	}
	w.broker = parts.MosquittoConf(t, devices, string(conf))
	return w
}

// write writes the broker's files.
func (w *fenced) write() {
	w.t.Helper()
	if err := writeBroker(w.f, w.out, nil); err != nil {
		w.t.Fatal(err)
	}
}

// reload writes them again and has the broker read them. The broker logs nothing
// that could be waited for, so callers repeat what shall then hold.
func (w *fenced) reload() {
	w.t.Helper()
	w.write()
	w.broker.Signal(syscall.SIGHUP)
}

func (w *fenced) token(o fleet.TokenOptions) enrolment.Token {
	w.t.Helper()
	token, err := w.f.NewToken(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// enrol makes a device without a broker and returns how it connects.
func (w *fenced) enrol(device string) *tls.Config {
	w.t.Helper()
	token := w.token(fleet.TokenOptions{Device: device, Approve: true})
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := enrolment.MakeRequest(token, key)
	if err != nil {
		w.t.Fatal(err)
	}
	if raw, err = w.f.Enrol(raw); err != nil {
		w.t.Fatal(err)
	}
	a, err := enrolment.OpenAnswer(token, key.Public().(ed25519.PublicKey), raw)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := enrolment.ParseCertificate([]byte(a.Certificate))
	if err != nil {
		w.t.Fatal(err)
	}
	conf := w.trusting()
	conf.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(8) // a session that goes on must not outlive a revocation
	return conf
}

// assign gives a device a policy of its own, and returns what names the cast of that file.
func (w *fenced) assign(device, name string) [16]byte {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(path, []byte("schema: 1\nname: "+name+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	doc, err := w.f.Add(w.t.Context(), fleet.AddOptions{Kind: release.Policy, Name: name, Files: []string{path}})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.f.Sign(); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.f.Assign(device, nil, doc.ID()); err != nil {
		w.t.Fatal(err)
	}
	raw, err := hex.DecodeString(doc.Files[0].SHA256)
	if err != nil {
		w.t.Fatal(err)
	}
	return [16]byte(raw)
}

func (w *fenced) trusting() *tls.Config {
	w.t.Helper()
	ca, err := w.f.BrokerAuthority()
	if err != nil {
		w.t.Fatal(err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	conf.RootCAs.AppendCertsFromPEM(ca)
	return conf
}

// client is a connection that tells what came, by topic.
type client struct {
	*mqtt.Session
	t    *testing.T
	came chan mqtt.Message
}

// connect returns a client once it is connected, or nil when the broker refuses it.
func (w *fenced) connect(c mqtt.Config, filters ...string) *client {
	w.t.Helper()
	cl := &client{t: w.t, came: make(chan mqtt.Message, 256)}
	for _, f := range filters {
		c.Subscriptions = append(c.Subscriptions, mqtt.Subscription{Filter: f, QoS: 1, Handle: mqtt.Into(cl.came)})
	}
	if c.Broker == "" {
		c.Broker = w.f.Broker()
	}
	var err error
	if cl.Session, err = mqtt.New(c); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cl.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	for {
		changed := cl.Changed()
		switch s := cl.Status(); {
		case s.Connected:
			return cl
		case s.LastError != "":
			w.t.Logf("%s is refused: %s", c.ClientID, s.LastError)
			cancel()
			return nil
		}
		<-changed
	}
}

func (c *client) send(topic string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Publish(ctx, topic, 1, false, []byte("x")); err != nil {
		c.t.Fatalf("cannot publish to %s: %v", topic, err)
	}
}

// until lists what came before a message on the last topic, which is known to arrive.
func (c *client) until(last string) map[string]bool {
	c.t.Helper()
	got := map[string]bool{}
	end := time.After(30 * time.Second)
	for {
		select {
		case m := <-c.came:
			if m.Topic == last {
				return got
			}
			got[m.Topic] = true
		case <-end:
			c.t.Fatalf("nothing came on %s", last)
		}
	}
}

// depot is a second connection with the depot's certificate: it may do everything in the tenant.
func (w *fenced) depot(filters ...string) *client {
	w.t.Helper()
	conf, err := serveFlags{}.tls(w.f, w.f.Broker())
	if err != nil {
		w.t.Fatal(err)
	}
	c := w.connect(mqtt.Config{ClientID: "watcher", TLS: conf}, filters...)
	if c == nil {
		w.t.Fatal("the depot is refused")
	}
	return c
}

func TestMosquittoKeepsDevicesToTheirOwnTopics(t *testing.T) {
	w := newFenced(t)
	conf := w.enrol("press-7")
	w.enrol("press-8")
	own, strange := w.assign("press-7", "one"), w.assign("press-8", "another")
	w.reload()
	mine, other := w.topics, w.topics.For("press-8")
	watcher := w.depot(mine.All())
	device := w.connect(mqtt.Config{ClientID: "press-7-bulk", TLS: conf}, mine.All(), "bothy/1/evil/#")
	if device == nil {
		t.Fatal("the device is refused")
	}

	may := []string{mine.State(), mine.Event(), mine.Online(), mine.CertificateRequest(), mine.Request("depot"), mine.Feedback(own)}
	mayNot := []string{
		mine.Want(), mine.Catalog(), mine.Command(), mine.Reply(), mine.Certificate(), mine.Info("depot"), mine.Probe("depot"),
		other.State(), other.Event(), other.Online(), other.CertificateRequest(), other.Request("depot"), other.Want(),
		mine.EnrollRequest("t0"), mine.EnrollAnswer("t0"), "bothy/1/acme/d/press-7", "bothy/1/evil/d/press-7/state",
		mine.Cast(own), other.Feedback(own),
	}
	for _, topic := range append(mayNot, may...) {
		device.send(topic)
	}
	device.send(mine.Request("last")) // one client's messages keep their order
	got := watcher.until(mine.Request("last"))
	for _, topic := range may {
		if !got[topic] {
			t.Errorf("a device cannot write %s", topic)
		}
	}
	for _, topic := range mayNot {
		if got[topic] {
			t.Errorf("a device can write %s", topic)
		}
	}

	mayRead := []string{mine.Catalog(), mine.Command(), mine.Reply(), mine.Certificate(), mine.Info("depot"), mine.Cast(own)}
	mayNotRead := []string{
		mine.State(), mine.Event(), mine.Online(), mine.Request("depot"), other.Want(), other.Command(), other.Reply(), other.State(), other.Certificate(),
		mine.EnrollRequest("t0"), mine.EnrollAnswer("t0"), mine.Cast(strange), mine.Feedback(own),
	}
	for _, topic := range append(mayNotRead, mayRead...) {
		watcher.send(topic)
	}
	watcher.send(mine.Want())
	got = device.until(mine.Want())
	for _, topic := range mayRead {
		if !got[topic] {
			t.Errorf("a device cannot read %s", topic)
		}
	}
	for _, topic := range mayNotRead {
		if got[topic] {
			t.Errorf("a device can read %s", topic)
		}
	}
}

func TestMosquittoKeepsTokensToTheirTwoTopics(t *testing.T) {
	w := newFenced(t)
	conf := w.enrol("press-8")
	token, other := w.token(fleet.TokenOptions{Device: "press-7"}), w.token(fleet.TokenOptions{Device: "press-9"})
	w.reload()
	watcher := w.depot(w.topics.All())
	login := mqtt.Config{Broker: token.Login(), ClientID: "x", Username: token.ID, Password: token.Password(), TLS: w.trusting()}
	// The broker reads its files a moment after the signal.
	var box *client
	for end := time.Now().Add(30 * time.Second); box == nil; box = w.connect(login, w.topics.All()) {
		if time.Now().After(end) {
			t.Fatal("the token is refused")
		}
	}
	mayNot := []string{
		w.topics.EnrollAnswer(token.ID), w.topics.EnrollRequest(other.ID), w.topics.EnrollAnswer(other.ID), w.topics.State(), w.topics.Want(),
		w.topics.For(token.ID).State(), w.topics.For(token.ID).CertificateRequest(), w.topics.Catalog(), w.topics.For(token.ID).Request("depot"),
	}
	for _, topic := range mayNot {
		box.send(topic)
	}
	box.send(w.topics.EnrollRequest(token.ID))
	if got := watcher.until(w.topics.EnrollRequest(token.ID)); len(got) > 0 {
		t.Errorf("a token can write %v", got)
	}
	for _, topic := range []string{w.topics.EnrollRequest(token.ID), w.topics.EnrollAnswer(other.ID), w.topics.Want(), w.topics.For(token.ID).Want(), w.topics.Catalog(), w.topics.Info("depot")} {
		watcher.send(topic)
	}
	watcher.send(w.topics.EnrollAnswer(token.ID))
	if got := box.until(w.topics.EnrollAnswer(token.ID)); len(got) > 0 {
		t.Errorf("a token can read %v", got)
	}

	bad := login
	bad.Password = other.Password()
	devices := login
	devices.Broker = w.f.Broker()
	anonymous := mqtt.Config{Broker: token.Login(), ClientID: "press-8", TLS: w.trusting()}
	certified := mqtt.Config{Broker: token.Login(), ClientID: "press-8", TLS: conf}
	for name, c := range map[string]mqtt.Config{
		"another token's password": bad, "a token where devices connect": devices,
		"nobody where tokens connect": anonymous, "a device where tokens connect": certified,
	} {
		if w.connect(c) != nil {
			t.Errorf("%s: connected", name)
		}
	}
}

func TestMosquittoRefusesARevokedCertificateAfterAReload(t *testing.T) {
	w := newFenced(t)
	gone, stays := w.enrol("press-7"), w.enrol("press-8")
	for device, conf := range map[string]*tls.Config{"press-7": gone, "press-8": stays} {
		if w.connect(mqtt.Config{ClientID: device, TLS: conf}) == nil {
			t.Fatalf("%s is refused before the revocation", device)
		}
	}
	if _, err := w.f.Retire("press-7"); err != nil {
		t.Fatal(err)
	}
	w.reload()
	for end := time.Now().Add(30 * time.Second); w.connect(mqtt.Config{ClientID: "press-7-again", TLS: gone}) != nil; {
		if time.Now().After(end) {
			t.Fatal("a revoked device is let in")
		}
	}
	if w.connect(mqtt.Config{ClientID: "press-8-again", TLS: stays}) == nil {
		t.Error("another device is refused")
	}
	nobody := w.trusting()
	if w.connect(mqtt.Config{ClientID: "press-8", TLS: nobody}) != nil {
		t.Error("a client without a certificate is let in")
	}
}

// The way of a box, with the depot's process in between: it asks, a person
// approves, and it is told without asking again.
func TestEnrolmentOverMosquitto(t *testing.T) {
	w := newFenced(t)
	token := w.token(fleet.TokenOptions{})
	w.reload()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	served := make(chan error, 1)
	go func() { served <- serveFleet(ctx, w.f, serveFlags{}, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 16)
	done := make(chan error, 1)
	var answer enrolment.Answer
	go func() {
		var err error
		answer, err = enrolment.Exchange{Token: token, Key: key, Again: 3 * time.Second, Tell: func(_ enrolment.Answer, trouble string) {
			if trouble == "" {
				told <- struct{}{}
			}
		}}.Run(ctx)
		done <- err
	}()
	select {
	case <-told:
	case err := <-done:
		t.Fatalf("got %v, want to wait for approval", err)
	}
	if _, err := w.f.Approve(token.ID, "press-7", false); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || answer.Device != "press-7" {
		t.Fatalf("got device %q, %v, want press-7", answer.Device, err)
	}
}

func TestBrokerFilesNeedABrokerWithTLS(t *testing.T) {
	f, err := fleet.Init(fleet.Options{Dir: t.TempDir(), Tenant: "acme", Broker: "tcp://127.0.0.1:1883", Keys: 1, Threshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeBroker(f, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "certificates need tls://host:port") {
		t.Errorf("got %v, want to be told about tls://", err)
	}
	if _, _, err := tlsAddress("tls://nothing"); err == nil {
		t.Error("a broker without a port was accepted")
	}
	if host, port, err := tlsAddress("tls://[2001:db8::1]:8883"); err != nil || net.JoinHostPort(host, fmt.Sprint(port)) != "[2001:db8::1]:8883" {
		t.Errorf("got %s, %d, %v", host, port, err)
	}
}

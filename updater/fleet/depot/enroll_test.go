package depot

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// desk is an Enroller that answers with what it was asked, and remembers.
type desk struct {
	mu      sync.Mutex
	asked   []string
	decided atomic.Bool
}

func (d *desk) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, what)
}

func (d *desk) seen() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.asked, " ")
}

func (d *desk) Enrol(raw []byte) ([]byte, error) {
	id, err := enrolment.TokenOf(raw)
	if err != nil {
		return nil, err
	}
	d.note(id)
	return []byte("pending"), nil
}

func (d *desk) Answer(string) ([]byte, error) {
	if d.decided.Load() {
		return []byte("decided"), nil
	}
	return nil, nil
}

func (d *desk) RenewDevice(device string, raw []byte) ([]byte, error) {
	d.note(device)
	if string(raw) != "renew" {
		return nil, errors.New("not signed")
	}
	return []byte("PEM"), nil
}

const tokenA, tokenB = "t00000000000000000001", "t00000000000000000002"

func requestOf(token string) []byte {
	return fmt.Appendf(nil, `{"v":1,"token":%q,"body":"e30=","mac":"AA=="}`, token)
}

// guest is a connection to the broker that tells what comes, as "topic payload".
func guest(t *testing.T, c mqtt.Config, filters ...string) (*mqtt.Session, func(want string)) {
	t.Helper()
	came := make(chan mqtt.Message, 64)
	for _, f := range filters {
		c.Subscriptions = append(c.Subscriptions, mqtt.Subscription{Filter: f, QoS: 1, Handle: mqtt.Into(came)})
	}
	s, err := mqtt.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s, func(want string) {
		t.Helper()
		end := time.After(30 * time.Second)
		for {
			select {
			case m := <-came:
				if m.Topic+" "+string(m.Payload) == want {
					return
				}
			case <-end:
				t.Fatalf("nothing came that is %q", want)
			}
		}
	}
}

func TestDepotAnswersWhereTheTopicSaysAndTellsOfDecisions(t *testing.T) {
	b, clerk := parts.Mosquitto(t), &desk{}
	serve(t, b.URL, newFolder(t), func(c *Config) { c.Enroll, c.Poll = clerk, 50*time.Millisecond })
	topics := wire.Topics{Tenant: "acme", Device: "box1"}
	s, await := guest(t, mqtt.Config{Broker: b.URL, ClientID: "guest"}, topics.EnrollAnswer("+"), topics.Certificate())
	if err := s.Wait(timeout(t)); err != nil {
		t.Fatal(err)
	}
	send := func(topic string, payload []byte) {
		t.Helper()
		if err := s.Publish(timeout(t), topic, 1, false, payload); err != nil {
			t.Fatal(err)
		}
	}
	send(topics.EnrollRequest(tokenB), requestOf(tokenA)) // the answer would go to another's topic
	send(topics.EnrollRequest("nonsense"), requestOf("nonsense"))
	send(topics.EnrollRequest(tokenA), make([]byte, enrolment.MaxRequest+1))
	send(topics.CertificateRequest(), []byte("forged"))
	send(topics.EnrollRequest(tokenA), requestOf(tokenA))
	await(topics.EnrollAnswer(tokenA) + " pending")
	clerk.decided.Store(true)
	await(topics.EnrollAnswer(tokenA) + " decided")
	send(topics.CertificateRequest(), []byte("renew"))
	await(topics.Certificate() + ` {"v":1,"certificate":"PEM"}`)
	if got, want := clerk.seen(), "box1 "+tokenA+" box1"; got != want {
		t.Errorf("the fleet was asked for %q, want %q", got, want)
	}
}

func TestFloodOfEnrolmentsDoesNotHoldTheDepotUp(t *testing.T) {
	b, clerk := parts.Mosquitto(t), &desk{}
	fleet := newFolder(t)
	want := noise(4, 2<<20)
	f := fleet.add(t, want, "box1")
	serve(t, b.URL, fleet, func(c *Config) { c.Enroll = clerk })
	topics := wire.Topics{Tenant: "acme"}
	s, _ := guest(t, mqtt.Config{Broker: b.URL, ClientID: "flood"})
	if err := s.Wait(timeout(t)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(timeout(t))
	var group sync.WaitGroup
	group.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			token := fmt.Sprintf("t%020x", i)
			_ = s.Publish(ctx, topics.EnrollRequest(token), 0, false, requestOf(token)) // lost ones are as good
		}
	})
	mustFetch(t, openStore(t, t.TempDir()), f, want, source(t, b.URL, "box1"), nil)
	stop()
	group.Wait()
}

// own is the embedded broker of a fleet that makes its own certificates.
func own(t *testing.T, ca *authority, admit func(string, *big.Int) error) *Broker {
	t.Helper()
	conf := ca.issue(t, "broker")
	conf.ClientAuth = tls.VerifyClientCertIfGiven
	b, err := EmbeddedBroker(BrokerOptions{
		Addr: "127.0.0.1:0", Tenant: "acme", Depot: "depot1", TLS: conf, Admit: admit,
		Login: func(token, password string) bool { return token == tokenA && password == "secret" },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func connected(t *testing.T, s *mqtt.Session) bool {
	t.Helper()
	for {
		changed := s.Changed()
		if st := s.Status(); st.Connected || st.LastError != "" {
			return st.Connected
		}
		select {
		case <-changed:
		case <-time.After(30 * time.Second):
			t.Fatal("neither connected nor refused")
		}
	}
}

func TestEmbeddedBrokerLetsInWhoHasACertificateOrAToken(t *testing.T) {
	ca := newAuthority(t)
	b := own(t, ca, nil)
	bare := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool}
	for name, c := range map[string]struct {
		cfg  mqtt.Config
		want bool
	}{
		"device":                    {mqtt.Config{ClientID: "box1", TLS: ca.issue(t, "box1")}, true},
		"device as another":         {mqtt.Config{ClientID: "box2", TLS: ca.issue(t, "box1")}, false},
		"device as the depot":       {mqtt.Config{ClientID: "depot1", TLS: ca.issue(t, "box1")}, false},
		"nobody":                    {mqtt.Config{ClientID: "box1", TLS: bare}, false},
		"nobody as the depot":       {mqtt.Config{ClientID: "depot1", TLS: bare}, false},
		"token":                     {mqtt.Config{ClientID: "enroll-" + tokenA, Username: tokenA, Password: "secret", TLS: bare}, true},
		"token, wrong password":     {mqtt.Config{ClientID: "enroll-" + tokenA, Username: tokenA, Password: "guess", TLS: bare}, false},
		"token as a device":         {mqtt.Config{ClientID: "box1", Username: tokenA, Password: "secret", TLS: bare}, false},
		"another token":             {mqtt.Config{ClientID: "enroll-" + tokenB, Username: tokenB, Password: "secret", TLS: bare}, false},
		"token, with a certificate": {mqtt.Config{ClientID: "enroll-" + tokenB, Username: tokenB, Password: "x", TLS: ca.issue(t, "box1")}, false},
	} {
		c.cfg.Broker = b.URL()
		s, _ := guest(t, c.cfg)
		if got := connected(t, s); got != c.want {
			t.Errorf("%s: got connected %v, want %v (%s)", name, got, c.want, s.Status().LastError)
		}
	}
}

func TestEmbeddedBrokerKeepsTokensToTheirTopics(t *testing.T) {
	a := &access{root: "bothy/1/acme/", operator: "depot1"}
	topics := wire.Topics{Tenant: "acme", Device: tokenA}
	holder := client("enroll-" + tokenA)
	holder.Properties.Username = []byte(tokenA)
	for _, c := range []struct {
		topic       string
		write, want bool
	}{
		{topics.EnrollRequest(tokenA), true, true}, {topics.EnrollRequest(tokenA), false, false},
		{topics.EnrollAnswer(tokenA), false, true}, {topics.EnrollAnswer(tokenA), true, false},
		{topics.EnrollAnswer(tokenB), false, false}, {topics.EnrollRequest(tokenB), true, false},
		{topics.EnrollAnswer("+"), false, false}, {"bothy/1/acme/enroll/#", false, false},
		{topics.State(), true, false}, {topics.Want(), false, false}, {topics.Catalog(), false, false}, {topics.Info("depot1"), false, false},
	} {
		if got := a.OnACLCheck(holder, c.topic, c.write); got != c.want {
			t.Errorf("%s, write %v: got %v, want %v", c.topic, c.write, got, c.want)
		}
	}
	// A token that calls itself the depot is still a token.
	holder.ID = "depot1"
	if a.OnACLCheck(holder, topics.Want(), true) {
		t.Error("a token passed for the depot")
	}
}

func TestEmbeddedBrokerDropsARetiredDevice(t *testing.T) {
	ca := newAuthority(t)
	var retired atomic.Bool
	b := own(t, ca, func(device string, serial *big.Int) error {
		if serial == nil || device == "box1" && retired.Load() {
			return errors.New("retired")
		}
		return nil
	})
	s, _ := guest(t, mqtt.Config{Broker: b.URL(), ClientID: "box1", TLS: ca.issue(t, "box1"), Jitter: func() float64 { return 0.01 }})
	stays, _ := guest(t, mqtt.Config{Broker: b.URL(), ClientID: "box2", TLS: ca.issue(t, "box2")})
	depot, _ := guest(t, mqtt.Config{Broker: b.URL(), ClientID: "depot1", TLS: ca.issue(t, "depot1")})
	for _, s := range []*mqtt.Session{s, stays, depot} {
		if !connected(t, s) {
			t.Fatalf("refused: %s", s.Status().LastError)
		}
	}
	retired.Store(true)
	for end := time.Now().Add(30 * time.Second); ; {
		changed := s.Changed()
		if st := s.Status(); !st.Connected && strings.Contains(st.LastError, "not Authorized") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("got %+v, want the device dropped and refused", s.Status())
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		}
	}
	if n := stays.Status().Serial; !stays.Connected() || n != 1 || !depot.Connected() {
		t.Errorf("another device (connection %d) or the depot was dropped too", n)
	}
}

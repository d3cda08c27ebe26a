package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/trust"
)

// notSeen is the channels that the traffic of this test does not pass, and why.
var notSeen = map[string]string{
	"cast":     "a cast begins when three devices ask for one blob; updater/fleet/depot and updater/content test it",
	"feedback": "as cast",
}

// recorder hears everything of the tenant at the broker.
type recorder struct {
	*mqtt.Session
	mu       sync.Mutex
	messages []mqtt.Message
}

func record(t *testing.T, w *world, client string) *recorder {
	t.Helper()
	r := &recorder{}
	s, err := mqtt.New(mqtt.Config{
		Broker: w.broker.URL, ClientID: client, MaxPacket: wire.MaxFrame + 4<<10,
		Subscriptions: []mqtt.Subscription{{Filter: wire.Topics{Tenant: tenant}.All(), QoS: 1, Handle: func(m mqtt.Message) bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.messages = append(r.messages, m)
			return true
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Session = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *recorder) all() []mqtt.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

// TestTrafficIsAsTheDocumentSays records what passes the broker while a device
// updates itself, obeys orders, and another box enrols, and holds every message
// against docs/asyncapi.yaml.
func TestTrafficIsAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	a := readAsyncAPI(t)
	w := &world{t: t, dir: parts.SocketDir(t), broker: parts.Mosquitto(t)}
	w.setUp(w.broker.URL, nil)
	w.register()
	r := record(t, w, "recorder")
	w.startDepot()
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.install("mote=mote@1")
	w.order("collect-logs")
	w.order("pause") // fails: nothing is under way
	enrolAnother(t, w, r)
	late := record(t, w, "late") // hears what was retained
	w.eventually("a box that comes late hears the device", func() error {
		if !slices.ContainsFunc(late.all(), func(m mqtt.Message) bool { return strings.HasSuffix(m.Topic, "/state") }) {
			return fmt.Errorf("it heard %d messages", len(late.all()))
		}
		return nil
	})
	w.agent.stop() // says goodbye

	seen := map[string]int{}
	for _, m := range r.all() {
		name, err := a.check(m.Topic, m.QoS, m.Payload)
		if err != nil {
			t.Errorf("%s (%d bytes, channel %q): %v\n%.300q", m.Topic, len(m.Payload), name, err, m.Payload)
		}
		seen[name]++
	}
	if n := r.Status().Dropped; n > 0 || r.Status().Serial != 1 {
		t.Errorf("the record has holes: %+v", r.Status())
	}
	retained := map[string]bool{}
	for _, m := range late.all() {
		name, err := a.check(m.Topic, m.QoS, m.Payload)
		if err != nil {
			t.Errorf("%s: %v", m.Topic, err)
		}
		retained[name] = retained[name] || m.Retain
	}
	for name, c := range a.Channels {
		switch reason := notSeen[name]; {
		case seen[name] == 0 && reason == "":
			t.Errorf("nothing passed on the channel %s, and no reason says why", name)
		case seen[name] > 0 && reason != "":
			t.Errorf("%d messages passed on the channel %s, which is said not to be seen: %s", seen[name], name, reason)
		}
		if seen[name] > 0 && retained[name] != c.mqtt.Retain {
			t.Errorf("channel %s: retained is %v at the broker, the document says %v", name, retained[name], c.mqtt.Retain)
		}
	}
	t.Logf("messages by channel: %v", seen)
}

// enrolAnother makes a box a device by a token, and lets it ask for its next certificate.
func enrolAnother(t *testing.T, w *world, r *recorder) {
	t.Helper()
	const name = "press-8"
	config := w.path("second.yaml")
	text := fmt.Sprintf("state: %s\nruntime: %s\n", w.path("state2"), w.path("run2"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.must("fleet", "enroll", "token", w.fleet.Dir(), "--device", name, "--approve", "--out", w.path("token.json"))
	first := w.spawn(parts.Bothy(t), "enroll", w.path("token.json"), "--config", config, "--timeout", "50s")
	if code := first.exit(t); code != 0 {
		t.Fatalf("enrolment ended with %d:\n%s", code, first.log)
	}
	id, err := trust.LoadIdentity(w.path("state2/identity"))
	if err != nil {
		t.Fatal(err)
	}
	asked, err := enrolment.MakeRenewal(name, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	topics := wire.Topics{Tenant: tenant, Device: name}
	if err := r.Publish(t.Context(), topics.CertificateRequest(), 1, false, asked); err != nil {
		t.Fatal(err)
	}
	w.eventually("the next certificate comes", func() error {
		if !slices.ContainsFunc(r.all(), func(m mqtt.Message) bool { return m.Topic == topics.Certificate() }) {
			return fmt.Errorf("not among %d messages", len(r.all()))
		}
		return nil
	})
}

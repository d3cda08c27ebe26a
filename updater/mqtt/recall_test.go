package mqtt

import (
	"errors"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

func TestRecallBringsWhatIsKeptAgain(t *testing.T) {
	b := parts.Mosquitto(t)
	in := make(chan Message, 16)
	cfg := quick(b.URL, "reader")
	cfg.Subscriptions = []Subscription{{Filter: "t/+/state", Handle: Into(in)}}
	idle, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Recall(bounded(t), "t/a/state"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("without a connection: got %v, want %v", err, ErrNotConnected)
	}
	s, _ := start(t, cfg)
	mustConnect(t, s)
	next := func(topic, payload string, retained bool) {
		t.Helper()
		select {
		case m := <-in:
			if m.Topic != topic || string(m.Payload) != payload || m.Retain != retained {
				t.Fatalf("got %q of %s, retained %v, want %q of %s, %v", m.Payload, m.Topic, m.Retain, payload, topic, retained)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%q of %s does not come", payload, topic)
		}
	}
	if err := s.Publish(bounded(t), "t/a/state", 1, true, []byte("one")); err != nil {
		t.Fatal(err)
	}
	next("t/a/state", "one", false)
	for range 2 {
		if err := s.Recall(bounded(t), "t/a/state", "t/b/state"); err != nil {
			t.Fatal(err)
		}
		next("t/a/state", "one", true)
	}
	// The wide subscription is still there, and brings everything once.
	if err := s.Publish(bounded(t), "t/a/state", 1, true, []byte("two")); err != nil {
		t.Fatal(err)
	}
	next("t/a/state", "two", false)
	if err := s.Recall(bounded(t), "t/a/state"); err != nil {
		t.Fatal(err)
	}
	next("t/a/state", "two", true)
}

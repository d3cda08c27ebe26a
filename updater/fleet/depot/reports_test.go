package depot

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/trust"
)

func message(device, leaf, payload string) mqtt.Message {
	return mqtt.Message{Topic: "bothy/1/t/d/" + device + "/" + leaf, Payload: []byte(payload)}
}

func TestOfStatesTheNewestWaitsAndOfEventsAll(t *testing.T) {
	b := newInbox()
	for i := range 5 {
		for _, leaf := range []string{"state", "online", "event"} {
			if !b.put(message("a", leaf, fmt.Sprint(i))) {
				t.Fatalf("%s %d has no room", leaf, i)
			}
		}
	}
	var got []string
	for _, m := range b.take() {
		got = append(got, m.Topic[strings.LastIndex(m.Topic, "/")+1:]+" "+string(m.Payload))
	}
	if len(got) != 7 || strings.Join(got[2:], ",") != "event 0,event 1,event 2,event 3,event 4" || !strings.HasSuffix(got[0], " 4") || !strings.HasSuffix(got[1], " 4") {
		t.Errorf("got %q, want the last state, the last presence, and every event", got)
	}
	if again := b.take(); len(again) != 0 || b.bytes != 0 {
		t.Errorf("%d messages and %d bytes are left, want none", len(again), b.bytes)
	}
}

func TestReportsOfAWholeFleetAtOnceTakeBoundedRoom(t *testing.T) {
	b := newInbox()
	large := strings.Repeat("x", mqtt.MaxControl)
	refused := 0
	for i := range 5000 {
		for _, leaf := range []string{"state", "event"} {
			if !b.put(message(fmt.Sprintf("box-%d", i), leaf, large)) {
				refused++
			}
		}
	}
	if b.bytes > inboxBytes || refused == 0 {
		t.Errorf("%d bytes wait and %d were refused, want at most %d bytes", b.bytes, refused, inboxBytes)
	}
	if b.put(message("a", "state", large+"x")) {
		t.Error("a message larger than a device sends is taken, want not")
	}
	b.take()
	for range 3 * inboxBytes / len(large) {
		if !b.put(message("a", "state", large)) {
			t.Fatal("the same topic again has no room: got refused, want the older one replaced")
		}
	}
}

// fleetOf publishes the state and the presence of many devices, retained.
func fleetOf(t *testing.T, url string, devices int, text string) {
	t.Helper()
	cfg := mqtt.Config{Broker: url, ClientID: "all-devices"}
	s, err := mqtt.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(timeout(t))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Run(ctx) }() // nil: it ends with ctx
	defer func() { cancel(); <-ended }()
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range devices {
		topics := wire.Topics{Tenant: "acme", Device: fmt.Sprintf("box-%d", i)}
		for topic, payload := range map[string]string{topics.State(): text, topics.Online(): `{"v":1,"online":true,"epoch":1}`} {
			if err := s.Publish(ctx, topic, 1, true, []byte(payload)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestDepotHearsAWholeFleetThatIsThereAtOnce(t *testing.T) {
	const devices = 3000
	b := parts.Mosquitto(t)
	state := strings.Repeat("s", 2<<10)
	fleetOf(t, b.URL, devices, state)
	type heard struct{ device, kind string }
	reports := make(chan heard, 4*devices)
	f := newFolder(t)
	for i := range devices {
		f.devices = append(f.devices, fmt.Sprintf("box-%d", i))
	}
	serve(t, b.URL, f, func(c *Config) {
		c.Reports = func(r Report) { reports <- heard{r.Device, r.Kind} }
	})
	seen := map[heard]bool{}
	limit := time.After(60 * time.Second)
	for len(seen) < 2*devices {
		select {
		case h := <-reports:
			seen[h] = true
		case <-limit:
			t.Fatalf("heard %d of %d states and presences", len(seen), 2*devices)
		}
	}
}

func TestBrokerForgetsRetiredDevices(t *testing.T) {
	b := parts.Mosquitto(t)
	fleetOf(t, b.URL, 3, "state")
	f := newFolder(t)
	f.devices = []string{"box-0", "box-1", "box-2"}
	for _, device := range f.devices {
		f.set(trust.Director, device, timestamp, "want of "+device)
	}
	retired := map[string]bool{"box-1": false, "box-2": true}
	kept := make(chan mqtt.Message, 64)
	watch := mqtt.Config{Broker: b.URL, ClientID: "watch"}
	for _, leaf := range []string{"state", "online", "want"} {
		watch.Subscriptions = append(watch.Subscriptions, mqtt.Subscription{Filter: wire.Topics{Tenant: "acme"}.AnyDevice(leaf), QoS: 1, Handle: mqtt.Into(kept)})
	}
	s, err := mqtt.New(watch)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(timeout(t))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Run(ctx) }() // nil: it ends with ctx
	defer func() { cancel(); <-ended }()
	serve(t, b.URL, f, func(c *Config) {
		c.Retired = func() (map[string]bool, error) { return retired, nil }
		c.Reports = func(Report) {}
	})
	topics := map[string]string{}
	note := func(m mqtt.Message) {
		if delete(topics, m.Topic); len(m.Payload) > 0 {
			topics[m.Topic] = string(m.Payload)
		}
	}
	settle := func(want string) {
		t.Helper()
		limit := time.After(60 * time.Second)
		for {
			var all []string
			for _, topic := range slices.Sorted(maps.Keys(topics)) {
				all = append(all, strings.TrimPrefix(topic, "bothy/1/acme/d/"))
			}
			if strings.Join(all, " ") == want {
				return
			}
			select {
			case m := <-kept:
				note(m)
			case <-limit:
				t.Fatalf("the broker keeps %q, want %q", all, want)
			}
		}
	}
	settle("box-0/online box-0/state box-0/want box-1/want")
	// The last word of a device that goes comes after it was forgotten.
	if err := s.Publish(ctx, wire.Topics{Tenant: "acme", Device: "box-2"}.Online(), 1, true, []byte(`{"v":1,"online":false,"epoch":1}`)); err != nil {
		t.Fatal(err)
	}
	for m := range kept {
		if note(m); strings.HasSuffix(m.Topic, "box-2/online") && len(m.Payload) > 0 {
			break // it is there, and goes
		}
	}
	settle("box-0/online box-0/state box-0/want box-1/want")
}

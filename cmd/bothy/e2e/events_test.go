package e2e

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"context"

	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

// report is the body of a "change" event, as the fleet reads it.
type report struct {
	Change  uint64        `json:"change"`
	State   updater.State `json:"state"`
	Summary string        `json:"summary"`
	Counter uint64        `json:"counter"`
	Code    string        `json:"code"`
	Error   string        `json:"error"`
}

// ear hears the device's events at the broker and keeps those that its key signed.
type ear struct {
	mu      sync.Mutex
	reports map[uint64][]report // by number of the event
	bad     []error             // what could not be opened
}

// listen subscribes to the events of the world's device until the test ends.
func listen(t *testing.T, w *world) *ear {
	t.Helper()
	public, err := hex.DecodeString(w.key)
	if err != nil {
		t.Fatal(err)
	}
	e := &ear{reports: map[uint64][]report{}}
	s, err := mqtt.New(mqtt.Config{
		Broker: w.broker.URL, ClientID: "ear",
		Subscriptions: []mqtt.Subscription{{
			Filter: wire.Topics{Tenant: tenant, Device: device}.Event(), QoS: 1,
			Handle: func(m mqtt.Message) bool { e.take(public, m.Payload); return true },
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	w.eventually("the ear is connected", func() error {
		if !s.Connected() {
			return fmt.Errorf("%+v", s.Status())
		}
		return nil
	})
	return e
}

func (e *ear) take(public ed25519.PublicKey, raw []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var event mqtt.Event
	var r report
	body, err := release.OpenEnvelope(public, release.EventType, raw)
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	if err == nil && event.Device != device {
		err = fmt.Errorf("event of device %q", event.Device)
	}
	if err == nil && event.Kind == "change" {
		err = json.Unmarshal(event.Body, &r)
	}
	if err != nil {
		e.bad = append(e.bad, err)
		return
	}
	e.reports[event.Seq] = append(e.reports[event.Seq], r)
}

// hears waits for a report of the change as it ended, and fails the test on any event that is not the device's.
func (e *ear) hears(w *world, c updater.Change) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("the fleet hears that change %d is %s", c.ID, c.State), func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.bad) > 0 {
			w.t.Fatalf("events that cannot be opened: %v", e.bad)
		}
		for _, again := range e.reports {
			r := again[0]
			if r.Change == c.ID && r.State == c.State && r.Code == c.Code && r.Error == c.Error && r.Counter == c.Want.Counter {
				return nil
			}
		}
		return fmt.Errorf("heard %+v", e.reports)
	})
}

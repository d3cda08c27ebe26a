package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/inventory"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// shownFleet is what `fleet status --json` prints, strictly.
type shownFleet struct {
	Fleet   map[string]int    `json:"fleet"`
	Devices []inventory.View  `json:"devices"`
	Events  []inventory.Event `json:"events"`
}

// register gives the world's device a record with its key, as an enrolment by token does.
func (w *world) register() {
	w.t.Helper()
	key, err := hex.DecodeString(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := json.Marshal(fleet.DeviceRecord{Schema: 1, Device: device, PublicKey: key, State: fleet.DeviceApproved})
	if err != nil {
		w.t.Fatal(err)
	}
	folder := filepath.Join(w.fleet.Dir(), "devices")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, device+".json"), raw, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// seen waits until the fleet sees the device as ask wants it.
func (w *world) seen(what string, ask func(inventory.View) bool) shownFleet {
	w.t.Helper()
	var s shownFleet
	w.eventually("the fleet sees "+what, func() error {
		s = read[shownFleet](w, "fleet", "status", w.fleet.Dir(), "--device", device)
		if len(s.Devices) != 1 || !ask(s.Devices[0]) {
			return fmt.Errorf("it sees %+v", s.Devices)
		}
		return nil
	})
	return s
}

func finds(id string) func(inventory.View) bool {
	return func(v inventory.View) bool {
		return slices.ContainsFunc(v.Findings, func(f inventory.Finding) bool { return f.ID == id })
	}
}

func TestFleetRollsADeviceBack(t *testing.T) {
	t.Parallel()
	w := online(t)
	w.register()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.startAgent()
	w.install("mote=mote@1")
	w.add("mote", "mote-256-q4_k_m.gguf")
	w.install("mote=mote@2")
	plan := read[[]fleet.RolledBack](w, "fleet", "rollback", w.fleet.Dir(), "--device", "press-*", "--dry-run")
	if len(plan) != 1 || plan[0].Signed || plan[0].To != 1 || plan[0].Counter != 3 {
		t.Fatalf("got the plan %+v, want the set of want 1 as want 3, and nothing signed", plan)
	}
	last := w.lastChange()
	if out := w.must("fleet", "rollback", w.fleet.Dir(), "--device", device); !strings.Contains(out, "mote mote@2 -> mote@1") {
		t.Errorf("rollback wrote %q, want what changes", out)
	}
	if c := w.changeAfter(last); c.State != updater.Committed || c.Want.Models["mote"].Version != 1 {
		t.Fatalf("change %d ended %s (%s) with %s, want mote@1 committed", c.ID, c.State, c.Error, c.Want)
	}
	w.answers("mote@1")
	w.seen("the older release", func(v inventory.View) bool { return v.Done() && v.State.Models["mote"].Release == "mote@1" })
	if r := w.run("fleet", "rollback", w.fleet.Dir(), "--device", device, "--to", "3"); r.code != 1 || !strings.Contains(r.err, "same set") {
		t.Errorf("going back to what runs: got %d %q, want a refusal", r.code, r.err)
	}
}

func TestFleetSeesWhatADeviceRuns(t *testing.T) {
	t.Parallel()
	w := online(t)
	w.add("mote", "mote-chat-q8_0.gguf")
	w.assign("mote=mote@1")
	w.seen("nothing yet", finds("never-seen"))
	w.startAgent()
	w.seen("somebody whom nobody vouches for", func(v inventory.View) bool { return finds("unverified")(v) && !v.Verified })
	w.register()
	w.agent.stop() // its next start says it again, and is believed
	w.startAgent()
	s := w.seen("what runs", func(v inventory.View) bool {
		return v.Done() && v.Online && v.State.Models["mote"].Phase == "ready" && v.State.Models["mote"].Release == "mote@1"
	})
	v := s.Devices[0]
	if v.Wanted != 1 || v.State.Counter != 1 || v.State.Epoch == 0 || v.State.Change == nil || v.State.Catalog.Snapshot == 0 || v.State.Capacity.DiskTotal == 0 {
		t.Errorf("got %+v, want counters, the change, versions and capacity", v.State)
	}
	if len(s.Events) == 0 || !slices.ContainsFunc(s.Events, func(e inventory.Event) bool { return strings.Contains(string(e.Body), "committed") }) {
		t.Errorf("got events %+v, want the commit among them", s.Events)
	}
	if out := w.must("fleet", "watch", w.fleet.Dir(), "press-*", "--until", "done"); !strings.Contains(out, device+": ok") && !strings.Contains(out, device+": warning") {
		t.Errorf("watch wrote %q, want a line of the device", out)
	}
	if r := w.run("fleet", "watch", w.fleet.Dir(), "nobody"); r.code != 1 || !strings.Contains(r.err, "no such device") {
		t.Errorf("watching nobody: got %d %q, want an error", r.code, r.err)
	}
	w.agent.kill()
	w.seen("that it is gone", func(v inventory.View) bool { return finds("offline")(v) && !v.Online })
}

func TestFleetRetiresADevice(t *testing.T) {
	t.Parallel()
	w := online(t)
	w.register()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.startAgent()
	w.install("mote=mote@1")
	w.answers("mote@1")
	kept := w.retained()
	w.seen("what runs", func(v inventory.View) bool { return v.Done() })
	w.must("fleet", "retire", w.fleet.Dir(), "--device", device, "--yes")
	if code := w.agent.exit(t); code != 1 || !strings.Contains(w.agent.log.String(), "retired by its fleet") {
		t.Fatalf("the agent ended with %d:\n%s\nwant 1 and why", code, tail(w.agent))
	}
	entries, err := os.ReadDir(w.path("state"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "audit" && !strings.HasPrefix(e.Name(), "marks.") {
			t.Errorf("%s is left on the box", e.Name())
		}
	}
	w.eventually("the fleet has retired it", func() error {
		r, err := w.fleet.Device(device)
		if err != nil || r.State != fleet.DeviceRetired || r.Wiped.IsZero() {
			return fmt.Errorf("its record is %+v, %v", r, err)
		}
		return nil
	})
	w.eventually("the broker keeps nothing of it", func() error {
		if topics := kept.topics(); len(topics) > 0 {
			return fmt.Errorf("it keeps %q", topics)
		}
		return nil
	})
	if s := read[shownFleet](w, "fleet", "status", w.fleet.Dir()); len(s.Devices) != 0 {
		t.Errorf("the fleet shows %+v, want no device", s.Devices)
	}
	if r := w.run("fleet", "assign", w.fleet.Dir(), "--device", device, "mote=mote@1"); r.code != 1 || !strings.Contains(r.err, "not given again") {
		t.Errorf("assigning to it: got %d %q, want a refusal", r.code, r.err)
	}
	w.startAgent() // a box without a fleet
	if s, err := w.status(); err != nil || s.Device != "" || len(s.Models) != 0 {
		t.Errorf("the next start: got %+v, %v, want a box without a fleet", s, err)
	}
}

// shelf follows what a broker keeps of the world's device.
type shelf struct {
	mu   sync.Mutex
	kept map[string]bool
}

func (s *shelf) topics() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.kept))
}

// retained follows the retained topics of the device until the test ends.
func (w *world) retained() *shelf {
	w.t.Helper()
	s := &shelf{kept: map[string]bool{}}
	topics := wire.Topics{Tenant: tenant, Device: device}
	var subs []mqtt.Subscription
	for _, topic := range []string{topics.State(), topics.Online(), topics.Want()} {
		subs = append(subs, mqtt.Subscription{Filter: topic, QoS: 1, Handle: func(m mqtt.Message) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if delete(s.kept, topic); len(m.Payload) > 0 {
				s.kept[topic] = true
			}
			return true
		}})
	}
	session, err := mqtt.New(mqtt.Config{Broker: w.broker.URL, ClientID: "shelf", Subscriptions: subs})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- session.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	w.eventually("the broker shows what it keeps", func() error {
		if n := len(s.topics()); n != 3 {
			return fmt.Errorf("%d topics", n)
		}
		return nil
	})
	return s
}

package e2e

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet"
)

// shownFleet is what `fleet status --json` prints, strictly.
type shownFleet struct {
	Fleet   map[string]int     `json:"fleet"`
	Devices []fleet.DeviceView `json:"devices"`
	Events  []fleet.SeenEvent  `json:"events"`
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
func (w *world) seen(what string, ask func(fleet.DeviceView) bool) shownFleet {
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

func finds(id string) func(fleet.DeviceView) bool {
	return func(v fleet.DeviceView) bool {
		return slices.ContainsFunc(v.Findings, func(f fleet.Finding) bool { return f.ID == id })
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
	w.seen("the older release", func(v fleet.DeviceView) bool { return v.Done() && v.State.Models["mote"].Release == "mote@1" })
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
	w.seen("somebody whom nobody vouches for", func(v fleet.DeviceView) bool { return finds("unverified")(v) && !v.Verified })
	w.register()
	w.agent.stop() // its next start says it again, and is believed
	w.startAgent()
	s := w.seen("what runs", func(v fleet.DeviceView) bool {
		return v.Done() && v.Online && v.State.Models["mote"].Phase == "ready" && v.State.Models["mote"].Release == "mote@1"
	})
	v := s.Devices[0]
	if v.Wanted != 1 || v.State.Counter != 1 || v.State.Epoch == 0 || v.State.Change == nil || v.State.Catalog.Snapshot == 0 || v.State.Capacity.DiskTotal == 0 {
		t.Errorf("got %+v, want counters, the change, versions and capacity", v.State)
	}
	if len(s.Events) == 0 || !slices.ContainsFunc(s.Events, func(e fleet.SeenEvent) bool { return strings.Contains(string(e.Body), "committed") }) {
		t.Errorf("got events %+v, want the commit among them", s.Events)
	}
	if out := w.must("fleet", "watch", w.fleet.Dir(), "press-*", "--until", "done"); !strings.Contains(out, device+": ok") && !strings.Contains(out, device+": warning") {
		t.Errorf("watch wrote %q, want a line of the device", out)
	}
	if r := w.run("fleet", "watch", w.fleet.Dir(), "nobody"); r.code != 1 || !strings.Contains(r.err, "no such device") {
		t.Errorf("watching nobody: got %d %q, want an error", r.code, r.err)
	}
	w.agent.kill()
	w.seen("that it is gone", func(v fleet.DeviceView) bool { return finds("offline")(v) && !v.Online })
}

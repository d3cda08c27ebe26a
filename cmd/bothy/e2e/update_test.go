package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet/fleettest"
	"github.com/bothy-edge/bothy/updater/release"
)

// site is a world over Mosquitto that runs mote@1, and has more releases signed.
type site struct {
	*world
	ear *ear
}

// attacked publishes while the depot is down, so that the device sees what the
// thief left, and waits for the end of the change that comes of it.
func (s site) attacked(publish func()) updater.Change {
	s.t.Helper()
	last := s.lastChange()
	s.depot.stop()
	publish()
	s.startDepot()
	return s.changeAfter(last)
}

// ended checks how a change ended, that the list shows it, that the fleet heard of it, and what answers now.
func (s site) ended(c updater.Change, state updater.State, code, runs string) {
	s.t.Helper()
	if c.State != state || c.Code != code || code != "" && c.Error == "" {
		s.t.Fatalf("change %d ended %s (%s): %q, want %s (%s) and why", c.ID, c.State, c.Code, c.Error, state, code)
	}
	listed := slices.ContainsFunc(read[[]updater.Change](s.world, "change", "list"), func(l updater.Change) bool {
		return l.ID == c.ID && l.State == state && l.Code == code && l.Error == c.Error
	})
	if !listed {
		s.t.Errorf("bothy change list does not show change %d as %s (%s)", c.ID, state, code)
	}
	s.answers(runs)
	s.ear.hears(s.world, c)
}

// TestUpdatesOverMosquitto walks one device through a good update and every bad one.
func TestUpdatesOverMosquitto(t *testing.T) {
	t.Parallel()
	w := online(t)
	s := site{w, listen(t, w)}
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf")
	c := w.install("mote=mote@1")
	s.ended(c, updater.Committed, "", "mote@1")
	info := c.Want.Models["mote"].Files[0]
	if c.Progress.Done != info.Size || c.Progress.BySource == nil {
		t.Errorf("got progress %+v for a file of %d bytes", c.Progress, info.Size)
	}
	for _, step := range []struct {
		name string
		run  func(site)
	}{
		{"wrong signature", wrongSignature}, {"older version", olderVersion},
		{"another device's", anotherDevices}, {"wrong block", spoiledFile}, {"wrong index", spoiledIndex}, {"tampered release", spoiledRelease},
	} {
		step.run(s)
		if t.Failed() {
			t.Fatalf("in the step %q", step.name)
		}
	}
}

func wrongSignature(s site) {
	s.add("mote", "mote-256-q4_k_m.gguf")
	var restore func()
	c := s.attacked(func() {
		s.assign("mote=mote@2")
		restore = fleettest.Keep(s.t, s.fleet)
		fleettest.SpoilSignature(s.t, s.fleet, device)
	})
	s.ended(c, updater.Refused, "bad-signature", "mote@1")
	// The honest offer of the same want is taken: a refused one blocks nothing.
	c = s.attacked(restore)
	s.ended(c, updater.Committed, "", "mote@2")
}

func olderVersion(s site) {
	c := s.attacked(func() { s.assign("mote=mote@1") })
	s.ended(c, updater.Refused, "rollback", "mote@2")
	s.assign("mote=mote@2")
}

func anotherDevices(s site) {
	s.add("mote", "mote-256-f16.gguf")
	var restore func()
	c := s.attacked(func() {
		s.must("fleet", "assign", s.fleet.Dir(), "--device", "press-8", "mote=mote@3")
		restore = fleettest.Keep(s.t, s.fleet)
		fleettest.SpoilDevice(s.t, s.fleet, "press-8", device)
	})
	s.ended(c, updater.Refused, "wrong-device", "mote@2")
	s.depot.stop()
	restore()
	s.startDepot()
}

// spoiledFile: a wrong block of a depot never reaches the file.
func spoiledFile(s site) {
	s.spoiled("mote-chat-f32.gguf", "mote@2", func(sha256 string) { fleettest.SpoilBlob(s.t, s.fleet, sha256) })
}

// spoiledIndex: nor does a file that a wrong list of blocks describes.
func spoiledIndex(s site) {
	s.spoiled("mote-256-f16.gguf", "mote@4", func(sha256 string) {
		path := filepath.Join(s.fleet.Dir(), "blobs", sha256+".index")
		raw, err := os.ReadFile(path)
		if err == nil {
			raw[len(raw)/2] ^= 1
			err = os.WriteFile(path, raw, 0o644)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	})
}

// spoiled assigns a model that the depot then has spoiled. The change says so
// and waits, what ran goes on running; the mended depot ends it.
func (s site) spoiled(file, runs string, spoil func(sha256 string)) {
	s.t.Helper()
	model := parts.Model(s.t, file)
	doc := strict[release.Document](s.t, s.must("fleet", "add", s.fleet.Dir(), "--model", "mote", model, "--json"))
	s.must("fleet", "sign", s.fleet.Dir())
	spoil(doc.Files[0].SHA256)
	last := s.lastChange()
	s.assign("mote=" + doc.ID())
	var c updater.Change
	s.eventually("the change waits for a better source", func() error {
		all := read[[]updater.Change](s.world, "change", "list")
		if c = all[0]; c.ID == last || c.State != updater.Paused || c.Reason != "source" || !strings.Contains(c.Error, doc.Files[0].SHA256[:8]) {
			return fmt.Errorf("it is %d, %s (%s): %s", c.ID, c.State, c.Reason, c.Error)
		}
		return nil
	})
	s.ear.hears(s.world, c)
	s.answers(runs)
	// Adding the same file again heals the blob; its own release is not assigned.
	s.must("fleet", "add", s.fleet.Dir(), "--model", "mote", model)
	s.eventually("the change ends", func() error {
		<-time.After(500 * time.Millisecond)        // the depot looks at a file again after a second
		s.run("change", "resume", fmt.Sprint(c.ID)) // refused while it is under way
		if c = read[updater.Change](s.world, "change", "show", fmt.Sprint(c.ID)); !c.State.Ended() {
			return fmt.Errorf("it is %s: %s", c.State, c.Error)
		}
		return nil
	})
	s.ended(c, updater.Committed, "", doc.ID())
}

func spoiledRelease(s site) {
	doc := strict[release.Document](s.t, s.must("fleet", "add", s.fleet.Dir(), "--model", "mote", parts.Model(s.t, "mote-chat-q8_0.gguf"), "--json"))
	s.must("fleet", "sign", s.fleet.Dir())
	c := s.attacked(func() {
		s.assign("mote=" + doc.ID())
		fleettest.SpoilDocument(s.t, s.fleet, doc)
	})
	s.ended(c, updater.Refused, "mismatch", "mote@5")
}

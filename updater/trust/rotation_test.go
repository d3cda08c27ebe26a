package trust

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestRootRotatesOverSeveralVersions(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	for i := range 4 {
		for _, r := range []*simRepo{s.catalog, s.director} {
			s.rotate(r, func() {
				r.setKeys(t, metadata.ROOT, simKeys(fmt.Sprint(r.name, "root", i), 3), 2)
				r.setKeys(t, metadata.TIMESTAMP, simKeys(fmt.Sprint(r.name, "time", i), 1), 1)
			})
		}
	}
	next(s, 4)
	if want := d.refresh(); want.Counter != 4 || d.Versions().Catalog.Root != 5 {
		t.Errorf("got counter %d and root %d, want 4 and 5", want.Counter, d.Versions().Catalog.Root)
	}
	d.reopen()
	if got := d.Versions().Director.Root; got != 5 {
		t.Errorf("got director root %d after a restart, want 5", got)
	}
}

// TestWithheldRootDoesNotBringRevokedKeysBack: go-tuf's own updater would start
// from the enrolled root again.
func TestWithheldRootDoesNotBringRevokedKeysBack(t *testing.T) {
	for _, lost := range []bool{false, true} {
		s := newSim(t)
		d := newDevice(t, s)
		d.refreshAndInstall()
		stolen := s.catalog.keys[metadata.TIMESTAMP]
		s.rotate(s.catalog, func() { s.catalog.setKeys(t, metadata.TIMESTAMP, simKeys("new", 1), 1) })
		next(s, 4)
		d.refreshAndInstall()
		if lost {
			d.remove("bothy.db*")
		}
		delete(s.served, "catalog/2.root.json")
		s.catalog.timestamp += 10
		withKeys(s.catalog, metadata.TIMESTAMP, stolen, func() { s.publishRepo(s.catalog) })
		if lost {
			d.refused(Rollback)
		} else {
			d.refused(BadSignature)
		}
	}
}

// TestRotationRecoversFromAFastForward: a thief of online keys signs the
// highest versions and an absurd counter; new keys in a new root end it.
func TestRotationRecoversFromAFastForward(t *testing.T) {
	for _, lost := range []bool{false, true} {
		s := newSim(t)
		d := newDevice(t, s)
		d.refreshAndInstall()
		honest := *s.director
		versions := map[string]int64{metadata.TARGETS: 1 << 40}
		s.director.versions, s.director.snapshot, s.director.timestamp = versions, 1<<40, 1<<40
		s.assign(box, 1<<52, map[string]string{"chat": "models/mote/2.json"}, "")
		s.publish()
		d.refresh()
		s.director.versions = map[string]int64{metadata.TARGETS: honest.versions[metadata.TARGETS]}
		s.director.snapshot, s.director.timestamp = honest.snapshot, honest.timestamp
		next(s, 4)
		d.refused(Rollback)
		s.rotate(s.director, func() {
			for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
				s.director.setKeys(t, role, simKeys("recovered"+role, 1), 1)
			}
		})
		next(s, 5)
		if want := d.refresh(); want.Counter != 5 {
			t.Errorf("got counter %d, want 5", want.Counter)
		}
		if lost {
			d.remove("bothy.db*")
		}
		s.director.timestamp -= 2
		s.publishRepo(s.director)
		d.refused(Rollback)
	}
}

func TestNewSnapshotKeysForgetVersionsOfRolesButNoCounterAndNoRelease(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	s.catalog.versions["models"] = 1 << 40
	next(s, 4)
	d.refreshAndInstall()
	s.catalog.versions["models"] = 7
	s.publish()
	d.refused(Rollback)
	s.rotate(s.catalog, func() { s.catalog.setKeys(t, metadata.SNAPSHOT, simKeys("recovered", 1), 1) })
	s.publish()
	if want := d.refresh(); want.Counter != 4 || d.Versions().Catalog.Snapshot != s.catalog.snapshot {
		t.Errorf("got counter %d and %+v after the recovery", want.Counter, d.Versions())
	}
	s.catalog.versions["models"] = 3
	s.publish()
	d.refused(Rollback)
	s.catalog.versions["models"] = 20

	s.rotate(s.director, func() { s.director.setKeys(t, metadata.SNAPSHOT, simKeys("recovered too", 1), 1) })
	next(s, 3)
	if r := d.refused(Rollback); !strings.Contains(r.Error(), "counter") {
		t.Errorf("got %v, want the counter refused", r)
	}
	s.assign(box, 5, map[string]string{"chat": "models/mote/2.json"}, "")
	s.publish()
	if r := d.refused(Rollback); r.Subject != "models/mote/2.json" {
		t.Errorf("got %v, want the older release refused", r)
	}
}

// TestKeyThatJoinsForgetsNoMark: what the keys that stay have signed is as good
// as before, so what was captured must not be accepted a second time.
func TestKeyThatJoinsForgetsNoMark(t *testing.T) {
	for name, c := range map[string]struct{ before, after []string }{
		"one joins":           {[]string{"first"}, []string{"first", "second"}},
		"one of several goes": {[]string{"first", "second"}, []string{"first"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t)
			online := func(names []string) {
				s.rotate(s.director, func() {
					for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
						var keys []ed25519.PrivateKey
						for _, n := range names {
							keys = append(keys, simKey(n+role))
						}
						s.director.setKeys(t, role, keys, 1)
					}
				})
			}
			online(c.before)
			next(s, 7)
			d := newDevice(t, s)
			d.refreshAndInstall()
			captured := s.order(9, nil, simKey("first"+metadata.TARGETS))
			d.takes(captured, 9)
			online(c.after)
			next(s, 8)
			d.refreshAndInstall()
			d.takesNot(captured, Rollback)
			next(s, 7)
			d.refused(Rollback)
		})
	}
}

package trust

import (
	"context"
	"errors"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// TestEveryAttackIsMetAtEveryRole is the table of all attacks at all roles. That
// the device follows the honest fleet afterwards is looked at where the operator
// must do something for it, and at every third place else; at all in a soak.
func TestEveryAttackIsMetAtEveryRole(t *testing.T) {
	n, soak := 0, os.Getenv("BOTHY_SOAK") != ""
	for _, f := range families() {
		for _, p := range places() {
			c := f.at(p)
			if c.why != "" {
				continue
			}
			n++
			c.brief = !soak && n%3 != 0 && c.mend == nil && c.rekey == nil && !c.unchanged
			t.Run(f.name+"/"+p.String(), func(t *testing.T) {
				t.Parallel()
				c.run(t, p, nil)
			})
		}
	}
}

// run makes the attack against a device that is up to date. carry answers where
// the device asks instead of at the simulator itself; it is nil for the latter.
func (c cell) run(t *testing.T, p place, carry func(*sim) Source) {
	s := newSim(t)
	s.publish()
	d := newDevice(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.entered = cancel
	if carry != nil {
		d.source = carry(s)
		var give func()
		if ctx, give = context.WithTimeout(ctx, c.patience()); give != nil {
			defer give()
		}
	}
	before := d.refreshAndInstall()
	if c.before != nil {
		s.edit(c.before)
		before = d.refreshAndInstall()
	}
	if c.forgets {
		d.remove("bothy.db*")
	}
	saved := s.save()
	s.edit(c.do)
	c.check(t, d, before, func() (release.Want, error) { return d.Refresh(ctx, d.from()) })
	if c.unchanged && c.rekey == nil {
		d.now = d.now.AddDate(0, 0, 8)
		d.refused(Expired)
		s.now = d.now
	}
	if c.lost || c.brief {
		return
	}
	s.edit(func(s *sim) { c.recover(s, saved) })
	if c.rekey != nil {
		d.refused(Rollback)
		s.edit(func(s *sim) {
			r := s.repo(p.repo)
			s.rotate(r, func() {
				for _, role := range c.rekey {
					r.setKeys(t, role, simKeys("after the thief "+role, 1), 1)
				}
			})
			next(s, 20)
		})
	}
	if want := d.refresh(); want.Counter != 20 || want.Models["chat"].Version != 21 {
		t.Errorf("got %v with counter %d from the honest fleet, want mote@21 with 20", want, want.Counter)
	}
}

// patience is how long one look may take where the answers really travel.
func (c cell) patience() time.Duration {
	if c.slow {
		return 3 * time.Second // then the device gives up, as it would after minutes
	}
	return time.Minute
}

func (s *sim) edit(change func(*sim)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// recover makes the fleet honest again, with versions above all that were ever seen.
func (c cell) recover(s *sim, saved savedSim) {
	if c.mend == nil {
		s.restore(saved)
	} else {
		c.mend(s)
	}
	s.slow, s.bare, s.override = "", false, map[string]func(int64) ([]byte, error){}
	for _, r := range []*simRepo{s.catalog, s.director} {
		r.snapshot, r.timestamp = 50, 50
		for role := range r.versions {
			r.versions[role] = 50
		}
	}
	next(s, 20)
}

// check looks once and wants the outcome of the cell; what the device has must stay.
func (c cell) check(t *testing.T, d *device, before release.Want, look func() (release.Want, error)) {
	t.Helper()
	want, err := look()
	refusal, refused := errors.AsType[*Refusal](err)
	switch {
	case c.unchanged:
		if err != nil || want.Digest() != before.Digest() || want.Counter != before.Counter {
			t.Fatalf("got %v, %v; want nothing new", want, err)
		}
	case c.code == "":
		if err == nil || refused {
			t.Fatalf("got %v, %v; want an ordinary error", want, err)
		}
	case !refused || refusal.Code != c.code:
		t.Fatalf("got %v, %v; want a refusal %q", want, err, c.code)
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			d.reopen()
		}
		now, ok := d.Current()
		if !c.forgets && (!ok || now.Digest() != before.Digest() || now.Counter != before.Counter) || c.forgets && ok {
			t.Errorf("got current %v, %v after the attack (restarted: %v), want %v", now, ok, restarted, before)
		}
	}
}

// savedSim is what an honest operator has in his safe.
type savedSim struct {
	served            map[string][]byte
	docs              map[string]release.Document
	catalog, director *simRepo
}

func (s *sim) save() savedSim {
	return savedSim{maps.Clone(s.served), maps.Clone(s.docs), s.catalog.copy(s.t), s.director.copy(s.t)}
}

func (s *sim) restore(saved savedSim) {
	s.served, s.docs, s.catalog, s.director = saved.served, saved.docs, saved.catalog, saved.director
}

// copy shares nothing that an attack edits.
func (r *simRepo) copy(t testing.TB) *simRepo {
	c := *r
	c.keys, c.versions = maps.Clone(r.keys), maps.Clone(r.versions)
	c.labels, c.expires = maps.Clone(r.labels), maps.Clone(r.expires)
	c.targets = map[string]*metadata.Metadata[metadata.TargetsType]{}
	var err error
	if c.root, err = metadata.Root().FromBytes(signed(t, r.root, r.keys[metadata.ROOT])); err != nil {
		t.Fatal(err)
	}
	for role, m := range r.targets {
		if c.targets[role], err = metadata.Targets().FromBytes(signed(t, m, r.keys[role])); err != nil {
			t.Fatal(err)
		}
	}
	return &c
}

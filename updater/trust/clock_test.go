package trust

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExpiredTimestampFreezesButWhatRunsGoesOn(t *testing.T) {
	for _, repo := range []Repo{Catalog, Director} {
		t.Run(string(repo), func(t *testing.T) {
			s := newSim(t)
			d := newDevice(t, s)
			before := d.refreshAndInstall()
			d.now = d.now.AddDate(0, 0, 8)
			s.now = d.now
			for _, r := range []*simRepo{s.catalog, s.director} {
				if r.name != repo {
					s.publishRepo(r)
				}
			}
			d.refused(Expired)
			if now, ok := d.Current(); !ok || now.Digest() != before.Digest() {
				t.Errorf("got %v, %v while frozen, want %v", now, ok, before)
			}
			versions := d.Versions()
			if got := map[Repo]bool{Catalog: versions.Catalog.Expired, Director: versions.Director.Expired}; !got[repo] {
				t.Errorf("got expired %v, want %s to be", got, repo)
			}
			d.reopen()
			if _, ok := d.Current(); !ok {
				t.Error("got nothing current after a restart while frozen")
			}
			s.publish()
			d.refresh()
		})
	}
}

func TestNewTimestampThatIsExpiredIsRefused(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refreshAndInstall()
	s.publish()
	d.now = d.now.AddDate(0, 0, 8)
	d.refused(Expired)
	d.reopen()
	if got := d.Versions().Director.Timestamp; got != 1 {
		t.Errorf("got director timestamp %d, want 1: what is refused is not kept", got)
	}
	s.now = d.now
	s.publish()
	d.refresh()
}

func TestExpiredRolesAreRefused(t *testing.T) {
	for _, role := range []string{"root", "targets", "models", "snapshot"} {
		t.Run(role, func(t *testing.T) {
			s := newSim(t)
			past := s.now.Add(-time.Hour)
			switch role {
			case "root":
				s.rotate(s.catalog, func() { s.catalog.root.Signed.Expires = past })
			case "snapshot":
				honest := s.now
				s.now = honest.AddDate(0, -2, 0)
				s.publishRepo(s.director)
				s.now = honest
				s.stamp(s.director, describe(s.director.snapshot, s.served["director/2.snapshot.json"]))
			default:
				s.catalog.targets[role].Signed.Expires = past
			}
			if role != "snapshot" {
				s.publish()
			}
			newDevice(t, s).refused(Expired)
		})
	}
}

func TestClockAYearBackDoesNotReviveTheExpired(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refreshAndInstall()
	// The fleet goes on for two months and the device follows.
	for range 10 {
		d.now = d.now.AddDate(0, 0, 6)
		s.now = d.now
		s.publish()
		d.refresh()
	}
	// A day after the last timestamps expired the device still looks.
	d.now = d.now.AddDate(0, 0, 8)
	d.refused(Expired)
	// Now the clock goes back to when they were good, and then by a year.
	for _, back := range []int{-8, -365} {
		d.now = d.now.AddDate(0, 0, back)
		d.reopen()
		d.refused(Expired)
	}
	if _, ok := d.Current(); !ok {
		t.Error("got nothing current")
	}
	// The fleet's next signatures are good at once.
	s.now = s.now.AddDate(0, 0, 9)
	s.publish()
	d.refresh()
}

func TestClockAYearBackIsNotBeforeTheBuild(t *testing.T) {
	s := newSim(t)
	old := s.now
	s.now = start().AddDate(-1, 0, 0)
	s.publish() // expired long before this agent was built
	d := newDevice(t, s)
	d.now = s.now
	d.refused(Expired)
	s.now = old
	s.publish()
	d.refresh()
}

func TestClockAYearAheadDoesNotExpireForEver(t *testing.T) {
	for _, synchronised := range []bool{false, true} {
		s := newSim(t)
		d := newDevice(t, s)
		d.refreshAndInstall()
		honest := d.now
		d.now, d.sync = honest.AddDate(1, 0, 0), synchronised
		d.refused(Expired)
		d.reopen()
		d.refused(Expired)
		// The clock is put right. Even if the liar had the kernel believe it,
		// what the fleet signs next is accepted.
		d.now, d.sync = honest.Add(time.Hour), true
		d.reopen()
		if !synchronised {
			d.refresh()
		}
		s.now = honest.AddDate(0, 0, 1)
		d.now = s.now
		s.publish()
		d.refresh()
	}
}

func TestUnsynchronisedClockDoesNotRaiseTheMark(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.sync = false
	d.refresh()
	if mark := d.keeper.now.Time; !mark.IsZero() {
		t.Errorf("got mark %s from an unsynchronised clock", mark)
	}
	d.sync = true
	d.refresh()
	if mark := d.keeper.now.Time; !mark.Equal(d.now) {
		t.Errorf("got mark %s, want %s", mark, d.now)
	}
	sequence := d.keeper.now.Sequence
	d.now = d.now.Add(markStep - time.Second)
	d.refresh()
	if d.keeper.now.Sequence != sequence {
		t.Error("a refresh that brought nothing new wrote the slot files")
	}
}

// TestSilenceExpiresToo: whoever lets nothing through must not keep the device
// from noticing that what it holds has expired.
func TestSilenceExpiresToo(t *testing.T) {
	silent := errors.New("no answer")
	for _, from := range []string{"director/2.root.json", "director/timestamp.json", "catalog/2.root.json", "catalog/timestamp.json"} {
		s := newSim(t)
		d := newDevice(t, s)
		d.refreshAndInstall()
		before := d.Versions()
		s.override[from] = func(int64) ([]byte, error) { return nil, silent }
		look := func() Versions {
			t.Helper()
			if want, err := d.Refresh(t.Context(), s); err == nil {
				t.Fatalf("%s: got %v from a silent source", from, want)
			}
			return d.Versions()
		}
		if diff := cmp.Diff(before, look()); diff != "" {
			t.Errorf("%s is silent, and the versions change (-before +after):\n%s", from, diff)
		}
		d.now = d.now.AddDate(0, 0, 8)
		if v := look(); !v.Catalog.Expired || !v.Director.Expired || v.Director.Timestamp != before.Director.Timestamp {
			t.Errorf("%s is silent for eight days: got %+v, want both expired", from, v)
		}
	}
}

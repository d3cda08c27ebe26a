package trust

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/internal/powerloss"
)

// powerDir names the disk of a run whose power is cut at every moment of its recording.
const powerDir = "BOTHY_TRUST_POWER_DIR"

// chapters is the story of a fleet: each publishes the next counter and answers
// it. The second has new root keys on both sides, the fourth a release that goes.
func chapters(s *sim) []func() uint64 {
	rotate := func(r *simRepo, name string) {
		s.rotate(r, func() {
			r.root.Signed.Roles[metadata.TIMESTAMP].KeyIDs = nil
			r.setKeys(s.t, metadata.TIMESTAMP, simKeys(name, 1), 1)
		})
	}
	return []func() uint64{
		func() uint64 { return 3 },
		func() uint64 {
			rotate(s.catalog, "catalog-next")
			rotate(s.director, "director-next")
			next(s, 4)
			return 4
		},
		func() uint64 { next(s, 5); return 5 },
		func() uint64 {
			s.assign(box, 6, nil, "policies/plant/1.json")
			s.publish()
			return 6
		},
	}
}

// A child of the test below runs this one on a disk that is recorded.
func TestRefreshesFollowTheFleet(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	if dir := os.Getenv(powerDir); dir != "" {
		if err := d.db.Close(); err != nil {
			t.Fatal(err)
		}
		d.dir = dir
		d.open()
	}
	for _, chapter := range chapters(s) {
		counter := chapter()
		if got := d.refresh().Counter; got != counter {
			t.Errorf("got counter %d, want %d", got, counter)
		}
		fmt.Println("ack", counter)
	}
}

func TestPowerLossNeverLetsTheFleetGoBack(t *testing.T) {
	shuffles, soak := 1, os.Getenv("BOTHY_SOAK") != ""
	if soak {
		shuffles = 60
	}
	s := newSim(t)
	var served []map[string][]byte
	for _, chapter := range chapters(s) {
		chapter()
		served = append(served, s.freeze())
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run", "^TestRefreshesFollowTheFleet$")
	child.Env = append(os.Environ(), powerDir+"="+dir)
	states := 0
	n := powerloss.Record(t, dir, child).States(t, shuffles, 11, func(p powerloss.State) {
		acked := uint64(0)
		for _, ack := range p.Acks {
			acked, _ = strconv.ParseUint(ack, 10, 64)
		}
		d := &device{t: t, sim: s, dir: p.Dir, now: s.now, sync: true}
		d.open()
		defer d.db.Close()
		if now, ok := d.Current(); acked > 0 && (!ok || now.Counter < acked) {
			t.Errorf("step %d: got %v (%v) as the current set, but counter %d was accepted", p.Step, now, ok, acked)
		}
		for i, old := range served {
			// Each state meets the fleet of one earlier chapter, its neighbours those of the others; all of them in a soak.
			if counter := uint64(3 + i); counter < acked && (soak || p.Step%int(acked-3) == i) {
				s.served = old
				if want, err := d.Refresh(t.Context(), s); err == nil && want.Counter < acked {
					t.Errorf("step %d: went back from %d to %d", p.Step, acked, want.Counter)
				}
			}
		}
		if states++; !soak && states%3 != 0 && !p.Final {
			return // every state is opened and tempted to go back; every third goes on
		}
		s.served = served[len(served)-1]
		if got := d.refresh().Counter; got != 6 {
			t.Errorf("step %d: got counter %d from the honest fleet, want 6", p.Step, got)
		}
	})
	if n < 100 {
		t.Errorf("got %d states, want at least 100: the recording sees too little", n)
	}
	t.Logf("%d states", n)
}

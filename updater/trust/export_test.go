package trust

import "testing"

// Attack is one cell of the table of attacks, for tests of the path over a
// broker: those import packages that import this one.
type Attack struct {
	Family, Place string
	cell          cell
	place         place
}

// Attacks are those of the table that are no mere reason: of each family those
// at n places, at others in the next family, so that together they are at all.
func Attacks(n int) []Attack {
	var some []Attack
	at := 0
	for _, f := range families() {
		for taken, tried := 0, 0; taken < n && tried < len(places()); tried++ {
			p := places()[at%len(places())]
			at++
			if c := f.at(p); c.why == "" {
				some = append(some, Attack{f.name, p.String(), c, p})
				taken++
			}
		}
	}
	return some
}

// Run makes the attack against a device that asks where carry says.
func (a Attack) Run(t *testing.T, carry func(*Fleet) Source) {
	if a.cell.code == TooLarge {
		// The client of the broker ends an answer that is too long; whether
		// anybody signed it is not known then, so it is no refusal.
		a.cell.code = ""
	}
	a.cell.run(t, a.place, func(s *sim) Source { return carry(&Fleet{s}) })
}

// Fleet is what the simulator serves at the moment.
type Fleet struct{ sim *sim }

// Devices implements depot.Fleet.
func (f *Fleet) Devices() ([]string, error) { return []string{box}, nil }

// Metadata implements depot.Fleet. What must not end has more bytes than any limit.
func (f *Fleet) Metadata(repo Repo, _, name string) ([]byte, error) {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	key := string(repo) + "/" + name
	if endless := f.sim.override[key]; endless != nil {
		return endless(maxTargets)
	}
	if raw, ok := f.sim.served[key]; ok {
		return raw, nil
	}
	return nil, ErrNotFound
}

// Blob and its neighbours implement depot.Fleet: no artifact is served.
func (f *Fleet) Blob(string) (string, error) { return "", ErrNotFound }

// Index implements depot.Fleet.
func (f *Fleet) Index(string) ([]byte, error) { return nil, ErrNotFound }

// Allowed implements depot.Fleet.
func (f *Fleet) Allowed(string, string) (bool, error) { return false, nil }

// Attacked says whether this is the file that a hostile fleet never finishes.
func (f *Fleet) Attacked(key string) (slow, endless bool) {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	return key == f.sim.slow, f.sim.override[key] != nil
}

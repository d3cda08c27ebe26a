package trust

import (
	"encoding/json"
	"testing"

	"github.com/bothy-edge/bothy/updater/release"
)

func FuzzParseTicket(f *testing.F) {
	raw, err := json.Marshal(simTicket(newSim(f)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"tenant":"a","broker":"b","depot":"c","catalog_root":"bnVsbA==","director_root":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if ticket, err := ParseTicket(raw); err == nil && release.CheckName(ticket.Tenant) != nil {
			t.Errorf("accepted tenant %q", ticket.Tenant)
		}
	})
}

// FuzzMetadata gives the client hostile bytes in the place of each object. It
// must neither panic nor leave the set that the honest fleet assigned.
func FuzzMetadata(f *testing.F) {
	names := []string{"director/2.root.json", "director/timestamp.json", "director/3.snapshot.json", "director/3.targets.json",
		"catalog/2.root.json", "catalog/timestamp.json", "catalog/3.snapshot.json", "catalog/3.targets.json", "catalog/3.models.json"}
	seed := newSim(f)
	seed.publish()
	seed.publish()
	for i, name := range names {
		raw := seed.served[name]
		f.Add(uint8(i), raw)
		f.Add(uint8(i), raw[:len(raw)/2])
		f.Add(uint8(i), []byte(`{"signed":{"_type":"root","keys":{"a":{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"00"}}},"roles":{"root":{"keyids":["a"],"threshold":1}},"version":2,"expires":"2030-01-01T00:00:00Z","spec_version":"1.0.31"},"signatures":[{"keyid":"a","sig":"00"}]}`))
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		s := newSim(t)
		s.publish()
		d := newDevice(t, s)
		before := d.refresh()
		next(s, 4)
		name := names[int(which)%len(names)]
		honest := s.served[name]
		s.served[name] = raw
		want, err := d.Refresh(t.Context(), s)
		if err == nil && want.Counter != 4 {
			t.Errorf("%s: got %v", name, want)
		}
		if now, ok := d.Current(); !ok || err != nil && now.Counter != before.Counter {
			t.Errorf("%s: got current %v, %v", name, now, ok)
		}
		if s.served[name] = honest; honest == nil {
			delete(s.served, name)
		}
		// The seeds hold what the same keys signed in another fleet, so only the
		// honest fleet's next version is sure to be accepted.
		next(s, 5)
		if want := d.refresh(); want.Counter != 5 {
			t.Errorf("%s: got counter %d from the honest fleet afterwards, want 5", name, want.Counter)
		}
	})
}

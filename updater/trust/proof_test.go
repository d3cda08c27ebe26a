package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// shows gives the proof of the device that the director served last.
func (s *sim) shows() proof {
	return proof{
		V: 1, Timestamp: s.served["director/timestamp.json"],
		Snapshot: s.served[fmt.Sprintf("director/%d.snapshot.json", s.director.snapshot)],
		Targets:  s.served[fmt.Sprintf("director/%d.targets.json", s.director.versions[metadata.TARGETS])],
	}
}

func (p proof) encode(t testing.TB) []byte {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// other assigns to box-2 what it says, and gives its proof.
func (s *sim) other(counter uint64, models map[string]string, policy string) proof {
	s.assign("box-2", counter, models, policy)
	s.publish()
	return s.shows()
}

func TestProofOpensWhatBothWereGiven(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	if _, err := d.Proof(); err == nil {
		t.Error("a device that was told nothing shows something")
	}
	want := d.refresh()
	own, err := d.Proof()
	if err != nil {
		t.Fatal(err)
	}
	shown, err := d.CheckProof(own, box)
	if err != nil || shown.Device != box || shown.Version != s.director.timestamp || !shown.Expires.Equal(s.now.AddDate(0, 0, 7)) {
		t.Fatalf("got %+v, %v", shown, err)
	}
	mote, plant := want.Models["chat"], *want.Policy
	if len(shown.Files) != 2 || shown.Files[0] != mote.Primary() || shown.Files[1] != plant.Primary() {
		t.Errorf("its own: got %v, want the files of %s and %s", shown.Files, mote.ID(), plant.ID())
	}
	for name, c := range map[string]struct {
		proof proof
		files int
	}{
		"the same model":                {s.other(1, map[string]string{"talk": mote.Target()}, ""), 1},
		"a release that we lack":        {s.other(2, map[string]string{"chat": "models/mote/1.json"}, ""), 0},
		"one that we have, one we lack": {s.other(3, map[string]string{"a": mote.Target(), "b": "models/mote/1.json"}, plant.Target()), 2},
		"nothing":                       {s.other(4, nil, ""), 0},
	} {
		shown, err := d.CheckProof(c.proof.encode(t), "box-2")
		if err != nil || len(shown.Files) != c.files {
			t.Errorf("%s: got %v, %v, want %d files", name, shown.Files, err, c.files)
		}
	}
}

func TestProofThatProvesNothingIsRefused(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	mote := d.refresh().Models["chat"].Target()
	old := s.other(1, map[string]string{"chat": mote}, "")
	good := s.other(2, map[string]string{"chat": mote}, "")
	forged := newSim(t)
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
		forged.director.keys[role] = simKeys("thief", 1)
	}
	edit := func(f func(*proof)) []byte {
		p := good
		f(&p)
		return p.encode(t)
	}
	for name, c := range map[string]struct {
		raw    []byte
		device string
		want   Code
	}{
		"somebody else's":         {good.encode(t), "box-3", WrongDevice},
		"other keys":              {forged.other(1, map[string]string{"chat": mote}, "").encode(t), "box-2", BadSignature},
		"older targets":           {edit(func(p *proof) { p.Targets = old.Targets }), "box-2", Mismatch},
		"older snapshot":          {edit(func(p *proof) { p.Snapshot = old.Snapshot }), "box-2", Mismatch},
		"no targets":              {edit(func(p *proof) { p.Targets = nil }), "box-2", Mismatch},
		"timestamp edited":        {edit(func(p *proof) { p.Timestamp = bytes.Replace(p.Timestamp, []byte("box-2"), []byte("box-3"), 1) }), "box-3", BadSignature},
		"later version":           {edit(func(p *proof) { p.V = 2 }), "box-2", Malformed},
		"not JSON":                {[]byte("hello"), "box-2", Malformed},
		"empty":                   {nil, "box-2", Malformed},
		"unknown member":          {[]byte(`{"v":1,"extra":1}`), "box-2", Malformed},
		"nothing in it":           {[]byte(`{"v":1}`), "box-2", Malformed},
		"device that is no name":  {good.encode(t), "../box-2", Malformed},
		"long":                    {bytes.Repeat([]byte(" "), MaxProof+1), "box-2", TooLarge},
		"long timestamp":          {edit(func(p *proof) { p.Timestamp = make([]byte, maxTimestamp+1) }), "box-2", TooLarge},
		"null where bytes belong": {[]byte(`{"v":1,"timestamp":null,"snapshot":null,"targets":null}`), "box-2", Malformed},
	} {
		shown, err := d.CheckProof(c.raw, c.device)
		if len(shown.Files) > 0 || CodeOf(err) == "" {
			t.Errorf("%s: got %v, %v, want a refusal", name, shown.Files, err)
		} else if c.want != Mismatch && CodeOf(err) != c.want {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := d.CheckProof(good.encode(t), "box-2"); err != nil {
		t.Errorf("the good one: %v", err)
	}
	// A week without the fleet's word, and the assignment opens nothing.
	d.now = d.now.AddDate(0, 0, 8)
	if _, err := d.CheckProof(good.encode(t), "box-2"); CodeOf(err) != Expired {
		t.Errorf("expired: got %v, want %q", err, Expired)
	}
}

// TestProofLeavesNoMark: what others show moves neither our versions nor our counter.
func TestProofLeavesNoMark(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	mote := d.refresh().Models["chat"].Target()
	before := d.Versions()
	for n := range 5 {
		if _, err := d.CheckProof(s.other(uint64(1000+n), map[string]string{"chat": mote}, "").encode(t), "box-2"); err != nil {
			t.Fatal(err)
		}
	}
	if after := d.Versions(); after != before {
		t.Errorf("got %+v, want %+v", after, before)
	}
	s.assign(box, 4, map[string]string{"chat": mote, "talk": mote}, "")
	s.publish()
	if want := d.refresh(); want.Counter != 4 {
		t.Errorf("our own next want: got counter %d, want 4", want.Counter)
	}
}

func FuzzCheckProof(f *testing.F) {
	s := newSim(f)
	d := newDevice(f, s)
	if _, err := d.Refresh(f.Context(), s); err != nil {
		f.Fatal(err)
	}
	own, err := d.Proof()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add([]byte(strings.Replace(string(own), `"v":1`, `"v":2`, 1)))
	f.Add([]byte(`{"v":1,"timestamp":"e30=","snapshot":"e30=","targets":"e30="}`))
	f.Add([]byte(`{"v":1,"timestamp":"eyJzaWduZWQiOnt9LCJzaWduYXR1cmVzIjpbXX0="}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		shown, err := d.CheckProof(raw, "box-9")
		if err == nil || len(shown.Files) > 0 {
			t.Fatalf("somebody else's proof opens %v", shown.Files)
		}
	})
}

package prove

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

// mutate changes one thing about a policy, or takes another one altogether.
func (w world) mutate(t *testing.T, p *policy.Policy, doc object) *policy.Policy {
	t.Helper()
	rules, _ := doc["rules"].([]object)
	switch w.IntN(6) {
	case 0:
		return w.policy(t)
	case 1:
		doc["kill_switch"] = true
	case 2:
		doc["upstreams"].([]object)[0]["base_url"] = "https://moved.example"
	case 3:
		doc["upstreams"].([]object)[1]["models"] = map[string]string{"m": "other", "k": "K"}
	case 4:
		if len(rules) > 0 {
			doc["rules"] = slices.Delete(slices.Clone(rules), 0, 1)
		}
	case 5:
		if len(rules) > 0 {
			last := rules[len(rules)-1]
			delete(last, "deny")
			last["places"] = []string{"local", "x", "y"}
		}
	}
	if len(rules) == 1 {
		delete(doc, "rules")
	}
	if q, err := parse(doc); err == nil {
		return q
	}
	return p
}

// moved says whether a request changes place, by Decide and the documents alone.
func moved(p, q *policy.Policy, v, w policy.Verdict, model string) bool {
	if !slices.Equal(v.Places, w.Places) {
		return true
	}
	return slices.ContainsFunc(v.Places, func(place policy.Place) bool {
		if place == policy.Local {
			return false
		}
		at := func(p *policy.Policy) policy.Upstream {
			i := slices.IndexFunc(p.Upstreams(), func(u policy.Upstream) bool { return u.Name == string(place) })
			return p.Upstreams()[i]
		}
		a, b := at(p), at(q)
		was, _ := a.Serves(model)
		is, _ := b.Serves(model)
		return was != is || a.BaseURL != b.BaseURL
	})
}

func TestEveryMoveIsInARegionAndNothingElseIs(t *testing.T) {
	same, moves, boxed := 0, 0, 0
	for seed := range uint64(150) {
		w := newWorld(seed)
		doc := w.document()
		p := must(t, doc)
		q := w.mutate(t, p, doc)
		d, err := Diff(p, q, 10_000)
		if err != nil || d.More {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(d.Regions) == 0 {
			same++
		}
		in := newBoxes(t, p, q)
		for _, r := range d.Regions {
			c, a := r.Example.decided()
			if v, u := p.Decide(c, a), q.Decide(c, a); !moved(p, q, v, u, a.Model) || !r.names(v, u) {
				t.Fatalf("seed %d: the example %+v of %v -> %v gets %v -> %v", seed, r.Example, r.From, r.To, v, u)
			}
			in.put(t, c, a)
			if !in.box(t, r.Where) {
				t.Fatalf("seed %d: the example %+v is not where its region is: %v", seed, r.Example, r.Where)
			}
		}
		for range 150 {
			c, a := w.caller(), w.ask()
			v, u := p.Decide(c, a), q.Decide(c, a)
			in.put(t, c, a)
			fits := func(r Region) bool { return r.names(v, u) }
			if moved(p, q, v, u, a.Model) {
				if moves++; !slices.ContainsFunc(d.Regions, fits) {
					t.Fatalf("seed %d: %+v %+v goes from %v to %v, regions %+v\nold %s\nnew %s", seed, c, a, v, u, d.Regions, p.Document(), q.Document())
				}
			}
			for _, r := range d.Regions {
				if in.box(t, r.Where) {
					if boxed++; !fits(r) {
						t.Fatalf("seed %d: %+v %+v is in %v, but goes from %v to %v, not %v to %v", seed, c, a, r.Where, v.Places, u.Places, r.From, r.To)
					}
				}
			}
		}
	}
	if same < 25 || moves < 1000 || boxed < 1000 {
		t.Errorf("the policies are too much alike: %d same, %d moves, %d in boxes", same, moves, boxed)
	}
}

func (r Region) names(was, is policy.Verdict) bool {
	return slices.Equal(r.From, was.Places) && slices.Equal(r.To, is.Places)
}

// boxes tells which case a request falls into, in the words of regions.
type boxes struct {
	s *space
	v vocabulary
}

func newBoxes(t *testing.T, policies ...*policy.Policy) boxes {
	t.Helper()
	var b boxes
	for _, p := range policies {
		doc, err := read(p)
		if err != nil {
			t.Fatal(err)
		}
		b.v.document(doc)
	}
	var err error
	if b.s, err = newSpace(b.v); err != nil {
		t.Fatal(err)
	}
	return b
}

// put makes box ask about this request.
func (b boxes) put(t *testing.T, c policy.Caller, a policy.Ask) {
	t.Helper()
	if b.s.solver.Solve(pin(t, b.s, b.v, c, a)...) != sat.Satisfiable {
		t.Fatalf("%+v %+v is in no case", c, a)
	}
}

func (b boxes) box(t *testing.T, where []Term) bool {
	t.Helper()
	return !slices.ContainsFunc(where, func(w Term) bool { return !b.holds(t, w) })
}

func (b boxes) holds(t *testing.T, w Term) bool {
	for _, d := range b.s.dimensions() {
		if d.name == w.Property {
			return slices.Contains(w.Values, d.like[b.s.chosen(d)]) != w.Not
		}
	}
	found := 0
	for _, x := range b.s.switches() {
		if slices.Contains(w.Values, x.name) {
			if found++; b.s.solver.Value(x.lit) == w.Not {
				return false
			}
		}
	}
	if found == 0 {
		t.Fatalf("no property is called %v", w)
	}
	return true
}

func TestAPolicyDoesNotDifferFromItself(t *testing.T) {
	for seed := range uint64(100) {
		p := newWorld(seed).policy(t)
		if d, err := Diff(p, p, 10); err != nil || len(d.Regions) > 0 || d.More {
			t.Fatalf("seed %d: got %+v %v", seed, d, err)
		}
	}
}

func TestDiffInWords(t *testing.T) {
	next := strings.Replace(clinic, `unit: "ward-*.service"`, `unit: ["ward-*.service", lab.service]`, 1)
	next = strings.Replace(next, "max_bytes: 1000", "max_bytes: 2000", 1)
	d, err := Diff(mustParse(t, clinic), mustParse(t, next), 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range d.Regions {
		line := strings.TrimSpace(strings.Join([]string{r.Old, r.New}, " > "))
		for _, w := range r.Where {
			line += "; " + w.String()
		}
		got = append(got, line)
		if !slices.Equal(r.From, []policy.Place{"local", "burst"}) || !slices.Equal(r.To, []policy.Place{"local"}) {
			t.Errorf("got %v to %v, want local, burst to local", r.From, r.To)
		}
	}
	slices.Sort(got)
	want := []string{
		"rest > money; unit none or *; model mote; bytes 1001 to 2000; with found iban; without unattested, unfinished scan, opaque content, wish to stay, unknown label, label opaque, label patient, label phi",
		"rest > money; unit none or *; model mote; bytes 1001 to 2000; with label payment; without unattested, unfinished scan, opaque content, wish to stay, unknown label, label opaque, label patient, label phi, found card, found iban",
		"rest > patients; unit lab.service; model mote; without unfinished scan, opaque content, wish to stay, unknown label, label opaque, label patient, label payment, label phi, found card, found iban",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("regions (-want +got):\n%s", diff)
	}
}

func TestLimitSaysThatThereIsMore(t *testing.T) {
	next := strings.Replace(clinic, "name: clinic", "name: clinic\nkill_switch: true", 1)
	d, err := Diff(mustParse(t, clinic), mustParse(t, next), 1)
	if err != nil || len(d.Regions) != 1 || !d.More {
		t.Errorf("got %+v %v, want one region and more", d, err)
	}
}

func TestAnotherHostIsAnotherPlace(t *testing.T) {
	for from, to := range map[string]string{
		"https://api.example.com/v1": "https://api.example.org/v1",
		"{mote: big}":                "{mote: small}",
	} {
		d, err := Diff(mustParse(t, clinic), mustParse(t, strings.Replace(clinic, from, to, 1)), 10)
		if err != nil || len(d.Regions) == 0 || !slices.Equal(d.Regions[0].Changed, []policy.Place{"burst"}) {
			t.Errorf("%s: got %+v %v, want burst to be another place", to, d, err)
		}
	}
	d, err := Diff(mustParse(t, clinic), mustParse(t, strings.Replace(clinic, "{mote: big}", "{mote: big, other: o}", 1)), 10)
	if err != nil || len(d.Regions) == 0 {
		t.Fatalf("got %+v %v", d, err)
	}
	for _, r := range d.Regions {
		if len(r.Changed) > 0 || r.Example.Ask.Model != "other" {
			t.Errorf("got %+v, want only requests for the new alias", r)
		}
	}
}

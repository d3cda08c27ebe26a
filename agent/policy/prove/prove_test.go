package prove

import (
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/detect"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

func leaves(v policy.Verdict) bool {
	return slices.ContainsFunc(v.Places, func(p policy.Place) bool { return p != policy.Local })
}

// pin gives the literals of the one case that a request falls into.
func pin(t *testing.T, s *space, v vocabulary, c policy.Caller, a policy.Ask) []sat.Lit {
	t.Helper()
	var out []sat.Lit
	text := func(d *texts, globs []glob, value string) {
		i := slices.IndexFunc(d.examples, func(example string) bool {
			return (example == "") == (value == "") && !slices.ContainsFunc(globs, func(g glob) bool { return g.matches(value) != g.matches(example) })
		})
		if i < 0 {
			t.Fatalf("no case of %s has %q; cases %q", d.name, value, d.like)
		}
		out = append(out, d.lits[i])
	}
	number := func(d *numbers, value int) {
		i := slices.IndexFunc(d.low, func(low int) bool { return low == value })
		for j := range d.low {
			if i < 0 && (d.low[j] <= value && value <= d.high[j] || d.like[j] == "other") {
				i = j
			}
		}
		out = append(out, d.lits[i])
	}
	flag := func(l sat.Lit, holds bool) {
		if !holds {
			l = l.Not()
		}
		out = append(out, l)
	}
	if c.Unattested {
		c.Unit, c.Container, c.Exe = "", "", ""
	}
	text(&s.model, v.model, a.Model)
	text(&s.unit, v.unit, c.Unit)
	text(&s.container, v.container, c.Container)
	if c.Exe != "" {
		text(&s.exe, v.exe, c.Exe)
	}
	out = append(out, s.api.lits[slices.Index(s.api.examples, a.API)])
	number(&s.bytes, a.Bytes)
	number(&s.minute, a.Time.Hour()*60+a.Time.Minute())
	number(&s.day, int(a.Time.Weekday()))
	number(&s.uid, int(c.UID))
	number(&s.gid, int(c.GID))
	for _, k := range s.kinds {
		flag(k.lit, slices.Contains(a.Kinds, detect.Kind(k.name)))
	}
	unheard := false
	for _, l := range a.Labels {
		unheard = unheard || !slices.ContainsFunc(s.labels, func(t toggle) bool { return t.name == l })
	}
	for _, l := range s.labels {
		flag(l.lit, slices.Contains(a.Labels, l.name))
	}
	flag(s.unheard, unheard)
	flag(s.opaque, a.Opaque)
	flag(s.incomplete, a.Incomplete)
	flag(s.onlyLocal, a.OnlyLocal)
	flag(s.unattested, c.Unattested)
	flag(s.exeUnknown, c.Exe == "")
	return out
}

// What soundness rests on: every request falls into a case, and there the formulas say what Decide says.
func TestFormulasSayWhatDecideSays(t *testing.T) {
	left := 0
	for seed := range uint64(600) {
		w := newWorld(seed)
		p := w.policy(t)
		doc, err := read(p)
		if err != nil {
			t.Fatal(err)
		}
		var v vocabulary
		v.document(doc)
		s, err := newSpace(v)
		if err != nil {
			t.Fatal(err)
		}
		d := encode(s, doc)
		for range 60 {
			c, a := w.caller(), w.ask()
			if got := s.solver.Solve(pin(t, s, v, c, a)...); got != sat.Satisfiable {
				t.Fatalf("seed %d: no case has %+v %+v", seed, c, a)
			}
			got := decided(s, d)
			want := p.Decide(c, a)
			if !slices.Equal(got, want.Places) {
				t.Fatalf("seed %d: got %v, want %v\npolicy %s\ncaller %+v\nask %+v", seed, got, want, p.Document(), c, a)
			}
			for _, name := range want.Classes {
				if !s.solver.Value(d.classes[name].certain) {
					t.Fatalf("seed %d: class %q is missing", seed, name)
				}
			}
			if leaves(want) {
				left++
			}
		}
	}
	if left < 1000 {
		t.Errorf("only %d requests may leave: the policies are too much alike", left)
	}
}

// decided reads the places, in order, from the last assignment.
func decided(s *space, d decision) []policy.Place {
	var out []policy.Place
	model := func(l sat.Lit) bool { return s.solver.Value(l) }
	i := slices.IndexFunc(d.first, model)
	for _, p := range append(slices.Clone(d.doc.Rules), rule{Places: []string{"local"}})[i].Places {
		if model(d.allowed[p]) {
			out = append(out, policy.Place(p))
		}
	}
	return out
}

func TestProvenMeansThatNothingLeaves(t *testing.T) {
	answers := map[bool]int{}
	for seed := range uint64(300) {
		w := newWorld(seed)
		p := w.policy(t)
		classes := []string{policy.Opaque}
		doc, _ := read(p)
		for _, c := range doc.Classes {
			classes = append(classes, c.Name)
		}
		terms := [][]string{{"any"}, {"class=" + pick(w, classes)}, {"unit=" + pick(w, patterns())}, {"uid=1", "class=" + pick(w, classes)}, {"model=m"}}
		claim, err := ParseClaim(pick(w, terms))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := Never(p, claim)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		answers[answer.Proven]++
		if !answer.Proven {
			c, a := answer.Counterexample.decided()
			if v := p.Decide(c, a); !leaves(v) || !fits(claim, v, c, a) {
				t.Fatalf("seed %d: %+v is no counterexample to %+v: %+v\npolicy %s", seed, *answer.Counterexample, claim, v, p.Document())
			}
			continue
		}
		for range 400 {
			c, a := w.caller(), w.ask()
			if v := p.Decide(c, a); leaves(v) && fits(claim, v, c, a) {
				t.Fatalf("seed %d: %+v is proven, but %+v %+v gets %+v\npolicy %s", seed, claim, c, a, v, p.Document())
			}
		}
	}
	if answers[true] < 30 || answers[false] < 30 {
		t.Errorf("the policies are too much alike: %v", answers)
	}
}

// fits says whether a request certainly fits the claim.
func fits(c Claim, v policy.Verdict, who policy.Caller, a policy.Ask) bool {
	anyGlob := func(globs []glob, s string) bool {
		return len(globs) == 0 || slices.ContainsFunc(globs, func(g glob) bool { return g.matches(s) })
	}
	return anyGlob(c.when.Model, a.Model) && anyGlob(c.when.Unit, who.Unit) &&
		(len(c.when.UID) == 0 || slices.Contains(c.when.UID, who.UID)) &&
		(len(c.when.Class) == 0 || slices.ContainsFunc(c.when.Class, func(n string) bool { return slices.Contains(v.Classes, n) }))
}

const clinic = `schema: 1
name: clinic
upstreams: [{name: burst, api: openai, base_url: "https://api.example.com/v1", models: {mote: big}}]
classes:
  - {name: phi, labels: [patient], callers: [{unit: "ward-*.service"}]}
  - {name: payment, detectors: [card, iban]}
rules:
  - {name: reports, when: {unit: report.service, hours: "22:00-06:00"}, places: [burst, local]}
  - {name: patients, when: {class: phi}, places: local}
  - {name: money, when: {class: payment, max_bytes: 1000}, places: local}
  - {name: rest, places: [local, burst]}
`

func mustParse(t *testing.T, src string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNever(t *testing.T) {
	p := mustParse(t, clinic)
	for _, c := range []struct {
		claim  string
		proven bool
		rule   string // of the counterexample
		curl   string
	}{
		// By caller the ward's requests stay; but a label does not take the night's reports back.
		{"unit=ward-3.service", true, "", ""},
		{"unit=ward-3.service class=payment", true, "", ""},
		{"model=other", true, "", ""}, // no upstream serves it
		{"class=phi", false, "reports", "-H 'x-bothy-class: "},
		{"class=payment", false, "rest", "account GB82"},
		{"unit=report.service", false, "rest", `"content":"hello"`},
		{"any", false, "rest", "http://bothy/v1/chat/completions"},
		{"class=opaque", true, "", ""},
		{"unit=a.service unit=b.service", false, "rest", ""}, // alternatives
	} {
		claim, err := ParseClaim(strings.Fields(c.claim))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Never(p, claim)
		if err != nil || got.Proven != c.proven {
			t.Errorf("%s: got %+v %v, want proven %v", c.claim, got, err, c.proven)
			continue
		}
		if !c.proven && (got.Verdict.Rule != c.rule || !strings.Contains(got.Counterexample.Curl("/run/api.sock"), c.curl)) {
			t.Errorf("%s: got %+v, curl %s", c.claim, got.Verdict, got.Counterexample.Curl("/run/api.sock"))
		}
	}
}

func TestCounterexampleIsPlain(t *testing.T) {
	claim, _ := ParseClaim([]string{"class=payment"})
	got, err := Never(mustParse(t, clinic), claim)
	if err != nil {
		t.Fatal(err)
	}
	r := got.Counterexample
	if r.Ask.Bytes != 1001 || len(r.Ask.Labels) > 0 || r.Caller.Unit != "" || r.Ask.Model != "mote" || r.Ask.Time.Hour() != 12 {
		t.Errorf("got %+v, want 1001 bytes at noon without label and unit", *r)
	}
	want := `{ printf %s '{"model":"mote","messages":[{"role":"user","content":"account GB82 WEST 1234 5698 7654 32"}]}'; head -c 908 /dev/zero | tr '\0' ' '; } | ` +
		`curl --unix-socket /run/api.sock http://bothy/v1/chat/completions -H 'content-type: application/json' --data-binary @-`
	if got := r.Curl("/run/api.sock"); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if got, want := r.Circumstances(), "from uid 1000, gid 1000, executable /usr/bin/python3, on a Monday at 12:00"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatOneClaimCannotSay(t *testing.T) {
	for term, want := range map[string]string{
		"phi":       `cannot read "phi": want key=value, for example class=phi, or any`,
		"class=":    `cannot read "class=": want key=value, for example class=phi, or any`,
		"uid=root":  `uid "root" is not a number`,
		"unit=*a*":  `unit "*a*" has more than one "*"`,
		"api=voice": `there is no api "voice"; known: chat, completions, embeddings`,
		"hour=8":    `cannot claim anything about "hour"; known: class, unit, exe, container, uid, gid, model, api`,
	} {
		if _, err := ParseClaim([]string{term}); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", term, err, want)
		}
	}
	claim, _ := ParseClaim([]string{"class=nosuch"})
	if _, err := Never(mustParse(t, clinic), claim); err == nil || err.Error() != `policy "clinic" has no class "nosuch"` {
		t.Errorf("got %v", err)
	}
}

func TestContradictionIsProvenVacuously(t *testing.T) {
	claim := Claim{when{Model: []glob{"m"}, MinBytes: 5, MaxBytes: 4}}
	if got, err := Never(mustParse(t, clinic), claim); err != nil || !got.Proven || !got.Vacuous {
		t.Errorf("got %+v %v, want a vacuous proof", got, err)
	}
}

// Sixty classes that each may or may not apply are 2^60 requests.
func TestManyClassesAreStillExact(t *testing.T) {
	var b strings.Builder
	b.WriteString("schema: 1\nname: many\nupstreams: [{name: x, api: openai, base_url: \"https://x.example\"}]\nclasses:\n")
	name := func(i int) string { return "c" + string(rune('a'+i/10)) + string(rune('a'+i%10)) }
	for i := range 60 {
		b.WriteString("  - {name: " + name(i) + "}\n")
	}
	b.WriteString("rules:\n")
	for i := range 60 {
		b.WriteString("  - {name: r" + name(i) + ", when: {class: " + name(i) + ", unit: '" + name(i) + "*'}, places: [local, x]}\n")
		b.WriteString("  - {name: l" + name(i) + ", when: {class: " + name(i) + "}, places: local}\n")
	}
	open := b.String() + "  - {name: rest, places: [local, x]}\n"
	for src, proven := range map[string]bool{open: false, b.String(): true} {
		claim, _ := ParseClaim([]string{"class=cda"})
		if got, err := Never(mustParse(t, src), claim); err != nil || got.Proven != proven {
			t.Errorf("got %+v %v, want proven %v", got, err, proven)
		}
	}
}

func TestSamplesHoldWhatTheyAreFor(t *testing.T) {
	for k := range samples() {
		if got := sample([]detect.Kind{k}); got == "" {
			t.Errorf("the sample of %q holds something else", k)
		}
	}
	if got := sample([]detect.Kind{detect.Card, detect.Email}); !strings.Contains(got, "4111") || !strings.Contains(got, "@") {
		t.Errorf("got %q, want both", got)
	}
}

func TestTooManyPatternsAreNotGuessed(t *testing.T) {
	var globs []glob
	for i := range 200 {
		globs = append(globs, glob(strings.Repeat("a", i)+"b*"), glob("*b"+strings.Repeat("c", i)))
	}
	if _, err := partition(globs, "web"); err == nil {
		t.Error("got no error for 40,401 cases")
	}
}

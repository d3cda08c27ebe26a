package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// world makes random policies and requests out of a few names, so that they often meet.
type world struct{ *rand.Rand }

func newWorld(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 7))} }

func pick[T any](w world, from []T) T { return from[w.IntN(len(from))] }

// some is a random subset, in order; empty as often as not.
func some[T any](w world, from []T) []T {
	var out []T
	if w.IntN(2) == 0 {
		return nil
	}
	for _, v := range from {
		if w.IntN(2) == 0 {
			out = append(out, v)
		}
	}
	return out
}

func globs() []glob {
	return []glob{{prefix: "a.service"}, {prefix: "b.service"}, {prefix: "a", star: true}, {suffix: ".service", star: true}, {star: true}}
}

func (w world) pattern() caller {
	return caller{Unit: some(w, globs()), UID: some(w, []uint32{1, 2}), Exe: some(w, []glob{{prefix: "/a"}, {prefix: "/b"}})}
}

func (w world) policy() *Policy {
	doc := document{Schema: 1, Name: "random", KillSwitch: w.IntN(8) == 0, Upstreams: []Upstream{
		{Name: "x", API: "openai", BaseURL: "https://x", Timeout: time.Second},
		{Name: "y", API: "openai", BaseURL: pick(w, []string{"https://y", "https://z"}), Timeout: time.Second},
	}}
	if w.IntN(3) == 0 {
		doc.Upstreams[1].Models = map[string]string{"m": "M"}
	}
	for i := range w.IntN(4) {
		c := class{Name: fmt.Sprint("class", i), Labels: some(w, []string{"l"})}
		for _, k := range some(w, detect.All()) {
			c.Detectors = append(c.Detectors, string(k))
		}
		if w.IntN(3) == 0 {
			c.Callers = []caller{w.pattern()}
		}
		doc.Classes = append(doc.Classes, c)
	}
	classes := []string{Opaque}
	for _, c := range doc.Classes {
		classes = append(classes, c.Name)
	}
	for i := range w.IntN(6) {
		r := rule{Name: fmt.Sprint("rule", i), Places: some(w, []Place{"y", Local, "x"}), Priority: pick(w, []string{"", Batch}), MaxTokens: w.IntN(3)}
		if len(r.Places) == 0 {
			r.Deny, r.Priority, r.MaxTokens = "no", "", 0
		}
		if w.IntN(4) > 0 {
			r.When = &when{Model: some(w, []glob{{prefix: "m"}}), Class: some(w, classes), MaxBytes: w.IntN(2) * 100}
			if w.IntN(2) == 0 {
				r.When.caller = w.pattern()
			}
		}
		doc.Rules = append(doc.Rules, r)
	}
	return compile(doc)
}

func (w world) caller() Caller {
	return Caller{UID: uint32(w.IntN(3)), Unit: pick(w, []string{"", "a.service", "b.service", "ab"}), Exe: pick(w, []string{"", "/a", "/b", "/c"})}
}

func (w world) ask() Ask {
	return Ask{
		Model: pick(w, []string{"m", "n"}), Kinds: some(w, detect.All()), Opaque: w.IntN(4) == 0, Bytes: w.IntN(200),
		Labels: some(w, []string{"l", "class0", "class1", "unheard-of"}), OnlyLocal: w.IntN(5) == 0,
	}
}

// within says whether v allows nothing that w does not, on terms at least as strict.
func within(v, w Verdict) bool {
	for _, p := range v.Places {
		if !w.Allows(p) {
			return false
		}
	}
	if len(v.Places) == 0 {
		return true
	}
	return w.Deny == "" && (w.Priority != Batch || v.Priority == Batch) && (w.MaxTokens == 0 || v.MaxTokens != 0 && v.MaxTokens <= w.MaxTokens)
}

// worlds runs a property on many random policies and requests.
func worlds(t *testing.T, property func(w world, p *Policy, c Caller, a Ask) string) {
	t.Helper()
	for seed := range uint64(6_000) {
		w := newWorld(seed)
		p, c, a := w.policy(), w.caller(), w.ask()
		if problem := property(w, p, c, a); problem != "" {
			t.Fatalf("seed %d: %s\npolicy %s\ncaller %+v\nask %+v\nverdict %+v", seed, problem, p.Document(), c, a, p.Decide(c, a))
		}
	}
}

func TestPlacesAreEmptyExactlyWhenDenied(t *testing.T) {
	worlds(t, func(w world, p *Policy, c Caller, a Ask) string {
		a.Incomplete, c.Unattested = w.IntN(3) == 0, w.IntN(3) == 0
		v := p.Decide(c, a)
		if (len(v.Places) == 0) != (v.Deny != "") || v.Rule == "" || v.Priority == "" {
			return "a verdict is incomplete"
		}
		if diff := cmp.Diff(v, p.Decide(c, a)); diff != "" {
			return "two answers to one question: " + diff
		}
		return ""
	})
}

func TestHeadersNeverWiden(t *testing.T) {
	worlds(t, func(_ world, p *Policy, c Caller, a Ask) string {
		bare := a
		bare.Labels, bare.OnlyLocal = nil, false
		v, without := p.Decide(c, a), p.Decide(c, bare)
		switch {
		case !within(v, without):
			return fmt.Sprintf("wider than %+v", without)
		case a.OnlyLocal && slices.ContainsFunc(v.Places, func(p Place) bool { return p != Local }):
			return "a request that asks to stay may leave"
		case slices.Contains(a.Labels, "unheard-of") && slices.ContainsFunc(v.Places, func(p Place) bool { return p != Local }):
			return "an unknown label may leave"
		}
		return ""
	})
}

func TestKillSwitchLeavesOnlyLocal(t *testing.T) {
	worlds(t, func(_ world, p *Policy, c Caller, a Ask) string {
		doc := p.doc
		doc.KillSwitch = true
		v := compile(doc).Decide(c, a)
		if slices.ContainsFunc(v.Places, func(p Place) bool { return p != Local }) {
			return fmt.Sprintf("with the kill switch: %+v", v)
		}
		if !within(v, p.Decide(c, a)) {
			return fmt.Sprintf("the kill switch widens to %+v", v)
		}
		return ""
	})
}

func TestIncompleteScanGetsTheIntersectionOverEveryClassPossible(t *testing.T) {
	all := 1 << len(detect.All())
	worlds(t, func(w world, p *Policy, c Caller, a Ask) string {
		open := a
		open.Incomplete = true
		v := p.Decide(c, open)
		subsets := []int{0, all - 1}
		for i := range detect.All() {
			subsets = append(subsets, 1<<i, w.IntN(all))
		}
		for _, subset := range subsets {
			for _, opaque := range []bool{a.Opaque, true} {
				full := a
				full.Opaque, full.Kinds = opaque, slices.Clone(a.Kinds)
				for i, k := range detect.All() {
					if subset>>i&1 == 1 {
						full.Kinds = append(full.Kinds, k)
					}
				}
				if w := p.Decide(c, full); !within(v, w) {
					return fmt.Sprintf("incomplete gives %+v, but with %v and opaque %t it is %+v", v, full.Kinds, opaque, w)
				}
			}
		}
		return ""
	})
}

func TestUnattestedCallerGetsTheIntersectionOverEveryCaller(t *testing.T) {
	worlds(t, func(_ world, p *Policy, c Caller, a Ask) string {
		unknown := Caller{UID: c.UID, GID: c.GID, Unattested: true}
		v := p.Decide(unknown, a)
		for _, unit := range []string{"", "a.service", "b.service", "ab", "zz"} {
			for _, exe := range []string{"/a", "/b", "/c"} {
				who := Caller{UID: c.UID, GID: c.GID, Unit: unit, Exe: exe}
				if w := p.Decide(who, a); !within(v, w) {
					return fmt.Sprintf("unattested gives %+v, but %+v gets %+v", v, who, w)
				}
				who.Exe = ""
				if w := p.Decide(Caller{UID: c.UID, GID: c.GID, Unit: unit, Exe: exe}, a); !within(p.Decide(who, a), w) {
					return fmt.Sprintf("an unknown executable gets more than %q: %+v", exe, w)
				}
			}
		}
		return ""
	})
}

func TestOpaqueStaysUnlessARuleNamesIt(t *testing.T) {
	worlds(t, func(_ world, p *Policy, c Caller, a Ask) string {
		a.Opaque, a.Labels, c.Exe = true, nil, "/a" // one rule decides, so that its name tells which
		v := p.Decide(c, a)
		if !slices.ContainsFunc(v.Places, func(p Place) bool { return p != Local }) {
			return ""
		}
		i := slices.IndexFunc(p.doc.Rules, func(r rule) bool { return r.Name == v.Rule })
		if i < 0 || p.doc.Rules[i].When == nil || !slices.Contains(p.doc.Rules[i].When.Class, Opaque) {
			return "an opaque request may leave by a rule that does not name opaque"
		}
		return ""
	})
}

func TestBothIsWithinEach(t *testing.T) {
	worlds(t, func(w world, p *Policy, c Caller, a Ask) string {
		q := w.policy()
		set := Both(p, q)
		v := set.Decide(c, a)
		if !within(v, p.Decide(c, a)) || !within(v, q.Decide(c, a)) {
			return fmt.Sprintf("both with %s gives %+v", q.Document(), v)
		}
		if (len(v.Places) == 0) != (v.Deny != "") {
			return fmt.Sprintf("both gives %+v", v)
		}
		for _, place := range v.Places {
			if place != Local && !slices.ContainsFunc(set.Upstreams(), func(u Upstream) bool { return u.Name == string(place) }) {
				return fmt.Sprintf("both allows %q, which the two define differently", place)
			}
		}
		return ""
	})
}

func TestIntersectNamesTheRuleThatDecided(t *testing.T) {
	wide := Verdict{Places: []Place{Local, "x", "y"}, Priority: Interactive, Rule: "wide"}
	for _, c := range []struct {
		name string
		b    Verdict
		want Verdict
	}{
		{"the same", wide, wide},
		{"narrower", Verdict{Places: []Place{Local}, Priority: Batch, Rule: "narrow"}, Verdict{Places: []Place{Local}, Priority: Batch, Rule: "narrow"}},
		{"denied", Verdict{Priority: Interactive, Deny: "no", Rule: "deny"}, Verdict{Priority: Interactive, Deny: "no", Rule: "deny"}},
		{"crossed", Verdict{Places: []Place{"y", "z"}, Priority: Interactive, MaxTokens: 9, Rule: "other"}, Verdict{Places: []Place{"y"}, Priority: Interactive, MaxTokens: 9, Rule: "wide+other"}},
		{"disjoint", Verdict{Places: []Place{"z"}, Priority: Interactive, Rule: "far"}, Verdict{Priority: Interactive, Rule: "wide+far", Deny: `rules "wide" and "far" allow no place in common`}},
	} {
		if diff := cmp.Diff(c.want, Intersect(wide, c.b)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestSetLeavesLaterAndOnlyByCommonUpstreams(t *testing.T) {
	a := mustParse(t, full)
	b := mustParse(t, head+"spill: {max_wait: 3s, max_queue: 2}\nkill_switch: true\nupstreams: [{name: near, api: openai, base_url: 'http://127.0.0.1:8443/v1', timeout: 5s}]\n")
	set := Both(a, b)
	if got, want := set.Spill(), (Spill{MaxWait: 3 * time.Second, MaxQueue: 4}); got != want {
		t.Errorf("spill: got %v, want %v", got, want)
	}
	if !set.KillSwitch() {
		t.Error("the kill switch of one policy is not that of both")
	}
	want := []Upstream{{Name: "near", API: "openai", BaseURL: "http://127.0.0.1:8443/v1", Timeout: 5 * time.Second}}
	if diff := cmp.Diff(want, set.Upstreams()); diff != "" {
		t.Errorf("upstreams (-want +got):\n%s", diff)
	}
}

func TestUpstreamWithoutTheModelIsNoPlace(t *testing.T) {
	p := mustParse(t, head+`upstreams:
  - {name: x, api: openai, base_url: "https://x/", models: {mote: m}}
  - {name: y, api: openai, base_url: "https://y/"}
rules:
  - {name: far, when: {uid: 1}, places: [x]}
  - {name: all, places: [x, local, y]}
`)
	if got := p.Decide(Caller{}, Ask{Model: "other"}).Places; !slices.Equal(got, []Place{Local, "y"}) {
		t.Errorf("got %v, want [local y]", got)
	}
	if got := p.Decide(Caller{}, Ask{Model: "mote"}).Places; !slices.Equal(got, []Place{"x", Local, "y"}) {
		t.Errorf("got %v, want [x local y]", got)
	}
	if got, want := p.Decide(Caller{UID: 1}, Ask{Model: "other"}).Deny, `no upstream of rule "far" serves the model "other"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := p.Decide(Caller{UID: 1}, Ask{Model: "mote", OnlyLocal: true}).Deny, `rule "far" allows only cloud places, and the request asks to stay on this box`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDefaultKeepsEverything(t *testing.T) {
	v := Default().Decide(Caller{UID: 1000}, Ask{Model: "mote"})
	if diff := cmp.Diff(Verdict{Places: []Place{Local}, Priority: Interactive, Rule: DefaultRule}, v); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}

// large is a policy of 200 rules of which only the last takes a common request.
func large(tb testing.TB) *Policy {
	src := head + "upstreams: [{name: x, api: openai, base_url: 'https://x/', models: {mote: m}}]\nclasses:\n"
	for i := range 40 {
		src += fmt.Sprintf("  - {name: c%d, detectors: [%s]}\n", i, detect.All()[i%len(detect.All())])
	}
	src += "rules:\n"
	for i := range 199 {
		src += fmt.Sprintf("  - {name: r%d, when: {%s}, places: [local, x]}\n", i, []string{
			fmt.Sprintf("unit: 'app-%d-*.service', uid: [%d, %d]", i, i+2000, i+5000),
			fmt.Sprintf("unit: ['app-%d-*.service', 'job-%d.service']", i, i),
			fmt.Sprintf("class: [c%d], exe: /usr/bin/app-%d, model: 'm*'", i%40, i),
			fmt.Sprintf("model: 'other-%d-*', api: chat, hours: '08:00-18:00'", i),
		}[i%4])
	}
	return mustParse(tb, src+"  - {name: last, places: [local, x]}\n")
}

func BenchmarkDecide200(b *testing.B) {
	p := large(b)
	c := Caller{UID: 1000, Unit: "app-clinic.service", Exe: "/usr/bin/app-clinic"}
	now := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	for name, a := range map[string]Ask{
		"plain":  {Model: "mote", API: "chat", Bytes: 4096, Time: now},
		"found":  {Model: "mote", API: "chat", Bytes: 4096, Time: now, Kinds: []detect.Kind{detect.Card, detect.Email}},
		"labels": {Model: "mote", API: "chat", Bytes: 4096, Time: now, Labels: []string{"c3"}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(c, a)
			}
		})
	}
}

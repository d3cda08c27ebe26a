package policy

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

func TestExplainTextTellsWhichRuleFiresAndWhyEarlierOnesDoNot(t *testing.T) {
	p := mustParse(t, full)
	e := p.Explain(Caller{UID: 7, Unit: "web.service"}, Ask{Model: "mote", API: "chat", Bytes: 5, Kinds: []detect.Kind{detect.Email}})
	want := `allowed at local, then burst by rule "rest" of policy "site", priority interactive
found: email
  rule 1 "payments stay" does not match: the request is in no class, the rule wants payment or clinic
  rule 2 "night" does not match: the body has 5 bytes, the rule wants at least 10; the day is mon, the rule wants sat or sun
  rule 3 "no embeddings" does not match: the api is "chat", the rule wants embeddings
  rule 4 "pictures" does not match: the request is in no class, the rule wants opaque
  rule 5 "rest" fires
`
	// The zero time is a Monday at midnight: the hours of rule 2 hold, its days do not.
	if diff := cmp.Diff(want, e.Text()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

func TestExplainNotesWhatNarrows(t *testing.T) {
	p := mustParse(t, full)
	e := p.Explain(Caller{UID: 1000, Unattested: true}, Ask{Model: "mote", Labels: []string{"pci", "odd"}, Incomplete: true, OnlyLocal: true})
	if e.Rules[0].Outcome != Fires || e.Rules[1].Outcome != NotReached || len(e.Rules) != 6 {
		t.Errorf("got %+v", e.Rules)
	}
	want := []string{
		"the request asks to stay on this box",
		"a label of the request is no class of the policy, which keeps it on this box",
		`the scan did not finish: every class that might apply counts, and so does "opaque"`,
		"the caller's unit, container and executable are not attested: every rule for one may fire",
	}
	if diff := cmp.Diff(want, e.Notes[:4]); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	e = p.Explain(Caller{UID: 1000, Unattested: true}, Ask{Model: "mote"})
	if diff := cmp.Diff(RuleOutcome{Rule: "payments stay", Position: 1, Outcome: MayFire, Why: []string{"the request may be in class clinic, the rule wants payment or clinic"}}, e.Rules[0]); diff != "" {
		t.Errorf("rule 1 (-want +got):\n%s", diff)
	}
}

func TestExplanationAsJSON(t *testing.T) {
	p := mustParse(t, head+"rules:\n  - {name: a, when: {uid: 1}, places: local}\n")
	got, err := json.Marshal(p.Explain(Caller{}, Ask{Model: "m"}))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"policy":"site","verdict":{"places":["local"],"priority":"interactive","rule":"default"},` +
		`"rules":[{"rule":"a","position":1,"outcome":"does not match","why":["the caller's uid is 0, the rule wants 1"]},` +
		`{"rule":"default","position":0,"outcome":"fires"}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}

// What the explanation says of each condition and what Decide does are two pieces of code: they must agree.
func TestExplanationAgreesWithDecide(t *testing.T) {
	worlds(t, func(w world, p *Policy, c Caller, a Ask) string {
		a.Incomplete, c.Unattested = w.IntN(4) == 0, w.IntN(4) == 0
		g := &p.compiled
		f := g.facts(&c, &a)
		for i := range g.rules {
			all := yes
			for _, cond := range g.conditions(&g.rules[i], &c, &a, &f) {
				all = min(all, cond.truth)
			}
			if got := g.rules[i].matches(&c, &a, &f); got != all {
				return fmt.Sprintf("rule %d matches is %d, its conditions say %d", i+1, got, all)
			}
		}
		e := p.Explain(c, a)
		if diff := cmp.Diff(p.Decide(c, a), e.Verdict); diff != "" {
			return diff
		}
		if a.Incomplete || c.Unattested || c.Exe == "" || len(a.Labels) > 0 {
			return ""
		}
		for _, r := range e.Rules {
			if (r.Outcome == Fires) != (r.Rule == e.Verdict.Rule) || r.Outcome == MayFire {
				return fmt.Sprintf("%q %s, but rule %q decided", r.Rule, r.Outcome, e.Verdict.Rule)
			}
		}
		return ""
	})
}

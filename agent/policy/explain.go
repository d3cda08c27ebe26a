package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// What became of a rule in an explanation.
const (
	Fires      = "fires"
	MayFire    = "may fire" // something about the request is not known
	NoMatch    = "does not match"
	NotReached = "not reached"
)

// Explanation says how a verdict came about. Nothing was run to obtain it.
type Explanation struct {
	Policy  string        `json:"policy"`
	Verdict Verdict       `json:"verdict"`
	Kinds   []detect.Kind `json:"kinds,omitempty"`
	Rules   []RuleOutcome `json:"rules"`
	// Notes are what narrowed the verdict beyond the rules.
	Notes []string `json:"notes,omitempty"`
}

// RuleOutcome is one rule in the document's order; DefaultRule, at position 0, ends the list.
type RuleOutcome struct {
	Rule     string   `json:"rule"`
	Position int      `json:"position"`
	Outcome  string   `json:"outcome"`
	Why      []string `json:"why,omitempty"`
}

// Explain is Decide with its reasons: which rule fires, and why each earlier one does not.
func (p *Policy) Explain(c Caller, a Ask) Explanation {
	g := &p.compiled
	plain := g.facts(&c, &a)
	f := g.label(plain, a.Labels)
	e := Explanation{Policy: p.Name(), Verdict: p.Decide(c, a), Kinds: a.Kinds}
	decided := false
	for i := range g.rules {
		o := RuleOutcome{Rule: g.rules[i].verdict.Rule, Position: i + 1, Outcome: NotReached}
		if !decided {
			o.Outcome, o.Why = g.explainRule(&g.rules[i], &c, &a, &f)
			decided = o.Outcome == Fires
		}
		e.Rules = append(e.Rules, o)
	}
	last := RuleOutcome{Rule: DefaultRule, Outcome: NotReached}
	if !decided {
		last.Outcome = Fires
	}
	e.Rules = append(e.Rules, last)
	e.Notes = g.notes(&c, &a, plain, f)
	return e
}

// explainRule says whether the rule matches, and which conditions fail or are not known.
func (g *program) explainRule(r *instruction, c *Caller, a *Ask, f *facts) (outcome string, why []string) {
	for _, cond := range g.conditions(r, c, a, f) {
		if cond.truth != yes {
			why = append(why, cond.why)
		}
	}
	switch r.matches(c, a, f) {
	case yes:
		return Fires, why
	case maybe:
		return MayFire, why
	default:
		return NoMatch, why
	}
}

// condition is one field of a rule's when, judged apart.
type condition struct {
	truth truth
	why   string // it does not hold, or is not known to
}

// conditions judges every field that the rule has. Their "and" is what matches yields.
func (g *program) conditions(r *instruction, c *Caller, a *Ask, f *facts) []condition {
	w := &r.when
	var out []condition
	test := func(given bool, t truth, format string, args ...any) {
		if given {
			out = append(out, condition{truth: t, why: fmt.Sprintf(format, args...)})
		}
	}
	test(r.classes != 0, classTruth(r.classes, f), "the request %s, the rule wants %s", g.classesInWords(f, r.classes), anyOf(w.Class))
	test(len(w.Model) > 0, known(anyGlob(w.Model, a.Model)), "the model is %q, the rule wants %s", a.Model, anyOf(w.Model))
	test(len(w.API) > 0, known(slices.Contains(w.API, a.API)), "the api is %q, the rule wants %s", a.API, anyOf(w.API))
	test(w.MinBytes > 0, known(a.Bytes >= w.MinBytes), "the body has %d bytes, the rule wants at least %d", a.Bytes, w.MinBytes)
	test(w.MaxBytes > 0, known(a.Bytes <= w.MaxBytes), "the body has %d bytes, the rule wants at most %d", a.Bytes, w.MaxBytes)
	test(len(w.Days) > 0, known(r.days[f.day]), "the day is %s, the rule wants %s", dayNames()[f.day], anyOf(w.Days))
	inHours := slices.ContainsFunc(w.Hours, func(h hours) bool { return h.holds(f.minute) })
	test(len(w.Hours) > 0, known(inHours), "the time is %s, the rule wants %s", clock(f.minute), anyOf(w.Hours))
	test(len(w.UID) > 0, known(slices.Contains(w.UID, c.UID)), "the caller's uid is %d, the rule wants %s", c.UID, anyOf(w.UID))
	test(len(w.GID) > 0, known(slices.Contains(w.GID, c.GID)), "the caller's gid is %d, the rule wants %s", c.GID, anyOf(w.GID))
	for _, field := range []struct {
		name, value string
		wanted      []glob
		unknown     bool
	}{
		{"unit", c.Unit, w.Unit, c.Unattested},
		{"container", c.Container, w.Container, c.Unattested},
		{"executable", c.Exe, w.Exe, c.Unattested || c.Exe == ""},
	} {
		if field.unknown {
			test(len(field.wanted) > 0, maybe, "the caller's %s is not attested, the rule wants %s", field.name, anyOf(field.wanted))
			continue
		}
		test(len(field.wanted) > 0, known(anyGlob(field.wanted, field.value)), "the caller's %s is %q, the rule wants %s", field.name, field.value, anyOf(field.wanted))
	}
	return out
}

func known(holds bool) truth {
	if holds {
		return yes
	}
	return no
}

func classTruth(classes uint64, f *facts) truth {
	switch {
	case f.certain&classes != 0:
		return yes
	case f.possible&classes != 0:
		return maybe
	}
	return no
}

func (g *program) classesInWords(f *facts, wanted uint64) string {
	switch {
	case classTruth(wanted, f) == maybe:
		return fmt.Sprintf("may be in class %s", strings.Join(g.names(f.possible&wanted), ", "))
	case f.certain == 0:
		return "is in no class"
	}
	return "is in class " + strings.Join(g.names(f.certain), ", ")
}

// anyOf lists values the way people say them: a, b or c.
func anyOf[T any](values []T) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func (h hours) String() string { return clock(h.From) + "-" + clock(h.To) }

// notes says what narrows the verdict beyond the rules.
func (g *program) notes(c *Caller, a *Ask, plain, labelled facts) []string {
	var out []string
	note := func(holds bool, format string, args ...any) {
		if holds {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	note(g.killSwitch, "the kill switch is on: no request leaves this box")
	note(a.OnlyLocal, "the request asks to stay on this box")
	note(labelled.unknownLabel, "a label of the request is no class of the policy, which keeps it on this box")
	note(a.Opaque, "the request has content that cannot be inspected: it stays on this box unless the rule names the class %q", Opaque)
	note(a.Incomplete, "the scan did not finish: every class that might apply counts, and so does %q", Opaque)
	note(c.Unattested, "the caller's unit, container and executable are not attested: every rule for one may fire")
	if len(a.Labels) > 0 {
		with, without := g.judge(c, a, labelled), g.judge(c, a, plain)
		note(with.Rule != without.Rule, "without the labels rule %q would decide, with them rule %q: both verdicts are intersected", without.Rule, with.Rule)
	}
	return out
}

// Text is the explanation for a terminal.
func (e Explanation) Text() string {
	var b strings.Builder
	if e.Verdict.Deny != "" {
		fmt.Fprintf(&b, "denied by rule %q of policy %q: %s\n", e.Verdict.Rule, e.Policy, strings.TrimSpace(e.Verdict.Deny))
	} else {
		fmt.Fprintf(&b, "allowed at %s by rule %q of policy %q, priority %s", placesInWords(e.Verdict.Places), e.Verdict.Rule, e.Policy, e.Verdict.Priority)
		if e.Verdict.MaxTokens > 0 {
			fmt.Fprintf(&b, ", at most %d tokens", e.Verdict.MaxTokens)
		}
		b.WriteString("\n")
	}
	if len(e.Kinds) > 0 {
		fmt.Fprintf(&b, "found: %s\n", strings.Trim(fmt.Sprint(e.Kinds), "[]"))
	}
	if len(e.Verdict.Classes) > 0 {
		fmt.Fprintf(&b, "classes: %s\n", strings.Join(e.Verdict.Classes, ", "))
	}
	for _, r := range e.Rules {
		if r.Outcome == NotReached {
			continue
		}
		name := fmt.Sprintf("rule %d %q", r.Position, r.Rule)
		if r.Position == 0 {
			name = "default"
		}
		fmt.Fprintf(&b, "  %s %s", name, r.Outcome)
		if len(r.Why) > 0 {
			fmt.Fprintf(&b, ": %s", strings.Join(r.Why, "; "))
		}
		b.WriteString("\n")
	}
	for _, n := range e.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

func placesInWords(places []Place) string {
	words := make([]string, len(places))
	for i, p := range places {
		words[i] = string(p)
	}
	return strings.Join(words, ", then ")
}

package policy

import (
	"fmt"
	"maps"
	"slices"
)

// Intersect allows what both verdicts allow, on the stricter terms of the two, in
// the order of a. A denial wins. The rule named is the one whose verdict the
// result is, or both joined by "+".
func Intersect(a, b Verdict) Verdict {
	v := Verdict{
		Places:    common(a.Places, b.Places),
		Priority:  stricterPriority(a.Priority, b.Priority),
		MaxTokens: stricterBound(a.MaxTokens, b.MaxTokens),
		Deny:      a.Deny,
		Classes:   union(a.Classes, b.Classes),
	}
	if v.Deny == "" {
		v.Deny = b.Deny
	}
	if v.Deny != "" {
		v.Places = nil
	}
	switch {
	case sameTerms(v, a):
		v.Rule = a.Rule
	case sameTerms(v, b):
		v.Rule = b.Rule
	default:
		v.Rule = a.Rule + "+" + b.Rule
	}
	if len(v.Places) == 0 && v.Deny == "" {
		v.Deny = fmt.Sprintf("rules %q and %q allow no place in common", a.Rule, b.Rule)
	}
	return v
}

func sameTerms(v, w Verdict) bool {
	return v.Priority == w.Priority && v.MaxTokens == w.MaxTokens && v.Deny == w.Deny && slices.Equal(v.Places, w.Places)
}

func common(a, b []Place) []Place {
	if slices.Equal(a, b) {
		return a
	}
	var out []Place
	for _, p := range a {
		if slices.Contains(b, p) {
			out = append(out, p)
		}
	}
	return out
}

func union(a, b []string) []string {
	if len(b) == 0 || slices.Equal(a, b) {
		return a
	}
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// stricterPriority: batch requests wait for interactive ones.
func stricterPriority(a, b string) string {
	if a == Batch || b == Batch {
		return Batch
	}
	return a
}

func stricterBound(a, b int) int {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// Set is two policies at once: a request may run only where both allow it. It is
// what holds while a new policy is on its way in, so that a narrowing takes effect
// before the change is committed and an undo never widens.
type Set struct {
	a, b      member
	upstreams []Upstream
	foreign   []Place // names that mean different upstreams in the two policies
}

// member is a *Policy, or a *Set of further ones.
type member interface {
	Decider
	Name() string
	KillSwitch() bool
}

// All is the set of any number of policies: one is itself, none is Default.
func All(policies ...*Policy) Decider {
	if len(policies) == 0 {
		return Default()
	}
	var all member = policies[0]
	for _, p := range policies[1:] {
		all = both(all, p)
	}
	return all
}

// Both is the set of a and b. An upstream counts only when both define it alike:
// the same name for another host or credential is another place.
func Both(a, b *Policy) *Set { return both(a, b) }

func both(a, b member) *Set {
	s := &Set{a: a, b: b}
	for _, u := range a.Upstreams() {
		i := slices.IndexFunc(b.Upstreams(), func(o Upstream) bool { return o.Name == u.Name })
		switch {
		case i < 0:
		case sameUpstream(u, b.Upstreams()[i]):
			u.Timeout = min(u.Timeout, b.Upstreams()[i].Timeout)
			s.upstreams = append(s.upstreams, u)
		default:
			s.foreign = append(s.foreign, Place(u.Name))
		}
	}
	return s
}

func sameUpstream(a, b Upstream) bool {
	return a.API == b.API && a.BaseURL == b.BaseURL && a.Credential == b.Credential && maps.Equal(a.Models, b.Models)
}

// Name joins the names of the policies.
func (s *Set) Name() string { return s.a.Name() + "+" + s.b.Name() }

// Decide is the intersection of the two verdicts.
func (s *Set) Decide(c Caller, a Ask) Verdict {
	v := Intersect(s.a.Decide(c, a), s.b.Decide(c, a))
	if v.Deny != "" || !slices.ContainsFunc(s.foreign, v.Allows) {
		return v
	}
	v.Places = slices.DeleteFunc(slices.Clone(v.Places), func(p Place) bool { return slices.Contains(s.foreign, p) })
	if len(v.Places) == 0 {
		v.Deny = fmt.Sprintf("the policies %q and %q mean different upstreams by the same name", s.a.Name(), s.b.Name())
	}
	return v
}

// Upstreams are those that both policies define alike. Shared: do not modify them.
func (s *Set) Upstreams() []Upstream { return s.upstreams }

// Spill takes the larger threshold of the two: requests leave later, never earlier.
func (s *Set) Spill() Spill {
	a, b := s.a.Spill(), s.b.Spill()
	out := Spill{MaxWait: max(a.MaxWait, b.MaxWait), MaxQueue: max(a.MaxQueue, b.MaxQueue)}
	if a.MaxQueue == 0 || b.MaxQueue == 0 {
		out.MaxQueue = 0
	}
	return out
}

// KillSwitch says whether either policy forbids every cloud place.
func (s *Set) KillSwitch() bool { return s.a.KillSwitch() || s.b.KillSwitch() }

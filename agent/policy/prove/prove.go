// Package prove answers questions about every request at once: does anything of
// a class ever leave the box (Never), and what moves when one policy replaces
// another (Diff).
//
// It is exact. A policy is a finite table, so the requests there can be fall into
// finitely many cases: texts by the patterns they match, numbers by the ranges
// they lie in, what the detectors find and the request claims by yes or no, what
// is not known about it included. Decide becomes a formula over these cases and a
// solver decides it: no sampling, and no rule of thumb. "Proven" is said only
// when the formula has no solution; a solution becomes a request, and is handed
// out only after Decide itself agreed. A question that is too hard is an error.
//
// The policy is read from its canonical JSON, strictly: a field that this package
// does not know might decide a place, so nothing is said about such a policy.
//
// Taken as given: every request names a model, and any detector may find
// something or not. Pure, like the package above. Safe for concurrent use.
package prove

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

// budget bounds the conflicts of one question; a policy that people wrote takes a few hundred.
const budget = 1_000_000

// ErrTooHard is wrapped when a question was given up: nothing is known then.
var ErrTooHard = errors.New("too many cases to decide")

// Answer is what Never found. Proven and a Counterexample exclude each other.
type Answer struct {
	Proven bool `json:"proven"`
	// Vacuous says that no request fits the claim, which proves it and means little.
	Vacuous bool `json:"vacuous,omitempty"`
	// Counterexample is a request that fits the claim and may leave, Verdict what Decide says to it.
	Counterexample *Request        `json:"counterexample,omitempty"`
	Verdict        *policy.Verdict `json:"verdict,omitempty"`
}

// Never proves that no request that fits the claim may run at a place in the
// cloud, or gives one that may. A request that only may fit (a scan that did not
// finish, a caller that could not be attested) counts as one that does.
func Never(p *policy.Policy, c Claim) (Answer, error) {
	doc, err := read(p)
	if err != nil {
		return Answer{}, err
	}
	v := vocabulary{}
	v.document(doc)
	v.when(c.when)
	s, err := newSpace(v)
	if err != nil {
		return Answer{}, err
	}
	d := encode(s, doc)
	fits, err := c.formula(s, d)
	if err != nil {
		return Answer{}, err
	}
	var cloud []sat.Lit
	for _, place := range d.places[1:] {
		cloud = append(cloud, d.allowed[place])
	}
	found, err := s.example(fits, s.or(cloud...))
	switch {
	case err != nil:
		return Answer{}, err
	case found == nil:
		some, err := s.example(fits)
		return Answer{Proven: true, Vacuous: some == nil}, err
	}
	verdict := p.Decide(found.decided())
	if !slices.ContainsFunc(verdict.Places, func(p policy.Place) bool { return p != policy.Local }) {
		return Answer{}, fmt.Errorf("internal error: policy %q keeps the counterexample %+v", p.Name(), *found)
	}
	return Answer{Counterexample: found, Verdict: &verdict}, nil
}

// example is a request for which every literal holds, as usual as it can be; nil when there is none.
func (s *space) example(want ...sat.Lit) (*Request, error) {
	// First among those of which everything is known: they are easier to run.
	switch s.solver.Solve(append(s.definite(), want...)...) {
	case sat.Undecided:
		return nil, ErrTooHard
	case sat.Unsatisfiable:
		switch s.solver.Solve(want...) {
		case sat.Undecided:
			return nil, ErrTooHard
		case sat.Unsatisfiable:
			return nil, nil
		}
	}
	s.prefer(want)
	r := s.request()
	return &r, nil
}

// prefer goes from the last assignment to one where more is usual.
func (s *space) prefer(want []sat.Lit) {
	fixed := slices.Clone(want)
	for _, l := range s.usual() {
		if !s.solver.Value(l) && s.solver.Solve(append(fixed, l)...) != sat.Satisfiable {
			continue
		}
		fixed = append(fixed, l)
	}
}

package prove

import (
	"slices"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

// decision is Policy.Decide as formulas over a space.
type decision struct {
	doc     document
	places  []string           // local and every upstream
	allowed map[string]sat.Lit // the request may run at the place
	first   []sat.Lit          // the rule that Decide looks at first, the default last: it gives the order of places
	classes map[string]truth   // with the labels
}

// truth is a fact that may be unknown: possible and not certain.
type truth struct{ certain, possible sat.Lit }

// encoder turns one document into formulas; it mirrors agent/policy's decide.go,
// and the tests compare the two on every request of many policies.
type encoder struct {
	*space
	doc     document
	when    []truth // of each rule, without its classes
	places  []string
	blocked map[string][]sat.Lit // why a place is not allowed
	first   []sat.Lit
}

func encode(s *space, doc document) decision {
	e := &encoder{space: s, doc: doc, places: []string{string(policy.Local)}, blocked: map[string][]sat.Lit{}}
	for _, u := range doc.Upstreams {
		e.places = append(e.places, u.Name)
	}
	for _, r := range doc.Rules {
		certain, possible := s.terms(r.When)
		e.when = append(e.when, truth{certain, possible})
	}
	plain := e.facts()
	labelled, unknown := e.label(plain)
	e.first = e.judge(plain)
	e.judge(labelled)
	for _, p := range e.places[1:] {
		e.blocked[p] = append(e.blocked[p], unknown, s.onlyLocal)
	}
	d := decision{doc: doc, places: e.places, allowed: map[string]sat.Lit{}, first: e.first, classes: labelled}
	for _, p := range e.places {
		d.allowed[p] = s.or(e.blocked[p]...).Not()
	}
	return d
}

// facts are the classes without the request's own labels.
func (e *encoder) facts() map[string]truth {
	of := map[string]truth{policy.Opaque: {e.opaque, e.or(e.opaque, e.incomplete)}}
	for _, c := range e.doc.Classes {
		var certain, possible []sat.Lit
		for _, k := range e.kinds {
			if slices.Contains(c.Detectors, k.name) {
				certain = append(certain, k.lit)
				possible = append(possible, e.incomplete)
			}
		}
		for _, pattern := range c.Callers {
			yes, may := e.who(pattern)
			certain, possible = append(certain, yes), append(possible, may)
		}
		of[c.Name] = truth{e.or(certain...), e.or(append(possible, certain...)...)}
	}
	return of
}

// label adds what the request claims; unknown holds when it claims what no class of this policy knows.
func (e *encoder) label(plain map[string]truth) (of map[string]truth, unknown sat.Lit) {
	of = map[string]truth{}
	claims := func(name string) []sat.Lit {
		var lits []sat.Lit
		i := slices.IndexFunc(e.doc.Classes, func(c class) bool { return c.Name == name })
		for _, l := range e.labels {
			if l.name == name || i >= 0 && slices.Contains(e.doc.Classes[i].Labels, l.name) {
				lits = append(lits, l.lit)
			}
		}
		return lits
	}
	for name, t := range plain {
		lits := claims(name)
		of[name] = truth{e.or(append(lits, t.certain)...), e.or(append(lits, t.possible)...)}
	}
	strange := []sat.Lit{e.unheard}
	for _, l := range e.labels {
		known := func(c class) bool { return c.Name == l.name || slices.Contains(c.Labels, l.name) }
		if l.name != policy.Opaque && !slices.ContainsFunc(e.doc.Classes, known) {
			strange = append(strange, l.lit)
		}
	}
	return of, e.or(strange...)
}

// judge intersects the verdicts of every rule that may be the first to match: once
// as the request is, and once more as an opaque one where that is not known.
func (e *encoder) judge(of map[string]truth) []sat.Lit {
	t := of[policy.Opaque]
	first := e.firstMatch(of, t.certain, e.yes)
	e.firstMatch(of, e.yes, e.and(t.possible, t.certain.Not()))
	return first
}

// firstMatch goes through the rules while active holds, with opaque known.
func (e *encoder) firstMatch(of map[string]truth, opaque, active sat.Lit) (first []sat.Lit) {
	reached, none := active, e.yes
	take := func(taken sat.Lit, r rule) {
		first = append(first, e.and(taken, none))
		none = e.and(none, taken.Not())
		for _, p := range e.places {
			e.blocked[p] = append(e.blocked[p], e.and(taken, e.allows(r, p, opaque).Not()))
		}
	}
	for i, r := range e.doc.Rules {
		certain, possible := e.when[i].certain, e.when[i].possible
		if len(r.When.Class) > 0 {
			var in, may []sat.Lit
			for _, c := range r.When.Class {
				t := of[c]
				if c == policy.Opaque {
					t = truth{opaque, opaque}
				}
				in, may = append(in, t.certain), append(may, t.possible)
			}
			certain, possible = e.and(certain, e.or(in...)), e.and(possible, e.or(may...))
		}
		take(e.and(reached, possible), r)
		reached = e.and(reached, certain.Not())
	}
	take(reached, rule{Name: policy.DefaultRule, Places: []string{string(policy.Local)}})
	return first
}

// allows says when a rule that fires lets the request run at the place.
func (e *encoder) allows(r rule, place string, opaque sat.Lit) sat.Lit {
	switch {
	case r.Deny != "" || !slices.Contains(r.Places, place):
		return e.no()
	case place == string(policy.Local):
		return e.yes
	case e.doc.KillSwitch:
		return e.no()
	}
	serves := e.serves(e.doc.upstream(place))
	if slices.Contains(r.When.Class, policy.Opaque) {
		return serves
	}
	return e.and(serves, opaque.Not())
}

func (d document) upstream(place string) upstream {
	i := slices.IndexFunc(d.Upstreams, func(u upstream) bool { return u.Name == place })
	return d.Upstreams[i]
}

func (s *space) serves(u upstream) sat.Lit {
	if len(u.Models) == 0 {
		return s.yes
	}
	var lits []sat.Lit
	for i, example := range s.model.examples {
		if _, ok := u.Models[example]; ok {
			lits = append(lits, s.model.lits[i])
		}
	}
	return s.or(lits...)
}

// before says when Decide names place a ahead of b, where both are allowed.
func (d decision) before(l *logic, a, b string) sat.Lit {
	var lits []sat.Lit
	for i, r := range d.doc.Rules {
		if at := slices.Index(r.Places, a); at >= 0 && at < slices.Index(r.Places, b) {
			lits = append(lits, d.first[i])
		}
	}
	return l.or(lits...)
}

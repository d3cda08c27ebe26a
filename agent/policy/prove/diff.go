package prove

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

// Difference is what Diff found. No regions: every request runs where it ran.
type Difference struct {
	Regions []Region `json:"regions"`
	// More says that there are further regions, beyond the number asked for.
	More bool `json:"more,omitempty"`
}

// Region is every request that the rule Old sent to the places From, and that the
// rule New of the other policy sends to the places To. Every request that changes
// place is in exactly one region.
type Region struct {
	From []policy.Place `json:"from"` // the preferred one first; empty is denied
	To   []policy.Place `json:"to"`
	Old  string         `json:"old_rule"`
	New  string         `json:"new_rule"`
	// Changed are the places in both whose upstream is another one in the new policy.
	Changed []policy.Place `json:"changed_upstreams,omitempty"`
	// Where is enough to be in the region; other requests may be in it too. Empty
	// when it is every request, or too hard to tell.
	Where   []Term  `json:"where"`
	Example Request `json:"example"`
}

// Term is one condition on requests. Of several values one is enough, and with Not
// none may be. A pattern stands for what no longer pattern of the policies matches.
type Term struct {
	Property string   `json:"property"`
	Values   []string `json:"values"`
	Not      bool     `json:"not,omitempty"`
}

// with is the property of what a request has or has not.
const with = "with"

func (t Term) String() string {
	switch {
	case t.Not && t.Property == with:
		return "without " + strings.Join(t.Values, ", ")
	case t.Not:
		return t.Property + " not " + strings.Join(t.Values, ", ")
	}
	return t.Property + " " + strings.Join(t.Values, " or ")
}

// Diff finds every request whose places, or their order, differ between two
// policies, as at most limit regions. Terms such as priority are not compared.
// A name that stands for another upstream, or another model there, is another place.
func Diff(before, after *policy.Policy, limit int) (Difference, error) {
	a, err := read(before)
	if err != nil {
		return Difference{}, err
	}
	b, err := read(after)
	if err != nil {
		return Difference{}, err
	}
	var v vocabulary
	v.document(a)
	v.document(b)
	s, err := newSpace(v)
	if err != nil {
		return Difference{}, err
	}
	c := comparison{space: s, old: encode(s, a), new: encode(s, b)}
	c.compare()
	out := Difference{Regions: []Region{}}
	for {
		r, err := s.example(c.moves)
		if err != nil || r == nil {
			return out, err
		}
		if len(out.Regions) == limit {
			out.More = true
			return out, nil
		}
		region, err := c.region(*r, before, after)
		if err != nil {
			return out, err
		}
		out.Regions = append(out.Regions, region)
	}
}

// comparison is two decisions over one space.
type comparison struct {
	*space
	old, new decision
	places   []string
	foreign  map[string]sat.Lit // the place is another one in the new policy
	orders   []order            // of each two places
	moves    sat.Lit            // the request changes place and is in no region yet
}

type order struct {
	a, b     string
	old, new sat.Lit // a comes before b
}

func (d decision) allows(l *logic, place string) sat.Lit {
	if x, ok := d.allowed[place]; ok {
		return x
	}
	return l.no()
}

func (c *comparison) compare() {
	c.places = distinct(append(slices.Clone(c.old.places), c.new.places...))
	c.foreign = map[string]sat.Lit{}
	var moves []sat.Lit
	for i, p := range c.places {
		was, is := c.old.allows(&c.logic, p), c.new.allows(&c.logic, p)
		c.foreign[p] = c.other(p)
		moves = append(moves, c.differ(was, is), c.and(was, is, c.foreign[p]))
		for _, q := range c.places[:i] {
			o := order{p, q, c.old.before(&c.logic, p, q), c.new.before(&c.logic, p, q)}
			c.orders = append(c.orders, o)
			moves = append(moves, c.and(was, is, c.old.allows(&c.logic, q), c.new.allows(&c.logic, q), c.differ(o.old, o.new)))
		}
	}
	c.moves = c.or(moves...)
}

// other says for which models the name of a place means something else in the new policy.
func (c *comparison) other(place string) sat.Lit {
	if place == string(policy.Local) || !slices.Contains(c.old.places, place) || !slices.Contains(c.new.places, place) {
		return c.no()
	}
	a, b := c.old.doc.upstream(place), c.new.doc.upstream(place)
	if a.API != b.API || a.BaseURL != b.BaseURL || a.Credential != b.Credential {
		return c.yes
	}
	var lits []sat.Lit
	for i, alias := range c.model.examples {
		if a.alias(alias) != b.alias(alias) {
			lits = append(lits, c.model.lits[i])
		}
	}
	return c.or(lits...)
}

// alias is the name of a model at the upstream.
func (u upstream) alias(model string) string {
	if len(u.Models) == 0 {
		return model
	}
	return u.Models[model]
}

// region describes the one that the last assignment is in, and rules it out for further questions.
func (c *comparison) region(r Request, before, after *policy.Policy) (Region, error) {
	same := c.same()
	inside := c.and(same...)
	who, ask := r.decided()
	was, is := before.Decide(who, ask), after.Decide(who, ask)
	out := Region{From: was.Places, To: is.Places, Old: was.Rule, New: is.Rule, Example: r}
	for _, p := range c.places {
		if c.solver.Value(c.foreign[p]) && was.Allows(policy.Place(p)) && is.Allows(policy.Place(p)) {
			out.Changed = append(out.Changed, policy.Place(p))
		}
	}
	if slices.Equal(out.From, out.To) && len(out.Changed) == 0 {
		return out, fmt.Errorf("internal error: %+v changes no place: %v", r, out.From)
	}
	if out.From == nil {
		out.From = []policy.Place{}
	}
	if out.To == nil {
		out.To = []policy.Place{}
	}
	out.Where = c.where(inside)
	c.moves = c.and(c.moves, inside.Not()) // no clause: where looks at requests of other regions too
	return out, nil
}

// same lists what all requests of the last assignment's region have in common.
func (c *comparison) same() []sat.Lit {
	var out []sat.Lit
	hold := func(l sat.Lit) bool {
		v := c.solver.Value(l)
		if !v {
			l = l.Not()
		}
		out = append(out, l)
		return v
	}
	was, is := map[string]bool{}, map[string]bool{}
	for _, p := range c.places {
		was[p], is[p] = hold(c.old.allows(&c.logic, p)), hold(c.new.allows(&c.logic, p))
		if was[p] && is[p] {
			hold(c.foreign[p])
		}
	}
	for _, o := range c.orders {
		if was[o.a] && was[o.b] {
			hold(o.old)
		}
		if is[o.a] && is[o.b] {
			hold(o.new)
		}
	}
	for _, first := range [][]sat.Lit{c.old.first, c.new.first} {
		hold(first[slices.IndexFunc(first, c.solver.Value)])
	}
	return out
}

// where generalises the last assignment as far as every request stays inside.
func (c *comparison) where(inside sat.Lit) []Term {
	fixed := c.fixed()
	outside := inside.Not()
	if c.solver.Solve(append(slices.Clone(fixed), outside)...) != sat.Unsatisfiable {
		return []Term{} // too hard to tell; the example stands
	}
	core := slices.DeleteFunc(c.solver.Core(), func(l sat.Lit) bool { return l == outside })
	for i := 0; i < len(core); {
		less := slices.Delete(slices.Clone(core), i, i+1)
		if c.solver.Solve(append(slices.Clone(less), outside)...) == sat.Unsatisfiable {
			core = less
		} else {
			i++
		}
	}
	return c.terms(core, outside)
}

// fixed is everything about the last assignment's request.
func (c *comparison) fixed() []sat.Lit {
	var out []sat.Lit
	for _, d := range c.dimensions() {
		out = append(out, d.lits[c.chosen(d)])
	}
	for _, t := range c.switches() {
		if c.solver.Value(t.lit) {
			out = append(out, t.lit)
		} else {
			out = append(out, t.lit.Not())
		}
	}
	return out
}

// switches are all properties that a request has or has not, with their words.
func (s *space) switches() []toggle {
	out := []toggle{
		{"unattested", s.unattested}, {"unknown executable", s.exeUnknown}, {"unfinished scan", s.incomplete},
		{"opaque content", s.opaque}, {"wish to stay", s.onlyLocal}, {"unknown label", s.unheard},
	}
	for _, t := range s.labels {
		out = append(out, toggle{"label " + t.name, t.lit})
	}
	for _, t := range s.kinds {
		out = append(out, toggle{"found " + t.name, t.lit})
	}
	return out
}

// widest bounds the cases of a dimension that are tried one by one.
const widest = 64

// terms puts a core in words, each dimension as wide as it may be.
func (c *comparison) terms(core []sat.Lit, outside sat.Lit) []Term {
	out := []Term{}
	for _, d := range c.dimensions() {
		at := slices.IndexFunc(d.lits, func(l sat.Lit) bool { return slices.Contains(core, l) })
		if at < 0 || len(d.lits) == 1 {
			continue
		}
		core = slices.DeleteFunc(core, func(l sat.Lit) bool { return l == d.lits[at] })
		excluded := slices.Concat(d.lits[:at], d.lits[at+1:])
		for _, l := range excluded[:min(len(excluded), widest)] {
			rest := slices.DeleteFunc(slices.Clone(excluded), func(x sat.Lit) bool { return x == l })
			if c.solver.Solve(slices.Concat(core, negated(rest), []sat.Lit{outside})...) == sat.Unsatisfiable {
				excluded = rest
			}
		}
		core = append(core, negated(excluded)...)
		out = append(out, d.term(excluded))
	}
	none := Term{Property: with, Not: true}
	for _, t := range c.switches() {
		if slices.Contains(core, t.lit) {
			out = append(out, Term{Property: with, Values: []string{t.name}})
		} else if slices.Contains(core, t.lit.Not()) {
			none.Values = append(none.Values, t.name)
		}
	}
	if len(none.Values) > 0 {
		out = append(out, none)
	}
	return out
}

func negated(lits []sat.Lit) []sat.Lit {
	out := make([]sat.Lit, len(lits))
	for i, l := range lits {
		out[i] = l.Not()
	}
	return out
}

// term names the cases that are left, or those that are not, whichever are fewer.
func (d *dimension) term(excluded []sat.Lit) Term {
	var in, out []string
	for i, l := range d.lits {
		if slices.Contains(excluded, l) {
			out = append(out, d.like[i])
		} else {
			in = append(in, d.like[i])
		}
	}
	if len(out) < len(in) {
		return Term{Property: d.name, Values: out, Not: true}
	}
	return Term{Property: d.name, Values: in}
}

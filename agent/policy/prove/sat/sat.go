// Package sat decides whether a set of clauses can be satisfied.
//
// It is a small conflict-driven solver: two watched literals, first unique
// implication point, activities, restarts. It promises that Unsatisfiable is
// only said when no assignment exists, and that after Satisfiable Value gives
// one that satisfies every clause and every assumption. It keeps what it learnt
// between calls, so that many questions about one problem are cheap.
//
// A question that takes more than Budget conflicts is Undecided, never guessed.
// A Solver is for one goroutine. There is no I/O, no clock and no randomness:
// the same calls give the same answers.
package sat

import "slices"

// Lit is a variable or its negation.
type Lit int32

// Not is the opposite literal.
func (l Lit) Not() Lit { return l ^ 1 }

func (l Lit) variable() int { return int(l >> 1) }

// Status is the answer to a question.
type Status int

// The answers of Solve.
const (
	Undecided Status = iota
	Satisfiable
	Unsatisfiable
)

const (
	unset int8 = iota
	holds
	fails
)

type clause struct{ lits []Lit }

// Solver holds variables and clauses. The zero value is ready.
type Solver struct {
	// Budget bounds the conflicts of one Solve; 0 is no bound.
	Budget int

	watches [][]*clause // of a literal: the clauses to look at when it becomes true
	value   []int8      // of each literal
	model   []int8      // the last satisfying assignment, by literal
	level   []int       // of each variable, as are the next three
	reason  []*clause
	phase   []bool // its last value
	seen    []bool
	trail   []Lit
	limits  []int // length of the trail where each level begins
	head    int   // of the trail, up to which consequences were drawn
	order   heap
	core    []Lit
	broken  bool // unsatisfiable without any assumption
}

// Var makes a variable and gives its positive literal. False is tried first.
func (s *Solver) Var() Lit {
	v := len(s.level)
	s.watches = append(s.watches, nil, nil)
	s.value = append(s.value, unset, unset)
	s.level = append(s.level, 0)
	s.reason = append(s.reason, nil)
	s.phase = append(s.phase, false)
	s.seen = append(s.seen, false)
	s.order.grow(v)
	return Lit(2 * v)
}

// Add requires that one of the literals holds.
func (s *Solver) Add(lits ...Lit) {
	s.undo(0)
	lits = slices.Clone(lits)
	slices.Sort(lits)
	lits = slices.Compact(lits)
	kept := lits[:0]
	for i, l := range lits {
		if s.value[l] == holds || i+1 < len(lits) && lits[i+1] == l.Not() {
			return
		}
		if s.value[l] == unset {
			kept = append(kept, l)
		}
	}
	switch len(kept) {
	case 0:
		s.broken = true
	case 1:
		s.assign(kept[0], nil)
		s.broken = s.broken || s.propagate() != nil
	default:
		s.attach(&clause{kept})
	}
}

func (s *Solver) attach(c *clause) {
	s.watches[c.lits[0].Not()] = append(s.watches[c.lits[0].Not()], c)
	s.watches[c.lits[1].Not()] = append(s.watches[c.lits[1].Not()], c)
}

// Value says whether a literal holds in the assignment that the last
// Satisfiable question found.
func (s *Solver) Value(l Lit) bool { return s.model[l] == holds }

// Core gives the assumptions that the last Unsatisfiable question needed: with
// these alone the answer is the same. The slice is the caller's.
func (s *Solver) Core() []Lit { return slices.Clone(s.core) }

// Solve asks whether every clause can hold together with the assumptions.
func (s *Solver) Solve(assumptions ...Lit) Status {
	s.core = nil
	if s.broken {
		return Unsatisfiable
	}
	defer s.undo(0)
	conflicts := 0
	for round := 1; ; round++ {
		status := s.search(assumptions, 100*luby(round), &conflicts)
		if status != Undecided || s.Budget > 0 && conflicts >= s.Budget {
			return status
		}
		s.undo(0)
	}
}

// search runs until an answer or a restart after so many conflicts.
func (s *Solver) search(assumptions []Lit, limit int, conflicts *int) Status {
	for {
		if conflict := s.propagate(); conflict != nil {
			if len(s.limits) == 0 {
				s.broken = true
				return Unsatisfiable
			}
			learnt, back := s.analyze(conflict)
			s.undo(back)
			s.learn(learnt)
			s.order.decay()
			*conflicts++
			limit--
			continue
		}
		if limit <= 0 {
			return Undecided
		}
		next, ok := s.assumed(assumptions)
		if !ok {
			return Unsatisfiable
		}
		if next < 0 {
			if next = s.choose(); next < 0 {
				s.model = append(s.model[:0], s.value...)
				return Satisfiable
			}
			s.limits = append(s.limits, len(s.trail))
		}
		s.assign(next, nil)
	}
}

// assumed decides the next assumption that is open; -1 when none is. It is not
// ok when an assumption already fails; the core is then filled.
func (s *Solver) assumed(assumptions []Lit) (Lit, bool) {
	for len(s.limits) < len(assumptions) {
		a := assumptions[len(s.limits)]
		if s.value[a] == fails {
			s.explain(a)
			return -1, false
		}
		s.limits = append(s.limits, len(s.trail))
		if s.value[a] == unset {
			return a, true
		}
	}
	return -1, true
}

func (s *Solver) choose() Lit {
	for {
		v := s.order.pop()
		if v < 0 {
			return -1
		}
		if l := Lit(2 * v); s.value[l] == unset {
			if s.phase[v] {
				return l
			}
			return l.Not()
		}
	}
}

func (s *Solver) assign(l Lit, why *clause) {
	v := l.variable()
	s.value[l], s.value[l.Not()] = holds, fails
	s.level[v], s.reason[v], s.phase[v] = len(s.limits), why, l&1 == 0
	s.trail = append(s.trail, l)
}

// undo takes back every assignment above the level.
func (s *Solver) undo(level int) {
	if len(s.limits) <= level {
		return
	}
	for _, l := range s.trail[s.limits[level]:] {
		s.value[l], s.value[l.Not()] = unset, unset
		s.reason[l.variable()] = nil
		s.order.push(l.variable())
	}
	s.trail = s.trail[:s.limits[level]]
	s.limits = s.limits[:level]
	s.head = len(s.trail)
}

// propagate draws every consequence of the trail; it gives a clause that fails, or nil.
func (s *Solver) propagate() *clause {
	for ; s.head < len(s.trail); s.head++ {
		p := s.trail[s.head]
		watching := s.watches[p]
		kept := watching[:0]
		for i, c := range watching {
			if c.lits[0] == p.Not() {
				c.lits[0], c.lits[1] = c.lits[1], c.lits[0]
			}
			if s.value[c.lits[0]] != holds && s.rewatch(c) {
				continue
			}
			kept = append(kept, c)
			switch s.value[c.lits[0]] {
			case unset:
				s.assign(c.lits[0], c)
			case fails:
				s.watches[p] = append(kept, watching[i+1:]...)
				return c
			}
		}
		s.watches[p] = kept
	}
	return nil
}

// rewatch moves the second watch of a clause to a literal that does not fail.
func (s *Solver) rewatch(c *clause) bool {
	for k := 2; k < len(c.lits); k++ {
		if s.value[c.lits[k]] != fails {
			c.lits[1], c.lits[k] = c.lits[k], c.lits[1]
			s.watches[c.lits[1].Not()] = append(s.watches[c.lits[1].Not()], c)
			return true
		}
	}
	return false
}

// analyze turns a conflict into a clause that would have prevented it: its first
// literal is the one to flip, after going back to the level.
func (s *Solver) analyze(conflict *clause) (learnt []Lit, back int) {
	learnt = []Lit{0}
	open, at := 0, len(s.trail)
	p := Lit(-1)
	for c := conflict; ; {
		for _, q := range c.lits {
			v := q.variable()
			if q == p || s.seen[v] || s.level[v] == 0 {
				continue
			}
			s.seen[v] = true
			s.order.bump(v)
			if s.level[v] == len(s.limits) {
				open++
			} else {
				learnt = append(learnt, q)
			}
		}
		for at--; !s.seen[s.trail[at].variable()]; at-- {
		}
		p = s.trail[at]
		s.seen[p.variable()] = false
		if open--; open == 0 {
			break
		}
		c = s.reason[p.variable()]
	}
	learnt[0] = p.Not()
	for i, q := range learnt[1:] {
		s.seen[q.variable()] = false
		if l := s.level[q.variable()]; l > back {
			back = l
			learnt[1], learnt[i+1] = learnt[i+1], learnt[1]
		}
	}
	return learnt, back
}

func (s *Solver) learn(lits []Lit) {
	if len(lits) == 1 {
		s.assign(lits[0], nil)
		return
	}
	c := &clause{lits}
	s.attach(c)
	s.assign(lits[0], c)
}

// explain fills the core: the assumptions that make a fail, and a itself.
func (s *Solver) explain(a Lit) {
	s.core = []Lit{a}
	if len(s.limits) == 0 {
		return
	}
	s.seen[a.variable()] = true
	for i := len(s.trail) - 1; i >= s.limits[0]; i-- {
		l := s.trail[i]
		v := l.variable()
		if !s.seen[v] {
			continue
		}
		s.seen[v] = false
		if s.reason[v] == nil {
			s.core = append(s.core, l) // decided, and only assumptions are below this point
			continue
		}
		for _, q := range s.reason[v].lits {
			if q != l && s.level[q.variable()] > 0 {
				s.seen[q.variable()] = true
			}
		}
	}
	s.seen[a.variable()] = false
	slices.Sort(s.core)
	s.core = slices.Compact(s.core)
}

// luby is the n-th length of the restart sequence 1 1 2 1 1 2 4 ..., n from 1.
func luby(n int) int {
	for k := 1; ; k++ {
		switch {
		case n == 1<<k-1:
			return 1 << (k - 1)
		case n < 1<<k-1:
			return luby(n - (1<<(k-1) - 1))
		}
	}
}

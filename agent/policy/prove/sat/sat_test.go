package sat

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// problem is a random formula together with all its truth.
type problem struct {
	vars    int
	clauses [][]Lit
}

func random(w *rand.Rand) problem {
	p := problem{vars: 2 + w.IntN(9)}
	for range w.IntN(6 * p.vars) {
		var c []Lit
		for range 1 + w.IntN(4) {
			c = append(c, Lit(w.IntN(2*p.vars)))
		}
		p.clauses = append(p.clauses, c)
	}
	return p
}

func (p problem) satisfied(assignment int, lits []Lit, all bool) bool {
	for _, l := range lits {
		if (assignment>>l.variable()&1 == 1) == (l&1 == 0) != all {
			return !all
		}
	}
	return all
}

// possible looks at every assignment.
func (p problem) possible(assumptions []Lit) bool {
	for a := range 1 << p.vars {
		ok := p.satisfied(a, assumptions, true)
		for _, c := range p.clauses {
			ok = ok && p.satisfied(a, c, false)
		}
		if ok {
			return true
		}
	}
	return false
}

// One solver is asked many questions, with clauses added between them; every
// answer, every model and every core is compared with all assignments.
func TestAnswersAreThoseOfExhaustiveSearch(t *testing.T) {
	answers := map[Status]int{}
	for seed := range uint64(3000) {
		w := rand.New(rand.NewPCG(seed, 1))
		p := random(w)
		var s Solver
		for range p.vars {
			s.Var()
		}
		known := problem{vars: p.vars}
		for len(p.clauses) > 0 || known.clauses == nil {
			n := min(len(p.clauses), 1+w.IntN(8))
			for _, c := range p.clauses[:n] {
				s.Add(c...)
			}
			known.clauses = append(known.clauses, p.clauses[:n]...)
			known.clauses = append(known.clauses, []Lit{0, 1})
			p.clauses = p.clauses[n:]
			var assumptions []Lit
			for range w.IntN(5) {
				assumptions = append(assumptions, Lit(w.IntN(2*p.vars)))
			}
			answers[check(t, seed, &s, known, assumptions)]++
		}
	}
	if answers[Satisfiable] < 1000 || answers[Unsatisfiable] < 1000 || answers[Undecided] > 0 {
		t.Errorf("the problems are too much alike: %v", answers)
	}
}

func check(t *testing.T, seed uint64, s *Solver, p problem, assumptions []Lit) Status {
	t.Helper()
	got := s.Solve(assumptions...)
	want := Unsatisfiable
	if p.possible(assumptions) {
		want = Satisfiable
	}
	if got != want {
		t.Fatalf("seed %d: got %d, want %d for %v under %v", seed, got, want, p.clauses, assumptions)
	}
	if got == Unsatisfiable {
		core := s.Core()
		for _, l := range core {
			if !slices.Contains(assumptions, l) {
				t.Fatalf("seed %d: core %v has what was not assumed: %v", seed, core, assumptions)
			}
		}
		if p.possible(core) {
			t.Fatalf("seed %d: the core %v of %v can hold in %v", seed, core, assumptions, p.clauses)
		}
		return got
	}
	model := func(l Lit) bool { return s.Value(l) }
	for _, c := range p.clauses {
		if !slices.ContainsFunc(c, model) {
			t.Fatalf("seed %d: the model does not satisfy %v", seed, c)
		}
	}
	for _, l := range assumptions {
		if !s.Value(l) || s.Value(l.Not()) {
			t.Fatalf("seed %d: the model does not satisfy the assumption %d", seed, l)
		}
	}
	return got
}

// pigeons puts n+1 pigeons into n holes, which takes a solver like this one exponentially long.
func pigeons(n int) *Solver {
	s := &Solver{}
	in := make([][]Lit, n+1)
	for i := range in {
		for range n {
			in[i] = append(in[i], s.Var())
		}
		s.Add(in[i]...)
		for j := range i {
			for h := range n {
				s.Add(in[i][h].Not(), in[j][h].Not())
			}
		}
	}
	return s
}

func TestPigeonsDoNotFit(t *testing.T) {
	if got := pigeons(6).Solve(); got != Unsatisfiable {
		t.Errorf("got %d, want unsatisfiable", got)
	}
}

func TestBudgetEndsInUndecided(t *testing.T) {
	s := pigeons(9)
	s.Budget = 50
	if got := s.Solve(); got != Undecided {
		t.Errorf("got %d, want undecided", got)
	}
}

func TestRestartLengthsAreLubys(t *testing.T) {
	want := []int{1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8}
	for i, n := range want {
		if got := luby(i + 1); got != n {
			t.Errorf("luby(%d): got %d, want %d", i+1, got, n)
		}
	}
}

package prove

import (
	"encoding/binary"
	"slices"

	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

// logic builds formulas over a solver's literals. Equal formulas are one literal.
type logic struct {
	solver *sat.Solver
	yes    sat.Lit
	known  map[string]sat.Lit // of a conjunction, by its sorted literals
}

func newLogic() logic {
	l := logic{solver: &sat.Solver{Budget: budget}, known: map[string]sat.Lit{}}
	l.yes = l.solver.Var()
	l.solver.Add(l.yes)
	return l
}

func (l *logic) no() sat.Lit { return l.yes.Not() }

// and holds exactly when all of its literals hold.
func (l *logic) and(lits ...sat.Lit) sat.Lit {
	lits = slices.Clone(lits)
	slices.Sort(lits)
	lits = slices.Compact(lits)
	lits = slices.DeleteFunc(lits, func(x sat.Lit) bool { return x == l.yes })
	for i, x := range lits {
		if x == l.no() || i > 0 && lits[i-1] == x.Not() {
			return l.no()
		}
	}
	switch len(lits) {
	case 0:
		return l.yes
	case 1:
		return lits[0]
	}
	var key []byte
	for _, x := range lits {
		key = binary.AppendUvarint(key, uint64(x))
	}
	if known, ok := l.known[string(key)]; ok {
		return known
	}
	all := l.solver.Var()
	l.known[string(key)] = all
	long := []sat.Lit{all}
	for _, x := range lits {
		l.solver.Add(all.Not(), x)
		long = append(long, x.Not())
	}
	l.solver.Add(long...)
	return all
}

// or holds exactly when one of its literals holds.
func (l *logic) or(lits ...sat.Lit) sat.Lit {
	inverse := make([]sat.Lit, len(lits))
	for i, x := range lits {
		inverse[i] = x.Not()
	}
	return l.and(inverse...).Not()
}

// differ holds exactly when one of the two holds and the other does not.
func (l *logic) differ(a, b sat.Lit) sat.Lit {
	return l.or(l.and(a, b.Not()), l.and(a.Not(), b))
}

// oneOf makes n literals of which exactly one holds.
func (l *logic) oneOf(n int) []sat.Lit {
	if n == 1 {
		return []sat.Lit{l.yes}
	}
	lits := make([]sat.Lit, n)
	for i := range lits {
		lits[i] = l.solver.Var()
	}
	l.solver.Add(lits...)
	before := lits[0] // one up to here
	for _, x := range lits[1:] {
		l.solver.Add(before.Not(), x.Not())
		before = l.or(before, x)
	}
	return lits
}

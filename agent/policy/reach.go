package policy

import (
	"slices"
	"strings"
)

// maxAtoms bounds the cases that one rule is split into.
const maxAtoms = 256

// reachable refuses rules that earlier rules leave nothing for. A rule is split
// into atoms (one value of every list) and each atom must be left over by every
// single earlier rule. It never calls a rule unreachable that is not; what only
// several earlier rules cover together by size or hours may be missed.
func (r *reader) reachable(rules []rule) {
	for i := range rules {
		var takers []string
		shadowed := true
		for _, atom := range atoms(rules[i].When) {
			j := slices.IndexFunc(rules[:i], func(l rule) bool { return l.When.covers(atom) })
			if j < 0 {
				shadowed = false
				break
			}
			if t := ordinal(j, &rules[j]); !slices.Contains(takers, t) {
				takers = append(takers, t)
			}
		}
		if shadowed {
			verb := " takes"
			if len(takers) > 1 {
				verb = " together take"
			}
			r.add(rules[i].pos, "%s can never fire: %s%s every request it would match",
				ordinal(i, &rules[i]), strings.Join(takers, " and "), verb)
		}
	}
}

// atoms splits a condition by the values of its lists; one that has too many stays whole.
func atoms(w *when) []*when {
	if w == nil {
		return []*when{{}}
	}
	out := []*when{w}
	out = split(out, w.Unit, func(a *when, v []glob) { a.Unit = v })
	out = split(out, w.Exe, func(a *when, v []glob) { a.Exe = v })
	out = split(out, w.Container, func(a *when, v []glob) { a.Container = v })
	out = split(out, w.UID, func(a *when, v []uint32) { a.UID = v })
	out = split(out, w.GID, func(a *when, v []uint32) { a.GID = v })
	out = split(out, w.Model, func(a *when, v []glob) { a.Model = v })
	out = split(out, w.API, func(a *when, v []string) { a.API = v })
	out = split(out, w.Class, func(a *when, v []string) { a.Class = v })
	return split(out, w.Days, func(a *when, v []string) { a.Days = v })
}

// split multiplies the cases by the values of one list.
func split[T any](cases []*when, values []T, set func(*when, []T)) []*when {
	if len(values) < 2 || len(cases)*len(values) > maxAtoms {
		return cases
	}
	var out []*when
	for _, c := range cases {
		for i := range values {
			a := *c
			set(&a, values[i:i+1])
			out = append(out, &a)
		}
	}
	return out
}

// covers says whether every request that o matches is matched by w.
func (w *when) covers(o *when) bool {
	if w == nil {
		return true
	}
	return coversAll(w.Unit, o.Unit, glob.covers) &&
		coversAll(w.Exe, o.Exe, glob.covers) &&
		coversAll(w.Container, o.Container, glob.covers) &&
		coversAll(w.UID, o.UID, equal) &&
		coversAll(w.GID, o.GID, equal) &&
		coversAll(w.Model, o.Model, glob.covers) &&
		coversAll(w.API, o.API, equal) &&
		coversAll(w.Class, o.Class, equal) &&
		coversAll(w.Days, o.Days, equal) &&
		w.MinBytes <= o.MinBytes &&
		(w.MaxBytes == 0 || o.MaxBytes != 0 && o.MaxBytes <= w.MaxBytes) &&
		coversHours(w.Hours, o.Hours)
}

func equal[T comparable](a, b T) bool { return a == b }

// coversAll says whether every value of b is covered by one of a; no values is no condition.
func coversAll[T any](a, b []T, covers func(a, b T) bool) bool {
	if len(a) == 0 {
		return true
	}
	if len(b) == 0 {
		return false
	}
	for _, v := range b {
		if !slices.ContainsFunc(a, func(w T) bool { return covers(w, v) }) {
			return false
		}
	}
	return true
}

func coversHours(a, b []hours) bool {
	if len(a) == 0 {
		return true
	}
	if len(b) == 0 {
		b = []hours{{From: 0, To: dayMinutes}}
	}
	for m := range dayMinutes {
		in := func(h hours) bool { return h.holds(m) }
		if slices.ContainsFunc(b, in) && !slices.ContainsFunc(a, in) {
			return false
		}
	}
	return true
}

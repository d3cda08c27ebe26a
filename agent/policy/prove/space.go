package prove

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/detect"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

const (
	dayMinutes = 24 * 60
	everLarger = 1 << 40 // bytes; no request is that large
)

// dimension is one property of a request, split into the cases that the policies
// tell apart. Exactly one of its literals holds.
type dimension struct {
	name  string
	lits  []sat.Lit
	like  []string // each case in words
	usual int      // the case that an example takes when it may
}

// texts is a dimension of texts, with one example of each case.
type texts struct {
	dimension
	examples []string
}

// numbers is a dimension of ranges; low and high are both inside.
type numbers struct {
	dimension
	low, high []int
}

// toggle is a property that a request has or has not.
type toggle struct {
	name string
	lit  sat.Lit
}

// space is every request there can be, up to what the policies tell apart.
type space struct {
	logic
	model, api, unit, exe, container texts
	bytes, minute, day               numbers
	uid, gid                         numbers
	kinds, labels                    []toggle
	// A label that no policy knows; the other flags are those of Ask and Caller.
	unheard, opaque, incomplete, onlyLocal, unattested, exeUnknown sat.Lit
	timed                                                          bool // a rule looks at the clock
}

// vocabulary is what the policies and the claim mention.
type vocabulary struct {
	model, unit, exe, container []glob
	uid, gid                    []uint32
	bytes, minutes              []int // where a range begins
	kinds, labels               []string
	days                        bool
}

func (v *vocabulary) caller(c caller) {
	v.unit, v.exe, v.container = append(v.unit, c.Unit...), append(v.exe, c.Exe...), append(v.container, c.Container...)
	v.uid, v.gid = append(v.uid, c.UID...), append(v.gid, c.GID...)
}

func (v *vocabulary) when(w when) {
	v.caller(w.caller)
	v.model = append(v.model, w.Model...)
	if w.MinBytes > 0 {
		v.bytes = append(v.bytes, w.MinBytes)
	}
	if w.MaxBytes > 0 {
		v.bytes = append(v.bytes, w.MaxBytes+1)
	}
	for _, h := range w.Hours {
		v.minutes = append(v.minutes, h.from, h.to%dayMinutes)
	}
	v.days = v.days || len(w.Days) > 0
}

func (v *vocabulary) document(d document) {
	v.labels = append(v.labels, policy.Opaque)
	for _, u := range d.Upstreams {
		for alias := range u.Models {
			v.model = append(v.model, glob(alias))
		}
	}
	for _, c := range d.Classes {
		v.labels = append(append(v.labels, c.Name), c.Labels...)
		v.kinds = append(v.kinds, c.Detectors...)
		for _, k := range c.Callers {
			v.caller(k)
		}
	}
	for _, r := range d.Rules {
		v.when(r.When)
	}
}

// newSpace makes the dimensions. The clauses it adds exclude only requests that
// cannot be: an unattested caller has no unit, container or executable.
func newSpace(v vocabulary) (*space, error) {
	s := &space{logic: newLogic(), timed: v.days || len(v.minutes) > 0}
	for _, t := range []struct {
		to    *texts
		name  string
		globs []glob
		none  bool // there may be none
		usual string
	}{
		{&s.model, "model", v.model, false, "assistant"},
		{&s.unit, "unit", v.unit, true, "web.service"},
		{&s.exe, "exe", v.exe, false, "/usr/bin/python3"},
		{&s.container, "container", v.container, true, "0123456789ab"},
	} {
		var err error
		if *t.to, err = s.texts(t.name, t.globs, t.none, t.usual); err != nil {
			return nil, err
		}
	}
	s.api = texts{dimension: dimension{name: "api", like: policy.APIs(), lits: s.oneOf(len(policy.APIs()))}, examples: policy.APIs()}
	s.bytes = s.ranges("bytes", v.bytes, everLarger, func(low, high int) string {
		if high == everLarger {
			return fmt.Sprintf("from %d", low)
		}
		return fmt.Sprintf("%d to %d", low, high)
	})
	s.minute = s.ranges("time", v.minutes, dayMinutes-1, func(low, high int) string { return clockText(low) + "-" + clockText(high+1) })
	s.minute.usual = slices.IndexFunc(s.minute.high, func(high int) bool { return high >= dayMinutes/2 })
	s.day = s.ranges("day", []int{1, 2, 3, 4, 5, 6}, 6, func(low, _ int) string { return dayNames()[low] })
	s.day.usual = 1
	s.uid, s.gid = s.ids("uid", v.uid), s.ids("gid", v.gid)
	s.kinds, s.labels = s.toggles(v.kinds), s.toggles(v.labels)
	for _, flag := range []*sat.Lit{&s.unheard, &s.opaque, &s.incomplete, &s.onlyLocal, &s.unattested, &s.exeUnknown} {
		*flag = s.solver.Var()
	}
	s.solver.Add(s.unattested.Not(), s.unit.lits[s.unit.usual])
	s.solver.Add(s.unattested.Not(), s.container.lits[s.container.usual])
	s.solver.Add(s.unattested.Not(), s.exeUnknown)
	return s, nil
}

func (s *space) texts(name string, globs []glob, none bool, usual string) (texts, error) {
	atoms, err := partition(distinct(globs), usual)
	if err != nil {
		return texts{}, err
	}
	t := texts{dimension: dimension{name: name}}
	if none {
		atoms = append([]atom{{"", "none"}}, atoms...)
	}
	for _, a := range atoms {
		t.examples, t.like = append(t.examples, a.example), append(t.like, a.like)
	}
	t.lits = s.oneOf(len(atoms))
	if !none {
		t.usual = max(slices.Index(t.like, "*"), 0)
	}
	return t, nil
}

// ranges splits 0 to last at the numbers where a range begins.
func (s *space) ranges(name string, begins []int, last int, word func(low, high int) string) numbers {
	begins = append([]int{0}, begins...)
	slices.Sort(begins)
	begins = slices.Compact(begins)
	n := numbers{dimension: dimension{name: name, lits: s.oneOf(len(begins))}, low: begins}
	for i, low := range begins {
		high := last
		if i+1 < len(begins) {
			high = begins[i+1] - 1
		}
		n.high, n.like = append(n.high, high), append(n.like, word(low, high))
	}
	return n
}

// ids are the numbers named, and one that is not.
func (s *space) ids(name string, named []uint32) numbers {
	other := uint32(1000)
	for slices.Contains(named, other) {
		other++
	}
	n := numbers{dimension: dimension{name: name, like: []string{"other"}}, low: []int{int(other)}}
	slices.Sort(named)
	for _, id := range slices.Compact(named) {
		n.low, n.like = append(n.low, int(id)), append(n.like, fmt.Sprint(id))
	}
	n.lits, n.high = s.oneOf(len(n.low)), n.low
	return n
}

func (s *space) toggles(names []string) []toggle {
	var out []toggle
	for _, name := range distinct(names) {
		out = append(out, toggle{name, s.solver.Var()})
	}
	return out
}

func clockText(minute int) string { return fmt.Sprintf("%02d:%02d", minute/60, minute%60) }

// anyOf holds when the text matches one of the globs.
func (s *space) anyOf(t *texts, globs []glob) sat.Lit {
	var lits []sat.Lit
	for _, g := range globs {
		var of []sat.Lit
		for i, example := range t.examples {
			if g.matches(example) {
				of = append(of, t.lits[i])
			}
		}
		lits = append(lits, s.or(of...))
	}
	return s.or(lits...)
}

// within holds when the number is one for which the condition is true; it must be so for all of a range or none.
func (s *space) within(n *numbers, condition func(int) bool) sat.Lit {
	var lits []sat.Lit
	for i, low := range n.low {
		if condition(low) {
			lits = append(lits, n.lits[i])
		}
	}
	if len(lits) == len(n.low) {
		return s.yes
	}
	return s.or(lits...)
}

func (s *space) oneID(n *numbers, ids []uint32) sat.Lit {
	if len(ids) == 0 {
		return s.yes
	}
	return s.within(n, func(id int) bool { return slices.Contains(ids, uint32(id)) })
}

// who says when a caller fits the pattern for certain, and when it may.
func (s *space) who(c caller) (certain, possible sat.Lit) {
	ids := s.and(s.oneID(&s.uid, c.UID), s.oneID(&s.gid, c.GID))
	if len(c.Unit)+len(c.Exe)+len(c.Container) == 0 {
		return ids, ids
	}
	fits := s.yes
	if len(c.Unit) > 0 {
		fits = s.and(fits, s.anyOf(&s.unit, c.Unit))
	}
	if len(c.Container) > 0 {
		fits = s.and(fits, s.anyOf(&s.container, c.Container))
	}
	may := fits
	if len(c.Exe) > 0 {
		match := s.anyOf(&s.exe, c.Exe)
		fits, may = s.and(fits, s.exeUnknown.Not(), match), s.and(may, s.or(s.exeUnknown, match))
	}
	return s.and(ids, s.unattested.Not(), fits), s.and(ids, s.or(s.unattested, may))
}

// terms is everything of a rule's condition but its classes.
func (s *space) terms(w when) (certain, possible sat.Lit) {
	certain, possible = s.who(w.caller)
	rest := []sat.Lit{s.yes}
	if len(w.Model) > 0 {
		rest = append(rest, s.anyOf(&s.model, w.Model))
	}
	if len(w.API) > 0 {
		rest = append(rest, s.anyAPI(w.API))
	}
	if w.MinBytes > 0 || w.MaxBytes > 0 {
		rest = append(rest, s.within(&s.bytes, func(n int) bool { return n >= w.MinBytes && (w.MaxBytes == 0 || n <= w.MaxBytes) }))
	}
	if len(w.Days) > 0 {
		rest = append(rest, s.within(&s.day, func(d int) bool { return slices.Contains(w.Days, dayNames()[d]) }))
	}
	if len(w.Hours) > 0 {
		rest = append(rest, s.within(&s.minute, func(m int) bool {
			return slices.ContainsFunc(w.Hours, func(h hours) bool { return h.holds(m) })
		}))
	}
	all := s.and(rest...)
	return s.and(certain, all), s.and(possible, all)
}

func (s *space) anyAPI(apis []string) sat.Lit {
	var lits []sat.Lit
	for i, a := range s.api.examples {
		if slices.Contains(apis, a) {
			lits = append(lits, s.api.lits[i])
		}
	}
	return s.or(lits...)
}

// dimensions lists them all, for what must look at every one.
func (s *space) dimensions() []*dimension {
	return []*dimension{&s.unit.dimension, &s.container.dimension, &s.exe.dimension, &s.uid.dimension, &s.gid.dimension,
		&s.model.dimension, &s.api.dimension, &s.bytes.dimension, &s.minute.dimension, &s.day.dimension}
}

// definite is what holds when everything about a request is known.
func (s *space) definite() []sat.Lit {
	return []sat.Lit{s.unattested.Not(), s.exeUnknown.Not(), s.incomplete.Not()}
}

// usual lists what an example should be like where it may, the most telling first.
func (s *space) usual() []sat.Lit {
	out := append(s.definite(), s.onlyLocal.Not(), s.unheard.Not(), s.opaque.Not())
	for _, t := range s.labels {
		out = append(out, t.lit.Not())
	}
	for _, t := range s.kinds {
		out = append(out, t.lit.Not())
	}
	for _, d := range s.dimensions() {
		out = append(out, d.lits[d.usual])
	}
	return out
}

// chosen is the case of a dimension in the last satisfying assignment.
func (s *space) chosen(d *dimension) int {
	return slices.IndexFunc(d.lits, s.solver.Value)
}

// foundKinds are the kinds in the last satisfying assignment.
func (s *space) foundKinds() []detect.Kind {
	var kinds []detect.Kind
	for _, t := range s.kinds {
		if s.solver.Value(t.lit) {
			kinds = append(kinds, detect.Kind(t.name))
		}
	}
	return kinds
}

// unheardLabel is a label that nothing defines.
func (s *space) unheardLabel() string {
	label := "unknown"
	for slices.ContainsFunc(s.labels, func(t toggle) bool { return strings.HasPrefix(t.name, label) }) {
		label += "-x"
	}
	return label
}

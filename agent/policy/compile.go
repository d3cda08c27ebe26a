package policy

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// Default is the policy of a box that was given none: everything stays on it.
func Default() *Policy {
	return compile(document{Schema: 1, Name: "default"})
}

// position is a place in the source, both counted from 1; zero when there was no source.
type position struct{ line, column int }

// compile turns a validated document into a policy.
func compile(doc document) *Policy {
	source, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("internal error: cannot encode policy %q: %v", doc.Name, err))
	}
	p := &Policy{doc: doc, source: source}
	g := &p.compiled
	g.localOnly = []Place{Local}
	g.killSwitch = doc.KillSwitch
	g.compileClasses(doc.Classes)
	for i := range doc.Rules {
		g.rules = append(g.rules, g.compileRule(&doc.Rules[i], doc.Upstreams))
	}
	g.fallback = instruction{
		verdict:   Verdict{Places: g.localOnly, Priority: Interactive, Rule: DefaultRule},
		upstreams: []*Upstream{nil},
	}
	return p
}

// compileClasses gives every class a bit; a class is also the label of its own name.
func (g *program) compileClasses(classes []class) {
	g.classes = []string{Opaque}
	g.kinds = map[detect.Kind]uint64{}
	g.labels = map[string]uint64{Opaque: opaqueBit}
	for i, c := range classes {
		bit := uint64(opaqueBit) << (i + 1)
		g.classes = append(g.classes, c.Name)
		g.labels[c.Name] |= bit
		for _, l := range c.Labels {
			g.labels[l] |= bit
		}
		for _, d := range c.Detectors {
			g.kinds[detect.Kind(d)] |= bit
		}
		for _, pattern := range c.Callers {
			g.callers = append(g.callers, callerClass{bit: bit, pattern: pattern})
		}
	}
}

func (g *program) compileRule(r *rule, upstreams []Upstream) instruction {
	in := instruction{verdict: Verdict{
		Places: r.Places, Priority: r.Priority, MaxTokens: r.MaxTokens, Deny: r.Deny, Rule: r.Name,
	}}
	if in.verdict.Priority == "" {
		in.verdict.Priority = Interactive
	}
	if r.When != nil {
		in.when = *r.When
	}
	for _, name := range in.when.Class {
		in.classes |= g.bit(name)
	}
	for _, d := range in.when.Days {
		in.days[slices.Index(dayNames(), d)] = true
	}
	for _, place := range r.Places {
		i := slices.IndexFunc(upstreams, func(u Upstream) bool { return Place(u.Name) == place })
		if i < 0 {
			in.upstreams = append(in.upstreams, nil)
			continue
		}
		in.upstreams = append(in.upstreams, &upstreams[i])
	}
	return in
}

func (g *program) bit(class string) uint64 {
	return 1 << slices.Index(g.classes, class)
}

// dayNames are the days as the document writes them, in the order of time.Weekday.
func dayNames() []string {
	return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
}

package policy

import (
	"fmt"
	"slices"
)

// Bounds of a document that is decided on in microseconds and analysed in full.
const (
	maxClasses = 63 // with Opaque, the 64 bits of a word
	maxRules   = 1000
)

// check finds what can be wrong with a document whose fields are all well formed.
func (r *reader) check(doc *document) {
	if len(doc.Classes) > maxClasses {
		r.add(doc.Classes[maxClasses].pos, "the policy has %d classes; the limit is %d", len(doc.Classes), maxClasses)
	}
	if len(doc.Rules) > maxRules {
		r.add(doc.Rules[maxRules].pos, "the policy has %d rules; the limit is %d", len(doc.Rules), maxRules)
	}
	r.duplicates(doc)
	r.references(doc)
	for i := range doc.Rules {
		r.terms(i, &doc.Rules[i])
	}
	if len(r.found) == 0 {
		r.reachable(doc.Rules)
	}
}

// duplicates refuses two sections of one name: what refers to it would be ambiguous.
func (r *reader) duplicates(doc *document) {
	first := map[string]position{}
	unique := func(section, name string, pos position) {
		if at, ok := first[section+name]; ok {
			r.add(pos, "%s %q is already defined at line %d", section, name, at.line)
			return
		}
		first[section+name] = pos
	}
	for i, u := range doc.Upstreams {
		unique("upstream", u.Name, r.upstreams[i])
	}
	for _, c := range doc.Classes {
		unique("class", c.Name, c.pos)
	}
	for _, l := range doc.Rules {
		unique("rule", l.Name, l.pos)
	}
	for _, p := range doc.Probes {
		unique("probe", p.Name, p.pos)
	}
	if doc.Updates != nil {
		for _, s := range doc.Updates.RequireSignature {
			unique("signer", s.Name, s.pos)
		}
	}
}

// references refuses names that nothing defines.
func (r *reader) references(doc *document) {
	known := map[string][]string{"class": {Opaque}}
	for _, u := range doc.Upstreams {
		known["upstream"] = append(known["upstream"], u.Name)
	}
	for _, c := range doc.Classes {
		known["class"] = append(known["class"], c.Name)
	}
	for _, ref := range r.refs {
		if slices.Contains(known[ref.kind], ref.name) {
			continue
		}
		by := "a probe"
		if ref.by != nil {
			by = fmt.Sprintf("rule %q", ref.by.Name)
		}
		r.add(ref.pos, "%s names the %s %q, which is not defined%s", by, ref.kind, ref.name, hint(ref.name, known[ref.kind]))
	}
}

// terms checks that a rule says one thing.
func (r *reader) terms(i int, l *rule) {
	who := ordinal(i, l)
	switch {
	case l.Deny != "" && (len(l.Places) > 0 || l.Priority != "" || l.MaxTokens != 0):
		r.add(l.pos, "%s denies, so places, priority and max_tokens mean nothing; take them or deny out", who)
	case l.Deny == "" && len(l.Places) == 0:
		r.add(l.pos, "%s has neither places nor deny", who)
	}
	for j, p := range l.Places {
		if slices.Contains(l.Places[:j], p) {
			r.add(l.pos, "%s names the place %q twice", who, p)
		}
	}
	if l.When != nil && l.When.MaxBytes > 0 && l.When.MinBytes > l.When.MaxBytes {
		r.add(l.pos, "%s can never fire: min_bytes %d is above max_bytes %d", who, l.When.MinBytes, l.When.MaxBytes)
	}
}

// ordinal names a rule as people count: rule 3 ("burst").
func ordinal(i int, l *rule) string { return fmt.Sprintf("rule %d (%q)", i+1, l.Name) }

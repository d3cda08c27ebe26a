package prove

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

// Claim describes requests: everything given must hold of them. The zero Claim is every request.
type Claim struct {
	when when // one of a list's values is enough
}

// ParseClaim reads terms like "class=phi", "unit=ward-*.service", "uid=1001",
// "model=mote". Terms with one key are alternatives, terms with different keys
// must all hold; "any" is every request.
func ParseClaim(terms []string) (Claim, error) {
	var c Claim
	for _, term := range terms {
		if term == "any" {
			continue
		}
		key, value, ok := strings.Cut(term, "=")
		if !ok || value == "" {
			return c, fmt.Errorf("cannot read %q: want key=value, for example class=phi, or any", term)
		}
		if err := c.add(key, value); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *Claim) add(key, value string) error {
	w := &c.when
	switch key {
	case "class":
		w.Class = append(w.Class, value)
	case "api":
		if !slices.Contains(policy.APIs(), value) {
			return fmt.Errorf("there is no api %q; known: %s", value, strings.Join(policy.APIs(), ", "))
		}
		w.API = append(w.API, value)
	case "uid", "gid":
		id, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return fmt.Errorf("%s %q is not a number", key, value)
		}
		if key == "uid" {
			w.UID = append(w.UID, uint32(id))
		} else {
			w.GID = append(w.GID, uint32(id))
		}
	case "model", "unit", "exe", "container":
		if strings.Count(value, "*") > 1 {
			return fmt.Errorf("%s %q has more than one \"*\"", key, value)
		}
		to := map[string]*[]glob{"model": &w.Model, "unit": &w.Unit, "exe": &w.Exe, "container": &w.Container}[key]
		*to = append(*to, glob(value))
	default:
		return fmt.Errorf("cannot claim anything about %q; known: class, unit, exe, container, uid, gid, model, api", key)
	}
	return nil
}

// formula holds of the requests that fit, or may fit.
func (c Claim) formula(s *space, d decision) (sat.Lit, error) {
	_, fits := s.terms(c.when)
	if len(c.when.Class) == 0 {
		return fits, nil
	}
	var in []sat.Lit
	for _, name := range c.when.Class {
		t, ok := d.classes[name]
		if !ok {
			return fits, fmt.Errorf("policy %q has no class %q", d.doc.Name, name)
		}
		in = append(in, t.possible)
	}
	return s.and(fits, s.or(in...)), nil
}

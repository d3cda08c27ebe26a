package prove

import (
	"fmt"
	"slices"
	"strings"
)

// maxAtoms bounds the cases of one dimension.
const maxAtoms = 20_000

// atom is a set of texts that no pattern tells apart.
type atom struct {
	example string
	like    string // what to call it: a literal, or a pattern of which no more special one matches
}

// partition splits all texts but the empty one into atoms: two texts of one atom
// match the same globs. It is exact. Let u be the longest prefix of a star glob
// that a text begins with, and v the longest such suffix. Where u and v do not
// overlap in the text, they alone say which star globs match; u+filler+v stands
// for all of these. Where they overlap there are only finitely many texts, which
// are cases of their own, as literals are.
// Friendly is an example to prefer for the case that no special pattern matches.
func partition(globs []glob, friendly string) ([]atom, error) {
	prefixes, suffixes := []string{""}, []string{""}
	var literals []string
	for _, g := range globs {
		prefix, suffix, star := strings.Cut(string(g), "*")
		if !star {
			literals = append(literals, prefix)
			continue
		}
		prefixes, suffixes = append(prefixes, prefix), append(suffixes, suffix)
	}
	prefixes, suffixes, literals = distinct(prefixes), distinct(suffixes), distinct(literals)
	if len(prefixes)*len(suffixes) > maxAtoms || len(literals) > maxAtoms {
		return nil, fmt.Errorf("cannot analyse: %d patterns make more than %d cases", len(globs), maxAtoms)
	}
	fill := filler(globs)
	p := parts{globs: globs, seen: map[string]bool{}}
	for _, s := range literals {
		p.add(s, s)
	}
	for _, s := range []string{friendly, friendly + fill} {
		if p.key(s) == p.key(fill) {
			p.add(s, "*")
		}
	}
	for _, u := range prefixes {
		for _, v := range suffixes {
			p.add(u+fill+v, u+"*"+v)
		}
	}
	for _, u := range prefixes {
		for _, v := range suffixes {
			for k := 1; k <= min(len(u), len(v)); k++ {
				if strings.HasSuffix(u, v[:k]) {
					p.add(u+v[k:], u+v[k:])
				}
			}
		}
	}
	return p.atoms, nil
}

// parts collects atoms; the first example of each set of matching globs stands for it.
type parts struct {
	globs []glob
	seen  map[string]bool
	atoms []atom
}

func (p *parts) add(s, like string) {
	key := p.key(s)
	if s == "" || p.seen[key] {
		return
	}
	p.seen[key] = true
	p.atoms = append(p.atoms, atom{s, like})
}

// key is the set of globs that match, one bit each.
func (p *parts) key(s string) string {
	bits := make([]byte, (len(p.globs)+7)/8)
	for i, g := range p.globs {
		if g.matches(s) {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return string(bits)
}

// filler is a character that no glob has.
func filler(globs []glob) string {
	all := fmt.Sprint(globs)
	for _, c := range "xyzwqjkvuXYZWQ0123456789abcdefghilmnoprst_~" {
		if !strings.ContainsRune(all, c) {
			return string(c)
		}
	}
	for c := rune(0x100); ; c++ {
		if !strings.ContainsRune(all, c) {
			return string(c)
		}
	}
}

func distinct[T ~string](texts []T) []T {
	slices.Sort(texts)
	return slices.Compact(texts)
}

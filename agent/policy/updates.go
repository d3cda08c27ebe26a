package policy

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/bothy-edge/bothy/updater/provenance"
)

// maxSigners bounds the signatures that one model is verified with.
const maxSigners = 32

// Signers are those of whom one must have signed every model that this box
// installs. An empty list asks for no signature. Shared: do not modify it.
func (p *Policy) Signers() []provenance.Signer {
	if p.doc.Updates == nil {
		return nil
	}
	var all []provenance.Signer
	for _, s := range p.doc.Updates.RequireSignature {
		all = append(all, s.signer)
	}
	return all
}

func (r *reader) updates(n ast.Node) *updates {
	var u updates
	r.mapping(n, "updates", []field{
		{"require_signature", false, func(v ast.Node) {
			u.RequireSignature = each(r, v, "require_signature", r.signer)
			if len(u.RequireSignature) > maxSigners {
				r.add(at(v), "require_signature lists %d signers; the limit is %d", len(u.RequireSignature), maxSigners)
			}
		}},
	}, nil)
	return &u
}

// signer reads somebody by a public key, or by roots and perhaps an identity.
func (r *reader) signer(n ast.Node) signer {
	s := signer{pos: at(n)}
	before := len(r.found)
	r.mapping(n, "a signer", []field{
		{"name", true, func(v ast.Node) { s.Name = r.name(v, "name") }},
		{"key", false, func(v ast.Node) { s.Key = r.text(v, "key", 16<<10) }},
		{"roots", false, func(v ast.Node) { s.Roots = r.text(v, "roots", 64<<10) }},
		{"identity", false, func(v ast.Node) { s.Identity = r.text(v, "identity", 256) }},
	}, nil)
	if len(r.found) > before {
		return s
	}
	var err error
	s.signer, err = provenance.NewSigner(provenance.Spec{Name: s.Name, Key: s.Key, Roots: s.Roots, Identity: s.Identity})
	if err != nil {
		r.add(s.pos, "signer %q: %v", s.Name, err)
	}
	return s
}

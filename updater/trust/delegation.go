package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// find returns what the repository says of a target: the first entry in a
// pre-order walk of the delegations that claim its path, or nil if none lists it.
func (r *repository) find(ctx context.Context, path string) (*metadata.TargetFiles, error) {
	type visit struct{ role, parent string }
	pending := []visit{{metadata.TARGETS, metadata.ROOT}}
	seen := map[string]bool{}
	for len(pending) > 0 {
		next := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if seen[next.role] {
			continue
		}
		seen[next.role] = true
		if len(seen) > maxRoles {
			return nil, refuse(TooLarge, path, "more than %d roles claim the path", maxRoles)
		}
		if err := r.loadRole(ctx, next.role, next.parent); err != nil {
			return nil, err
		}
		signed := r.trusted.Targets[next.role].Signed
		if entry := signed.Targets[path]; entry != nil {
			return entry, nil
		}
		if signed.Delegations == nil {
			continue
		}
		children, terminating := claims(signed.Delegations, path)
		if terminating {
			pending = pending[:0]
		}
		for _, child := range slices.Backward(children) {
			pending = append(pending, visit{child, next.role})
		}
	}
	return nil, nil
}

// claims lists the roles that are trusted with path, in the order of the
// document, up to the first that lets no later role answer.
func claims(d *metadata.Delegations, path string) (roles []string, terminating bool) {
	if d.Roles == nil {
		// Succinct roles: one bin, which ends the search.
		for _, role := range d.GetRolesForTarget(path) {
			roles = append(roles, role.Name)
		}
		return roles, len(roles) > 0
	}
	for _, role := range d.Roles {
		if !claimed(role, path) {
			continue
		}
		roles = append(roles, role.Name)
		if role.Terminating {
			return roles, true
		}
	}
	return roles, false
}

// claimed says whether a role is trusted with path. Hash prefixes are compared
// here because go-tuf v2.4.2 compares them with base64; TUF 4.5 says hexadecimal.
func claimed(role metadata.DelegatedRole, path string) bool {
	if len(role.Paths) > 0 || len(role.PathHashPrefixes) == 0 {
		ok, err := role.IsDelegatedPath(path)
		return ok && err == nil
	}
	sum := sha256.Sum256([]byte(path))
	digest := hex.EncodeToString(sum[:])
	return slices.ContainsFunc(role.PathHashPrefixes, func(prefix string) bool { return strings.HasPrefix(digest, prefix) })
}

// checkDelegations refuses a role that can be reached from two parents, or
// twice from one: which keys it needs would depend on the way taken. A
// repository that is not ours may have such a role, and loadRole refuses it
// when it is reached the second way.
func (r *repository) checkDelegations(parent string) error {
	d := r.trusted.Targets[parent].Signed.Delegations
	if d == nil {
		return nil
	}
	if r.name == Director {
		return refuse(Malformed, r.subject(parent), "the director delegates; it must list every target itself")
	}
	if s := d.SuccinctRoles; s != nil && (s.BitLength < 1 || s.BitLength > 32) {
		return refuse(Malformed, r.subject(parent), "succinct roles of %d bits", s.BitLength)
	}
	inHere := map[string]bool{}
	for _, role := range d.Roles {
		other, known := r.parents[role.Name]
		switch {
		case slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], role.Name):
			return refuse(Malformed, r.subject(parent), "it delegates to %q, a top-level role", role.Name)
		case inHere[role.Name]:
			return refuse(Malformed, r.subject(parent), "it delegates to %q twice", role.Name)
		case known && other != parent && !r.general:
			return refuse(Malformed, r.subject(parent), "role %q is delegated to by %q too", role.Name, other)
		}
		inHere[role.Name] = true
		r.parents[role.Name] = parent
	}
	return nil
}

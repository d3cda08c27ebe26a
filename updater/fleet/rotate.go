package fleet

import (
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/trust"
)

// Rotation changes one set of keys.
type Rotation struct {
	Set       string
	Add       []crypto.PublicKey
	Remove    []string // key ids
	Threshold int      // 0 leaves it
}

// draft is the next state of all metadata that names keys, while it is made.
type draft struct {
	f     *Fleet
	roots map[trust.Repo]*metadata.Metadata[metadata.RootType] // newest, or the next
	bytes map[trust.Repo][]byte                                // newest, as published
	moved map[trust.Repo]bool                                  // roots holds the next
	b     *branch                                              // the catalog
	top   *metadata.Metadata[metadata.TargetsType]
	next  bool // top is the next
}

func (f *Fleet) newDraft() (*draft, error) {
	d := &draft{f: f, roots: map[trust.Repo]*metadata.Metadata[metadata.RootType]{}, bytes: map[trust.Repo][]byte{},
		moved: map[trust.Repo]bool{}, b: &branch{dir: f.catalogPath(""), now: f.Now()}}
	for _, repo := range []trust.Repo{trust.Catalog, trust.Director} {
		var err error
		if d.roots[repo], d.bytes[repo], err = f.newestRoot(repo); err != nil {
			return nil, err
		}
	}
	if err := d.b.load(); err != nil {
		return nil, err
	}
	var err error
	d.top, err = d.b.targets(metadata.TARGETS)
	return d, err
}

// Rotate makes the request for new sets of keys: the next root, the next
// targets, and whatever would no longer verify. It changes nothing; sign the
// request and Apply it. A rotation that changes no key gives the root, or the
// catalog's targets, a new life.
func (f *Fleet) Rotate(rotations ...Rotation) (Request, error) {
	d, err := f.newDraft()
	if err != nil {
		return Request{}, fmt.Errorf("cannot rotate keys: %w", err)
	}
	for _, r := range rotations {
		if err := d.rotate(r); err != nil {
			return Request{}, fmt.Errorf("cannot rotate %s keys: %w", r.Set, err)
		}
	}
	for _, r := range rotations {
		if err := d.checkAdded(r); err != nil {
			return Request{}, fmt.Errorf("cannot rotate %s keys: %w", r.Set, err)
		}
	}
	request, err := d.request()
	if err != nil {
		return Request{}, fmt.Errorf("cannot rotate keys: %w", err)
	}
	return request, nil
}

// Revoke makes the request that takes a key, by its id, out of every set, and
// puts replacement, unless it is nil, in its place.
func (f *Fleet) Revoke(id string, replacement crypto.PublicKey) (Request, error) {
	sets, err := f.setsOf(id)
	if err != nil {
		return Request{}, err
	}
	if len(sets) == 0 {
		return Request{}, fmt.Errorf("cannot revoke key %s: no device trusts it", id)
	}
	var rotations []Rotation
	for _, set := range sets {
		r := Rotation{Set: set, Remove: []string{id}}
		if replacement != nil {
			r.Add = []crypto.PublicKey{replacement}
		}
		rotations = append(rotations, r)
	}
	return f.Rotate(rotations...)
}

func (f *Fleet) setsOf(id string) ([]string, error) {
	d, err := f.newDraft()
	if err != nil {
		return nil, err
	}
	return d.setsOf(id), nil
}

func (d *draft) setsOf(id string) []string {
	var sets []string
	for _, p := range places() {
		if slices.Contains(p.roleIn(d.roots[p.repo], d.top).KeyIDs, id) {
			sets = append(sets, p.set)
		}
	}
	return sets
}

// ListKeys describes the keys that are here, and those that devices trust but
// that are not, with the sets that trust them.
func (f *Fleet) ListKeys() ([]KeyInfo, error) {
	keys, err := f.Keys.List()
	if err != nil {
		return nil, err
	}
	d, err := f.newDraft()
	if err != nil {
		return nil, err
	}
	for i := range keys {
		keys[i].Sets = d.setsOf(keys[i].ID)
	}
	for _, p := range places() {
		for _, id := range p.roleIn(d.roots[p.repo], d.top).KeyIDs {
			if !slices.ContainsFunc(keys, func(k KeyInfo) bool { return k.ID == id }) {
				keys = append(keys, KeyInfo{ID: id, Algorithm: d.algorithm(p, id), Sets: d.setsOf(id)})
			}
		}
	}
	return keys, nil
}

func (d *draft) algorithm(p place, id string) string {
	key := d.roots[p.repo].Signed.Keys[id]
	if key == nil && d.top.Signed.Delegations != nil {
		key = d.top.Signed.Delegations.Keys[id]
	}
	if key == nil {
		return ""
	}
	if key.Type == Ed25519 {
		return Ed25519
	}
	return ECDSAP256
}

// nextRoot is the root to change: the next version, made when first asked for.
func (d *draft) nextRoot(repo trust.Repo) *metadata.RootType {
	root := d.roots[repo]
	if !d.moved[repo] {
		d.moved[repo] = true
		root.ClearSignatures()
		root.Signed.Version++
		root.Signed.Expires = expires(d.f.Now(), d.f.config.Expiry.Root)
	}
	return &root.Signed
}

func (d *draft) nextTop() *metadata.TargetsType {
	if !d.next {
		d.next = true
		d.renew(d.top)
	}
	return &d.top.Signed
}

func (d *draft) renew(m *metadata.Metadata[metadata.TargetsType]) {
	m.ClearSignatures()
	m.Signed.Version++
	m.Signed.Expires = expires(d.f.Now(), d.f.config.Expiry.Targets)
}

func (d *draft) rotate(r Rotation) error {
	p, err := placeOf(r.Set)
	if err != nil {
		return err
	}
	for _, role := range append(slices.Clone(p.roles), p.role) {
		if role == "" {
			continue
		}
		if err := d.change(p, role, r); err != nil {
			return err
		}
	}
	return d.checkThreshold(p)
}

// change applies a rotation to one role.
func (d *draft) change(p place, role string, r Rotation) error {
	var add func(*metadata.Key, string) error
	var revoke func(string, string) error
	if len(p.roles) == 0 {
		root := d.nextRoot(p.repo)
		add, revoke = root.AddKey, root.RevokeKey
		if r.Threshold > 0 {
			root.Roles[role].Threshold = r.Threshold
		}
	} else {
		top := d.nextTop()
		add, revoke = top.AddKey, top.RevokeKey
		for i := range top.Delegations.Roles {
			if top.Delegations.Roles[i].Name == role && r.Threshold > 0 {
				top.Delegations.Roles[i].Threshold = r.Threshold
			}
		}
	}
	for _, id := range r.Remove {
		if err := revoke(id, role); err != nil {
			return fmt.Errorf("key %s: %w", id, err)
		}
	}
	for _, public := range r.Add {
		key, _, err := keyID(public)
		if err != nil {
			return err
		}
		if err := add(key, role); err != nil {
			return err
		}
	}
	return nil
}

func (d *draft) checkThreshold(p place) error {
	role := p.roleIn(d.roots[p.repo], d.top)
	if role.Threshold > len(role.KeyIDs) {
		return fmt.Errorf("%d keys would be left and %d must sign; add a key in the same step, or lower the threshold", len(role.KeyIDs), role.Threshold)
	}
	online := p.role == metadata.SNAPSHOT || p.role == metadata.TIMESTAMP || p.set == directorTargetsKey
	if online && role.Threshold != 1 {
		return errors.New("an online role is signed by one key; want threshold 1")
	}
	return nil
}

// checkAdded keeps a key in one set: what one thief can do is counted by sets.
func (d *draft) checkAdded(r Rotation) error {
	for _, public := range r.Add {
		_, id, err := keyID(public)
		if err != nil {
			return err
		}
		if sets := d.setsOf(id); len(sets) > 1 {
			return fmt.Errorf("key %s would be in the sets %v; make one key for each", id, sets)
		}
	}
	return nil
}

// request lists what must be signed for the draft to hold together.
func (d *draft) request() (Request, error) {
	r := Request{Schema: 1, Tenant: d.f.config.Tenant, own: true}
	for _, repo := range []trust.Repo{trust.Catalog, trust.Director} {
		if !d.moved[repo] {
			continue
		}
		old, err := metadata.Root().FromBytes(d.bytes[repo])
		if err != nil {
			return r, err
		}
		root := d.roots[repo]
		raw, err := encode(root)
		if err != nil {
			return r, err
		}
		r.Documents = append(r.Documents, Unsigned{Repo: repo, Role: metadata.ROOT, Metadata: raw, Previous: d.bytes[repo],
			Needs: []Quorum{quorum(*old.Signed.Roles[metadata.ROOT]), quorum(*root.Signed.Roles[metadata.ROOT])}})
	}
	root := d.roots[trust.Catalog]
	if root.VerifyDelegate(metadata.TARGETS, d.top) != nil {
		d.nextTop()
	}
	if !d.next {
		return r, nil
	}
	u, err := d.b.unsigned(metadata.TARGETS, d.top, *root.Signed.Roles[metadata.TARGETS])
	if err != nil {
		return r, err
	}
	r.Documents = append(r.Documents, u)
	return d.delegatedRoles(r)
}

// delegatedRoles adds the roles whose signatures the next targets would not accept.
func (d *draft) delegatedRoles(r Request) (Request, error) {
	for _, p := range places() {
		for _, name := range p.roles {
			m, err := d.b.targets(name)
			if err != nil {
				return r, err
			}
			if d.top.VerifyDelegate(name, m) == nil {
				continue
			}
			d.renew(m)
			u, err := d.b.unsigned(name, m, p.roleIn(nil, d.top))
			if err != nil {
				return r, err
			}
			r.Documents = append(r.Documents, u)
		}
	}
	return r, nil
}

// unsigned makes the document of a request from the next version of a role of
// the catalog.
func (b *branch) unsigned(role string, m *metadata.Metadata[metadata.TargetsType], needs metadata.Role) (Unsigned, error) {
	raw, err := encode(m)
	if err != nil {
		return Unsigned{}, err
	}
	u := Unsigned{Repo: trust.Catalog, Role: role, Metadata: raw, Needs: []Quorum{quorum(needs)}}
	if version := b.version(role); version > 0 {
		if u.Previous, err = os.ReadFile(filepath.Join(b.dir, fmt.Sprintf("%d.%s.json", version, role))); err != nil {
			return Unsigned{}, fmt.Errorf("cannot read metadata: %w", err)
		}
	}
	return u, nil
}

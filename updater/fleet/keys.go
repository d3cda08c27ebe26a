package fleet

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Names of key sets. Init names an offline set's files NAME-1.pem, NAME-2.pem,
// ... and an online key's NAME.pem; what belongs to a set, and how many of it
// must sign, is what the root or the catalog's targets say, whatever its name.
const (
	catalogRootKeys    = "catalog-root"
	catalogTargetsKeys = "catalog-targets"
	releaseKeys        = "release"
	securityKeys       = "security"
	directorRootKeys   = "director-root"

	catalogSnapshotKey   = "catalog-snapshot"
	catalogTimestampKey  = "catalog-timestamp"
	directorTargetsKey   = "director-targets"
	directorSnapshotKey  = "director-snapshot"
	directorTimestampKey = "director-timestamp"
)

// delegation is one role that the catalog's targets role hands paths to.
type delegation struct {
	role string
	kind release.Kind
	keys string
}

func delegations() []delegation {
	return []delegation{
		{"models", release.Model, releaseKeys},
		{"engines", release.Engine, releaseKeys},
		{"security", release.Policy, securityKeys},
	}
}

func delegationOf(kind release.Kind) delegation {
	for _, d := range delegations() {
		if d.kind == kind {
			return d
		}
	}
	return delegation{}
}

// place is where a set's keys are named: in a repository's root for one of its
// top-level roles, or in the catalog's targets for roles that it delegates to.
type place struct {
	set   string
	repo  trust.Repo
	role  string
	roles []string // delegated
}

func places() []place {
	return []place{
		{set: catalogRootKeys, repo: trust.Catalog, role: metadata.ROOT},
		{set: catalogTargetsKeys, repo: trust.Catalog, role: metadata.TARGETS},
		{set: catalogSnapshotKey, repo: trust.Catalog, role: metadata.SNAPSHOT},
		{set: catalogTimestampKey, repo: trust.Catalog, role: metadata.TIMESTAMP},
		{set: releaseKeys, repo: trust.Catalog, roles: []string{"models", "engines"}},
		{set: securityKeys, repo: trust.Catalog, roles: []string{"security"}},
		{set: directorRootKeys, repo: trust.Director, role: metadata.ROOT},
		{set: directorTargetsKey, repo: trust.Director, role: metadata.TARGETS},
		{set: directorSnapshotKey, repo: trust.Director, role: metadata.SNAPSHOT},
		{set: directorTimestampKey, repo: trust.Director, role: metadata.TIMESTAMP},
	}
}

// KeySets names the sets of keys of a fleet.
func KeySets() []string {
	var names []string
	for _, p := range places() {
		names = append(names, p.set)
	}
	return names
}

func placeOf(set string) (place, error) {
	for _, p := range places() {
		if p.set == set {
			return p, nil
		}
	}
	return place{}, fmt.Errorf("there is no set of keys %q; want one of %s", set, strings.Join(KeySets(), ", "))
}

// makeKey makes a key without a passphrase, or loads the one that is there.
func (f *Fleet) makeKey(name string) (crypto.Signer, error) {
	_, err := os.Stat(f.Keys.path(name, ".pem"))
	if errors.Is(err, fs.ErrNotExist) {
		key, err := newPrivateKey(Ed25519)
		if err != nil {
			return nil, fmt.Errorf("cannot make key %s: %w", name, err)
		}
		if err := os.MkdirAll(filepath.Join(f.dir, "keys"), 0o700); err != nil {
			return nil, fmt.Errorf("cannot make key %s: %w", name, err)
		}
		return key, f.Keys.write(name, key, nil)
	}
	return f.Keys.unlock(name)
}

func (f *Fleet) makeKeys(set string, n int) ([]crypto.Signer, error) {
	keys := make([]crypto.Signer, n)
	for i := range keys {
		var err error
		if keys[i], err = f.makeKey(fmt.Sprintf("%s-%d", set, i+1)); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// roleIn is the role that a set signs, as the place of the set has it.
func (p place) roleIn(root *metadata.Metadata[metadata.RootType], top *metadata.Metadata[metadata.TargetsType]) metadata.Role {
	if len(p.roles) == 0 {
		if role := root.Signed.Roles[p.role]; role != nil {
			return *role
		}
		return metadata.Role{}
	}
	if d := top.Signed.Delegations; d != nil {
		for _, role := range d.Roles {
			if role.Name == p.roles[0] {
				return metadata.Role{KeyIDs: role.KeyIDs, Threshold: role.Threshold}
			}
		}
	}
	return metadata.Role{}
}

// trusted says which keys of a set devices believe, and how many must sign.
func (f *Fleet) trusted(set string) (metadata.Role, error) {
	p, err := placeOf(set)
	if err != nil {
		return metadata.Role{}, err
	}
	root, _, err := f.newestRoot(p.repo)
	if err != nil {
		return metadata.Role{}, err
	}
	if len(p.roles) == 0 {
		return p.roleIn(root, nil), nil
	}
	b := &branch{dir: f.catalogPath(""), now: f.Now()}
	if err := b.load(); err != nil {
		return metadata.Role{}, err
	}
	top, err := b.targets(metadata.TARGETS)
	if err != nil {
		return metadata.Role{}, err
	}
	return p.roleIn(root, top), nil
}

func (f *Fleet) rootDir(repo trust.Repo) string {
	if repo == trust.Director {
		return f.directorRootPath("")
	}
	return f.catalogPath("")
}

// offlineKeys loads keys of a set: those that devices believe and that are
// here. Fewer than the threshold is an error that says what to bring.
func (f *Fleet) offlineKeys(set string) ([]crypto.Signer, error) {
	role, err := f.trusted(set)
	if err != nil {
		return nil, err
	}
	keys, err := f.Keys.signers(role.KeyIDs, role.Threshold)
	if err != nil {
		return nil, err
	}
	if len(keys) < role.Threshold {
		return nil, fmt.Errorf("cannot sign with %s keys: %d of the %d needed are here; bring %s-N.pem files to %s, give the passphrases, or sign where the keys are: "+
			"bothy fleet sign %s --request FILE", set, len(keys), role.Threshold, set, filepath.Join(f.dir, "keys"), f.dir)
	}
	return keys, nil
}

// tufKeys turns keys into go-tuf's public ones, with their ids.
func tufKeys(keys []crypto.Signer) (map[string]*metadata.Key, []string, error) {
	all := make(map[string]*metadata.Key, len(keys))
	ids := make([]string, 0, len(keys))
	for _, k := range keys {
		key, id, err := keyID(k.Public())
		if err != nil {
			return nil, nil, err
		}
		all[id] = key
		ids = append(ids, id)
	}
	return all, ids, nil
}

// sign replaces the signatures of m by those of keys and encodes the result.
func sign[T metadata.Roles](m *metadata.Metadata[T], keys ...crypto.Signer) ([]byte, error) {
	m.ClearSignatures()
	if err := addSignatures(m, keys...); err != nil {
		return nil, err
	}
	return encode(m)
}

func addSignatures[T metadata.Roles](m *metadata.Metadata[T], keys ...crypto.Signer) error {
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return fmt.Errorf("cannot sign: %w", err)
	}
	_, ids, err := tufKeys(keys)
	if err != nil {
		return err
	}
	for i, key := range keys {
		signature, err := signPayload(key, payload)
		if err != nil {
			return fmt.Errorf("cannot sign: %w", err)
		}
		m.Signatures = slices.DeleteFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == ids[i] })
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: ids[i], Signature: signature})
	}
	return nil
}

func encode[T metadata.Roles](m *metadata.Metadata[T]) ([]byte, error) {
	raw, err := m.ToBytes(true)
	if err != nil {
		return nil, fmt.Errorf("cannot encode signed metadata: %w", err)
	}
	return append(raw, '\n'), nil
}

package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Names of key sets. An offline set has files NAME-1.pem, NAME-2.pem, ... and
// needs the threshold of them; an online key is the one file NAME.pem.
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

func keyPath(dir, name string) string { return filepath.Join(dir, "keys", name+".pem") }

// makeKey makes a key, or leaves the one that is there.
func makeKey(dir, name string) (ed25519.PrivateKey, error) {
	path := keyPath(dir, name)
	key, err := trust.ReadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make key %s: %w", name, err)
	}
	_, key, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make key %s: %w", name, err)
	}
	return key, trust.WriteKey(path, key)
}

func makeKeys(dir, set string, n int) ([]ed25519.PrivateKey, error) {
	keys := make([]ed25519.PrivateKey, n)
	for i := range keys {
		var err error
		if keys[i], err = makeKey(dir, fmt.Sprintf("%s-%d", set, i+1)); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// offlineKeys loads the keys of a set that are here. Fewer than the threshold
// is an error that says what to bring.
func (f *Fleet) offlineKeys(set string) ([]ed25519.PrivateKey, error) {
	paths, err := filepath.Glob(keyPath(f.dir, set+"-*"))
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot list keys: %w", err)
	}
	var keys []ed25519.PrivateKey
	for _, path := range paths {
		if number := strings.TrimPrefix(filepath.Base(path), set+"-"); strings.Trim(number, "0123456789") != ".pem" {
			continue
		}
		key, err := trust.ReadKey(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) < f.config.Threshold {
		return nil, fmt.Errorf("cannot sign with %s keys: %d of the %d needed are here; bring %s-N.pem files to %s and try again",
			set, len(keys), f.config.Threshold, set, filepath.Join(f.dir, "keys"))
	}
	return keys, nil
}

func (f *Fleet) onlineKey(name string) (ed25519.PrivateKey, error) {
	key, err := trust.ReadKey(keyPath(f.dir, name))
	if err != nil {
		return nil, fmt.Errorf("cannot sign with %s key: %w", name, err)
	}
	return key, nil
}

// tufKeys turns private keys into go-tuf's public ones, with their ids.
func tufKeys(keys []ed25519.PrivateKey) (map[string]*metadata.Key, []string, error) {
	all := make(map[string]*metadata.Key, len(keys))
	ids := make([]string, 0, len(keys))
	for _, k := range keys {
		key, err := metadata.KeyFromPublicKey(k.Public())
		if err != nil {
			return nil, nil, fmt.Errorf("cannot describe key: %w", err)
		}
		id, err := key.ID()
		if err != nil {
			return nil, nil, fmt.Errorf("cannot describe key: %w", err)
		}
		all[id] = key
		ids = append(ids, id)
	}
	return all, ids, nil
}

// sign replaces the signatures of m by those of keys and encodes the result.
func sign[T metadata.Roles](m *metadata.Metadata[T], keys ...ed25519.PrivateKey) ([]byte, error) {
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	_, ids, err := tufKeys(keys)
	if err != nil {
		return nil, err
	}
	m.ClearSignatures()
	for i, key := range keys {
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: ids[i], Signature: ed25519.Sign(key, payload)})
	}
	raw, err := m.ToBytes(true)
	if err != nil {
		return nil, fmt.Errorf("cannot encode signed metadata: %w", err)
	}
	return append(raw, '\n'), nil
}

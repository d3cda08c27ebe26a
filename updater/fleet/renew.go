package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/trust"
)

// Renewal says what Renew did and what it could not do.
type Renewal struct {
	Renewed  []string `json:"renewed,omitempty"`  // "catalog" or a device
	Warnings []string `json:"warnings,omitempty"` // for the operator, each with what to do
}

// Renew signs again what is past half of its life, with the online keys: every
// timestamp and snapshot, and what the director says of each device. `fleet
// serve` calls it from time to time; it changes nothing that is young. What
// cannot be renewed keeps nothing else from it. What needs offline keys is only
// warned about.
func (f *Fleet) Renew() (Renewal, error) {
	var r Renewal
	unlock, err := lock(f.dir)
	if err != nil {
		return r, err
	}
	defer unlock()
	devices, err := f.Devices()
	if err != nil {
		return r, err
	}
	err = r.renew("catalog", func() (bool, error) {
		b, err := f.catalogBranch()
		if err != nil {
			return false, err
		}
		return b.renew()
	})
	for _, device := range devices {
		if f.gone(device) {
			continue
		}
		err = errors.Join(err, r.renew(device, func() (bool, error) { return f.renewDeviceBranch(device) }))
	}
	return r, errors.Join(err, f.warn(&r))
}

func (r *Renewal) renew(name string, renew func() (bool, error)) error {
	done, err := renew()
	if err != nil {
		return fmt.Errorf("cannot renew %s: %w", name, err)
	}
	if done {
		r.Renewed = append(r.Renewed, name)
	}
	return nil
}

// renewDeviceBranch renews what the director says of one device. The same set
// with a later expiry has the same counter: it is no new want.
func (f *Fleet) renewDeviceBranch(device string) (bool, error) {
	b, err := f.deviceBranch(device)
	if err != nil || !b.published() {
		return false, err
	}
	m, err := b.targets(metadata.TARGETS)
	if err != nil {
		return false, err
	}
	if !b.old(m.Signed.Expires, f.config.Expiry.Director) {
		return b.renew()
	}
	root, _, err := f.newestRoot(trust.Director)
	if err != nil {
		return false, err
	}
	key, err := f.oneOf(root, metadata.TARGETS)
	if err != nil {
		_, renewed := b.renew() // the rest does not need that key
		return false, errors.Join(err, renewed)
	}
	m.Signed.Version++
	m.Signed.Expires = expires(b.now, f.config.Expiry.Director)
	raw, err := sign(m, key)
	if err != nil {
		return false, err
	}
	return true, b.publish(part{metadata.TARGETS, m.Signed.Version, raw})
}

// gone says that a device was wiped: nothing is signed for it any more.
func (f *Fleet) gone(device string) bool {
	r, err := f.Device(device)
	return err == nil && !r.Wiped.IsZero()
}

// Unlock opens the online keys, asking for the passphrases of those that are
// encrypted, so that nothing has to be asked later. The error names what cannot
// be signed; the rest can.
func (f *Fleet) Unlock() error {
	var failed error
	for _, repo := range []trust.Repo{trust.Catalog, trust.Director} {
		root, _, err := f.newestRoot(repo)
		if err != nil {
			return err
		}
		roles := []string{metadata.SNAPSHOT, metadata.TIMESTAMP}
		if repo == trust.Director {
			roles = append(roles, metadata.TARGETS)
		}
		for _, role := range roles {
			if _, err := f.oneOf(root, role); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", repo, err))
			}
		}
	}
	return failed
}

// warn looks for offline signatures that expire within a tenth of their life.
func (f *Fleet) warn(r *Renewal) error {
	b := &branch{dir: f.catalogPath(""), now: f.Now()}
	if err := b.load(); err != nil {
		return err
	}
	for _, name := range []string{metadata.TARGETS, "models", "engines", "security"} {
		role, err := b.targets(name)
		if err != nil {
			return err
		}
		r.expiring("catalog "+name, role.Signed.Expires, f.config.Expiry.Targets, f.Now(), "bothy fleet sign "+f.dir)
	}
	for _, repo := range []trust.Repo{trust.Catalog, trust.Director} {
		root, _, err := f.newestRoot(repo)
		if err != nil {
			return err
		}
		r.expiring(string(repo)+" root", root.Signed.Expires, f.config.Expiry.Root, f.Now(),
			fmt.Sprintf("bothy fleet key rotate %s %s-root", f.dir, repo))
	}
	return nil
}

// newestRoot reads the end of a repository's chain of roots, as it was published.
func (f *Fleet) newestRoot(repo trust.Repo) (*metadata.Metadata[metadata.RootType], []byte, error) {
	dir, version := f.rootDir(repo), 1
	for ; ; version++ {
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d.root.json", version+1))); err != nil {
			break
		}
	}
	path := filepath.Join(dir, fmt.Sprintf("%d.root.json", version))
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read root: %w", err)
	}
	root, err := metadata.Root().FromBytes(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if root.Signed.Roles[role] == nil {
			return nil, nil, fmt.Errorf("cannot read %s: it has no role %s", path, role)
		}
	}
	return root, raw, nil
}

func (r *Renewal) expiring(what string, expiry time.Time, days int, now time.Time, command string) {
	if expiry.Sub(now) < time.Duration(days)*day/10 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s expires on %s; bring its offline keys and run: %s", what, expiry.Format(time.DateOnly), command))
	}
}

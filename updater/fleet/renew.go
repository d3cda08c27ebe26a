package fleet

import (
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

// Renew signs again every timestamp and snapshot that is past half of its
// life, with the online keys. `fleet serve` calls it from time to time; it
// changes nothing that is young. What needs offline keys is only warned about.
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
	b, err := f.catalogBranch()
	if err != nil {
		return r, err
	}
	if err := r.renew("catalog", b); err != nil {
		return r, err
	}
	for _, device := range devices {
		b, err := f.deviceBranch(device)
		if err != nil {
			return r, err
		}
		if err := r.renew(device, b); err != nil {
			return r, err
		}
	}
	return r, f.warn(&r)
}

func (r *Renewal) renew(name string, b *branch) error {
	done, err := b.renew()
	if err != nil {
		return fmt.Errorf("cannot renew %s: %w", name, err)
	}
	if done {
		r.Renewed = append(r.Renewed, name)
	}
	return nil
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

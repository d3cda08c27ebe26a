package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
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
		r.expiring("catalog "+name, role.Signed.Expires, f.config.Expiry.Targets, f.Now())
	}
	for what, dir := range map[string]string{"catalog root": f.catalogPath(""), "director root": f.directorRootPath("")} {
		root, err := newestRoot(dir)
		if err != nil {
			return err
		}
		r.expiring(what, root.Signed.Expires, f.config.Expiry.Root, f.Now())
	}
	return nil
}

func newestRoot(dir string) (*metadata.Metadata[metadata.RootType], error) {
	version := 1
	for ; ; version++ {
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d.root.json", version+1))); err != nil {
			break
		}
	}
	path := filepath.Join(dir, fmt.Sprintf("%d.root.json", version))
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read root: %w", err)
	}
	root, err := metadata.Root().FromBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return root, nil
}

func (r *Renewal) expiring(what string, expiry time.Time, days int, now time.Time) {
	if expiry.Sub(now) < time.Duration(days)*day/10 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s expires on %s; bring its offline keys and run: bothy fleet sign", what, expiry.Format(time.DateOnly)))
	}
}

package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/bothy-edge/bothy/updater/trust"
)

// application is a request that was verified and is about to be published.
type application struct {
	f       *Fleet
	request Request
	roots   map[trust.Repo]*metadata.Metadata[metadata.RootType] // in force afterwards
	files   map[trust.Repo][]byte                                // roots to write
	top     *metadata.Metadata[metadata.TargetsType]
	parts   []part // of the catalog
}

// Apply publishes a request whose signatures are complete. All of it is verified
// as a device would before anything is written: each root by the keys before
// and after it, the targets and every delegated role by what then names their
// keys. Applying it again finishes what was interrupted and changes nothing else.
//
// New roots are written before what they need signed anew, so for a moment a
// device may see a new root beside an old timestamp; it asks again later.
func (f *Fleet) Apply(r Request) error {
	unlock, err := lock(f.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if r.Tenant != f.config.Tenant {
		return fmt.Errorf("cannot apply request: it is for tenant %q, this is %q", r.Tenant, f.config.Tenant)
	}
	if missing := r.Missing(); len(missing) > 0 {
		return fmt.Errorf("cannot apply request: %s", missing[0])
	}
	a := &application{f: f, request: r, roots: map[trust.Repo]*metadata.Metadata[metadata.RootType]{}, files: map[trust.Repo][]byte{}}
	if err := guard(a.verify); err != nil {
		return fmt.Errorf("cannot apply request: %w", err)
	}
	if err := a.publish(); err != nil {
		return fmt.Errorf("cannot apply request: %w", err)
	}
	return nil
}

func (a *application) document(repo trust.Repo, role string) (Unsigned, bool) {
	i := slices.IndexFunc(a.request.Documents, func(u Unsigned) bool { return u.Repo == repo && u.Role == role })
	if i < 0 {
		return Unsigned{}, false
	}
	return a.request.Documents[i], true
}

func (a *application) verify() error {
	for _, u := range a.request.Documents {
		known := u.Role == metadata.ROOT && (u.Repo == trust.Catalog || u.Repo == trust.Director) ||
			u.Repo == trust.Catalog && (u.Role == metadata.TARGETS || slices.ContainsFunc(delegations(), func(d delegation) bool { return d.role == u.Role }))
		if !known {
			return fmt.Errorf("it holds %s, which is not signed by offline keys", u.name())
		}
	}
	for _, repo := range []trust.Repo{trust.Catalog, trust.Director} {
		if err := a.verifyRoot(repo); err != nil {
			return err
		}
	}
	b := &branch{dir: a.f.catalogPath(""), now: a.f.Now()}
	if err := b.load(); err != nil {
		return err
	}
	var err error
	if a.top, err = a.verifyRole(b, metadata.TARGETS, a.roots[trust.Catalog].VerifyDelegate); err != nil {
		return err
	}
	for _, d := range delegations() {
		if _, err := a.verifyRole(b, d.role, a.top.VerifyDelegate); err != nil {
			return err
		}
	}
	return nil
}

// verifyRoot takes the next root as a device would.
func (a *application) verifyRoot(repo trust.Repo) error {
	newest, raw, err := a.f.newestRoot(repo)
	if err != nil {
		return err
	}
	a.roots[repo] = newest
	u, ok := a.document(repo, metadata.ROOT)
	if !ok {
		return nil
	}
	next, err := parseRoot(u.Metadata)
	if err != nil {
		return err
	}
	encoded, err := encode(next)
	if err != nil {
		return err
	}
	switch {
	case next.Signed.Version == newest.Signed.Version && bytes.Equal(encoded, raw):
		a.files[repo] = raw // written before; what it needs may not be
		return nil
	case next.Signed.Version != newest.Signed.Version+1:
		return fmt.Errorf("%s root is version %d, the fleet's is %d: %w", repo, next.Signed.Version, newest.Signed.Version, errStale)
	case next.Signed.IsExpired(a.f.Now()):
		return fmt.Errorf("%s root version %d has expired; make a new request", repo, next.Signed.Version)
	}
	trusted, err := trustedmetadata.New(raw)
	if err != nil {
		return err
	}
	if _, err := trusted.UpdateRoot(encoded); err != nil {
		return fmt.Errorf("%s root version %d: %w", repo, next.Signed.Version, err)
	}
	a.roots[repo], a.files[repo] = next, encoded
	return nil
}

// verifyRole takes a targets role from the request, or the published one, and
// checks that its delegator accepts it.
func (a *application) verifyRole(b *branch, role string, accept func(string, any) error) (*metadata.Metadata[metadata.TargetsType], error) {
	m, err := b.targets(role)
	if err != nil {
		return nil, err
	}
	if u, ok := a.document(trust.Catalog, role); ok {
		version := b.version(role)
		if m, err = parseTargets(u.Metadata); err != nil {
			return nil, err
		}
		encoded, err := encode(m)
		if err != nil {
			return nil, err
		}
		published, err := os.ReadFile(filepath.Join(b.dir, fmt.Sprintf("%d.%s.json", version, role)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if m.Signed.Version != version+1 && !(m.Signed.Version == version && bytes.Equal(published, encoded)) {
			return nil, fmt.Errorf("%s is version %d, the fleet's is %d: %w", u.name(), m.Signed.Version, version, errStale)
		}
		if m.Signed.IsExpired(a.f.Now()) {
			return nil, fmt.Errorf("%s version %d has expired; make a new request", u.name(), m.Signed.Version)
		}
		a.parts = append(a.parts, part{role, m.Signed.Version, encoded})
	}
	if err := accept(role, m); err != nil {
		return nil, fmt.Errorf("catalog %s version %d would not be accepted: %w", role, m.Signed.Version, err)
	}
	return m, nil
}

// publish writes what was verified. The online keys are looked for first: a
// root that names keys that are not here must not go out.
func (a *application) publish() error {
	catalog, err := a.f.branch(a.f.catalogPath(""), "", a.roots[trust.Catalog])
	if err != nil {
		return err
	}
	devices, err := a.directorBranches()
	if err != nil {
		return err
	}
	for repo, raw := range a.files {
		name := fmt.Sprintf("%d.root.json", a.roots[repo].Signed.Version)
		if err := writeFile(filepath.Join(a.f.rootDir(repo), name), raw, 0o644); err != nil {
			return err
		}
	}
	if len(a.parts) > 0 || a.files[trust.Catalog] != nil {
		if err := catalog.publish(a.parts...); err != nil {
			return err
		}
	}
	for _, b := range devices {
		if err := a.resignDevice(b); err != nil {
			return fmt.Errorf("device %s: %w", b.device, err)
		}
	}
	return a.forgetPending(catalog)
}

// directorBranches are the devices whose metadata a new director root concerns.
func (a *application) directorBranches() ([]*branch, error) {
	if a.files[trust.Director] == nil {
		return nil, nil
	}
	names, err := a.f.Devices()
	if err != nil {
		return nil, err
	}
	var all []*branch
	for _, device := range names {
		b, err := a.f.branch(a.f.devicePath(device, ""), device, a.roots[trust.Director])
		if err != nil {
			return nil, err
		}
		if b.targetsKey, err = a.f.oneOf(a.roots[trust.Director], metadata.TARGETS); err != nil {
			return nil, err
		}
		if b.published() {
			all = append(all, b)
		}
	}
	return all, nil
}

// resignDevice signs a device's metadata with the online keys of the new root.
func (a *application) resignDevice(b *branch) error {
	m, err := b.targets(metadata.TARGETS)
	if err != nil {
		return err
	}
	if a.roots[trust.Director].VerifyDelegate(metadata.TARGETS, m) == nil {
		return b.publish()
	}
	m.Signed.Version++
	m.Signed.Expires = expires(b.now, a.f.config.Expiry.Director)
	raw, err := sign(m, b.targetsKey)
	if err != nil {
		return err
	}
	return b.publish(part{metadata.TARGETS, m.Signed.Version, raw})
}

// forgetPending drops the releases that are in the catalog now.
func (a *application) forgetPending(b *branch) error {
	for _, d := range delegations() {
		role, err := b.targets(d.role)
		if err != nil {
			return err
		}
		pending, err := a.f.pending(d.kind)
		if err != nil {
			return err
		}
		for _, doc := range pending {
			if role.Signed.Targets[doc.Target()] == nil {
				continue
			}
			if err := os.Remove(a.f.pendingPath(doc.Target())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

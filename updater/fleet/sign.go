package fleet

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Sign puts pending releases into the catalog, signed with the offline keys
// that are in the folder: those named ("mote" or "mote@2"), or all of them. It
// returns what it signed. A release that is in the catalog already is skipped.
func (f *Fleet) Sign(names ...string) ([]release.Document, error) {
	unlock, err := lock(f.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var done []release.Document
	for _, d := range delegations() {
		pending, err := f.pending(d.kind)
		if err != nil {
			return done, err
		}
		chosen, err := choose(pending, names)
		if err != nil {
			return done, err
		}
		if len(chosen) == 0 {
			continue
		}
		signed, err := f.signRole(d, chosen)
		done = append(done, signed...)
		if err != nil {
			return done, fmt.Errorf("cannot sign %s: %w", d.kind.Folder(), err)
		}
	}
	if len(names) == 0 {
		return done, f.resign()
	}
	return done, f.checkNamed(names, done)
}

// resign signs offline roles again that are past half of their life and whose
// keys are here, so that an expiry is moved by the command that brings the keys.
func (f *Fleet) resign() error {
	b, err := f.catalogBranch()
	if err != nil {
		return err
	}
	sets := map[string]string{metadata.TARGETS: catalogTargetsKeys}
	for _, d := range delegations() {
		sets[d.role] = d.keys
	}
	var parts []part
	for role, set := range sets {
		m, err := b.targets(role)
		if err != nil {
			return err
		}
		if !b.old(m.Signed.Expires, f.config.Expiry.Targets) {
			continue
		}
		keys, err := f.offlineKeys(set)
		if err != nil {
			return err
		}
		m.Signed.Version++
		m.Signed.Expires = expires(f.Now(), f.config.Expiry.Targets)
		raw, err := sign(m, keys...)
		if err != nil {
			return err
		}
		parts = append(parts, part{role, m.Signed.Version, raw})
	}
	if len(parts) == 0 {
		return nil
	}
	return b.publish(parts...)
}

func choose(pending []release.Document, names []string) ([]release.Document, error) {
	if len(names) == 0 {
		return pending, nil
	}
	var chosen []release.Document
	for _, id := range names {
		name, version, err := release.ParseID(id)
		if err != nil {
			return nil, err
		}
		for _, doc := range pending {
			if doc.Name == name && (version == 0 || doc.Version == version) {
				chosen = append(chosen, doc)
			}
		}
	}
	return chosen, nil
}

// checkNamed finds a name that neither was signed now nor had been before: a
// typing error should not look like success.
func (f *Fleet) checkNamed(names []string, done []release.Document) error {
	all, err := f.Releases()
	if err != nil {
		return err
	}
	for _, id := range names {
		name, version, err := release.ParseID(id)
		if err != nil {
			return err
		}
		named := func(d release.Document) bool { return d.Name == name && (version == 0 || d.Version == version) }
		if slices.ContainsFunc(done, named) || slices.ContainsFunc(all, func(r Release) bool { return named(r.Document) }) {
			continue
		}
		return fmt.Errorf("cannot sign %s: there is no such release; run: bothy fleet add %s --model %s FILE", id, f.dir, name)
	}
	return nil
}

// signRole adds documents to one delegated role and publishes it.
func (f *Fleet) signRole(d delegation, docs []release.Document) ([]release.Document, error) {
	keys, err := f.offlineKeys(d.keys)
	if err != nil {
		return nil, err
	}
	b, err := f.catalogBranch()
	if err != nil {
		return nil, err
	}
	role, err := b.targets(d.role)
	if err != nil {
		return nil, err
	}
	added, err := f.addDocuments(role, docs)
	if err != nil {
		return nil, err
	}
	if len(added) > 0 {
		raw, err := sign(role, keys...)
		if err != nil {
			return nil, err
		}
		if err := b.publish(part{d.role, role.Signed.Version, raw}); err != nil {
			return nil, err
		}
	}
	for _, doc := range docs {
		if err := os.Remove(f.pendingPath(doc.Target())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return added, err
		}
	}
	return added, nil
}

// addDocuments makes the next version of a role, with documents that it does
// not list yet; it is as it was if there are none.
func (f *Fleet) addDocuments(role *metadata.Metadata[metadata.TargetsType], docs []release.Document) (added []release.Document, err error) {
	for _, doc := range docs {
		if role.Signed.Targets[doc.Target()] != nil {
			continue
		}
		entry, err := f.writeDocument(doc)
		if err != nil {
			return nil, err
		}
		role.Signed.Targets[doc.Target()] = entry
		added = append(added, doc)
	}
	if len(added) > 0 {
		role.Signed.Version++
		role.Signed.Expires = expires(f.Now(), f.config.Expiry.Targets)
	}
	return added, nil
}

// SignRequest is Sign for keys that are elsewhere: it makes the request that
// puts pending releases into the catalog once it was signed and is applied.
// Without names it takes all of them, and gives roles past half of their life a
// new one. The request has no documents if there is nothing to sign.
func (f *Fleet) SignRequest(names ...string) (Request, error) {
	r := Request{Schema: 1, Tenant: f.config.Tenant, own: true}
	unlock, err := lock(f.dir)
	if err != nil {
		return r, err
	}
	defer unlock()
	d, err := f.newDraft()
	if err != nil {
		return r, err
	}
	days := f.config.Expiry.Targets
	if len(names) == 0 && d.b.old(d.top.Signed.Expires, days) {
		d.nextTop()
		u, err := d.b.unsigned(metadata.TARGETS, d.top, *d.roots[trust.Catalog].Signed.Roles[metadata.TARGETS])
		if err != nil {
			return r, err
		}
		r.Documents = append(r.Documents, u)
	}
	var done []release.Document
	for _, del := range delegations() {
		added, err := d.requestRole(&r, del, names)
		if err != nil {
			return r, fmt.Errorf("cannot sign %s: %w", del.kind.Folder(), err)
		}
		done = append(done, added...)
	}
	return r, f.checkNamed(names, done)
}

func (d *draft) requestRole(r *Request, del delegation, names []string) ([]release.Document, error) {
	pending, err := d.f.pending(del.kind)
	if err != nil {
		return nil, err
	}
	chosen, err := choose(pending, names)
	if err != nil {
		return nil, err
	}
	role, err := d.b.targets(del.role)
	if err != nil {
		return nil, err
	}
	added, err := d.f.addDocuments(role, chosen)
	if err != nil {
		return nil, err
	}
	if len(added) == 0 {
		if len(names) > 0 || !d.b.old(role.Signed.Expires, d.f.config.Expiry.Targets) {
			return nil, nil
		}
		d.renew(role)
	}
	role.ClearSignatures()
	p, err := placeOf(del.keys)
	if err != nil {
		return nil, err
	}
	u, err := d.b.unsigned(del.role, role, p.roleIn(nil, d.top))
	if err != nil {
		return nil, err
	}
	r.Documents = append(r.Documents, u)
	return added, nil
}

// writeDocument stores a release document under its digest and returns its
// entry for the metadata.
func (f *Fleet) writeDocument(doc release.Document) (*metadata.TargetFiles, error) {
	raw, err := doc.Encode()
	if err != nil {
		return nil, err
	}
	for _, file := range doc.Files {
		if _, err := os.Stat(f.blobPath(file.SHA256)); err != nil {
			return nil, fmt.Errorf("release %s: %w; add the file again", doc.ID(), err)
		}
	}
	entry, err := metadata.TargetFile().FromBytes(doc.Target(), raw)
	if err != nil {
		return nil, err
	}
	custom, err := json.Marshal(doc.Custom())
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot encode custom field: %w", err)
	}
	message := json.RawMessage(custom)
	entry.Custom = &message
	name := release.DocumentName(hex.EncodeToString(entry.Hashes["sha256"]), doc.Name)
	return entry, writeFile(f.documentPath(name), raw, 0o644)
}

// signed returns the catalog's entries of one kind, by target path.
func (f *Fleet) signed(kind release.Kind) (map[string]*metadata.TargetFiles, error) {
	b := &branch{dir: f.catalogPath(""), now: f.Now()}
	if err := b.load(); err != nil {
		return nil, err
	}
	role, err := b.targets(delegationOf(kind).role)
	if err != nil {
		return nil, err
	}
	return role.Signed.Targets, nil
}

// document reads a signed release document.
func (f *Fleet) document(target string, entry *metadata.TargetFiles) (release.Document, error) {
	_, name, _, err := release.ParseTarget(target)
	if err != nil {
		return release.Document{}, err
	}
	raw, err := os.ReadFile(f.documentPath(release.DocumentName(hex.EncodeToString(entry.Hashes["sha256"]), name)))
	if err != nil {
		return release.Document{}, fmt.Errorf("cannot read release %s: %w", target, err)
	}
	if err := entry.VerifyLengthHashes(raw); err != nil {
		return release.Document{}, fmt.Errorf("cannot read release %s: %w", target, err)
	}
	return release.Parse(raw)
}

package trust

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// assignment reads what the director signed for this device and checks that
// its list of targets is exactly the set it names.
func (r *repository) assignment() (release.Assignment, error) {
	signed := r.trusted.Targets[metadata.TARGETS].Signed
	subject := r.subject(metadata.TARGETS)
	a, err := release.ParseAssignment(signed.UnrecognizedFields[release.AssignmentField])
	if err != nil {
		return release.Assignment{}, refuse(Malformed, subject, "%w", err)
	}
	listed := slices.Sorted(maps.Keys(signed.Targets))
	if !slices.Equal(listed, a.Paths()) {
		return release.Assignment{}, refuse(Malformed, subject, "it lists %d targets and assigns %d; they must be the same", len(listed), len(a.Paths()))
	}
	if mark := r.keeper.marks().Counter; a.Counter < mark {
		return release.Assignment{}, refuse(Rollback, subject, "counter %d is below %d, which this device has seen", a.Counter, mark)
	}
	return a, r.keeper.save(func(m *marks) { m.Counter = a.Counter })
}

// agree returns the director's entry for a target if the catalog has the same.
func agree(ctx context.Context, director, catalog *repository, path string) (*metadata.TargetFiles, error) {
	ordered := director.trusted.Targets[metadata.TARGETS].Signed.Targets[path]
	allowed, err := catalog.find(ctx, path)
	if err != nil {
		return nil, err
	}
	if allowed == nil {
		return nil, refuse(Disagreement, path, "the director assigns it, the catalog does not have it")
	}
	err = guard(path, func() error {
		switch {
		case ordered.Length != allowed.Length:
			return refuse(Disagreement, path, "%d bytes in the director, %d in the catalog", ordered.Length, allowed.Length)
		case !sameDigest(ordered, allowed):
			return refuse(Disagreement, path, "director and catalog list different or no SHA-256 digests")
		case !sameCustom(ordered.Custom, allowed.Custom):
			return refuse(Disagreement, path, "director and catalog differ in the signed custom field")
		}
		return nil
	})
	return ordered, err
}

func sameDigest(a, b *metadata.TargetFiles) bool {
	x, y := a.Hashes["sha256"], b.Hashes["sha256"]
	return len(x) == 32 && bytes.Equal(x, y) && a.Hashes.Equal(b.Hashes)
}

// sameCustom compares two custom fields as values, so that white space and the
// order of members do not matter.
func sameCustom(a, b *json.RawMessage) bool {
	if a == nil || b == nil {
		return a == b
	}
	p, errP := canonical(*a)
	q, errQ := canonical(*b)
	return errP == nil && errQ == nil && bytes.Equal(p, q)
}

// canonical writes JSON with sorted keys, and numbers digit by digit: as floats,
// 2^53 and 2^53 + 1 would be the same.
func canonical(raw []byte) ([]byte, error) {
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// fetchTarget reads the target at path, which the source knows as name.
func fetchTarget(ctx context.Context, src Source, repo Repo, path, name string, entry *metadata.TargetFiles) ([]byte, error) {
	raw, err := fetch(ctx, src, repo, name, bounded(entry.Length, release.MaxDocument))
	if err != nil {
		return nil, err
	}
	if err := guard(path, func() error { return entry.VerifyLengthHashes(raw) }); err != nil {
		return nil, err
	}
	return raw, nil
}

// document loads the release document of an agreed target, from the store or
// from the source, and checks that it is what its path and custom field say.
func (c *Client) document(ctx context.Context, src Source, path string, entry *metadata.TargetFiles) (release.Document, error) {
	kind, name, version, err := release.ParseTarget(path)
	if err != nil {
		return release.Document{}, refuse(Malformed, path, "%w", err)
	}
	digest := hex.EncodeToString(entry.Hashes["sha256"])
	raw, found, err := c.vault.document(digest)
	if err != nil {
		return release.Document{}, err
	}
	fresh := !found || entry.VerifyLengthHashes(raw) != nil
	if fresh {
		raw, err = fetchTarget(ctx, src, Catalog, path, release.DocumentName(digest, name), entry)
		if err != nil {
			return release.Document{}, err
		}
	}
	doc, err := release.Parse(raw)
	if err != nil {
		return release.Document{}, refuse(Malformed, path, "%w", err)
	}
	if doc.Kind != kind || doc.Name != name || doc.Version != version {
		return release.Document{}, refuse(Mismatch, path, "the document is %s of kind %s", doc.ID(), doc.Kind)
	}
	custom, err := json.Marshal(doc.Custom())
	if err != nil {
		return release.Document{}, fmt.Errorf("internal error: cannot encode custom field: %w", err)
	}
	message := json.RawMessage(custom)
	if !sameCustom(entry.Custom, &message) {
		return release.Document{}, refuse(Mismatch, path, "the signed custom field does not describe %s", doc.ID())
	}
	if fresh {
		return doc, c.vault.putDocument(digest, raw)
	}
	return doc, nil
}

package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/updater/provenance"
	"github.com/bothy-edge/bothy/updater/release"
)

// signatureName is what the signature of a model is called beside it, and in its release.
const signatureName = "model.sig"

// FindSignature looks for a signature of who made the model, beside its files,
// where none was named, and takes it out of the files. One that is found is
// never passed over in silence: the fleet must know the signer, or be told to go
// without. Add calls it too; calling it twice changes nothing.
func (o *AddOptions) FindSignature() error {
	switch {
	case o.Kind != release.Model && (o.Signature != "" || len(o.Signers) > 0):
		return errors.New("only models carry signatures of their makers")
	case o.Kind != release.Model:
		return nil
	case o.Unsigned && (o.Signature != "" || len(o.Signers) > 0):
		return errors.New("it cannot be both signed by its maker and unsigned")
	case o.Unsigned:
		return nil
	}
	if err := o.Expand(); err != nil {
		return err
	}
	if o.Signature == "" {
		o.Signature = lying(o.Sources)
	}
	switch {
	case o.Signature == "" && len(o.Signers) > 0:
		return fmt.Errorf("no signature lies beside the model; name it with --signature FILE, for it is not called %s", signatureName)
	case o.Signature != "" && len(o.Signers) == 0:
		return fmt.Errorf("the model has a signature in %s and nobody said whose it must be: give --signer-key PEM or --signer-roots PEM, or go without by --unsigned", o.Signature)
	case o.Signature != "":
		o.Sources = slices.DeleteFunc(slices.Clone(o.Sources), func(s Source) bool { return sameFile(s.From, o.Signature) })
	}
	return nil
}

// lying answers the signature that lies beside files, or "".
func lying(sources []Source) string {
	for _, s := range sources {
		for _, beside := range []string{filepath.Join(filepath.Dir(s.From), signatureName), s.From + ".sig"} {
			if _, err := os.Lstat(beside); err == nil {
				return beside
			}
		}
	}
	return ""
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// made is a verified signature, before the files were looked at.
type made struct {
	provenance.Verified
	path   string
	sha256 string
	at     time.Time
}

// verify reads the signature that FindSignature found; nil when there is none.
// It is done before gigabytes are read.
func (o AddOptions) verify(now time.Time) (*made, error) {
	if o.Signature == "" {
		return nil, nil
	}
	paths := []string{o.Signature}
	for _, s := range o.Sources {
		paths = append(paths, s.From)
	}
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a regular file; what a signature covers is never reached through links", path)
		}
	}
	in, err := os.Open(o.Signature)
	if err != nil {
		return nil, err
	}
	defer in.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(in, provenance.MaxBundle+1))
	if err != nil {
		return nil, err
	}
	at := now.UTC().Truncate(time.Second)
	got, err := provenance.Verify(raw, o.Signers, at)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Signature, err)
	}
	sum := sha256.Sum256(raw)
	return &made{Verified: got, path: o.Signature, sha256: hex.EncodeToString(sum[:]), at: at}, nil
}

// leaveOut drops from a folder's files those that the signer left out on purpose:
// they may lie there, and are no part of the model. Files that were named one by
// one all belong to it.
func (o *AddOptions) leaveOut(m *made) {
	if m == nil || len(o.Files) != 1 {
		return
	}
	if info, err := os.Stat(o.Files[0]); err != nil || !info.IsDir() {
		return
	}
	o.Sources = slices.DeleteFunc(slices.Clone(o.Sources), func(s Source) bool { return m.Ignores(s.Path) })
}

// attach makes the signature a file of the release, if the release has exactly
// the files that were signed.
func (f *Fleet) attach(ctx context.Context, doc *release.Document, m *made) error {
	if m == nil {
		return nil
	}
	var content []provenance.File
	for _, file := range doc.Files {
		content = append(content, provenance.File{Name: file.Path, SHA256: file.SHA256})
	}
	if err := m.Match(content); err != nil {
		return fmt.Errorf("the signature of %q in %s is not one of these files: %w", m.Signer, m.path, err)
	}
	file, err := f.ingestOne(ctx, m.path, func(int64) {})
	if err != nil {
		return fmt.Errorf("%s: %w", m.path, err)
	}
	if file.SHA256 != m.sha256 {
		return fmt.Errorf("%s changed while it was read", m.path)
	}
	file.Path, file.Role = signatureName, release.Signature
	doc.Files = append(doc.Files, file)
	doc.Provenance = &release.Provenance{Method: string(m.Method), Verified: m.at}
	return nil
}

// identical says whether two releases are the same one; when its signature was
// verified is no part of that.
func identical(a, b release.Document) bool {
	if a.Provenance != nil && b.Provenance != nil {
		p := *a.Provenance
		p.Verified = b.Provenance.Verified
		a.Provenance = &p
	}
	return a.Digest() == b.Digest()
}

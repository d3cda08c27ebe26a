package fleet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// metadataName is every name that Metadata serves, except release documents.
var metadataName = regexp.MustCompile(`^(timestamp|[1-9][0-9]{0,18}\.(root|snapshot|targets|models|engines|security))\.json$`)

var documentName = regexp.MustCompile(`^targets/[0-9a-f]{64}\.[a-z0-9][a-z0-9._-]{0,63}\.json$`)

// Metadata reads one signed object for a device, by the names of trust.Source.
// An object that there is not, and a name that cannot be one, are
// trust.ErrNotFound. It reads the folder each time, so it always gives what
// was published last.
func (f *Fleet) Metadata(repo trust.Repo, device, name string) ([]byte, error) {
	path, ok := f.objectPath(repo, device, name)
	if !ok {
		return nil, fmt.Errorf("cannot read %.20q %.120q: %w", repo, name, trust.ErrNotFound)
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read %s %s: %w", repo, name, trust.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s %s: %w", repo, name, err)
	}
	return raw, nil
}

// objectPath maps a name from a device to a file. Names come from the network:
// only those that match whole patterns get near a path.
func (f *Fleet) objectPath(repo trust.Repo, device, name string) (string, bool) {
	switch {
	case repo == trust.Catalog && documentName.MatchString(name):
		return f.documentPath(name), true
	case !metadataName.MatchString(name):
		return "", false
	case repo == trust.Catalog:
		return f.catalogPath(name), true
	case repo != trust.Director || release.CheckDevice(device) != nil:
		return "", false
	case strings.HasSuffix(name, ".root.json"):
		return f.directorRootPath(name), true
	}
	return f.devicePath(device, name), true
}

// Assigned lists the files of the releases that are assigned to a device, by
// digest: what a depot may serve to it. A device without a set has none.
func (f *Fleet) Assigned(device string) (map[string]release.File, error) {
	role, err := f.deviceTargets(device)
	if errors.Is(err, ErrUnassigned) {
		return map[string]release.File{}, nil
	}
	if err != nil {
		return nil, err
	}
	files := map[string]release.File{}
	for target, entry := range role.Signed.Targets {
		doc, err := f.document(target, entry)
		if err != nil {
			return nil, err
		}
		for _, file := range doc.Files {
			files[file.SHA256] = file
		}
	}
	return files, nil
}

// Allowed says whether a device's set names an artifact.
func (f *Fleet) Allowed(device, digest string) (bool, error) {
	files, err := f.Assigned(device)
	_, ok := files[digest]
	return ok, err
}

// Blob is the path of an artifact. The error is trust.ErrNotFound, wrapped,
// when the fleet does not have it.
func (f *Fleet) Blob(digest string) (string, error) {
	return f.existing(digest, "")
}

// Index reads the encoded block index of an artifact. The error is
// trust.ErrNotFound, wrapped, when the fleet does not have it.
func (f *Fleet) Index(digest string) ([]byte, error) {
	path, err := f.existing(digest, ".index")
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func (f *Fleet) existing(digest, suffix string) (string, error) {
	if raw, err := hex.DecodeString(digest); err != nil || len(raw) != 32 || release.CheckDigest(digest) != nil {
		return "", fmt.Errorf("cannot find artifact %.80q: %w", digest, trust.ErrNotFound)
	}
	path := f.blobPath(digest) + suffix
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cannot find artifact %s: %w", digest, trust.ErrNotFound)
		}
		return "", fmt.Errorf("cannot find artifact %s: %w", digest, err)
	}
	return path, nil
}

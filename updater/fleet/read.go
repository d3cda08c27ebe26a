package fleet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// maxObject bounds what is read of one signed object; devices take less.
const maxObject = 64 << 20

// Metadata reads one signed object for a device, by the names of trust.Source.
// An object that there is not, and a name that cannot be one, are
// trust.ErrNotFound. It reads the folder each time, so it always gives what
// was published last.
func (f *Fleet) Metadata(repo trust.Repo, device, name string) ([]byte, error) {
	return trust.Directory{Dir: f.dir, Device: device}.Read(repo, name, maxObject)
}

// Assigned lists the files of the releases that are assigned to a device, by
// digest: what a depot may serve to it. Packed forms are among them, without
// their size. A device without a set has none.
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
			if packed, ok := f.packedDigest(file.SHA256); ok {
				files[packed] = release.File{Path: file.Path, SHA256: packed}
			}
		}
	}
	return files, nil
}

// Allowed says whether a device's set names an artifact. A retired device gets none.
func (f *Fleet) Allowed(device, digest string) (bool, error) {
	if r, err := f.Device(device); err == nil && r.State == DeviceRetired {
		return false, nil // its set may still name it: the director's key may be elsewhere
	}
	files, err := f.Assigned(device)
	_, ok := files[digest]
	return ok, err
}

// Hears says whether a device may listen to the cast of an artifact: whether its
// set names one whose digest begins with these 32 hexadecimal digits.
func (f *Fleet) Hears(device, id string) bool {
	if r, err := f.Device(device); err == nil && r.State == DeviceRetired {
		return false
	}
	files, err := f.Assigned(device)
	if err != nil || len(id) != 32 {
		return false
	}
	for digest := range files {
		if strings.HasPrefix(digest, id) {
			return true
		}
	}
	return false
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

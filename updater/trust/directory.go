package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/bothy-edge/bothy/updater/release"
)

// Names of objects come from the network or from signed metadata; only those
// that match whole get near a path.
var (
	metadataName = regexp.MustCompile(`^(timestamp|[1-9][0-9]{0,18}\.[a-z0-9][a-z0-9._-]{0,63})\.json$`)
	documentName = regexp.MustCompile(`^targets/[0-9a-f]{64}\.[a-z0-9][a-z0-9._-]{0,63}\.json$`)
)

// ObjectPath is where a fleet's folder keeps an object of a Source, relative
// to the folder. It is false for a name that no object has.
func ObjectPath(repo Repo, device, name string) (string, bool) {
	isMetadata := metadataName.MatchString(name)
	switch {
	case repo == Catalog && documentName.MatchString(name):
		return filepath.Join("catalog", filepath.FromSlash(name)), true
	case repo == Catalog && isMetadata:
		return filepath.Join("catalog", "metadata", name), true
	case repo != Director || !isMetadata || release.CheckDevice(device) != nil:
		return "", false
	case strings.HasSuffix(name, ".root.json"):
		// All devices share the director's roots. No device can have this name.
		return filepath.Join("director", "_root", name), true
	}
	return filepath.Join("director", device, name), true
}

// Directory is a Source over a fleet's folder, or a copy of it on a stick.
type Directory struct {
	Dir    string
	Device string
}

// Metadata implements Source.
func (d Directory) Metadata(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d.Read(repo, name, limit)
}

// Read reads one object, at most one byte more than limit: enough to see that
// there is more. What is not there is ErrNotFound, wrapped.
func (d Directory) Read(repo Repo, name string, limit int64) ([]byte, error) {
	path, ok := ObjectPath(repo, d.Device, name)
	if !ok {
		return nil, fmt.Errorf("cannot read %.20q %.120q: %w", repo, name, ErrNotFound)
	}
	file, err := os.Open(filepath.Join(d.Dir, path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read %s in %s: %w", path, d.Dir, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s %s: %w", repo, name, err)
	}
	defer file.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s %s: %w", repo, name, err)
	}
	return raw, nil
}

package trust

import (
	"context"
	"errors"
	"fmt"
)

// Repo names one of the two repositories.
type Repo string

// The two repositories. The values are used on the wire and on disk.
const (
	Catalog  Repo = "catalog"
	Director Repo = "director"
)

// ErrNotFound is what a Source answers, wrapped or not, for a name that it
// knows it does not have. It ends the chain of roots; any other error ends the
// refresh.
var ErrNotFound = errors.New("not found")

// Source gives metadata and release documents by name: "timestamp.json",
// "2.root.json", "5.snapshot.json", "3.targets.json", "2.models.json" or
// "targets/<sha256>.<name>.json". It should stop reading at limit bytes; a longer
// answer is refused in any case. Sources are not trusted. A Single asks for
// more names than these: see there.
type Source interface {
	Metadata(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error)
}

// Largest accepted sizes in bytes, before any signed length is known.
const (
	maxRoot      = 512 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 2 << 20
	maxTargets   = 4 << 20
)

// Limits on counts, so that signed nonsense ends too.
const (
	maxRotations = 256 // new roots in one refresh
	maxRoles     = 64  // targets roles visited for one target
)

// fetch reads one object and enforces the limit on it.
func fetch(ctx context.Context, src Source, repo Repo, name string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot fetch %s %s: %w", repo, name, err)
	}
	raw, err := src.Metadata(ctx, repo, name, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s %s: %w", repo, name, err)
	}
	if int64(len(raw)) > limit {
		return nil, refuse(TooLarge, string(repo)+" "+name, "%d bytes, at most %d are accepted", len(raw), limit)
	}
	return raw, nil
}

// bounded is the smaller of our limit and the length that signed metadata
// gives, which is optional.
func bounded(signed, limit int64) int64 {
	if signed > 0 && signed < limit {
		return signed
	}
	return limit
}

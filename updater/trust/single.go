package trust

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/agent/store"
)

// Lone is the Repo that a Single asks its source for.
const Lone Repo = "lone"

// ErrNoTarget is what Single.Target wraps when the repository does not list the
// target.
var ErrNoTarget = errors.New("the repository does not list it")

// SingleConfig is what a Single needs. DB, Slots and Root are required.
type SingleConfig struct {
	DB    *store.DB
	Slots *store.Slots
	Root  []byte // as given out of band

	// Now is the clock that expiries are judged by; nil means time.Now.
	Now func() time.Time
	// Log receives what an operator may want to know; nil discards it.
	Log *slog.Logger
}

// Single verifies any one repository of The Update Framework with the driver
// that verifies the catalog and the director. It exists so that the driver can
// be held against other people's tests of the specification.
//
// It differs from a Client where our own two repositories are narrower than the
// specification: files need not be consistent snapshots, roles and targets may
// have any name, a role may be delegated to from several places as long as one
// search reaches it from one of them only, and no clock mark is kept, so that
// the clock may be turned back between two runs. What is stored, in which
// order, and what is refused, is the same.
//
// A Single is used by one goroutine.
type Single struct {
	config SingleConfig
	vault  vault
	keeper *keeper
	walk   *repository
}

// OpenSingle verifies what is stored, without a source. It fails if Root does
// not verify itself.
func OpenSingle(cfg SingleConfig) (*Single, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Single{config: cfg, vault: vault{cfg.DB}}
	var err error
	enrolled := enrolment(Config{CatalogRoot: cfg.Root})
	if s.keeper, err = openKeeper(cfg.Slots, s.vault, enrolled, cfg.Log); err != nil {
		return nil, fmt.Errorf("cannot open trust: %w", err)
	}
	if err := s.begin(nil); err != nil {
		return nil, fmt.Errorf("cannot open trust: %w", err)
	}
	return s, nil
}

func (s *Single) begin(src Source) error {
	s.walk = &repository{name: Lone, general: true, source: src, vault: s.vault, keeper: s.keeper, log: s.config.Log}
	return s.walk.begin(s.config.Root, s.config.Now().UTC())
}

// Refresh brings root, timestamp, snapshot and top-level targets up to date.
// Errors are those of Client.Refresh; each role that was verified before one
// is stored.
func (s *Single) Refresh(ctx context.Context, src Source) error {
	if err := s.begin(src); err != nil {
		return err
	}
	return s.walk.refresh(ctx)
}

// Target is one verified entry of the repository.
type Target struct {
	// Path is its name in the repository. It comes from whoever asked and is
	// no safe file name.
	Path  string
	entry *metadata.TargetFiles
	name  string
}

// Target searches the roles for a target, loading those that it passes, from
// the source of the last Refresh, which must have succeeded. The error wraps
// ErrNoTarget when no role lists it.
func (s *Single) Target(ctx context.Context, name string) (Target, error) {
	entry, err := s.walk.find(ctx, name)
	if err != nil {
		return Target{}, err
	}
	if entry == nil {
		return Target{}, fmt.Errorf("cannot find target %q: %w", name, ErrNoTarget)
	}
	file := name
	if s.walk.trusted.Root.Signed.ConsistentSnapshot {
		digest := entry.Hashes["sha256"]
		if digest == nil {
			digest = entry.Hashes["sha512"]
		}
		dir, base := path.Split(name)
		file = dir + hex.EncodeToString(digest) + "." + base
	}
	return Target{Path: name, entry: entry, name: "targets/" + file}, nil
}

// Fetch reads a target from the source of the last Refresh, which knows it as
// "targets/" with its path, the digest before the last part where snapshots are
// consistent. What does not have the signed length and digests is refused.
func (s *Single) Fetch(ctx context.Context, t Target) ([]byte, error) {
	return fetchTarget(ctx, s.walk.source, Lone, t.Path, t.name, t.entry)
}

// Matches says whether raw is the target as it was signed.
func (t Target) Matches(raw []byte) bool {
	return guard(t.Path, func() error { return t.entry.VerifyLengthHashes(raw) }) == nil
}

// Trusted returns the metadata that is trusted now, by role, byte for byte as
// it was served.
func (s *Single) Trusted() (map[string][]byte, error) {
	all, err := s.vault.roles(Lone)
	if err != nil {
		return nil, err
	}
	root, found, err := s.vault.metadata(rootKey(Lone, s.walk.rootVersion()))
	if err != nil {
		return nil, err
	}
	if !found {
		root = s.config.Root
	}
	all[metadata.ROOT] = root
	return all, nil
}

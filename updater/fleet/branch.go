package fleet

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// branch is a folder with one timestamp: the catalog, or one device's part of
// the director. Methods that write are called with the fleet's lock held.
type branch struct {
	dir            string
	device         string // "" for the catalog
	snapshot       crypto.Signer
	timestamp      crypto.Signer
	targetsKey     crypto.Signer // of a device, while keys are rotated
	snapshotDays   int
	timestampDays  int
	now            time.Time
	signedSnapshot *metadata.Metadata[metadata.SnapshotType]
	signedTime     *metadata.Metadata[metadata.TimestampType]
}

// day is what expiries are counted in.
const day = 24 * time.Hour

func expires(now time.Time, days int) time.Time {
	return now.UTC().Truncate(time.Second).Add(time.Duration(days) * day)
}

func (f *Fleet) catalogBranch() (*branch, error) {
	root, _, err := f.newestRoot(trust.Catalog)
	if err != nil {
		return nil, err
	}
	return f.branch(f.catalogPath(""), "", root)
}

func (f *Fleet) deviceBranch(device string) (*branch, error) {
	if err := release.CheckDevice(device); err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	root, _, err := f.newestRoot(trust.Director)
	if err != nil {
		return nil, err
	}
	return f.branch(f.devicePath(device, ""), device, root)
}

// branch opens a branch with the online keys that root names.
func (f *Fleet) branch(dir, device string, root *metadata.Metadata[metadata.RootType]) (*branch, error) {
	b := &branch{dir: dir, device: device, now: f.Now(),
		snapshotDays: f.config.Expiry.Snapshot, timestampDays: f.config.Expiry.Timestamp}
	var err error
	if b.snapshot, err = f.oneOf(root, metadata.SNAPSHOT); err != nil {
		return nil, err
	}
	if b.timestamp, err = f.oneOf(root, metadata.TIMESTAMP); err != nil {
		return nil, err
	}
	return b, b.load()
}

// oneOf loads an online key: one that root names for role.
func (f *Fleet) oneOf(root *metadata.Metadata[metadata.RootType], role string) (crypto.Signer, error) {
	ids := root.Signed.Roles[role].KeyIDs
	keys, err := f.Keys.signers(ids, 1)
	if err != nil {
		return nil, fmt.Errorf("cannot sign with %s key: %w", role, err)
	}
	if name := f.Keys.locked(ids); len(keys) == 0 && name != "" {
		return nil, fmt.Errorf("cannot sign with %s key: %s is locked and nobody gave its passphrase; run: the same with --passphrase-file FILE", role, name)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("cannot sign with %s key: none of %s is here and open; bring its .pem file to %s",
			role, strings.Join(shorten(ids), " "), filepath.Join(f.dir, "keys"))
	}
	return keys[0], nil
}

// load reads the published state: what timestamp.json leads to. Files that a
// crash left beside it are not looked at and will be written over.
func (b *branch) load() error {
	raw, err := os.ReadFile(filepath.Join(b.dir, "timestamp.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read metadata: %w", err)
	}
	if b.signedTime, err = metadata.Timestamp().FromBytes(raw); err != nil {
		return fmt.Errorf("cannot read %s: %w", filepath.Join(b.dir, "timestamp.json"), err)
	}
	meta := b.signedTime.Signed.Meta["snapshot.json"]
	if meta == nil {
		return fmt.Errorf("cannot read %s: it names no snapshot", filepath.Join(b.dir, "timestamp.json"))
	}
	path := filepath.Join(b.dir, fmt.Sprintf("%d.snapshot.json", meta.Version))
	if raw, err = os.ReadFile(path); err != nil {
		return fmt.Errorf("cannot read metadata: %w", err)
	}
	if b.signedSnapshot, err = metadata.Snapshot().FromBytes(raw); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// published says whether anything was ever signed in this branch.
func (b *branch) published() bool { return b.signedTime != nil }

// version of a targets role as published, 0 if there is none.
func (b *branch) version(role string) int64 {
	if b.signedSnapshot == nil || b.signedSnapshot.Signed.Meta[role+".json"] == nil {
		return 0
	}
	return b.signedSnapshot.Signed.Meta[role+".json"].Version
}

// targets reads a published targets role, or makes an empty one.
func (b *branch) targets(role string) (*metadata.Metadata[metadata.TargetsType], error) {
	version := b.version(role)
	if version == 0 {
		m := metadata.Targets(b.now)
		m.Signed.Version = 0
		return m, nil
	}
	path := filepath.Join(b.dir, fmt.Sprintf("%d.%s.json", version, role))
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read metadata: %w", err)
	}
	m, err := metadata.Targets().FromBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return m, nil
}

// part is a newly signed targets role.
type part struct {
	role    string
	version int64
	raw     []byte
}

// publish writes the parts, a snapshot that lists them with all others, and
// last the timestamp that makes them visible.
func (b *branch) publish(parts ...part) error {
	next := metadata.Snapshot(expires(b.now, b.snapshotDays))
	next.Signed.Meta = map[string]*metadata.MetaFiles{}
	if b.signedSnapshot != nil {
		next.Signed.Version = b.signedSnapshot.Signed.Version + 1
		for name, meta := range b.signedSnapshot.Signed.Meta {
			next.Signed.Meta[name] = meta
		}
	}
	for _, p := range parts {
		if err := writeFile(filepath.Join(b.dir, fmt.Sprintf("%d.%s.json", p.version, p.role)), p.raw, 0o644); err != nil {
			return err
		}
		next.Signed.Meta[p.role+".json"] = describe(p.version, p.raw)
	}
	next.Signed.UnrecognizedFields = b.label()
	raw, err := sign(next, b.snapshot)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%d.snapshot.json", next.Signed.Version)
	if err := writeFile(filepath.Join(b.dir, name), raw, 0o644); err != nil {
		return err
	}
	b.signedSnapshot = next
	return b.stamp(describe(next.Signed.Version, raw))
}

// stamp signs a new timestamp for a snapshot.
func (b *branch) stamp(snapshot *metadata.MetaFiles) error {
	next := metadata.Timestamp(expires(b.now, b.timestampDays))
	if b.signedTime != nil {
		next.Signed.Version = b.signedTime.Signed.Version + 1
	}
	next.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": snapshot}
	next.Signed.UnrecognizedFields = b.label()
	raw, err := sign(next, b.timestamp)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(b.dir, "timestamp.json"), raw, 0o644); err != nil {
		return err
	}
	b.signedTime = next
	return nil
}

// renew signs again what is past half of its life and says whether it did.
func (b *branch) renew() (bool, error) {
	if !b.published() {
		return false, nil
	}
	if b.old(b.signedSnapshot.Signed.Expires, b.snapshotDays) {
		return true, b.publish()
	}
	if b.old(b.signedTime.Signed.Expires, b.timestampDays) {
		return true, b.stamp(b.signedTime.Signed.Meta["snapshot.json"])
	}
	return false, nil
}

func (b *branch) old(expiry time.Time, days int) bool {
	return expiry.Sub(b.now) < time.Duration(days)*day/2
}

func (b *branch) label() map[string]any {
	if b.device == "" {
		return nil
	}
	return map[string]any{release.AssignmentField: release.Label{Device: b.device}}
}

func describe(version int64, raw []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(raw)
	return &metadata.MetaFiles{
		Version: version,
		Length:  int64(len(raw)),
		Hashes:  metadata.Hashes{"sha256": sum[:]},
	}
}

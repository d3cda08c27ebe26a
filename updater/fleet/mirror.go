package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// MirrorOptions say what Mirror writes. To is required.
type MirrorOptions struct {
	To      string   // the folder; it may hold an earlier export
	Devices []string // none: all that have a set
	Verify  bool     // read artifacts that are there already, and replace damaged ones
	Prune   bool     // remove artifacts that no device needs any more; not with Devices
	// Progress, when set, is told how many bytes of artifacts were looked at.
	Progress func(done, total int64)
}

// MirrorResult says what Mirror did.
type MirrorResult struct {
	Devices []string `json:"devices"`
	Written int      `json:"written"` // files
	Bytes   int64    `json:"bytes"`   // in them
	Kept    int      `json:"kept"`    // files that were there
	Removed int      `json:"removed"` // artifacts
}

// Mirror writes what the devices need, and no key, into a folder: for a web
// server, a stick, or `bothy update import`. It may be repeated and writes only
// what is new. Each file appears whole, and the timestamps that lead to the others come
// last, so that a reader at any moment finds one state or the next.
func (f *Fleet) Mirror(ctx context.Context, o MirrorOptions) (MirrorResult, error) {
	m := &mirroring{fleet: f, o: o, blobs: map[string]release.File{}, packed: map[string]bool{}}
	if err := m.run(ctx); err != nil {
		return m.did, fmt.Errorf("cannot export to %s: %w", o.To, err)
	}
	return m.did, nil
}

// mirroring is one call of Mirror.
type mirroring struct {
	fleet *Fleet
	o     MirrorOptions
	did   MirrorResult

	plain  []mirrored // never change once published
	roots  []mirrored
	times  []mirrored // timestamps, the catalog's first
	blobs  map[string]release.File
	packed map[string]bool // digests of packed forms
	looked int64
	total  int64
}

// mirrored is one signed object with its path in both folders.
type mirrored struct {
	path string
	raw  []byte
}

func (m *mirroring) run(ctx context.Context) error {
	if err := m.checkPlace(); err != nil {
		return err
	}
	unlock, err := lock(m.o.To)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.gather(); err != nil {
		return err
	}
	for _, digest := range slices.Sorted(maps.Keys(m.blobs)) {
		if err := m.artifact(ctx, m.blobs[digest]); err != nil {
			return err
		}
	}
	// A new root before the timestamp that its keys signed; both after all that they lead to.
	for _, object := range slices.Concat(m.plain, m.roots, m.times) {
		if err := m.object(object); err != nil {
			return err
		}
	}
	if m.o.Prune {
		return m.prune()
	}
	return nil
}

// checkPlace keeps an export apart from a fleet's folder: web servers serve the one, and keys lie in the other.
func (m *mirroring) checkPlace() error {
	if m.o.Prune && len(m.o.Devices) > 0 {
		return errors.New("pruning is for an export of all devices: what others need would go")
	}
	if err := os.MkdirAll(m.o.To, 0o755); err != nil {
		return err
	}
	for _, own := range []string{configFile, "keys"} {
		if _, err := os.Stat(filepath.Join(m.o.To, own)); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("there is a fleet in it (%s); choose another folder", own), err)
		}
	}
	return nil
}

// gather reads all signed objects before anything is written. The directors are
// read first: the catalog read after them has what they assign.
func (m *mirroring) gather() error {
	devices := m.o.Devices
	if len(devices) == 0 {
		all, err := m.fleet.Devices()
		if err != nil {
			return err
		}
		devices = all
	}
	m.did.Devices = slices.Compact(slices.Sorted(slices.Values(devices)))
	var directors []mirrored
	targets := map[string]*metadata.TargetFiles{}
	for _, device := range m.did.Devices {
		stamp, err := m.device(device, targets)
		if err != nil {
			return fmt.Errorf("device %q: %w", device, err)
		}
		directors = append(directors, stamp)
	}
	stamp, err := m.branch(trust.Catalog, "", func([]byte) error { return nil })
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	m.times = append([]mirrored{stamp}, directors...)
	for _, path := range slices.Sorted(maps.Keys(targets)) {
		if err := m.document(path, targets[path]); err != nil {
			return err
		}
	}
	return errors.Join(m.chain(trust.Catalog), m.chain(trust.Director))
}

// device gathers one device's part of the director and what it names.
func (m *mirroring) device(device string, targets map[string]*metadata.TargetFiles) (mirrored, error) {
	stamp, err := m.branch(trust.Director, device, func(raw []byte) error {
		role, err := metadata.Targets().FromBytes(raw)
		if err != nil {
			return err
		}
		maps.Copy(targets, role.Signed.Targets)
		return nil
	})
	if errors.Is(err, trust.ErrNotFound) {
		return stamp, fmt.Errorf("%w; run: bothy fleet assign %s --device %s ALIAS=RELEASE", ErrUnassigned, m.fleet.dir, device)
	}
	return stamp, err
}

// branch gathers what a timestamp leads to, and returns the timestamp. Each role is shown to visit.
func (m *mirroring) branch(repo trust.Repo, device string, visit func(raw []byte) error) (mirrored, error) {
	stamp, err := m.read(repo, device, "timestamp.json")
	if err != nil {
		return stamp, err
	}
	signed, err := metadata.Timestamp().FromBytes(stamp.raw)
	if err != nil || signed.Signed.Meta["snapshot.json"] == nil {
		return stamp, errors.Join(errors.New("its timestamp cannot be read"), err)
	}
	snapshot, err := m.read(repo, device, fmt.Sprintf("%d.snapshot.json", signed.Signed.Meta["snapshot.json"].Version))
	if err != nil {
		return stamp, err
	}
	m.plain = append(m.plain, snapshot)
	listed, err := metadata.Snapshot().FromBytes(snapshot.raw)
	if err != nil {
		return stamp, err
	}
	for name, meta := range listed.Signed.Meta {
		role, err := m.read(repo, device, fmt.Sprintf("%d.%s", meta.Version, name))
		if err == nil {
			err = visit(role.raw)
		}
		if err != nil {
			return stamp, err
		}
		m.plain = append(m.plain, role)
	}
	return stamp, nil
}

func (m *mirroring) read(repo trust.Repo, device, name string) (mirrored, error) {
	raw, err := m.fleet.Metadata(repo, device, name)
	if err != nil {
		return mirrored{}, err
	}
	path, _ := trust.ObjectPath(repo, device, name) // it was just read by that name
	return mirrored{path, raw}, nil
}

// chain gathers the roots of a repository, the first one too: a device that lost its database starts there.
func (m *mirroring) chain(repo trust.Repo) error {
	// Any device's name will do: they share the roots.
	for version := 1; ; version++ {
		root, err := m.read(repo, "any", fmt.Sprintf("%d.root.json", version))
		if errors.Is(err, trust.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		m.roots = append(m.roots, root)
	}
}

func (m *mirroring) document(path string, entry *metadata.TargetFiles) error {
	doc, err := m.fleet.document(path, entry)
	if err != nil {
		return err
	}
	raw, err := m.read(trust.Catalog, "", release.DocumentName(hex.EncodeToString(entry.Hashes["sha256"]), doc.Name))
	if err != nil {
		return err
	}
	m.plain = append(m.plain, raw)
	for _, file := range doc.Files {
		if m.blobs[file.SHA256].SHA256 == "" {
			m.total += file.Size
		}
		m.blobs[file.SHA256] = file
	}
	return nil
}

// object writes a signed object unless it is there as it is.
func (m *mirroring) object(o mirrored) error {
	path := filepath.Join(m.o.To, o.path)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, o.raw) {
		m.did.Kept++
		return nil
	}
	m.did.Written++
	m.did.Bytes += int64(len(o.raw))
	return writeFile(path, o.raw, 0o644)
}

// artifact copies a blob with its index: the packed form of it, where there is
// one. What is there under its name with its size was whole when it came.
func (m *mirroring) artifact(ctx context.Context, file release.File) error {
	index, err := m.fleet.Index(file.SHA256)
	if err != nil {
		return err
	}
	x, err := content.ParseIndex(index)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", file.SHA256, err)
	}
	if err := m.object(mirrored{filepath.Join("blobs", file.SHA256+".index"), index}); err != nil {
		return err
	}
	if packed, ok := x.PackedFile(); ok {
		m.total += packed.Size - file.Size
		m.packed[packed.SHA256] = true
		packed.Path = file.Path
		file = packed
	}
	path := filepath.Join(m.o.To, "blobs", file.SHA256)
	kept, err := m.have(ctx, path, file)
	if err != nil {
		return err
	}
	if kept {
		m.did.Kept++
		return nil
	}
	if err := m.copyBlob(ctx, file, path); err != nil {
		return fmt.Errorf("artifact %s (%s): %w", file.SHA256, file.Path, err)
	}
	m.did.Written++
	m.did.Bytes += file.Size
	return nil
}

// have says whether the artifact need not be written.
func (m *mirroring) have(ctx context.Context, path string, file release.File) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != file.Size {
		return false, nil
	}
	if !m.o.Verify {
		m.look(file.Size)
		return true, nil
	}
	in, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer in.Close() //nolint:errcheck // read only
	sum, err := m.hash(ctx, in, io.Discard)
	if err == nil && sum != file.SHA256 {
		m.looked -= file.Size // it is read a second time, from the fleet
	}
	return err == nil && sum == file.SHA256, ctx.Err()
}

func (m *mirroring) look(n int64) {
	m.looked += n
	if m.o.Progress != nil {
		m.o.Progress(m.looked, m.total)
	}
}

func (m *mirroring) hash(ctx context.Context, in io.Reader, out io.Writer) (string, error) {
	sum := sha256.New()
	_, err := io.CopyBuffer(io.MultiWriter(out, sum), &meter{ctx: ctx, in: in, report: m.look}, make([]byte, 1<<20))
	return hex.EncodeToString(sum.Sum(nil)), err
}

func (m *mirroring) copyBlob(ctx context.Context, file release.File, to string) error {
	in, err := os.Open(m.fleet.blobPath(file.SHA256))
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	tmp, err := os.CreateTemp(filepath.Dir(to), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone when it was renamed
	defer tmp.Close()           //nolint:errcheck // synced before it counts
	sum, err := m.hash(ctx, in, tmp)
	if err != nil {
		return err
	}
	if sum != file.SHA256 {
		return fmt.Errorf("the fleet's file is damaged (it has %.12s); add it again", sum)
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Sync()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), to); err != nil {
		return err
	}
	return store.SyncDir(filepath.Dir(to))
}

// prune removes artifacts that no exported set names, and what a killed export left.
func (m *mirroring) prune() error {
	dir := filepath.Join(m.o.To, "blobs")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		digest, ext, _ := strings.Cut(e.Name(), ".")
		_, wanted := m.blobs[digest]
		wanted = wanted || m.packed[digest]
		ours := release.CheckDigest(digest) == nil || strings.HasPrefix(e.Name(), ".tmp-")
		if wanted || !ours || e.IsDir() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
		if ext == "" {
			m.did.Removed++
		}
	}
	return nil
}

package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/updater/release"
)

// ErrNoSpace is the cause when the disk has no room for a file; nothing of it was fetched.
var ErrNoSpace = errors.New("no space left on the disk")

// Store is a folder of artifacts:
//
//	blobs/SHA256         a whole, checked file, read-only
//	blobs/SHA256.index   its block index
//	blobs/SHA256.origin  where its blocks came from, for people
//	partial/SHA256.*     a fetch that goes on: data, journal, index, origin
//
// Close releases the folder's lock. The folder must be on one file system.
type Store struct {
	dir   string
	lock  *os.File
	fault func(op string) error // test seam: asked before each file operation, by name

	mu   sync.Mutex
	busy map[string]bool // digests that a Fetch, Import or Remove holds
	// By name, sources that gave wrong blocks, and the clock that they wait by.
	aside map[string]penalty
	now   func() time.Time
}

// Open creates the folder where needed and locks it against other processes.
func Open(dir string) (*Store, error) {
	for _, d := range []string{"blobs", "partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o750); err != nil {
			return nil, fmt.Errorf("cannot open the artifact store: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the artifact store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot open the artifact store %s: another process uses it: %w", dir, err)
	}
	s := &Store{dir: dir, lock: f, busy: map[string]bool{}, aside: map[string]penalty{}, now: time.Now, fault: func(string) error { return nil }}
	if err := s.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the artifact store: %w", err), f.Close())
	}
	return s, nil
}

// sweep removes what a killed process left half written, and the rest of
// fetches that ended just before they could tidy up. The lock says that nobody writes.
func (s *Store) sweep() error {
	all, err := os.ReadDir(filepath.Join(s.dir, "partial"))
	if err != nil {
		return err
	}
	for _, e := range all {
		digest, _, _ := strings.Cut(e.Name(), ".")
		if validDigest(digest) && !s.Has(digest) && !strings.HasSuffix(e.Name(), ".new") {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, "partial", e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close releases the folder. Fetches must have ended.
func (s *Store) Close() error { return s.lock.Close() }

// Path is where the file of this digest is, or will be: see Has. The digest is
// 64 characters of lower-case hexadecimal; anything else has no path ("").
func (s *Store) Path(digest string) string {
	if !validDigest(digest) {
		return ""
	}
	return filepath.Join(s.dir, "blobs", digest)
}

func validDigest(d string) bool {
	b, err := hex.DecodeString(d)
	return err == nil && len(b) == sha256.Size && strings.ToLower(d) == d
}

func (s *Store) indexPath(digest string) string { return s.Path(digest) + ".index" }

func (s *Store) partial(digest, ext string) string {
	return filepath.Join(s.dir, "partial", digest+ext)
}

// Has says whether the whole file is there. It was checked when it came.
func (s *Store) Has(digest string) bool {
	if !validDigest(digest) {
		return false
	}
	i, err := os.Stat(s.Path(digest))
	return err == nil && i.Mode().IsRegular()
}

// Index is the block index of a file that is there.
func (s *Store) Index(digest string) (Index, error) {
	if !validDigest(digest) {
		return Index{}, fmt.Errorf("cannot read an index: %q is no digest", digest)
	}
	b, err := os.ReadFile(s.indexPath(digest))
	if err != nil {
		return Index{}, fmt.Errorf("cannot read the index of %s: %w", short(digest), err)
	}
	return ParseIndex(b)
}

// Verify reads a whole file again and says whether it still has its digest: the
// error is ErrMismatch if not. Fetch and Import have done this once; a disk may
// have changed its mind since.
func (s *Store) Verify(ctx context.Context, digest string) error {
	if !validDigest(digest) {
		return fmt.Errorf("cannot check %q: it is no digest", digest)
	}
	f, err := os.Open(s.Path(digest))
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", short(digest), err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, &ctxReader{ctx, f}, make([]byte, BlockSize)); err != nil {
		return fmt.Errorf("cannot check %s: %w", short(digest), err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("cannot use %s: the disk has %s under its name: %w", short(digest), short(got), ErrMismatch)
	}
	return nil
}

// List is the digests of all whole files, sorted.
func (s *Store) List() ([]string, error) {
	all, err := os.ReadDir(filepath.Join(s.dir, "blobs"))
	if err != nil {
		return nil, fmt.Errorf("cannot list artifacts: %w", err)
	}
	var out []string
	for _, e := range all {
		if validDigest(e.Name()) && e.Type().IsRegular() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Partial is the digests of all fetches that have begun and not ended, sorted.
func (s *Store) Partial() ([]string, error) {
	all, err := os.ReadDir(filepath.Join(s.dir, "partial"))
	if err != nil {
		return nil, fmt.Errorf("cannot list fetches: %w", err)
	}
	var out []string
	for _, e := range all {
		if d, _, _ := strings.Cut(e.Name(), "."); validDigest(d) {
			out = append(out, d)
		}
	}
	return slices.Compact(out), nil
}

// Free is how many bytes an unprivileged process may still write.
func (s *Store) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("cannot read the free space of %s: %w", s.dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// FreeInodes is how many files an unprivileged process may still create; false
// where the file system does not count them.
func (s *Store) FreeInodes() (n int64, counted bool, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, false, fmt.Errorf("cannot read the free inodes of %s: %w", s.dir, err)
	}
	return int64(st.Ffree), st.Files > 0, nil
}

// Taken is how many bytes of disk a file has: all of it, or what a fetch took when it began.
func (s *Store) Taken(digest string) int64 {
	if !validDigest(digest) {
		return 0
	}
	var st unix.Stat_t
	if unix.Stat(s.Path(digest), &st) == nil {
		return st.Size
	}
	if unix.Stat(s.partial(digest, partExt), &st) == nil {
		return min(st.Size, st.Blocks*512)
	}
	return 0
}

// Remove deletes a file, its index and whatever a fetch of it left. Removing
// what is not there is fine; what is being fetched is refused.
func (s *Store) Remove(digest string) error {
	release, err := s.hold(digest)
	if err != nil {
		return err
	}
	defer release()
	return s.drop(digest)
}

// drop is Remove by who holds the digest.
func (s *Store) drop(digest string) error {
	paths := []string{s.Path(digest), s.indexPath(digest), s.Path(digest) + originExt}
	for _, ext := range []string{partExt, journalExt, indexExt, originExt} {
		paths = append(paths, s.partial(digest, ext))
	}
	for _, p := range paths {
		if err := removeFile(p); err != nil {
			return fmt.Errorf("cannot remove %s: %w", short(digest), err)
		}
	}
	return nil
}

// removeFile removes a file; one that is not there is fine.
func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ErrBusy is returned for a digest that another call is working on.
var ErrBusy = errors.New("it is being fetched or imported")

// hold makes one call the owner of a digest until release.
func (s *Store) hold(digest string) (release func(), err error) {
	if !validDigest(digest) {
		return nil, fmt.Errorf("cannot use %q as a digest: want 64 hexadecimal digits", digest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[digest] {
		return nil, fmt.Errorf("cannot use %s: %w", short(digest), ErrBusy)
	}
	s.busy[digest] = true
	return func() {
		s.mu.Lock()
		delete(s.busy, digest)
		s.mu.Unlock()
	}, nil
}

// Import copies a file from elsewhere into the store and returns its name as a
// release would list it, with the digests of its content and of its index.
func (s *Store) Import(ctx context.Context, path string) (release.File, error) {
	f, err := s.importFile(ctx, path)
	if err != nil {
		return release.File{}, fmt.Errorf("cannot import %s: %w", path, noSpace(err))
	}
	return f, nil
}

func (s *Store) importFile(ctx context.Context, path string) (release.File, error) {
	in, err := os.Open(path)
	if err != nil {
		return release.File{}, err
	}
	defer in.Close()
	if i, err := in.Stat(); err != nil || !i.Mode().IsRegular() {
		return release.File{}, fmt.Errorf("it is not a regular file: %w", errors.Join(err, syscall.EINVAL))
	}
	tmp, err := os.CreateTemp(filepath.Join(s.dir, "partial"), "import-*")
	if err != nil {
		return release.File{}, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, sum), &ctxReader{ctx, in})
	if err != nil {
		return release.File{}, err
	}
	// The index is of the copy: the original may change under our hands.
	x, err := BuildIndex(&ctxReaderAt{ctx, tmp}, n)
	if err != nil {
		return release.File{}, err
	}
	f := release.File{Path: filepath.Base(path), Size: n, SHA256: hex.EncodeToString(sum.Sum(nil)), IndexSHA256: x.SHA256()}
	done, err := s.hold(f.SHA256)
	if err != nil {
		return release.File{}, err
	}
	defer done()
	return f, s.adopt(tmp, f.SHA256, x.Encode())
}

// adopt makes a checked file and its index durable under their names. The index
// goes first: a blob without one could not be reused block by block.
func (s *Store) adopt(tmp *os.File, digest string, index []byte) error {
	if err := s.fault("sync-data"); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Chmod(0o440); err != nil {
		return err
	}
	if err := s.writeFile(s.indexPath(digest), index); err != nil {
		return err
	}
	if err := s.fault("rename-data"); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), s.Path(digest)); err != nil {
		return err
	}
	return syncDir(filepath.Join(s.dir, "blobs"))
}

// writeFile replaces a small file so that a crash leaves the old or the new.
func (s *Store) writeFile(path string, b []byte) error {
	if err := s.fault("write-" + strings.TrimPrefix(filepath.Ext(path), ".")); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "partial"), "new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// noSpace gives a full disk its typed cause.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// short is a digest as messages show it.
func short(digest string) string { return "sha256:" + digest[:min(12, len(digest))] }

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

type ctxReaderAt struct {
	ctx context.Context
	r   io.ReaderAt
}

func (c *ctxReaderAt) ReadAt(p []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.ReadAt(p, at)
}

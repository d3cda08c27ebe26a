// Package view shows the files of a release under the names that the release
// gives them: artifacts are named by digest, and engines look for names.
//
// A view is a folder of one release, read-only, made of hard links to the
// artifacts and never changed once it can be seen: it is put together under
// another name, checked, made durable and renamed. What an engine may execute is
// a copy with that mode, so that an artifact itself stays a plain file. Make
// hashes the files of an engine release every time, unless the file system says
// that nobody touched them since the last, and Again does before an engine is
// restarted; a view that holds anything else than
// its release is made anew. A name for the view that is
// derived from the document's digest keeps two releases apart for good.
//
// Called by the agent when it places a release before an engine, and when it
// collects artifacts. The folder must be on the artifacts' file system. A Store
// is safe for concurrent use by one process.
package view

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

// Modes of what a view is made of.
const (
	modeFolder  = 0o555
	modeProgram = 0o555
)

// tmpPrefix begins the name of a view that is being made or taken apart.
const tmpPrefix = ".tmp-"

// Damage says that an artifact is not what its release names: the disk gives back other bytes.
type Damage struct {
	Path   string // in the release
	SHA256 string // of the artifact, as the release names it
}

// Error names the file.
func (d *Damage) Error() string {
	return fmt.Sprintf("its file %s is not what was signed (sha256:%.12s): check the disk", d.Path, d.SHA256)
}

// Store is a folder of views.
type Store struct {
	dir string

	mu   sync.Mutex
	seen map[string]stamp // path -> as it was when its bytes were last found right
	made map[string]made  // name of a view -> what it was made of
}

// made is what Make was called with.
type made struct {
	doc   release.Document
	files []string
}

// stamp is what a file system changes whenever a file is written to. The time of the last change of state cannot be
// set by who writes.
type stamp struct {
	device, inode uint64
	size          int64
	changed       unix.Timespec
}

// Open makes the folder where needed and removes what a killed process left half made.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot open the folder of views: %w", err)
	}
	v := &Store{dir: dir, seen: map[string]stamp{}, made: map[string]made{}}
	if err := v.each(func(name string) error {
		if !strings.HasPrefix(name, tmpPrefix) {
			return nil
		}
		return remove(filepath.Join(dir, name))
	}); err != nil {
		return nil, fmt.Errorf("cannot open the folder of views: %w", err)
	}
	return v, nil
}

func (v *Store) each(do func(name string) error) error {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := do(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// Path is where the view of a release lies once it was made.
func (v *Store) Path(doc release.Document) string { return filepath.Join(v.dir, name(doc)) }

func name(doc release.Document) string {
	return fmt.Sprintf("%s-%s-%d-%.32s", doc.Kind, doc.Name, doc.Version, doc.Digest())
}

// Make answers the folder with the view of a release, made where it is not
// there or not whole. files are the artifacts of its content, in its order. A
// *Damage is wrapped when one of them is not what the release says.
func (v *Store) Make(doc release.Document, files []string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	dir := v.Path(doc)
	if err := v.make(doc, files, dir); err != nil {
		return "", fmt.Errorf("cannot lay out release %s: %w", doc.ID(), err)
	}
	v.made[filepath.Base(dir)] = made{doc, files}
	return dir, nil
}

// Again is Make of the view that a path lies in, as it was last made by this
// Store: an engine that starts anew must not run what was changed meanwhile. A
// path that lies in no such view is none of its business.
func (v *Store) Again(path string) error {
	rel, err := filepath.Rel(v.dir, path)
	if err != nil {
		return nil // one of them is relative
	}
	name, _, _ := strings.Cut(rel, string(filepath.Separator))
	v.mu.Lock()
	m, known := v.made[name]
	v.mu.Unlock()
	if !known {
		return nil
	}
	_, err = v.Make(m.doc, m.files)
	return err
}

func (v *Store) make(doc release.Document, files []string, dir string) error {
	if err := doc.Validate(); err != nil {
		return err // its paths name where files are made
	}
	if len(files) != len(doc.Content()) {
		return fmt.Errorf("internal error: %d files of %d", len(files), len(doc.Content()))
	}
	if v.check(doc, files, dir) == nil {
		return nil
	}
	if err := v.discard(filepath.Base(dir)); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(v.dir, tmpPrefix)
	if err != nil {
		return err
	}
	if err := v.fill(doc, files, tmp, dir); err != nil {
		return errors.Join(err, remove(tmp))
	}
	return store.SyncDir(v.dir)
}

// fill puts the view together in tmp and gives it its name.
func (v *Store) fill(doc release.Document, files []string, tmp, dir string) error {
	for i, f := range doc.Content() {
		path := filepath.Join(tmp, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if !f.Executable {
			if err := os.Link(files[i], path); err != nil {
				return err
			}
			continue
		}
		if err := copyProgram(f, files[i], path); err != nil {
			return err
		}
	}
	if err := seal(tmp); err != nil {
		return err
	}
	if err := v.check(doc, files, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// copyProgram copies what may be executed, checking it on the way.
func copyProgram(f release.File, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), in)
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		err = &Damage{f.Path, f.SHA256}
	}
	if err == nil {
		err = out.Sync()
	}
	if err == nil {
		err = out.Chmod(modeProgram)
	}
	return errors.Join(err, out.Close())
}

// seal makes every folder under dir durable and read-only.
func seal(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		if err := os.Chmod(path, modeFolder); err != nil {
			return err
		}
		return store.SyncDir(path)
	})
}

// check says what is wrong with the view in dir: it holds the release's files and nothing else.
func (v *Store) check(doc release.Document, files []string, dir string) error {
	content := doc.Content()
	left := make(map[string]int, len(content))
	for i, f := range content {
		left[f.Path] = i
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		i, ok := left[filepath.ToSlash(rel)]
		if !ok {
			return fmt.Errorf("%s is no file of the release", rel)
		}
		delete(left, filepath.ToSlash(rel))
		return v.checkFile(doc, content[i], path, files[i])
	})
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%d files are missing", len(left))
	}
	return err
}

func (v *Store) checkFile(doc release.Document, f release.File, path, artifact string) error {
	here, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch {
	case !here.Mode().IsRegular() || here.Size() != f.Size:
		return &Damage{f.Path, f.SHA256}
	case f.Executable:
		if here.Mode().Perm() != modeProgram {
			return fmt.Errorf("%s has mode %v", f.Path, here.Mode())
		}
	default:
		there, err := os.Stat(artifact)
		if errors.Is(err, fs.ErrNotExist) {
			return v.verify(f, path) // lost: this link of it may be the last
		}
		if err != nil {
			return err
		}
		if !os.SameFile(here, there) {
			return fmt.Errorf("%s is not the artifact of the release", f.Path)
		}
	}
	if doc.Kind != release.Engine {
		return nil // hashed when it came, and not executed
	}
	return v.verify(f, path)
}

// verify hashes a file, unless nobody touched it since that was last done.
func (v *Store) verify(f release.File, path string) error {
	before, err := stampOf(path)
	if err != nil {
		return err
	}
	// A view that is being made is renamed afterwards; the artifact's digest keeps its stamp apart from others'.
	key := f.SHA256 + fmt.Sprint(before.device, before.inode)
	if v.seen[key] == before {
		return nil
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return &Damage{f.Path, f.SHA256}
	}
	v.seen[key] = before
	return nil
}

func stampOf(path string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return stamp{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Ctim}, nil
}

// Keep removes the views of all other releases than these.
func (v *Store) Keep(docs []release.Document) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	wanted := map[string]bool{}
	for _, d := range docs {
		wanted[name(d)] = true
	}
	err := v.each(func(name string) error {
		if wanted[name] {
			return nil
		}
		return v.discard(name)
	})
	if err != nil {
		return fmt.Errorf("cannot collect views: %w", err)
	}
	return nil
}

// discard takes a view apart. It loses its name first, so that no half view can be seen. Engines that run from it go on.
func (v *Store) discard(name string) error {
	path := filepath.Join(v.dir, name)
	delete(v.made, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if strings.HasPrefix(name, tmpPrefix) {
		return remove(path)
	}
	tmp := filepath.Join(v.dir, tmpPrefix+name)
	if err := remove(tmp); err != nil {
		return err
	}
	if err := os.Rename(path, tmp); err != nil {
		return err
	}
	return remove(tmp)
}

// remove deletes a tree whose folders are read-only.
func remove(dir string) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return os.Chmod(path, 0o755)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// Executes says whether programs may be run from the folder: nil, or why not.
func (v *Store) Executes() error {
	var st unix.Statfs_t
	if err := unix.Statfs(v.dir, &st); err != nil {
		return fmt.Errorf("cannot look at the file system of %s: %w", v.dir, err)
	}
	if st.Flags&unix.MS_NOEXEC != 0 { // statfs(2): ST_NOEXEC has the same value
		return fmt.Errorf("programs may not be run from %s: its file system is mounted noexec; mount the state folder with exec", v.dir)
	}
	return nil
}

package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
)

// Source gives blocks of files. It is not trusted: the caller checks everything.
// A Source may be used by several fetches at once.
type Source interface {
	// Name is how progress and messages call it: "disk", "directory", "mqtt".
	Name() string
	// Index is the encoded block index of a file, or an error that is ErrNotFound if it has none.
	Index(ctx context.Context, f release.File) ([]byte, error)
	// Blocks hands the wanted blocks that it has to sink, in any order, and returns
	// when it is done: nil also if it has only some of them. It must return soon
	// after ctx ends or Deliver returns an error.
	Blocks(ctx context.Context, f release.File, want []Block, sink Sink) error
}

// Sink takes blocks from one source. Used by one goroutine at a time.
type Sink interface {
	// Buffer is n bytes to fill; it belongs to the source until Deliver.
	Buffer(n int) []byte
	// Deliver takes over data, which must come from Buffer. A wrong block is no
	// error here; an error means that the source must stop.
	Deliver(k Block, data []byte) error
}

// slower is a Source that may ask for less than it could: one of the SlowedBy
// reasons says why, "" that it does not. Safe for concurrent use.
type slower interface{ Slowed() string }

// attributor is a Sink that notes where blocks came from: from the call on, by
// way of source ("disk", "cast"), and which of several where it has several.
type attributor interface{ attribute(source, detail string) }

// Attribute tells a sink that cares where the blocks delivered from now on come
// from: "peer", "press-8". Without it that is the source's name.
func Attribute(s Sink, source, detail string) {
	if a, ok := s.(attributor); ok {
		a.attribute(source, detail)
	}
}

// penalty is a source's time aside.
type penalty struct {
	until time.Time
	last  time.Duration
}

// A source that gave wrong blocks is asked after all others for so long.
const (
	asideMin = 10 * time.Second
	asideMax = 10 * time.Minute
)

// setAside puts a source behind the others, longer each time. One source alone
// is asked all the same: whoever calls Fetch waits between two calls.
func (s *Store) setAside(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := asideMin
	if p, ok := s.aside[name]; ok && s.now().Before(p.until.Add(p.last)) {
		d = min(2*p.last, asideMax)
	}
	s.aside[name] = penalty{s.now().Add(d), d}
}

// trustedFirst is the sources in their order, those set aside at the end.
func (s *Store) trustedFirst(all []Source) []Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b Source) int {
		return s.rank(a.Name()) - s.rank(b.Name())
	})
	return out
}

func (s *Store) rank(name string) int {
	if s.now().Before(s.aside[name].until) {
		return 1
	}
	return 0
}

// ErrNotFound is the cause when a source does not have what was asked for.
var ErrNotFound = errors.New("not found")

// Directory is a folder with artifacts, such as a stick carried to the machine:
// files named by digest, in the folder or in its "blobs" folder (as a fleet keeps
// them), or under the path that the release gives them.
type Directory struct{ Dir string }

// Name implements Source.
func (Directory) Name() string { return "directory" }

// places is where a file may lie in the folder.
func (d Directory) places(f release.File) []string {
	names := []string{filepath.Join("blobs", f.SHA256), f.SHA256}
	if f.Path != "" && filepath.IsLocal(f.Path) {
		names = append(names, f.Path)
	}
	for i, n := range names {
		names[i] = filepath.Join(d.Dir, n)
	}
	return names
}

func (d Directory) find(f release.File) (string, error) {
	for _, p := range d.places(f) {
		if i, err := os.Stat(p); err == nil && i.Mode().IsRegular() && i.Size() == f.Size {
			return p, nil
		}
	}
	return "", fmt.Errorf("cannot find %s in %s: %w", short(f.SHA256), d.Dir, ErrNotFound)
}

// Index implements Source. Where no index lies in the folder, it is made from the file.
func (d Directory) Index(ctx context.Context, f release.File) ([]byte, error) {
	for _, p := range d.places(f) {
		if i, err := os.Stat(p + ".index"); err == nil && i.Mode().IsRegular() && i.Size() <= MaxIndex {
			return os.ReadFile(p + ".index")
		}
	}
	p, err := d.find(f)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	x, err := BuildIndex(&ctxReaderAt{ctx, file}, f.Size)
	if err != nil {
		return nil, err
	}
	return x.Encode(), nil
}

// Blocks implements Source.
func (d Directory) Blocks(ctx context.Context, f release.File, want []Block, sink Sink) error {
	p, err := d.find(f)
	if err != nil {
		return err
	}
	file, err := os.Open(p)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, k := range want {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := sink.Buffer(k.Length)
		if err := readFullAt(file, b, k.Offset); err != nil {
			return fmt.Errorf("cannot read %s at byte %d: %w", p, k.Offset, err)
		}
		if err := sink.Deliver(k, b); err != nil {
			return err
		}
	}
	return nil
}

// disk gives blocks that are in other files of the store, above all in the
// previous version of the same model. Fetch asks it first, always.
type disk struct{ store *Store }

func (disk) Name() string { return "disk" }

// PlainOnly implements PlainOnly.
func (disk) PlainOnly() bool { return true }

func (disk) Index(context.Context, release.File) ([]byte, error) { return nil, ErrNotFound }

func (d disk) Blocks(ctx context.Context, _ release.File, want []Block, sink Sink) error {
	digests, err := d.store.List()
	if err != nil {
		return err
	}
	wanted := make(map[[32]byte][]Block, len(want))
	for _, k := range want {
		wanted[k.SHA256] = append(wanted[k.SHA256], k)
	}
	for _, digest := range digests {
		if err := d.copyFrom(ctx, digest, wanted, sink); err != nil {
			return err
		}
	}
	return nil
}

// copyFrom delivers the wanted blocks that one file has, and strikes them off.
func (d disk) copyFrom(ctx context.Context, digest string, wanted map[[32]byte][]Block, sink Sink) error {
	x, err := d.store.Index(digest)
	if err != nil {
		return nil // a file without a readable index only cannot help
	}
	file, err := os.Open(d.store.Path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // collected meanwhile
	}
	if err != nil {
		return err
	}
	defer file.Close()
	Attribute(sink, d.Name(), short(digest))
	for _, have := range x.Blocks {
		for _, k := range wanted[have.SHA256] {
			if err := ctx.Err(); err != nil {
				return err
			}
			if have.Length != k.Length {
				continue
			}
			b := sink.Buffer(k.Length)
			if readFullAt(file, b, have.Offset) != nil {
				return nil // shorter than its index says
			}
			if err := sink.Deliver(k, b); err != nil {
				return err
			}
		}
		delete(wanted, have.SHA256)
	}
	return nil
}

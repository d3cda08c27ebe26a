package content

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

const (
	originExt = ".origin"
	// What is kept of one file, however wildly its sources alternate.
	maxOrigins    = 64   // different ones
	maxOriginRuns = 4096 // runs of blocks of one origin
	maxOriginFile = 1 << 20

	originResumed = "resumed" // from an attempt that did not live to say
	originSeveral = "several" // more than there is room to tell apart
)

// Span is a run of bytes of a file that came from one place: "disk sha256:9f2c...",
// "directory", "peer press-8", "mirror", "mqtt", "cast". What an earlier attempt
// left without a note is "resumed"; what is missing yet is "".
type Span struct {
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	Source string `json:"source,omitempty"`
}

// Origin tells where each byte of a file came from, in order: of one that is here
// whole, or of what a fetch that goes on has so far. It is a note for people: it
// is not made durable block by block, and a lost note costs only itself. The
// error is ErrNotFound when nothing is known of the file.
func (s *Store) Origin(digest string) ([]Span, error) {
	if !validDigest(digest) {
		return nil, fmt.Errorf("cannot tell the origin of %q: it is no digest", digest)
	}
	for _, at := range []struct{ index, note string }{
		{s.indexPath(digest), s.Path(digest) + originExt},
		{s.partial(digest, indexExt), s.partial(digest, originExt)},
	} {
		b, err := os.ReadFile(at.index)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot tell the origin of %s: %w", short(digest), err)
		}
		x, err := ParseIndex(b)
		if err != nil {
			return nil, fmt.Errorf("cannot tell the origin of %s: %w", short(digest), err)
		}
		o := loadOrigins(at.note, len(x.Blocks))
		return o.spans(x), nil
	}
	return nil, fmt.Errorf("cannot tell the origin of %s: %w", short(digest), ErrNotFound)
}

// origins notes where each block of one file came from. Safe for concurrent use.
type origins struct {
	mu    sync.Mutex
	names []string
	of    []uint8 // by block: 0 is nowhere yet, n is names[n-1]
	dirty bool    // it differs from the file
}

// originFile is the note as it lies beside the file: runs of [first block, blocks, n].
type originFile struct {
	V     int      `json:"v"` // 1
	Names []string `json:"names"`
	Runs  [][3]int `json:"runs"`
}

// loadOrigins reads a note; one that is missing or damaged says nothing.
func loadOrigins(path string, blocks int) *origins {
	o := &origins{of: make([]uint8, blocks)}
	if i, err := os.Stat(path); err != nil || i.Size() > maxOriginFile {
		return o
	}
	b, err := os.ReadFile(path)
	var f originFile
	if err != nil || json.Unmarshal(b, &f) != nil || f.V != 1 || len(f.Names) > maxOrigins+1 {
		return o
	}
	o.names = f.Names
	for _, r := range f.Runs {
		if r[0] < 0 || r[1] < 0 || r[0] > blocks || r[1] > blocks-r[0] || r[2] < 0 || r[2] > len(f.Names) {
			return &origins{of: make([]uint8, blocks)}
		}
		for n := range r[1] {
			o.of[r[0]+n] = uint8(r[2])
		}
	}
	return o
}

// note says where a block came from.
func (o *origins) note(block int, source string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[block] = o.number(source)
	o.dirty = true
}

func (o *origins) number(source string) uint8 {
	for i, n := range o.names {
		if n == source {
			return uint8(i + 1)
		}
	}
	if len(o.names) >= maxOrigins && source != originSeveral {
		return o.number(originSeveral)
	}
	o.names = append(o.names, source)
	return uint8(len(o.names))
}

// keep forgets what does not hold, and notes what holds and nobody noted.
func (o *origins) keep(have []bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n, ok := range have {
		if !ok && o.of[n] != 0 {
			o.of[n], o.dirty = 0, true
		}
		if ok && o.of[n] == 0 {
			o.of[n], o.dirty = o.number(originResumed), true
		}
	}
}

// runs is the note, run by run. Over the limit the rest is one run.
func (o *origins) runs() [][3]int {
	var runs [][3]int
	for n, from := range o.of {
		last := len(runs) - 1
		switch {
		case last >= 0 && runs[last][2] == int(from):
			runs[last][1]++
		case len(runs) == maxOriginRuns-1:
			return append(runs, [3]int{n, len(o.of) - n, int(o.number(originSeveral))})
		default:
			runs = append(runs, [3]int{n, 1, int(from)})
		}
	}
	return runs
}

// save writes the note if it is news. It is not synced: see Origin.
func (o *origins) save(path string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dirty {
		return nil
	}
	f := originFile{V: 1, Runs: o.runs()}
	f.Names = o.names
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	if err := os.WriteFile(path+".new", b, 0o640); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	o.dirty = false
	return nil
}

func (o *origins) spans(x Index) []Span {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []Span
	for _, r := range o.runs() {
		s := Span{Offset: x.Blocks[r[0]].Offset}
		for _, k := range x.Blocks[r[0] : r[0]+r[1]] {
			s.Length += int64(k.Length)
		}
		if r[2] > 0 {
			s.Source = o.names[r[2]-1]
		}
		out = append(out, s)
	}
	return out
}

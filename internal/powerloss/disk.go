package powerloss

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// sector is the unit that a disk writes whole, in bytes.
const sector = 512

// change is one act on the content of a file that has not been synced: data at
// an offset, or, with data nil, a new size.
type change struct {
	at   int64
	data []byte
}

func (c change) apply(content []byte) []byte {
	end := c.at + int64(len(c.data))
	if c.data == nil {
		content = content[:min(int64(len(content)), c.at)]
	}
	if grow := end - int64(len(content)); grow > 0 {
		content = append(content, make([]byte, grow)...)
	}
	copy(content[c.at:], c.data)
	return content
}

// sectors are the parts of a write that reach the disk each on its own.
func (c change) sectors() []change {
	if c.data == nil {
		return []change{c}
	}
	var all []change
	for at, rest := c.at, c.data; len(rest) > 0; {
		n := min(sector-at%sector, int64(len(rest)))
		all = append(all, change{at, rest[:n]})
		at, rest = at+n, rest[n:]
	}
	return all
}

// file is one inode.
type file struct {
	folder  bool
	durable []byte
	pending []change
}

func (f *file) content() []byte {
	content := slices.Clone(f.durable)
	for _, c := range f.pending {
		content = c.apply(content)
	}
	return content
}

// naming is one change of a name: path gets the file, or, with nil, goes. from is the name that it leaves.
type naming struct {
	path, from string
	file       *file
}

func (n naming) apply(names map[string]*file) {
	if n.from != "" {
		delete(names, n.from)
	}
	if n.file == nil {
		delete(names, n.path)
		return
	}
	names[n.path] = n.file
}

// disk is the folder as the kernel shows it, and what of it is on the platter.
// Paths are relative to the folder; "." is the folder itself.
type disk struct {
	names   map[string]*file // as the kernel shows them
	durable map[string]*file // as they were before journal
	journal []naming
	synced  int // how many of the journal a sync has forced
}

func newDisk() *disk {
	root := &file{folder: true}
	return &disk{names: map[string]*file{".": root}, durable: map[string]*file{".": root}}
}

func (d *disk) name(n naming) {
	n.apply(d.names)
	d.journal = append(d.journal, n)
}

// syncFolder forces the names in the folder and, the journal being one, all before them.
func (d *disk) syncFolder(folder string, before int) {
	for i, n := range d.journal[:before] {
		if path.Dir(n.path) == folder || n.from != "" && path.Dir(n.from) == folder {
			d.synced = max(d.synced, i+1)
		}
	}
}

func (f *file) sync(before int) {
	for _, c := range f.pending[:before] {
		f.durable = c.apply(f.durable)
	}
	f.pending = f.pending[before:]
}

// fate decides what the disk keeps of what was not synced.
type fate interface {
	names(synced, all int) int
	keep() bool
}

type (
	lost   struct{}
	kept   struct{}
	random struct{ *rand.Rand }
)

func (lost) names(synced, _ int) int { return synced }
func (lost) keep() bool              { return false }
func (kept) names(_, all int) int    { return all }
func (kept) keep() bool              { return true }

func (r random) names(synced, all int) int { return synced + r.IntN(all-synced+1) }
func (r random) keep() bool                { return r.IntN(2) == 0 }

// after is the folder that is found when power comes back.
func (d *disk) after(f fate) map[string][]byte {
	names := maps.Clone(d.durable)
	for _, n := range d.journal[:f.names(d.synced, len(d.journal))] {
		n.apply(names)
	}
	found := map[string][]byte{}
	for _, p := range slices.Sorted(maps.Keys(names)) {
		if names[p].folder {
			found[p+"/"] = nil
			continue
		}
		content := slices.Clone(names[p].durable)
		for _, c := range names[p].pending {
			for _, part := range c.sectors() {
				if f.keep() {
					content = part.apply(content)
				}
			}
		}
		found[p] = content
	}
	return found
}

// write lays the folder out at dir.
func write(dir string, found map[string][]byte) error {
	for _, p := range slices.Sorted(maps.Keys(found)) {
		at := filepath.Join(dir, p)
		if strings.HasSuffix(p, "/") {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, found[p], 0o600); err != nil {
			return fmt.Errorf("cannot lay out the state: %w", err)
		}
	}
	return nil
}

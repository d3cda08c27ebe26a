// Package gguf reads model files in the GGUF format, versions 2 and 3.
//
// Open maps the file and checks everything a reader later relies on: every
// length, count, offset and shape is compared with the file's own size before
// anything is allocated or sliced, so a truncated or hostile file gives an
// error that says what is wrong and at which byte, and never a crash, a read
// outside the map, or an allocation beyond a small multiple of the header.
// Arrays of the metadata stay in the map until a getter asks for them.
//
// The file must not be truncated by others while it is mapped: reading a page
// that is gone kills the process. The agent keeps installed files read-only
// and replaces them by rename.
//
// A File is safe for concurrent reading. Tensor data and the strings' bytes
// belong to the map: nothing may be used after Close except values that the
// getters returned, which are copies.
package gguf

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Bounds on what a header may claim. Real files stay far below them.
const (
	maxTensors = 1 << 17
	maxKeys    = 1 << 16
	maxName    = 1 << 16 // bytes of a key's or tensor's name
	maxDims    = 4
	maxAlign   = 1 << 20
	maxNesting = 4 // arrays of arrays
)

// ErrFormat is wrapped by every error that says the file's content is wrong.
var ErrFormat = errors.New("not a usable GGUF file")

// ErrType is wrapped beside ErrFormat when all that is known to be wrong is a
// tensor's number format that this reader has no size for: a newer reader may.
var ErrType = errors.New("a newer llama-server may read it")

// Tensor is one tensor of the file.
type Tensor struct {
	Name string
	Dims []uint64 // innermost first: Dims[0] is the length of a row
	Type Type
	Data []byte // in the map, read-only; aligned as the file promises
}

// Row is the number of values in a row.
func (t *Tensor) Row() int { return int(t.Dims[0]) }

// Rows is the number of rows, all outer dimensions multiplied.
func (t *Tensor) Rows() int {
	n := 1
	for _, d := range t.Dims[1:] {
		n *= int(d)
	}
	return n
}

// File is an open model file.
type File struct {
	Path    string
	Version uint32
	Size    int64
	Tensors []Tensor
	Meta    Meta

	byName map[string]*Tensor
	mapped []byte
}

// Open maps the file at path and reads its header. The caller must Close it.
func Open(path string) (*File, error) {
	h, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open model: %w", err)
	}
	defer h.Close()
	st, err := h.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot open model: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot open model %s: %w: it is no regular file", path, ErrFormat)
	}
	if st.Size() < 24 {
		return nil, fmt.Errorf("cannot read model %s: %w: it has %d bytes, fewer than a header", path, ErrFormat, st.Size())
	}
	if int64(int(st.Size())) != st.Size() {
		return nil, fmt.Errorf("cannot map model %s: %d bytes do not fit this machine's addresses", path, st.Size())
	}
	data, err := syscall.Mmap(int(h.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map model %s: %w", path, err)
	}
	f, err := Parse(data)
	if err != nil {
		syscall.Munmap(data)
		return nil, fmt.Errorf("cannot read model %s: %w", path, err)
	}
	f.Path, f.mapped = path, data
	return f, nil
}

// Parse reads a file that is already in memory. The File refers to data.
func Parse(data []byte) (*File, error) {
	r := &reader{b: data}
	f := &File{Size: int64(len(data)), byName: map[string]*Tensor{}}
	keys, tensors, err := f.header(r)
	if err != nil {
		return nil, err
	}
	if f.Meta, err = readMeta(r, keys); err != nil {
		return nil, err
	}
	offsets, err := f.table(r, tensors)
	if err != nil {
		return nil, err
	}
	return f, f.place(r, offsets)
}

// header reads the magic, the version and the two counts.
func (f *File) header(r *reader) (keys, tensors int, err error) {
	magic := r.bytes(4, "the magic")
	if r.err == nil && string(magic) != "GGUF" {
		return 0, 0, fmt.Errorf("%w: it begins with %q, not \"GGUF\"", ErrFormat, magic)
	}
	f.Version = r.u32("the version")
	if r.err == nil && f.Version != 2 && f.Version != 3 {
		if f.Version&0xffff == 0 {
			return 0, 0, fmt.Errorf("%w: version %#x: a big-endian file", ErrFormat, f.Version)
		}
		return 0, 0, fmt.Errorf("%w: version %d, this reader knows 2 and 3", ErrFormat, f.Version)
	}
	// The smallest tensor entry has 32 bytes, the smallest key 13.
	tensors = r.count(32, maxTensors, "tensors")
	keys = r.count(13, maxKeys, "keys")
	return keys, tensors, r.err
}

// table reads the tensors' names, shapes and offsets.
func (f *File) table(r *reader, n int) ([]uint64, error) {
	f.Tensors = make([]Tensor, 0, n)
	offsets := make([]uint64, 0, n)
	for i := range n {
		t := Tensor{Name: r.name(fmt.Sprintf("the name of tensor %d", i))}
		dims := r.u32("the number of dimensions of tensor " + t.Name)
		if r.err == nil && (dims == 0 || dims > maxDims) {
			return nil, r.fail("tensor %q has %d dimensions", t.Name, dims)
		}
		for range dims {
			if r.err != nil {
				break
			}
			t.Dims = append(t.Dims, r.u64("the shape of tensor "+t.Name))
		}
		t.Type = Type(r.u32("the type of tensor " + t.Name))
		offsets = append(offsets, r.u64("the offset of tensor "+t.Name))
		if r.err != nil {
			return nil, r.err
		}
		f.Tensors = append(f.Tensors, t)
	}
	return offsets, nil
}

// place gives every tensor its bytes, after checking that they are in the file.
func (f *File) place(r *reader, offsets []uint64) error {
	align := uint64(32)
	if a, ok := f.Meta.Uint("general.alignment"); ok {
		align = a
	}
	if align == 0 || align > maxAlign || align&(align-1) != 0 {
		return fmt.Errorf("%w: general.alignment is %d, not a power of two up to %d", ErrFormat, align, maxAlign)
	}
	start := (uint64(r.at) + align - 1) &^ (align - 1)
	size := uint64(len(r.b))
	if len(f.Tensors) > 0 && start > size {
		return fmt.Errorf("%w: it ends at byte %d, before the tensor data at %d", ErrFormat, size, start)
	}
	total := uint64(0)
	for i := range f.Tensors {
		t := &f.Tensors[i]
		n, err := t.bytes(size)
		if err != nil {
			return err
		}
		off := offsets[i]
		if off%align != 0 {
			return fmt.Errorf("%w: tensor %q begins at offset %d, not a multiple of %d", ErrFormat, t.Name, off, align)
		}
		if off > size-start || n > size-start-off {
			return fmt.Errorf("%w: tensor %q needs %d bytes at %d, the file has %d: it is truncated or damaged", ErrFormat, t.Name, n, start+off, size)
		}
		// Readers take copies of tensors: overlapping ones would let a small file ask for any amount of memory.
		if total += n; total > size-start {
			return fmt.Errorf("%w: its tensors overlap: the first %d claim %d bytes, the file has %d", ErrFormat, i+1, total, size-start)
		}
		t.Data = r.b[start+off : start+off+n : start+off+n]
		if f.byName[t.Name] != nil {
			return fmt.Errorf("%w: two tensors are named %q", ErrFormat, t.Name)
		}
		f.byName[t.Name] = t
	}
	return nil
}

// bytes is the tensor's size, which cannot exceed limit (the file's size).
func (t *Tensor) bytes(limit uint64) (uint64, error) {
	l, ok := layoutOf(t.Type)
	if !ok {
		return 0, fmt.Errorf("%w: tensor %q has the unknown %v; %w", ErrFormat, t.Name, t.Type, ErrType)
	}
	values := uint64(1)
	most := limit * uint64(l.block) // more values than this cannot be in the file
	for _, d := range t.Dims {
		if d == 0 || d > most/values {
			return 0, fmt.Errorf("%w: tensor %q claims the shape %v, more than the file can hold", ErrFormat, t.Name, t.Dims)
		}
		values *= d
	}
	if t.Dims[0]%uint64(l.block) != 0 {
		return 0, fmt.Errorf("%w: tensor %q has rows of %d values, not a multiple of the %d of %v", ErrFormat, t.Name, t.Dims[0], l.block, t.Type)
	}
	return values / uint64(l.block) * uint64(l.bytes), nil
}

// Tensor is the tensor of that name, or nil.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }

// Close unmaps the file. Tensor data must not be touched afterwards.
func (f *File) Close() error {
	m := f.mapped
	f.mapped = nil
	if m == nil {
		return nil
	}
	if err := syscall.Munmap(m); err != nil {
		return fmt.Errorf("cannot unmap model %s: %w", f.Path, err)
	}
	return nil
}

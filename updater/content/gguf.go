package content

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// Limits on a GGUF header. The largest published vocabularies have under a
// million entries and the largest models under 10,000 tensors.
const (
	ggufMaxHeader  = 256 << 20
	ggufMaxKeys    = 1 << 16
	ggufMaxTensors = 1 << 17
	ggufMaxString  = 16 << 20
	ggufMaxArray   = 16 << 20
)

var errGGUF = errors.New("not a well-formed GGUF header")

// ggufStarts returns where the larger tensors of a GGUF file start, ascending.
// It returns nothing for any other file, and for a header it cannot trust.
func ggufStarts(r io.ReaderAt, size int64) []int64 {
	h := newGGUFHeader(r, size)
	offsets, err := h.tensors()
	if err != nil {
		return nil
	}
	return largeStarts(h.dataStart(), offsets, size)
}

// ggufHeader reads a header forwards, counting bytes; the first error sticks.
type ggufHeader struct {
	r     *bufio.Reader
	at    int64
	align uint64
	err   error
}

func newGGUFHeader(r io.ReaderAt, size int64) *ggufHeader {
	return &ggufHeader{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, min(size, ggufMaxHeader)), 64<<10)}
}

func (h *ggufHeader) dataStart() int64 {
	a := int64(h.align)
	return (h.at + a - 1) / a * a
}

// tensors returns the offsets of the tensors relative to the data section.
func (h *ggufHeader) tensors() ([]uint64, error) {
	var magic [4]byte
	h.read(magic[:])
	version := h.u32()
	if h.err != nil || string(magic[:]) != "GGUF" || version < 2 || version > 3 {
		return nil, errGGUF
	}
	count, keys := h.u64(), h.u64()
	if h.err != nil || count > ggufMaxTensors || keys > ggufMaxKeys {
		return nil, errGGUF
	}
	h.align = 32
	for range keys {
		h.pair()
	}
	var offsets []uint64
	for range count {
		if h.err != nil {
			break
		}
		h.skip(h.str())
		dims := h.u32()
		if dims > 8 {
			return nil, errGGUF
		}
		h.skip(uint64(dims)*8 + 4) // the dimensions, then the type
		offsets = append(offsets, h.u64())
	}
	return offsets, h.err
}

// pair reads one metadata entry and keeps only the alignment.
func (h *ggufHeader) pair() {
	key := h.take(h.str(), 64)
	kind := h.u32()
	if string(key) == "general.alignment" && kind == 4 {
		h.align = uint64(h.u32())
		if h.align == 0 || h.align&(h.align-1) != 0 || h.align > BlockSize {
			h.err = errGGUF
		}
		return
	}
	h.value(kind, 0)
}

func (h *ggufHeader) value(kind uint32, depth int) {
	switch kind {
	case 0, 1, 7:
		h.skip(1)
	case 2, 3:
		h.skip(2)
	case 4, 5, 6:
		h.skip(4)
	case 10, 11, 12:
		h.skip(8)
	case 8:
		h.skip(h.str())
	case 9:
		h.array(depth)
	default:
		h.err = errGGUF
	}
}

func (h *ggufHeader) array(depth int) {
	kind, n := h.u32(), h.u64()
	if n > ggufMaxArray || depth > 2 {
		h.err = errGGUF
		return
	}
	for range n {
		if h.err != nil {
			return
		}
		h.value(kind, depth+1)
	}
}

func (h *ggufHeader) str() uint64 {
	n := h.u64()
	if n > ggufMaxString {
		h.err = errGGUF
		return 0
	}
	return n
}

// take reads n bytes and returns them if they are at most limit; longer ones are skipped.
func (h *ggufHeader) take(n uint64, limit int) []byte {
	if n > uint64(limit) {
		h.skip(n)
		return nil
	}
	b := make([]byte, n)
	h.read(b)
	return b
}

func (h *ggufHeader) skip(n uint64) {
	if h.err != nil {
		return
	}
	k, err := h.r.Discard(int(n))
	h.at += int64(k)
	if err != nil {
		h.err = errGGUF
	}
}

func (h *ggufHeader) read(b []byte) {
	if h.err != nil {
		clear(b)
		return
	}
	k, err := io.ReadFull(h.r, b)
	h.at += int64(k)
	if err != nil {
		clear(b)
		h.err = errGGUF
	}
}

func (h *ggufHeader) u32() uint32 {
	var b [4]byte
	h.read(b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func (h *ggufHeader) u64() uint64 {
	var b [8]byte
	h.read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

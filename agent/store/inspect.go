package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// Layout of a bbolt meta page: a 16-byte page header, then 64 bytes of meta in
// the machine's byte order (internal/common/meta.go of bbolt). Both machines we
// build for are little-endian.
const (
	metaOffset   = 16
	metaLen      = 64
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	minPageSize  = 512
	maxPageSize  = 64 << 10
	pagesNoFree  = ^uint64(0)
	metaPageFlag = 0x04
)

// head identifies a state of the file: its last transaction and its length in bytes.
type head struct {
	Transaction uint64 `json:"transaction"`
	Size        int64  `json:"size"`
}

// meta is what one meta page says.
type meta struct {
	pageSize    uint32
	root, free  uint64
	pages       uint64
	transaction uint64
}

// inspect reads both meta pages with plain reads and compares them with the
// file's length. bbolt maps the file: a page that lies behind the end of a
// truncated file would be a SIGBUS there.
func inspect(path string) (head, error) {
	f, err := os.Open(path)
	if err != nil {
		return head{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return head{}, err
	}
	best, err := newestMeta(f)
	if err != nil {
		return head{}, err
	}
	if need := int64(best.pages) * int64(best.pageSize); info.Size() < need {
		return head{}, fmt.Errorf("%w: file is %d bytes long, its pages need %d", ErrDamaged, info.Size(), need)
	}
	return head{Transaction: best.transaction, Size: info.Size()}, nil
}

// newestMeta is the valid meta page with the greater transaction number.
func newestMeta(r io.ReaderAt) (meta, error) {
	first, firstErr := readMeta(r, 0)
	if firstErr != nil && !errors.Is(firstErr, ErrDamaged) {
		return meta{}, firstErr
	}
	if firstErr == nil {
		second, err := readMeta(r, int64(first.pageSize))
		if err == nil && second.transaction > first.transaction {
			return second, nil
		}
		return first, nil
	}
	for size := int64(minPageSize); size <= maxPageSize; size *= 2 {
		second, err := readMeta(r, size)
		if err == nil && int64(second.pageSize) == size {
			return second, nil
		}
	}
	return meta{}, fmt.Errorf("%w: neither meta page is valid", ErrDamaged)
}

func readMeta(r io.ReaderAt, offset int64) (meta, error) {
	var buf [metaOffset + metaLen]byte
	if _, err := r.ReadAt(buf[:], offset); errors.Is(err, io.EOF) {
		return meta{}, fmt.Errorf("%w: file ends inside a meta page", ErrDamaged)
	} else if err != nil {
		return meta{}, err
	}
	if binary.LittleEndian.Uint16(buf[8:]) != metaPageFlag {
		return meta{}, fmt.Errorf("%w: no meta page at %d", ErrDamaged, offset)
	}
	return parseMeta(buf[metaOffset:])
}

func parseMeta(b []byte) (meta, error) {
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaLen-8])
	switch {
	case binary.LittleEndian.Uint32(b[0:]) != boltMagic, binary.LittleEndian.Uint32(b[4:]) != boltVersion:
		return meta{}, fmt.Errorf("%w: not a store file", ErrDamaged)
	case binary.LittleEndian.Uint64(b[56:]) != sum.Sum64():
		return meta{}, fmt.Errorf("%w: meta page does not match its checksum", ErrDamaged)
	}
	m := meta{
		pageSize:    binary.LittleEndian.Uint32(b[8:]),
		root:        binary.LittleEndian.Uint64(b[16:]),
		free:        binary.LittleEndian.Uint64(b[32:]),
		pages:       binary.LittleEndian.Uint64(b[40:]),
		transaction: binary.LittleEndian.Uint64(b[48:]),
	}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pages > 1<<40 ||
		m.root >= m.pages || (m.free >= m.pages && m.free != pagesNoFree) {
		return meta{}, fmt.Errorf("%w: meta page is out of bounds", ErrDamaged)
	}
	return m, nil
}

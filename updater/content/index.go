package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// BlockSize is the largest block, in bytes: the unit of hash, deduplication and journal.
	BlockSize = 1 << 20
	// MaxIndex bounds an encoded index, in bytes: about 1.6 million blocks, or 1.6 TiB.
	MaxIndex = 64 << 20

	indexMagic  = "BYIX"
	indexHeader = 20 // magic, version, size, count
	indexEntry  = 40 // length, flags, digest
	indexTail   = 4  // CRC32C: tells a damaged disk from a wrong file
	smallTensor = 64 << 10
)

// Block is one run of bytes of a file.
type Block struct {
	N      int      // position in the index
	Offset int64    // in the file, bytes
	Length int      // bytes, 1..BlockSize
	SHA256 [32]byte // of the plain bytes
}

// Index lists the blocks of one file, in order and without gaps.
// Immutable once built; safe for concurrent use.
type Index struct {
	Size   int64
	Blocks []Block
}

// BuildIndex reads size bytes of r and cuts them into blocks. The blocks of a
// GGUF or safetensors file start at its tensors, so that an edit of the metadata
// or of one tensor leaves the digests of the others as they were. A file whose
// header does not parse is cut plainly; that is no error, it is only less reuse.
func BuildIndex(r io.ReaderAt, size int64) (Index, error) {
	if size < 0 {
		return Index{}, fmt.Errorf("cannot index a file of %d bytes", size)
	}
	x := Index{Size: size}
	buf := make([]byte, BlockSize)
	for _, s := range cut(size, tensorStarts(r, size)) {
		b := buf[:s.length]
		if err := readFullAt(r, b, s.offset); err != nil {
			return Index{}, fmt.Errorf("cannot index at byte %d of %d: %w", s.offset, size, err)
		}
		x.Blocks = append(x.Blocks, Block{N: len(x.Blocks), Offset: s.offset, Length: s.length, SHA256: sha256.Sum256(b)})
	}
	if n := x.encodedLen(); n > MaxIndex {
		return Index{}, fmt.Errorf("cannot index a file of %d bytes: its index would take %d bytes, the limit is %d", size, n, MaxIndex)
	}
	return x, nil
}

// readFullAt fills b from r at off. An io.ReaderAt may say io.EOF with a full buffer.
func readFullAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checksum is CRC32C, which the processor computes.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

type span struct {
	offset int64
	length int
}

// cut divides size bytes at the given ascending starts and at every BlockSize after each.
func cut(size int64, starts []int64) []span {
	var out []span
	at := int64(0)
	for _, end := range append(starts, size) {
		for at < end {
			n := min(end-at, BlockSize)
			out = append(out, span{at, int(n)})
			at += n
		}
	}
	return out
}

func (x Index) encodedLen() int { return indexHeader + len(x.Blocks)*indexEntry + indexTail }

// Encode is the index as bytes, big-endian; the same index always gives the same bytes.
func (x Index) Encode() []byte {
	b := make([]byte, 0, x.encodedLen())
	b = append(b, indexMagic...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint64(b, uint64(x.Size))
	b = binary.BigEndian.AppendUint32(b, uint32(len(x.Blocks)))
	for _, k := range x.Blocks {
		b = binary.BigEndian.AppendUint32(b, uint32(k.Length))
		b = binary.BigEndian.AppendUint32(b, 0) // flags: 0 = stored plain
		b = append(b, k.SHA256[:]...)
	}
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

// SHA256 is the digest of the encoded index, in hexadecimal, as a release names it.
func (x Index) SHA256() string {
	sum := sha256.Sum256(x.Encode())
	return hex.EncodeToString(sum[:])
}

// ParseIndex reads what Encode wrote. It accepts exactly one encoding of an index
// and allocates no more than its input justifies.
func ParseIndex(b []byte) (Index, error) {
	if len(b) < indexHeader+indexTail || len(b) > MaxIndex {
		return Index{}, fmt.Errorf("index refused: %d bytes", len(b))
	}
	if !bytes.HasPrefix(b, []byte(indexMagic)) || binary.BigEndian.Uint32(b[4:]) != 1 {
		return Index{}, fmt.Errorf("index refused: not a block index of version 1")
	}
	body, tail := b[:len(b)-indexTail], b[len(b)-indexTail:]
	if binary.BigEndian.Uint32(tail) != checksum(body) {
		return Index{}, fmt.Errorf("index refused: its checksum does not match")
	}
	size, count := binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[16:]))
	if count*indexEntry != uint64(len(body)-indexHeader) {
		return Index{}, fmt.Errorf("index refused: %d blocks named, %d bytes of entries", count, len(body)-indexHeader)
	}
	x := Index{Size: int64(size), Blocks: make([]Block, 0, count)}
	at := int64(0)
	for e := body[indexHeader:]; len(e) > 0; e = e[indexEntry:] {
		n, flags := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:])
		if n == 0 || n > BlockSize || flags != 0 {
			return Index{}, fmt.Errorf("index refused: block %d has length %d, flags %#x", len(x.Blocks), n, flags)
		}
		x.Blocks = append(x.Blocks, Block{N: len(x.Blocks), Offset: at, Length: int(n), SHA256: [32]byte(e[8:indexEntry])})
		at += int64(n)
	}
	if at != x.Size {
		return Index{}, fmt.Errorf("index refused: its blocks are %d bytes, the file %d", at, x.Size)
	}
	return x, nil
}

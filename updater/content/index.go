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
	indexPacked = 32 // version 2: digest of the packed form
	indexEntry  = 40 // length, bytes of a zstd frame or 0, digest
	indexTail   = 4  // CRC32C: tells a damaged disk from a wrong file
	smallTensor = 64 << 10
)

// Block is one run of bytes of a file.
type Block struct {
	N      int      // position in the index
	Offset int64    // in the file, bytes
	Length int      // bytes, 1..BlockSize
	SHA256 [32]byte // of the plain bytes
	Packed int      // bytes in the packed form, where it is a zstd frame there; else 0
}

// Index lists the blocks of one file, in order and without gaps.
// Immutable once built; safe for concurrent use.
type Index struct {
	Size   int64
	Blocks []Block
	// The packed form (see Pack); PackedSize is 0 where there is none.
	PackedSize   int64
	PackedSHA256 [32]byte
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

func (x Index) encodedLen() int {
	return indexHeader + indexPacked + len(x.Blocks)*indexEntry + indexTail
}

// Encode is the index as bytes, big-endian; the same index always gives the same
// bytes. Version 2 is that of a file with a packed form.
func (x Index) Encode() []byte {
	b := make([]byte, 0, x.encodedLen())
	b = append(b, indexMagic...)
	version := uint32(1)
	if x.PackedSize > 0 {
		version = 2
	}
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(x.Size))
	b = binary.BigEndian.AppendUint32(b, uint32(len(x.Blocks)))
	if version == 2 {
		b = append(b, x.PackedSHA256[:]...)
	}
	for _, k := range x.Blocks {
		b = binary.BigEndian.AppendUint32(b, uint32(k.Length))
		b = binary.BigEndian.AppendUint32(b, uint32(k.Packed))
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
	version := binary.BigEndian.Uint32(b[4:])
	if !bytes.HasPrefix(b, []byte(indexMagic)) || version < 1 || version > 2 {
		return Index{}, fmt.Errorf("index refused: not a block index of version 1 or 2")
	}
	body, tail := b[:len(b)-indexTail], b[len(b)-indexTail:]
	if binary.BigEndian.Uint32(tail) != checksum(body) {
		return Index{}, fmt.Errorf("index refused: its checksum does not match")
	}
	size, count := binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[16:]))
	x, entries := Index{Size: int64(size)}, body[indexHeader:]
	if version == 2 {
		if len(entries) < indexPacked {
			return Index{}, fmt.Errorf("index refused: %d bytes", len(b))
		}
		x.PackedSHA256, entries = [32]byte(entries), entries[indexPacked:]
	}
	if count*indexEntry != uint64(len(entries)) {
		return Index{}, fmt.Errorf("index refused: %d blocks named, %d bytes of entries", count, len(entries))
	}
	if err := x.parseBlocks(entries, version == 2); err != nil {
		return Index{}, err
	}
	return x, nil
}

// parseBlocks reads the entries of an index.
func (x *Index) parseBlocks(entries []byte, packed bool) error {
	x.Blocks = make([]Block, 0, len(entries)/indexEntry)
	at, saved := int64(0), int64(0)
	for e := entries; len(e) > 0; e = e[indexEntry:] {
		n, frame := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:])
		if n == 0 || n > BlockSize || frame >= n || frame > 0 && !packed {
			return fmt.Errorf("index refused: block %d has length %d, packed %d", len(x.Blocks), n, frame)
		}
		k := Block{N: len(x.Blocks), Offset: at, Length: int(n), SHA256: [32]byte(e[8:indexEntry]), Packed: int(frame)}
		x.Blocks = append(x.Blocks, k)
		at += int64(n)
		saved += int64(n) - int64(k.stored())
	}
	if at != x.Size {
		return fmt.Errorf("index refused: its blocks are %d bytes, the file %d", at, x.Size)
	}
	if packed {
		x.PackedSize = at - saved
	}
	if packed != (saved > 0) {
		return fmt.Errorf("index refused: it names a packed form that saves nothing")
	}
	return nil
}

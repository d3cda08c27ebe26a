package content

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/bothy-edge/bothy/updater/release"
)

// A file may have a packed form: its blocks one after the other, each as a zstd
// frame where that saves a tenth, else as it is. It is a file with a digest of
// its own, which the index names, and sources serve it like any other: a
// source that does not have it is asked for the plain file. Hashes of blocks are
// always of the plain bytes, so what is unpacked is checked like what came plain.
//
// BF16 weights come down to 78 %; F16 and quantised ones stay, and have no packed form.
const (
	packBlockGain = 10 // per cent that a block must save to be packed
	packFileGain  = 5  // per cent that a file must save to have a packed form
	packProbe     = 64 << 10
)

// Pack writes the packed form of the file r, whose index is x, to w, and returns
// the index that names it, and the index of the packed form itself, by which a
// depot casts it. It returns x, and w is of no use, where packing does not pay.
func Pack(r io.ReaderAt, x Index, w io.Writer) (named, form Index, err error) {
	enc, err := newPacker()
	if err != nil {
		return x, form, err
	}
	defer enc.Close()
	if ok, err := worthPacking(r, x, enc); !ok || err != nil {
		return x, form, err
	}
	out := Index{Size: x.Size, Blocks: make([]Block, len(x.Blocks))}
	sum := sha256.New()
	w = io.MultiWriter(w, sum)
	buf, packed := make([]byte, BlockSize), make([]byte, 0, BlockSize+1<<10)
	for i, k := range x.Blocks {
		b := buf[:k.Length]
		if err := readFullAt(r, b, k.Offset); err != nil {
			return x, form, fmt.Errorf("cannot pack at byte %d of %d: %w", k.Offset, x.Size, err)
		}
		if packed = enc.EncodeAll(b, packed[:0]); gains(packed, b, packBlockGain) {
			k.Packed, b = len(packed), packed
		}
		out.Blocks[i] = k
		form.Blocks = append(form.Blocks, Block{N: i, Offset: out.PackedSize, Length: len(b), SHA256: sha256.Sum256(b)})
		out.PackedSize += int64(len(b))
		if _, err := w.Write(b); err != nil {
			return x, form, fmt.Errorf("cannot write a packed file: %w", err)
		}
	}
	if out.PackedSize*100 > x.Size*(100-packFileGain) {
		return x, Index{}, nil
	}
	out.PackedSHA256, form.Size = [32]byte(sum.Sum(nil)), out.PackedSize
	return out, form, nil
}

// worthPacking tries the beginning of each block. Most files do not pack at all,
// and should cost neither the time nor the space of a copy.
func worthPacking(r io.ReaderAt, x Index, enc *zstd.Encoder) (bool, error) {
	buf, packed, saved := make([]byte, packProbe), []byte(nil), int64(0)
	for _, k := range x.Blocks {
		b := buf[:min(k.Length, packProbe)]
		if err := readFullAt(r, b, k.Offset); err != nil {
			return false, fmt.Errorf("cannot pack at byte %d of %d: %w", k.Offset, x.Size, err)
		}
		if packed = enc.EncodeAll(b, packed[:0]); gains(packed, b, packBlockGain) {
			saved += int64(k.Length) * int64(len(b)-len(packed)) / int64(len(b))
		}
	}
	return saved*100 >= x.Size*packFileGain && saved > 0, nil
}

// gains says that packing saved so many per cent.
func gains(packed, plain []byte, percent int) bool {
	return len(packed)*100 <= len(plain)*(100-percent)
}

func newPacker() (*zstd.Encoder, error) {
	// Weights repeat nothing; what can be saved is in how often each byte occurs.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithAllLitEntropyCompression(true),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(BlockSize))
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	return enc, nil
}

// stored is how many bytes a block has in the packed form.
func (k Block) stored() int {
	if k.Packed > 0 {
		return k.Packed
	}
	return k.Length
}

// PackedFile is the packed form of a file as a file to ask for; false where there is none.
func (x Index) PackedFile() (release.File, bool) {
	return release.File{Size: x.PackedSize, SHA256: hex.EncodeToString(x.PackedSHA256[:])}, x.PackedSize > 0
}

// PackedHead is how much of an encoded index PackedDigest looks at, in bytes.
const PackedHead = indexHeader + indexPacked

// PackedDigest is the digest of the packed form that the beginning of an encoded
// index names; false where there is none. It verifies nothing.
func PackedDigest(head []byte) (string, bool) {
	if len(head) < PackedHead || string(head[:len(indexMagic)]) != indexMagic || binary.BigEndian.Uint32(head[4:]) != 2 {
		return "", false
	}
	return hex.EncodeToString(head[indexHeader:PackedHead]), true
}

// packed is the packed form as a file to ask for, and the wanted blocks as they
// lie in it. It is false for a file without one.
func (x Index) packed(want []Block) (release.File, []Block, bool) {
	f, ok := x.PackedFile()
	if !ok {
		return f, nil, false
	}
	out := make([]Block, 0, len(want))
	at, next := int64(0), 0
	for _, k := range want {
		for ; next < k.N; next++ {
			at += int64(x.Blocks[next].stored())
		}
		out = append(out, Block{N: k.N, Offset: at, Length: k.stored(), SHA256: k.SHA256})
	}
	return f, out, true
}

// unpacker is a Sink for blocks of a packed form: it hands on what they hold.
// Used by one goroutine.
type unpacker struct {
	Sink
	index Index
	dec   *zstd.Decoder
	spare []byte // a packed block's buffer, to be used again
}

func newUnpacker(x Index, sink Sink) (*unpacker, error) {
	// A frame that holds more than a block is refused before it is unpacked.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(BlockSize), zstd.WithDecoderMaxWindow(BlockSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	return &unpacker{Sink: sink, index: x, dec: dec}, nil
}

// Buffer implements Sink.
func (u *unpacker) Buffer(n int) []byte {
	if b := u.spare; cap(b) >= n {
		u.spare = nil
		return b[:n]
	}
	return u.Sink.Buffer(n)
}

// Deliver implements Sink. What does not unpack to its length goes on as a
// wrong block, and counts as one.
func (u *unpacker) Deliver(k Block, data []byte) error {
	plain := u.index.Blocks[k.N]
	if plain.Packed == 0 {
		return u.Sink.Deliver(plain, data)
	}
	out := u.Sink.Buffer(plain.Length)
	got, err := u.dec.DecodeAll(data, out[:0:plain.Length])
	if err != nil || len(got) != plain.Length {
		clear(out)
	}
	u.spare = data
	return u.Sink.Deliver(plain, out)
}

// attribute implements attributor.
func (u *unpacker) attribute(source, detail string) { Attribute(u.Sink, source, detail) }

// PlainOnly is a Source that never has a packed form, so that it need not be asked.
type PlainOnly interface{ PlainOnly() bool }

// blocks asks a source for what is missing: of the packed form first, where there
// is one, then of the plain file for what that did not bring.
func (r *fetch) blocks(ctx context.Context, src Source, w *writer) error {
	f, want, ok := r.index.packed(r.missing())
	if p, is := src.(PlainOnly); !ok || is && p.PlainOnly() {
		return src.Blocks(ctx, r.file, r.missing(), w)
	}
	u, err := newUnpacker(r.index, w)
	if err != nil {
		return err
	}
	err = src.Blocks(ctx, f, want, u)
	u.dec.Close()
	w.flush()
	if ctx.Err() != nil || errors.Is(err, ErrStalled) || w.wrong() > 0 || len(r.missing()) == 0 {
		return err
	}
	return src.Blocks(ctx, r.file, r.missing(), w)
}

package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"slices"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// pack writes the packed form of a file beside it, where that pays, and returns
// the index that names it. A file that is there already keeps the form it has:
// another version of the packer would make another one of it, and with it another release.
func (f *Fleet) pack(ctx context.Context, in io.ReaderAt, file release.File, plain content.Index) (content.Index, error) {
	if have, ok := f.packedBefore(file.SHA256, plain); ok {
		return have, nil
	}
	tmp, err := os.CreateTemp(f.blobPath(""), ".tmp-*")
	if err != nil {
		return plain, err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone when it was adopted
	defer tmp.Close()           //nolint:errcheck // synced before it counts
	index, form, err := content.Pack(&endingReaderAt{ctx, in}, plain, tmp)
	if err != nil {
		return plain, err
	}
	packed, ok := index.PackedFile()
	if !ok {
		return plain, nil
	}
	if err := writeFile(f.blobPath(packed.SHA256)+".index", form.Encode(), 0o644); err != nil {
		return plain, err
	}
	return index, f.adoptBlob(tmp, packed.SHA256)
}

// packedBefore is the index that lies here for a file, if it is of these blocks
// and what it names is whole.
func (f *Fleet) packedBefore(digest string, plain content.Index) (content.Index, bool) {
	have, err := f.parsedIndex(digest)
	if err != nil || have.Size != plain.Size || !slices.EqualFunc(have.Blocks, plain.Blocks, sameBlock) {
		return have, false
	}
	packed, ok := have.PackedFile()
	if !ok {
		return have, true
	}
	got, err := fileDigest(f.blobPath(packed.SHA256))
	return have, err == nil && got == packed.SHA256
}

func sameBlock(a, b content.Block) bool {
	a.Packed, b.Packed = 0, 0
	return a == b
}

func (f *Fleet) parsedIndex(digest string) (content.Index, error) {
	raw, err := f.Index(digest)
	if err != nil {
		return content.Index{}, err
	}
	return content.ParseIndex(raw)
}

// packedDigest is the packed form of a file that is here; false where there is
// none. It is asked for each device every second, so it looks at little.
func (f *Fleet) packedDigest(digest string) (string, bool) {
	in, err := os.Open(f.blobPath(digest) + ".index")
	if err != nil {
		return "", false
	}
	defer in.Close() //nolint:errcheck // read only
	head := make([]byte, content.PackedHead)
	if _, err := io.ReadFull(in, head); err != nil {
		return "", false
	}
	return content.PackedDigest(head)
}

func fileDigest(path string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close() //nolint:errcheck // read only
	sum := sha256.New()
	_, err = io.CopyBuffer(sum, in, make([]byte, 1<<20))
	return hex.EncodeToString(sum.Sum(nil)), err
}

// endingReaderAt stops when the context ends.
type endingReaderAt struct {
	ctx context.Context
	in  io.ReaderAt
}

func (r *endingReaderAt) ReadAt(p []byte, at int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.ReadAt(p, at)
}

package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/updater/release"
)

// weights is n bytes of BF16 numbers as weights are spread.
func weights(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+1)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(float32(r.NormFloat64()*0.02))>>16))
	}
	return b[:n]
}

// pack gives a file its packed form.
func pack(tb testing.TB, b []byte) (release.File, Index, []byte) {
	tb.Helper()
	var out bytes.Buffer
	x, _, err := Pack(bytes.NewReader(b), mustIndex(tb, b), &out)
	if err != nil {
		tb.Fatal(err)
	}
	f, _ := fileOf(b)
	f.IndexSHA256 = x.SHA256()
	return f, x, out.Bytes()
}

// mixed is a file of blocks that pack and blocks that do not.
func mixed() []byte {
	return append(append(weights(1, 5*BlockSize/2), noise(2, BlockSize+99)...), weights(3, 3*BlockSize)...)
}

// forms is a source that has a file in one form or both.
type forms struct {
	memory
	packed       []byte
	digest       string
	asked, plain int
	edit         func(k Block, b []byte)
}

func (s *forms) Blocks(ctx context.Context, f release.File, want []Block, sink Sink) error {
	if f.SHA256 != s.digest {
		s.plain++
		if s.memory.data == nil {
			return ErrNotFound
		}
		return s.memory.Blocks(ctx, f, want, sink)
	}
	s.asked++
	if s.packed == nil {
		return ErrNotFound
	}
	for _, k := range want {
		b := sink.Buffer(k.Length)
		copy(b, s.packed[k.Offset:])
		if s.edit != nil {
			s.edit(k, b)
		}
		if err := sink.Deliver(k, b); err != nil {
			return err
		}
	}
	return nil
}

func TestPackedFormIsFetchedAndUnpacked(t *testing.T) {
	b := mixed()
	f, x, packed := pack(t, b)
	if x.PackedSize != int64(len(packed)) || x.PackedSize*100 > int64(len(b))*85 {
		t.Fatalf("got %d bytes packed of %d, written %d", x.PackedSize, len(b), len(packed))
	}
	back, err := ParseIndex(x.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(x, back); d != "" {
		t.Errorf("index read back differs:\n%s", d)
	}
	_, form, err := Pack(bytes.NewReader(b), mustIndex(t, b), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range form.Blocks {
		if k.Length != x.Blocks[i].stored() || k.SHA256 != sha256.Sum256(packed[k.Offset:k.Offset+int64(k.Length)]) {
			t.Fatalf("the packed form's own index has block %d as %+v", i, k)
		}
	}
	digest := hex.EncodeToString(x.PackedSHA256[:])
	if got, ok := PackedDigest(x.Encode()[:PackedHead]); !ok || got != digest {
		t.Errorf("got digest %s, want %s", got, digest)
	}
	for name, c := range map[string]struct {
		src                 *forms
		askedPlain, askedIt bool
	}{
		"packed only": {&forms{packed: packed}, false, true},
		"plain only":  {&forms{memory: memory{data: b}}, true, true},
		"both":        {&forms{packed: packed, memory: memory{data: b}}, false, true},
	} {
		c.src.digest, c.src.memory.index = digest, x.Encode()
		s := openStore(t)
		var last Progress
		if _, err := s.Fetch(t.Context(), f, []Source{c.src}, func(p Progress) { last = p }); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantFile(t, s, f, b)
		if c.src.plain > 0 != c.askedPlain || c.src.asked > 0 != c.askedIt {
			t.Errorf("%s: asked %d times for the packed and %d for the plain form", name, c.src.asked, c.src.plain)
		}
		if last.BySource["memory"] != int64(len(b)) {
			t.Errorf("%s: got %v, want plain bytes counted", name, last.BySource)
		}
	}
}

func TestWrongPackedBlocksCountAsWrong(t *testing.T) {
	b := mixed()
	f, x, packed := pack(t, b)
	bomb := func() []byte { // 64 MiB of zeros in a few bytes
		enc, err := newPacker()
		if err != nil {
			t.Fatal(err)
		}
		defer enc.Close()
		return enc.EncodeAll(make([]byte, 64<<20), nil)
	}()
	for name, edit := range map[string]func(k Block, b []byte){
		"flipped": func(_ Block, b []byte) { b[len(b)/2] ^= 1 },
		"zeroed":  func(_ Block, b []byte) { clear(b) },
		"a bomb":  func(_ Block, b []byte) { copy(b, bomb) },
		"another": func(_ Block, b []byte) { copy(b, packed) },
	} {
		src := &forms{packed: packed, digest: hex.EncodeToString(x.PackedSHA256[:]), memory: memory{index: x.Encode()}}
		src.edit = func(k Block, b []byte) {
			if k.N > 0 {
				edit(k, b)
			}
		}
		s := openStore(t)
		if _, err := s.Fetch(t.Context(), f, []Source{src}, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
		src.edit = nil
		if _, err := s.Fetch(t.Context(), f, []Source{src}, nil); err != nil {
			t.Fatalf("%s, then mended: %v", name, err)
		}
		wantFile(t, s, f, b)
	}
}

func TestFolderWithThePackedFormAlone(t *testing.T) {
	b := mixed()
	f, x, packed := pack(t, b)
	dir := t.TempDir()
	for name, data := range map[string][]byte{hex.EncodeToString(x.PackedSHA256[:]): packed, f.SHA256 + ".index": x.Encode()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), f, []Source{Directory{dir}}, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f, b)
	// The next version of it reuses plain blocks: an index tells them by their plain digests.
	edited := bytes.Clone(b)
	copy(edited, "edited")
	g, y, packedToo := pack(t, edited)
	src := &forms{packed: packedToo, digest: hex.EncodeToString(y.PackedSHA256[:]), memory: memory{index: y.Encode()}}
	var last Progress
	if _, err := s.Fetch(t.Context(), g, []Source{src}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, g, edited)
	if last.BySource["memory"] != BlockSize {
		t.Errorf("got %v, want one block from the source", last.BySource)
	}
}

func TestFileThatDoesNotPackHasNoPackedForm(t *testing.T) {
	for name, b := range map[string][]byte{"noise": noise(1, 3*BlockSize), "empty": nil, "one block of twelve": append(weights(1, BlockSize), noise(1, 11*BlockSize)...)} {
		plain := mustIndex(t, b)
		x, _, err := Pack(bytes.NewReader(b), plain, &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		if x.PackedSize != 0 || !bytes.Equal(x.Encode(), plain.Encode()) {
			t.Errorf("%s: got a packed form of %d bytes", name, x.PackedSize)
		}
	}
}

func TestPackedIndexRefusesWhatItDidNotWrite(t *testing.T) {
	_, x, _ := pack(t, weights(1, 2*BlockSize+5))
	good := x.Encode()
	entry := PackedHead // of the first block
	for name, edit := range map[string]func([]byte) []byte{
		"frame as long as its block": func(b []byte) []byte { copy(b[entry+4:], b[entry:entry+4]); return reseal(b) },
		"no frame at all": func(b []byte) []byte {
			for e := entry; e < len(b)-indexTail; e += indexEntry {
				clear(b[e+4 : e+8])
			}
			return reseal(b)
		},
		"version 1 with frames": func(b []byte) []byte { b[7] = 1; return reseal(append(b[:indexHeader], b[PackedHead:]...)) },
		"cut in the digest":     func(b []byte) []byte { return reseal(b[:indexHeader+10]) },
		"version 3":             func(b []byte) []byte { b[7] = 3; return reseal(b) },
	} {
		if _, err := ParseIndex(edit(bytes.Clone(good))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	b := weights(1, 64<<10)
	_, x, packed := pack(f, b)
	if x.PackedSize == 0 {
		f.Fatal("the seed does not pack")
	}
	f.Add(packed)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Add([]byte{})
	sum := x.Blocks[0].SHA256
	f.Fuzz(func(t *testing.T, data []byte) {
		k := x.Blocks[0]
		k.Packed = len(data)
		if len(data) == 0 || len(data) >= k.Length {
			return
		}
		got := &collect{}
		u, err := newUnpacker(Index{Size: x.Size, Blocks: []Block{k}, PackedSize: int64(len(data))}, got)
		if err != nil {
			t.Fatal(err)
		}
		defer u.dec.Close()
		if err := u.Deliver(Block{Length: len(data), SHA256: sum}, data); err != nil {
			t.Fatal(err)
		}
		if len(got.data) != k.Length {
			t.Fatalf("a block of %d bytes came out as %d", k.Length, len(got.data))
		}
	})
}

// collect is a Sink that keeps the last block.
type collect struct{ data []byte }

func (c *collect) Buffer(n int) []byte { return make([]byte, n) }

func (c *collect) Deliver(_ Block, b []byte) error { c.data = b; return nil }

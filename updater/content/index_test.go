package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/internal/parts"
)

// noise is n bytes that depend only on the seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}).Read(b)
	return b
}

func mustIndex(tb testing.TB, b []byte) Index {
	tb.Helper()
	x, err := BuildIndex(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func TestIndexCoversEveryByteOnce(t *testing.T) {
	for _, n := range []int{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 3*BlockSize + 77} {
		b := noise(1, n)
		x := mustIndex(t, b)
		at := int64(0)
		for i, k := range x.Blocks {
			if k.N != i || k.Offset != at || k.SHA256 != sha256.Sum256(b[at:at+int64(k.Length)]) {
				t.Fatalf("size %d: block %d is %+v, want offset %d", n, i, k, at)
			}
			at += int64(k.Length)
		}
		if at != int64(n) {
			t.Errorf("size %d: blocks cover %d bytes", n, at)
		}
		back, err := ParseIndex(x.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(x.Blocks, back.Blocks); d != "" && n > 0 {
			t.Errorf("size %d: %s", n, d)
		}
	}
}

func TestIndexRefusesWhatItDidNotWrite(t *testing.T) {
	good := mustIndex(t, noise(1, 2*BlockSize+5)).Encode()
	for name, edit := range map[string]func([]byte) []byte{
		"flipped":       func(b []byte) []byte { b[30] ^= 1; return b },
		"truncated":     func(b []byte) []byte { return b[:len(b)-1] },
		"extended":      func(b []byte) []byte { return append(b, 0) },
		"empty":         func([]byte) []byte { return nil },
		"absurd count":  func(b []byte) []byte { binary.BigEndian.PutUint32(b[16:], 1<<31); return reseal(b) },
		"size differs":  func(b []byte) []byte { binary.BigEndian.PutUint64(b[8:], 7); return reseal(b) },
		"empty block":   func(b []byte) []byte { binary.BigEndian.PutUint32(b[20:], 0); return reseal(b) },
		"long block":    func(b []byte) []byte { binary.BigEndian.PutUint32(b[20:], BlockSize+1); return reseal(b) },
		"unknown flags": func(b []byte) []byte { b[27] = 1; return reseal(b) },
		"later version": func(b []byte) []byte { b[7] = 2; return reseal(b) },
	} {
		if _, err := ParseIndex(edit(bytes.Clone(good))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// reseal puts a right checksum on an edited index, so that the test reaches the check behind it.
func reseal(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b[:len(b)-4], checksum(b[:len(b)-4]))
}

func TestMetadataEditOfAGGUFKeepsTensorBlocks(t *testing.T) {
	old, err := os.ReadFile(parts.Model(t, "mote-chat-f32.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	starts := ggufStarts(bytes.NewReader(old), int64(len(old)))
	if len(starts) < 10 {
		t.Fatalf("got %d tensor starts", len(starts))
	}
	// A longer header moves every tensor by a whole alignment unit, as adding a key would.
	edited := withPadKey(t, old, 4096)
	if again := ggufStarts(bytes.NewReader(edited), int64(len(edited))); len(again) != len(starts) {
		t.Fatalf("edited file: got %d starts, want %d", len(again), len(starts))
	}
	have := map[[32]byte]bool{}
	for _, k := range mustIndex(t, old).Blocks {
		have[k.SHA256] = true
	}
	same, total := 0, 0
	for _, k := range mustIndex(t, edited).Blocks {
		total += k.Length
		if have[k.SHA256] {
			same += k.Length
		}
	}
	if same*100 < total*90 {
		t.Errorf("got %d of %d bytes reused after a metadata edit, want 90 %%", same, total)
	}
}

// withPadKey inserts a string key of n bytes in front of the other keys of a GGUF file.
func withPadKey(t *testing.T, b []byte, n int) []byte {
	t.Helper()
	h := newGGUFHeader(bytes.NewReader(b), int64(len(b)))
	if _, err := h.tensors(); err != nil {
		t.Fatal(err)
	}
	data := h.dataStart()
	key := binary.LittleEndian.AppendUint64(nil, 3)
	key = append(key, "pad"...)
	key = binary.LittleEndian.AppendUint32(key, 8)
	key = binary.LittleEndian.AppendUint64(key, uint64(n))
	key = append(key, make([]byte, n)...)
	out := append(bytes.Clone(b[:24]), key...)
	binary.LittleEndian.PutUint64(out[16:], binary.LittleEndian.Uint64(b[16:])+1)
	out = append(out, b[24:h.at]...)
	for len(out)%32 != 0 {
		out = append(out, 0)
	}
	return append(out, b[data:]...)
}

func TestHostileGGUFHeaderIsCutPlainly(t *testing.T) {
	head := func(tensors, keys uint64, rest ...byte) []byte {
		b := append([]byte("GGUF"), 3, 0, 0, 0)
		b = binary.LittleEndian.AppendUint64(b, tensors)
		b = binary.LittleEndian.AppendUint64(b, keys)
		return append(b, rest...)
	}
	for name, b := range map[string][]byte{
		"absurd tensors": head(1<<60, 0),
		"absurd keys":    head(1, 1<<60),
		"truncated":      head(5, 5),
		"long string":    head(0, 1, 255, 255, 255, 255, 255, 255, 255, 127),
		"not a GGUF":     []byte("hello"),
	} {
		x := mustIndex(t, b)
		if len(x.Blocks) != 1 || x.Blocks[0].Length != len(b) {
			t.Errorf("%s: got %d blocks", name, len(x.Blocks))
		}
	}
}

func TestBuildIndexReportsAShortFile(t *testing.T) {
	if _, err := BuildIndex(bytes.NewReader(noise(1, 10)), 11); err == nil {
		t.Error("a file shorter than its size was indexed")
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte{})
	f.Add(mustIndex(f, nil).Encode())
	f.Add(mustIndex(f, noise(1, 3*BlockSize+9)).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseIndex(b)
		if err != nil {
			return
		}
		if !bytes.Equal(x.Encode(), b) {
			t.Fatal("an accepted index has a second encoding")
		}
	})
}

func FuzzGGUFStarts(f *testing.F) {
	for _, m := range []string{"mote-256-q4_k_m.gguf", "mote-chat-q8_0.gguf"} {
		file, err := os.Open(parts.Model(f, m))
		if err != nil {
			f.Fatal(err)
		}
		head, err := io.ReadAll(io.LimitReader(file, 48<<10))
		file.Close()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(head)
	}
	f.Add([]byte("GGUF\x03\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		last := int64(0)
		for _, s := range ggufStarts(bytes.NewReader(b), int64(len(b))) {
			if s <= last || s > int64(len(b)) {
				t.Fatalf("start %d after %d in %d bytes", s, last, len(b))
			}
			last = s
		}
	})
}

package gguf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// builder writes files field by field, right or wrong.
type builder struct{ bytes.Buffer }

func (b *builder) u32(v uint32) *builder { return b.raw(binary.LittleEndian.AppendUint32(nil, v)) }
func (b *builder) u64(v uint64) *builder { return b.raw(binary.LittleEndian.AppendUint64(nil, v)) }
func (b *builder) str(s string) *builder { return b.u64(uint64(len(s))).raw([]byte(s)) }

func (b *builder) raw(p []byte) *builder {
	b.Write(p)
	return b
}

func (b *builder) head(tensors, keys uint64) *builder {
	return b.raw([]byte("GGUF")).u32(3).u64(tensors).u64(keys)
}

func (b *builder) tensor(name string, typ gguf.Type, offset uint64, dims ...uint64) *builder {
	b.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b.u64(d)
	}
	return b.u32(uint32(typ)).u64(offset)
}

// data pads to the alignment and adds n bytes.
func (b *builder) data(n int) []byte {
	for b.Len()%32 != 0 {
		b.WriteByte(0)
	}
	return append(b.Bytes(), make([]byte, n)...)
}

func build() *builder { return &builder{} }

// sound is a small file with a value of every kind.
func sound() []byte {
	b := build().head(2, 9)
	b.str("name").u32(8).str("bothy")
	b.str("small").u32(0).raw([]byte{200})
	b.str("negative").u32(5).u32(math.MaxUint32)
	b.str("big").u32(10).u64(math.MaxUint64)
	b.str("float").u32(6).u32(math.Float32bits(0.5))
	b.str("yes").u32(7).raw([]byte{1})
	b.str("words").u32(9).u32(8).u64(2).str("one").str("")
	b.str("numbers").u32(9).u32(5).u64(3).u32(1).u32(2).u32(math.MaxUint32)
	b.str("nested").u32(9).u32(9).u64(1).u32(4).u64(1).u32(7)
	b.tensor("a", gguf.F32, 0, 4, 2).tensor("b", gguf.Q8_0, 32, 32)
	return b.data(32 + 34)
}

func TestParseReadsEveryKind(t *testing.T) {
	f, err := gguf.Parse(sound())
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := f.Meta.String("name"); s != "bothy" || !ok {
		t.Errorf("name is %q, %v", s, ok)
	}
	if n, ok := f.Meta.Uint("small"); n != 200 || !ok {
		t.Errorf("small is %d, %v", n, ok)
	}
	if n, ok := f.Meta.Int("negative"); n != -1 || !ok {
		t.Errorf("negative is %d, %v", n, ok)
	}
	if _, ok := f.Meta.Uint("negative"); ok {
		t.Error("a negative number was given as unsigned")
	}
	if _, ok := f.Meta.Int("big"); ok {
		t.Error("2^64-1 was given as int64")
	}
	if v, ok := f.Meta.Float("float"); v != 0.5 || !ok {
		t.Errorf("float is %v, %v", v, ok)
	}
	if v, ok := f.Meta.Float("negative"); v != -1 || !ok {
		t.Errorf("negative as float is %v, %v", v, ok)
	}
	if v, ok := f.Meta.Bool("yes"); !v || !ok {
		t.Errorf("yes is %v, %v", v, ok)
	}
	if v, ok := f.Meta.Strings("words"); !ok || len(v) != 2 || v[0] != "one" || v[1] != "" {
		t.Errorf("words are %q, %v", v, ok)
	}
	if v, ok := f.Meta.Ints("numbers"); !ok || len(v) != 3 || v[2] != -1 {
		t.Errorf("numbers are %v, %v", v, ok)
	}
	if n, ok := f.Meta.Len("words"); n != 2 || !ok {
		t.Errorf("words have %d, %v", n, ok)
	}
	if _, ok := f.Meta.Strings("numbers"); ok || f.Meta.Has("none") || len(f.Meta.Keys()) != 9 {
		t.Error("a wrong kind or a missing key was given")
	}
	a := f.Tensor("a")
	if a == nil || a.Row() != 4 || a.Rows() != 2 || len(a.Data) != 32 || f.Tensor("c") != nil {
		t.Errorf("tensor a is %+v", a)
	}
	if b := f.Tensor("b"); b == nil || len(b.Data) != 34 {
		t.Errorf("tensor b is %+v", b)
	}
}

func TestBadFilesAreRefusedWithThePlace(t *testing.T) {
	one := func() *builder { return build().head(1, 0) }
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"not gguf":            {[]byte("GGML" + strings.Repeat("x", 40)), `begins with "GGML"`},
		"version 1":           {build().raw([]byte("GGUF")).u32(1).u64(0).u64(0).Bytes(), "version 1"},
		"big endian":          {build().raw([]byte("GGUF")).u32(3 << 24).u64(0).u64(0).Bytes(), "big-endian"},
		"absurd tensors":      {build().head(1<<60, 0).data(64), "1152921504606846976 tensors cannot be"},
		"absurd keys":         {build().head(0, math.MaxUint64).data(64), "keys cannot be"},
		"long key":            {build().head(0, 1).u64(1 << 40).data(64), "key 0 has"},
		"key past the end":    {build().head(0, 1).u64(60000).data(64), "needs 60000 bytes"},
		"unknown kind":        {build().head(0, 1).str("k").u32(99).data(64), `"k" has the unknown type 99`},
		"absurd array":        {build().head(0, 1).str("k").u32(9).u32(8).u64(1 << 61).data(64), "elements of k cannot be"},
		"array of nothing":    {build().head(0, 1).str("k").u32(9).u32(77).u64(1).data(64), "unknown type 77"},
		"string past the end": {build().head(0, 1).str("k").u32(8).u64(math.MaxUint64).data(64), "k needs"},
		"key twice":           {build().head(0, 2).str("k").u32(0).raw([]byte{1}).str("k").u32(0).raw([]byte{1}).data(64), "there twice"},
		"no dimensions":       {one().tensor("t", gguf.F32, 0).data(64), "has 0 dimensions"},
		"five dimensions":     {one().tensor("t", gguf.F32, 0, 1, 1, 1, 1, 1).data(64), "has 5 dimensions"},
		"empty dimension":     {one().tensor("t", gguf.F32, 0, 0, 4).data(64), "claims the shape"},
		"overlapping tensors": {build().head(2, 0).tensor("a", gguf.F32, 0, 8).tensor("b", gguf.F32, 0, 8).data(32), "the first 2 claim 64 bytes, the file has 32"},
		"shape overflows":     {one().tensor("t", gguf.F32, 0, 1<<33, 1<<33).data(64), "claims the shape"},
		"offset overflows":    {one().tensor("t", gguf.F32, math.MaxUint64-31, 8).data(64), "truncated"},
		"offset crooked":      {one().tensor("t", gguf.F32, 4, 8).data(64), "not a multiple of 32"},
		"truncated data":      {one().tensor("t", gguf.F32, 0, 100).data(64), "needs 400 bytes"},
		"unknown type":        {one().tensor("t", 200, 0, 8).data(64), "unknown type 200"},
		"ragged rows":         {one().tensor("t", gguf.Q4_K, 0, 128).data(512), "not a multiple of the 256"},
		"tensor twice":        {build().head(2, 0).tensor("t", gguf.F32, 0, 8).tensor("t", gguf.F32, 0, 8).data(64), "two tensors"},
		"alignment 3":         {build().head(0, 1).str("general.alignment").u32(4).u32(3).data(64), "general.alignment is 3"},
		"alignment 0":         {build().head(0, 1).str("general.alignment").u32(4).u32(0).data(64), "general.alignment is 0"},
		"data missing":        {one().tensor("t", gguf.F32, 0, 8).Bytes(), "before the tensor data"},
	} {
		_, err := gguf.Parse(c.data)
		if err == nil || !errors.Is(err, gguf.ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
		if got, want := errors.Is(err, gguf.ErrType), name == "unknown type"; got != want {
			t.Errorf("%s: ErrType is wrapped: %v, want %v", name, got, want)
		}
	}
}

func TestDeepNestingEnds(t *testing.T) {
	b := build().head(0, 1).str("k").u32(9)
	for range 1000 {
		b.u32(9).u64(1)
	}
	if _, err := gguf.Parse(b.data(64)); err == nil || !strings.Contains(err.Error(), "too deeply nested") {
		t.Errorf("got %v", err)
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	whole := sound()
	for n := range whole {
		if _, err := gguf.Parse(whole[:n:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted", n, len(whole))
		}
	}
}

func TestOpenModel(t *testing.T) {
	path := parts.Model(t, "mote-256-q4_k_m.gguf")
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if arch, _ := f.Meta.String("general.architecture"); arch != "llama" {
		t.Errorf("the architecture is %q", arch)
	}
	words, _ := f.Meta.Strings("tokenizer.ggml.tokens")
	if e := f.Tensor("token_embd.weight"); e == nil || e.Rows() != len(words) || e.Row() != 256 {
		t.Errorf("the embedding is %+v with %d tokens", e, len(words))
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	model, err := os.ReadFile(parts.Model(t, "mote-256-q4_k_m.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"empty.gguf": nil, "short.gguf": []byte("GGUF"), "half.gguf": model[:len(model)/2], "last.gguf": model[:len(model)-1],
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := gguf.Open(path); !errors.Is(err, gguf.ErrFormat) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := gguf.Open(dir); !errors.Is(err, gguf.ErrFormat) {
		t.Errorf("a folder: got %v", err)
	}
	if _, err := gguf.Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: got %v", err)
	}
}

// TestHostileHeaderAllocatesLittle claims as much as the checks let through.
func TestHostileHeaderAllocatesLittle(t *testing.T) {
	b := build().head(1<<17, 0)
	b.raw(make([]byte, 8<<20))
	data := b.Bytes()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := gguf.Parse(data); err == nil {
		t.Fatal("accepted")
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > uint64(len(data))+16<<20 {
		t.Errorf("%d bytes were allocated for a file of %d", used, len(data))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sound())
	f.Add(build().head(1, 0).tensor("t", gguf.Q4_K, 0, 256, 2).data(288))
	f.Add(build().head(0, 1).str("general.alignment").u32(4).u32(64).data(64))
	f.Add(build().head(1<<40, 1<<40).data(8))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := gguf.Parse(data)
		if err != nil {
			if !errors.Is(err, gguf.ErrFormat) {
				t.Errorf("the error is none of the format's: %v", err)
			}
			return
		}
		for _, key := range file.Meta.Keys() {
			file.Meta.String(key)
			file.Meta.Uint(key)
			file.Meta.Int(key)
			file.Meta.Float(key)
			file.Meta.Bool(key)
			file.Meta.Strings(key)
			file.Meta.Floats(key)
			file.Meta.Ints(key)
		}
		for i := range file.Tensors {
			tensor := &file.Tensors[i]
			if want := tensor.Type.RowBytes(tensor.Row()) * tensor.Rows(); len(tensor.Data) != want {
				t.Errorf("%s has %d bytes, want %d", tensor.Name, len(tensor.Data), want)
			}
		}
	})
}

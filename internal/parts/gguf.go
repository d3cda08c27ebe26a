package parts

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ggufFile is a GGUF file taken apart just far enough to write its parts again.
type ggufFile struct {
	keys    uint64
	meta    []byte // of all keys, as they were
	tensors []ggufTensor
}

type ggufTensor struct {
	info []byte // name, dimensions and type
	data []byte // padded as in the file
}

// Types of values in a GGUF header, and the alignment of tensors where none is given.
const (
	ggufUint16  = 2
	ggufInt32   = 5
	ggufFloat32 = 6
	ggufString  = 8
	ggufArray   = 9
	ggufAlign   = 32
)

// ggufReader walks over a header that is known to be sound.
type ggufReader struct {
	b  []byte
	at int
}

func (r *ggufReader) u32() uint32 { r.at += 4; return binary.LittleEndian.Uint32(r.b[r.at-4:]) }
func (r *ggufReader) u64() uint64 { r.at += 8; return binary.LittleEndian.Uint64(r.b[r.at-8:]) }
func (r *ggufReader) text()       { r.at += int(r.u64()) }

func (r *ggufReader) value(kind uint32) {
	switch kind {
	case ggufString:
		r.text()
	case ggufArray:
		of, n := r.u32(), r.u64()
		for range n {
			r.value(of)
		}
	default:
		r.at += map[uint32]int{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}[kind]
	}
}

func readGGUF(tb testing.TB, path string) ggufFile {
	tb.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	r := &ggufReader{b: raw, at: 8}
	n, f := r.u64(), ggufFile{}
	f.keys = r.u64()
	begin := r.at
	for range f.keys {
		r.text()
		r.value(r.u32())
	}
	f.meta = raw[begin:r.at]
	var offsets []uint64
	for range n {
		begin = r.at
		r.text()
		for range r.u32() {
			r.u64()
		}
		r.u32()
		f.tensors = append(f.tensors, ggufTensor{info: raw[begin:r.at]})
		offsets = append(offsets, r.u64())
	}
	data := raw[(r.at+ggufAlign-1)/ggufAlign*ggufAlign:]
	for i := range f.tensors {
		end := uint64(len(data))
		if i+1 < len(offsets) {
			end = offsets[i+1] // tensors lie in their order
		}
		f.tensors[i].data = data[offsets[i]:end]
	}
	return f
}

func (f ggufFile) write(tb testing.TB, path string) {
	tb.Helper()
	le := binary.LittleEndian
	out := append([]byte("GGUF"), 3, 0, 0, 0)
	out = le.AppendUint64(le.AppendUint64(out, uint64(len(f.tensors))), f.keys)
	out = append(out, f.meta...)
	offset := uint64(0)
	pad := func(n int) []byte { return make([]byte, (ggufAlign-n%ggufAlign)%ggufAlign) }
	for _, t := range f.tensors {
		out = le.AppendUint64(append(out, t.info...), offset)
		offset += uint64(len(t.data) + len(pad(len(t.data))))
	}
	out = append(out, pad(len(out))...)
	for _, t := range f.tensors {
		out = append(append(out, t.data...), pad(len(t.data))...)
	}
	if err := os.WriteFile(path, out, 0o644); err != nil {
		tb.Fatal(err)
	}
}

func (f *ggufFile) key(name string, kind uint32, value []byte) {
	le := binary.LittleEndian
	f.meta = append(le.AppendUint64(f.meta[:len(f.meta):len(f.meta)], uint64(len(name))), name...)
	f.meta = append(le.AppendUint32(f.meta, kind), value...)
	f.keys++
}

// SplitModel writes a GGUF model of the project as n files, as llama.cpp's own tool would split it, and answers them.
func SplitModel(tb testing.TB, dir, model string, n int) []string {
	tb.Helper()
	whole := readGGUF(tb, Model(tb, model))
	name := strings.TrimSuffix(model, ".gguf")
	var all []string
	for i := range n {
		part := ggufFile{tensors: whole.tensors[len(whole.tensors)*i/n : len(whole.tensors)*(i+1)/n]}
		if i == 0 {
			part.keys, part.meta = whole.keys, whole.meta // the description of the whole is in the first
		}
		le := binary.LittleEndian
		part.key("split.no", ggufUint16, le.AppendUint16(nil, uint16(i)))
		part.key("split.count", ggufUint16, le.AppendUint16(nil, uint16(n)))
		part.key("split.tensors.count", ggufInt32, le.AppendUint32(nil, uint32(len(whole.tensors))))
		path := filepath.Join(dir, fmt.Sprintf("%s-%05d-of-%05d.gguf", name, i+1, n))
		part.write(tb, path)
		all = append(all, path)
	}
	return all
}

// Adapter writes a LoRA adapter of rank 1 for the first query matrix of a llama model of the given width.
func Adapter(tb testing.TB, path string, width int) {
	tb.Helper()
	le := binary.LittleEndian
	text := func(s string) []byte { return append(le.AppendUint64(nil, uint64(len(s))), s...) }
	var f ggufFile
	f.key("general.architecture", ggufString, text("llama"))
	f.key("general.type", ggufString, text("adapter"))
	f.key("adapter.type", ggufString, text("lora"))
	f.key("adapter.lora.alpha", ggufFloat32, le.AppendUint32(nil, 0x3f800000)) // 1.0
	matrix := func(name string, columns, rows int) {
		info := le.AppendUint32(text(name), 2)
		info = le.AppendUint64(le.AppendUint64(info, uint64(columns)), uint64(rows))
		f.tensors = append(f.tensors, ggufTensor{info: le.AppendUint32(info, 0), data: make([]byte, 4*columns*rows)})
	}
	matrix("blk.0.attn_q.weight.lora_a", width, 1)
	matrix("blk.0.attn_q.weight.lora_b", 1, width)
	f.write(tb, path)
}

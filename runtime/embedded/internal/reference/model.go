package reference

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// KV is one metadata entry. Value is a string, bool, uint32, float32 or a slice of string, float32 or int32.
type KV struct {
	Key   string
	Value any
}

// Model writes a one-layer llama-architecture GGUF with random weights for a
// vocabulary of tokens entries, with extra as its further metadata, and returns its path.
func Model(tb testing.TB, tokens int, extra ...KV) string {
	tb.Helper()
	const embd, heads = 32, 2
	meta := append([]KV{
		{"general.architecture", "llama"}, {"llama.context_length", uint32(512)}, {"llama.embedding_length", uint32(embd)},
		{"llama.block_count", uint32(1)}, {"llama.feed_forward_length", uint32(embd)}, {"llama.attention.head_count", uint32(heads)},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-5)}, {"llama.vocab_size", uint32(tokens)},
	}, extra...)
	type tensor struct {
		name string
		dims []uint64
	}
	square := []uint64{embd, embd}
	tensors := []tensor{{"token_embd.weight", []uint64{embd, uint64(tokens)}}, {"output_norm.weight", square[:1]},
		{"blk.0.attn_norm.weight", square[:1]}, {"blk.0.ffn_norm.weight", square[:1]}}
	for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"} {
		tensors = append(tensors, tensor{"blk.0." + name + ".weight", square})
	}
	var b, data bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	b.WriteString("GGUF")
	put(uint32(3))
	put(uint64(len(tensors)))
	put(uint64(len(meta)))
	for _, kv := range meta {
		putString(&b, kv.Key)
		putValue(tb, &b, kv.Value)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, t := range tensors {
		putString(&b, t.name)
		put(uint32(len(t.dims)))
		put(t.dims)
		put(uint32(0)) // F32
		put(uint64(data.Len()))
		n := uint64(1)
		for _, d := range t.dims {
			n *= d
		}
		for range n {
			binary.Write(&data, binary.LittleEndian, float32(random.NormFloat64()*0.1))
		}
	}
	for b.Len()%32 != 0 {
		b.WriteByte(0)
	}
	b.Write(data.Bytes())
	path := filepath.Join(tb.TempDir(), fmt.Sprintf("vocab-%d.gguf", tokens))
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func putString(b *bytes.Buffer, s string) {
	binary.Write(b, binary.LittleEndian, uint64(len(s)))
	b.WriteString(s)
}

func putValue(tb testing.TB, b *bytes.Buffer, v any) {
	put := func(v any) { binary.Write(b, binary.LittleEndian, v) }
	switch v := v.(type) {
	case string:
		put(uint32(8))
		putString(b, v)
	case bool:
		put(uint32(7))
		put(v)
	case uint32:
		put([]uint32{4, v})
	case float32:
		put(uint32(6))
		put(v)
	case []string:
		put([]uint32{9, 8})
		put(uint64(len(v)))
		for _, s := range v {
			putString(b, s)
		}
	case []float32:
		put([]uint32{9, 6})
		put(uint64(len(v)))
		put(v)
	case []int32:
		put([]uint32{9, 5})
		put(uint64(len(v)))
		put(v)
	default:
		tb.Fatalf("cannot write metadata of type %T", v)
	}
}

package model_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
)

// story is some tokens without meaning.
func story(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i*37%900 + 20)
	}
	return out
}

func TestBatchEqualsOneByOne(t *testing.T) {
	for _, file := range []string{"mote-chat-q8_0.gguf", "mote-256-q4_k_m.gguf", "mote-chat-f32.gguf"} {
		for _, level := range kernel.Levels() {
			_, m := open(t, parts.Model(t, file), model.Options{Sequences: 2, Batch: 7, Threads: 2, Kernel: level})
			tokens := story(20) // three batches of at most seven
			together := slices.Clone(forward(t, m, tokens...))
			m.Truncate(0, 0)
			var single []float32
			for _, token := range tokens {
				single = forward(t, m, token)
			}
			if !slices.Equal(together, single) {
				t.Errorf("%s, %s: logits depend on the size of batches", file, level)
			}
		}
	}
}

func TestLevelsAgree(t *testing.T) {
	var want []float32
	for _, level := range kernel.Levels() {
		_, m := open(t, parts.Model(t, "mote-chat-f32.gguf"), model.Options{Kernel: level})
		if got := m.Config().Kernel; got != string(level) {
			t.Errorf("the kernel is %q, want %q", got, level)
		}
		got := forward(t, m, story(12)...)
		if want == nil {
			want = slices.Clone(got)
		}
		for i := range got {
			if d := got[i] - want[i]; d > 0.02 || d < -0.02 {
				t.Fatalf("%s: logit %d is %v, plain Go has %v", level, i, got[i], want[i])
			}
		}
	}
}

// TestSequencesDoNotMix interleaves two sequences in every batch.
func TestSequencesDoNotMix(t *testing.T) {
	path := parts.Model(t, "mote-chat-q8_0.gguf")
	_, alone := open(t, path, model.Options{})
	_, both := open(t, path, model.Options{Sequences: 2})
	first, second := story(9), story(30)[15:24]
	want := slices.Clone(forward(t, alone, first...))
	var in []model.Input
	for i := range first {
		in = append(in, model.Input{Seq: 1, Pos: i, Token: second[i]}, model.Input{Seq: 0, Pos: i, Token: first[i], Logits: i == len(first)-1})
	}
	out, err := both.Forward(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 1 || !slices.Equal(out[0], want) {
		t.Error("a sequence's logits depend on the other sequence")
	}
	if both.Len(0) != 9 || both.Len(1) != 9 {
		t.Errorf("the sequences hold %d and %d tokens", both.Len(0), both.Len(1))
	}
}

// TestLongAttention passes the border between the two ways of adding up.
func TestLongAttention(t *testing.T) {
	_, m := open(t, parts.Model(t, "mote-chat-f32.gguf"), model.Options{})
	if m.Config().Context < 300 {
		t.Fatalf("the model has a context of %d", m.Config().Context)
	}
	tokens := story(280)
	in := make([]model.Input, len(tokens))
	for i, token := range tokens {
		in[i] = model.Input{Pos: i, Token: token, Logits: i >= 250}
	}
	out, err := m.Forward(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	together := make([][]float32, len(out))
	for i := range out {
		together[i] = slices.Clone(out[i])
	}
	m.Truncate(0, 250)
	for i, token := range tokens[250:] {
		if got := forward(t, m, token); !slices.Equal(got, together[i]) {
			t.Fatalf("logits at position %d depend on the batch", 250+i)
		}
	}
}

func TestTruncateForgets(t *testing.T) {
	_, m := open(t, parts.Model(t, "mote-chat-q8_0.gguf"), model.Options{})
	tokens := story(10)
	want := slices.Clone(forward(t, m, tokens...))
	forward(t, m, 5, 6, 7)
	m.Truncate(0, 9)
	if got := forward(t, m, tokens[9]); !slices.Equal(got, want) {
		t.Error("logits after a truncation differ")
	}
	m.Truncate(0, 100)
	if m.Len(0) != 10 {
		t.Errorf("a truncation made the sequence %d long", m.Len(0))
	}
}

func TestForwardRefuses(t *testing.T) {
	_, m := open(t, parts.Model(t, "mote-chat-q8_0.gguf"), model.Options{Context: 8, Sequences: 2})
	vocab := int32(m.Config().Vocab)
	for name, in := range map[string][]model.Input{
		"a negative token":    {{Token: -1}},
		"an unknown token":    {{Token: vocab}},
		"a sequence too many": {{Seq: 2}},
		"a gap":               {{Pos: 1}},
		"a position twice":    {{Pos: 0}, {Pos: 0}},
		"the context's end":   {{}, {Pos: 1}, {Pos: 2}, {Pos: 3}, {Pos: 4}, {Pos: 5}, {Pos: 6}, {Pos: 7}, {Pos: 8}},
	} {
		if _, err := m.Forward(t.Context(), in); err == nil {
			t.Errorf("%s was accepted", name)
		}
		if m.Len(0) != 0 {
			t.Fatalf("%s left %d tokens", name, m.Len(0))
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Forward(done, []model.Input{{}}); !errors.Is(err, context.Canceled) || m.Len(0) != 0 {
		t.Errorf("cancelled: got %v, with %d tokens", err, m.Len(0))
	}
	m.Close()
	if _, err := m.Forward(t.Context(), []model.Input{{}}); err == nil {
		t.Error("a closed model ran")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	_, m := open(t, parts.Model(t, "mote-256-q4_k_m.gguf"), model.Options{Context: 1 << 30})
	c := m.Config()
	if c.Architecture != "llama" || c.Embd != 256 || c.Layers != 2 || c.FeedForward != 512 || c.FileType != "q4_k" {
		t.Errorf("the configuration is %+v", c)
	}
	if c.Context != c.Trained || c.Sequences != 1 || c.Parameters < 1<<20 {
		t.Errorf("context %d of %d, %d sequences, %d parameters", c.Context, c.Trained, c.Sequences, c.Parameters)
	}
}

// edited is a model's file with one string replaced by another of the same length.
func edited(tb testing.TB, old, new string) *gguf.File {
	tb.Helper()
	data, err := os.ReadFile(parts.Model(tb, "mote-chat-q8_0.gguf"))
	if err != nil {
		tb.Fatal(err)
	}
	if len(old) != len(new) || !bytes.Contains(data, []byte(old)) {
		tb.Fatalf("cannot replace %q by %q", old, new)
	}
	return parsed(tb, bytes.ReplaceAll(data, []byte(old), []byte(new)))
}

// withNumber is a model's file with the uint32 of a key set.
func withNumber(tb testing.TB, key string, n uint32) *gguf.File {
	tb.Helper()
	data, err := os.ReadFile(parts.Model(tb, "mote-chat-q8_0.gguf"))
	if err != nil {
		tb.Fatal(err)
	}
	at := bytes.Index(data, []byte(key))
	if at < 0 {
		tb.Fatalf("the file has no %s", key)
	}
	binary.LittleEndian.PutUint32(data[at+len(key)+4:], n)
	return parsed(tb, data)
}

func parsed(tb testing.TB, data []byte) *gguf.File {
	tb.Helper()
	f, err := gguf.Parse(data)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// refused checks that Load refuses the file and names an engine that can run it.
func refused(tb testing.TB, f *gguf.File, want string) {
	tb.Helper()
	_, err := model.Load(f, model.Options{})
	if !errors.Is(err, model.ErrUnsupported) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "llama-server") {
		tb.Errorf("got %v, want a refusal with %q and llama-server", err, want)
	}
}

func TestLoadRefusesWhatItCannotRun(t *testing.T) {
	refused(t, edited(t, "llama", "gemma"), `architecture "gemma"`)
	refused(t, withNumber(t, "llama.rope.dimension_count", 4), "rotary embedding of 4")
	if _, err := model.Load(edited(t, "blk.0.attn_q.weight", "blk.0.attn_r.weight"), model.Options{}); !errors.Is(err, gguf.ErrFormat) || !strings.Contains(err.Error(), "blk.0.attn_q.weight is missing") {
		t.Errorf("a missing tensor: got %v", err)
	}
}

func TestLoadRefusesAbsurdNumbers(t *testing.T) {
	for _, key := range []string{
		"llama.embedding_length", "llama.block_count", "llama.attention.head_count", "llama.feed_forward_length", "llama.context_length",
	} {
		for _, n := range []uint32{0, 3, 1 << 20, 1<<32 - 1} {
			if key == "llama.context_length" && n > 0 && n < 1<<22 {
				continue // only a number to us
			}
			if _, err := model.Load(withNumber(t, key, n), model.Options{}); !errors.Is(err, gguf.ErrFormat) && !errors.Is(err, model.ErrUnsupported) {
				t.Errorf("%s = %d: got %v", key, n, err)
			}
		}
	}
}

func TestLoadRefusesMoreCacheThanAnAddressSpace(t *testing.T) {
	f := withNumber(t, "llama.context_length", 1<<22)
	if _, err := model.Load(f, model.Options{Sequences: 1 << 30}); err == nil || !strings.Contains(err.Error(), "smaller context") {
		t.Errorf("got %v", err)
	}
}

func TestThreadsAreBounded(t *testing.T) {
	_, m := open(t, parts.Model(t, "mote-chat-q8_0.gguf"), model.Options{Threads: 2000, Context: 16})
	if got := m.Config().Threads; got != 1024 {
		t.Errorf("got %d threads, want 1024 at most", got)
	}
	forward(t, m, 1, 2, 3)
}

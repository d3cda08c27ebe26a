package token

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/internal/reference"
)

// load opens the tokenizer of a model file.
func load(tb testing.TB, path string) *Tokenizer {
	tb.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	tok, err := New(f)
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return tok
}

// sameAsLlama holds the tokenizer to llama-server's answers on the torture list.
func sameAsLlama(t *testing.T, path string) {
	t.Helper()
	tok, llama := load(t, path), reference.Start(t, path, "-c", "64", "-np", "1")
	for _, text := range reference.Torture() {
		for _, mode := range [][2]bool{{false, true}, {true, true}, {true, false}} {
			got, err := tok.Encode(text, mode[0], mode[1])
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			want := llama.Tokens(t, text, mode[0], mode[1])
			if !slices.Equal(got, want) {
				t.Errorf("%q (special %v): got %v, want %v", text, mode, got, want)
			}
		}
		ids, _ := tok.Encode(text, true, true)
		got, err := tok.Decode(ids, true)
		if err != nil {
			t.Fatal(err)
		}
		if want := llama.Text(t, ids); got != want {
			t.Errorf("detokenize %q: got %q, want %q", text, got, want)
		}
	}
}

func TestMoteTokenizesLikeLlamaServer(t *testing.T) {
	sameAsLlama(t, parts.Model(t, "mote-chat-q8_0.gguf"))
}

// TestGivenModelsTokenizeLikeLlamaServer takes further models as a folder.
func TestGivenModelsTokenizeLikeLlamaServer(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(os.Getenv("BOTHY_PARITY_MODELS"), "*.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("BOTHY_PARITY_MODELS") == "" {
		paths = nil // none asked for
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { sameAsLlama(t, path) })
	}
}

// words is text to learn merges from. It is not split into words first, so that
// learnt tokens cross the borders that pre-tokenizers draw and a wrong border shows.
func words() []string {
	var out []string
	for _, text := range reference.Torture() {
		if len(text) < 200 && !strings.Contains(text, "<") {
			out = append(out, text)
		}
	}
	return out
}

// learn finds up to n merges, the most frequent pair first, over the symbols of each text.
func learn(texts [][]string, n int) [][2]string {
	var merges [][2]string
	for range n {
		count := map[[2]string]int{}
		for _, syms := range texts {
			for i := 1; i < len(syms); i++ {
				count[[2]string{syms[i-1], syms[i]}]++
			}
		}
		var best [2]string
		for p, c := range count {
			if c > count[best] || c == count[best] && p[0]+" "+p[1] < best[0]+" "+best[1] {
				best = p
			}
		}
		if count[best] < 1 {
			break
		}
		merges = append(merges, best)
		for i, syms := range texts {
			texts[i] = apply(syms, best)
		}
	}
	return merges
}

func apply(syms []string, p [2]string) []string {
	var out []string
	for i := 0; i < len(syms); i++ {
		if i+1 < len(syms) && syms[i] == p[0] && syms[i+1] == p[1] {
			out = append(out, p[0]+p[1])
			i++
			continue
		}
		out = append(out, syms[i])
	}
	return out
}

// bpeModel writes a model with a byte-level vocabulary learnt from the torture list.
func bpeModel(tb testing.TB, preName string) string {
	b := &bpe{bytes: map[rune]byte{}}
	b.mapBytes()
	var texts [][]string
	for _, text := range words() {
		var syms []string
		for i := range len(text) {
			syms = append(syms, b.chars[text[i]])
		}
		texts = append(texts, syms)
	}
	tokens := slices.Clone(b.chars[:])
	var merges []string
	for _, p := range learn(texts, 700) {
		merges = append(merges, p[0]+" "+p[1])
		if !slices.Contains(tokens, p[0]+p[1]) {
			tokens = append(tokens, p[0]+p[1])
		}
	}
	types := slices.Repeat([]int32{typeNormal}, len(tokens))
	tokens = append(tokens, "<|im_start|>", "<|im_end|>", "<tool>", "<|endoftext|>")
	types = append(types, typeControl, typeControl, typeUserDefined, typeControl)
	return reference.Model(tb, len(tokens),
		reference.KV{Key: "tokenizer.ggml.model", Value: "gpt2"}, reference.KV{Key: "tokenizer.ggml.pre", Value: preName},
		reference.KV{Key: "tokenizer.ggml.tokens", Value: tokens}, reference.KV{Key: "tokenizer.ggml.token_type", Value: types},
		reference.KV{Key: "tokenizer.ggml.merges", Value: merges},
		reference.KV{Key: "tokenizer.ggml.bos_token_id", Value: uint32(len(tokens) - 1)}, reference.KV{Key: "tokenizer.ggml.eos_token_id", Value: uint32(len(tokens) - 3)})
}

func TestEachPreTokenizerSplitsLikeLlamaServer(t *testing.T) {
	for _, name := range []string{"llama-bpe", "qwen2", "gpt-2", "default", "smollm", "falcon", "qwen35", "chatglm-bpe"} {
		t.Run(name, func(t *testing.T) { sameAsLlama(t, bpeModel(t, name)) })
	}
}

// spmModel writes a model with scores, a space prefix and user-defined tokens.
func spmModel(tb testing.TB, name string) string {
	tokens := []string{"<unk>", "<s>", "</s>"}
	types := []int32{typeUnknown, typeControl, typeControl}
	for i := range 256 {
		tokens = append(tokens, "<0x"+strings.ToUpper(string("0123456789abcdef"[i>>4])+string("0123456789abcdef"[i&15]))+">")
		types = append(types, typeByte)
	}
	var texts [][]string
	for _, text := range words() {
		syms := strings.Split(strings.ReplaceAll(text, " ", space), "")
		texts = append(texts, syms)
		for _, s := range syms {
			if len(s) <= 2 && !slices.Contains(tokens, s) { // longer characters fall back to bytes
				tokens, types = append(tokens, s), append(types, typeNormal)
			}
		}
	}
	for _, p := range learn(texts, 500) {
		if s := p[0] + p[1]; !slices.Contains(tokens, s) {
			tokens, types = append(tokens, s), append(types, typeNormal)
		}
	}
	scores := make([]float32, len(tokens))
	for i := range scores {
		scores[i] = -float32(i / 3) // equal scores: ties must break to the left
	}
	tokens = append(tokens, "<|im_start|>", "<|im_end|>", "<tool>", "<|endoftext|>")
	types = append(types, typeControl, typeNormal, typeUserDefined, typeControl)
	scores = append(scores, 0, 0, 0, 0)
	return reference.Model(tb, len(tokens), reference.KV{Key: "general.name", Value: name},
		reference.KV{Key: "tokenizer.ggml.model", Value: "llama"}, reference.KV{Key: "tokenizer.ggml.tokens", Value: tokens},
		reference.KV{Key: "tokenizer.ggml.token_type", Value: types}, reference.KV{Key: "tokenizer.ggml.scores", Value: scores},
		reference.KV{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)}, reference.KV{Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
		reference.KV{Key: "tokenizer.ggml.unknown_token_id", Value: uint32(0)}, reference.KV{Key: "tokenizer.ggml.add_eos_token", Value: true})
}

func TestScoredVocabularyWithSpacePrefixTokenizesLikeLlamaServer(t *testing.T) {
	for _, name := range []string{"plain", "Phi-3 mini"} {
		t.Run(name, func(t *testing.T) { sameAsLlama(t, spmModel(t, name)) })
	}
}

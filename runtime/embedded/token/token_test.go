package token

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/internal/reference"
)

type kv = reference.KV

// vocabulary is the metadata of a small vocabulary with some entries replaced; a nil value removes one.
func vocabulary(t *testing.T, change map[string]any) *gguf.File {
	t.Helper()
	all := map[string]any{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": []string{"a", "b", "ab", "<|im_end|>"},
		"tokenizer.ggml.token_type": []int32{1, 1, 1, 3}, "tokenizer.ggml.merges": []string{"a b"}, "tokenizer.ggml.eos_token_id": uint32(3),
	}
	for k, v := range change {
		all[k] = v
	}
	var list []kv
	for k, v := range all {
		if v != nil {
			list = append(list, kv{Key: k, Value: v})
		}
	}
	f, err := gguf.Open(reference.Model(t, 4, list...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestVocabulariesThatCannotBeReadAreRefusedInWords(t *testing.T) {
	for words, change := range map[string]map[string]any{
		"tokenizer.ggml.model":  {"tokenizer.ggml.model": nil},
		`"bert"`:                {"tokenizer.ggml.model": "bert"},
		`"martian"`:             {"tokenizer.ggml.pre": "martian"},
		"tokenizer.ggml.tokens": {"tokenizer.ggml.tokens": nil},
		"4 tokens but 2":        {"tokenizer.ggml.token_type": []int32{1, 1}},
		"3 scores":              {"tokenizer.ggml.scores": []float32{1, 2, 3}},
		"tokenizer.ggml.merges": {"tokenizer.ggml.merges": nil},
		"does not name two":     {"tokenizer.ggml.merges": []string{"ab"}},
	} {
		if _, err := New(vocabulary(t, change)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: got %v, want an error with %s", change, err, words)
		}
	}
	for _, odd := range []map[string]any{
		{"tokenizer.ggml.eos_token_id": uint32(1 << 30)}, // outside the vocabulary
		{"tokenizer.ggml.merges": []string{"x y", "  a", "a  b"}},
		{"tokenizer.ggml.token_type": []int32{99, -1, 0, 6}},
	} {
		tok, err := New(vocabulary(t, odd))
		if err != nil {
			t.Errorf("%v: %v", odd, err)
			continue
		}
		if _, err := tok.Encode("ab ba <|im_end|>", true, true); err != nil {
			t.Errorf("%v: %v", odd, err)
		}
	}
}

func TestRoles(t *testing.T) {
	tok := load(t, parts.Model(t, "mote-chat-q8_0.gguf"))
	if tok.BOS() != 1 || tok.EOS() != 4 || tok.AddBOS() || tok.Len() != 1088 {
		t.Errorf("got BOS %d, EOS %d, add %v, %d tokens", tok.BOS(), tok.EOS(), tok.AddBOS(), tok.Len())
	}
	for id, want := range map[int32]bool{4: true, 2: true, 3: false, 380: false, -1: false, 1 << 30: false} {
		if got := tok.EOG(id); got != want {
			t.Errorf("EOG(%d) = %v, want %v", id, got, want)
		}
	}
	if tok.Text(4) != "<|im_end|>" || tok.Text(-1) != "" || tok.Text(1<<30) != "" {
		t.Errorf("texts %q %q", tok.Text(4), tok.Text(-1))
	}
	if tok.Piece(3) != nil || tok.Piece(-1) != nil || tok.Piece(1<<30) != nil {
		t.Error("control tokens and numbers outside the vocabulary must have no piece")
	}
}

func TestForgedControlTokensStayText(t *testing.T) {
	tok := load(t, parts.Model(t, "mote-chat-q8_0.gguf"))
	ids, err := tok.Encode("x<|im_end|>", false, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if tok.EOG(id) {
			t.Errorf("text became the control token %d", id)
		}
	}
	if text, err := tok.Decode(ids, false); err != nil || text != "x<|im_end|>" {
		t.Errorf("got %q, %v", text, err)
	}
	if text, _ := tok.Decode([]int32{380, 4}, false); text != "The" {
		t.Errorf("Decode without control tokens: %q", text)
	}
	if _, err := tok.Decode([]int32{5000}, true); err == nil {
		t.Error("a token outside the vocabulary decodes")
	}
	if _, err := tok.Encode(strings.Repeat("a", MaxText+1), false, false); err == nil {
		t.Error("a text over the limit is encoded")
	}
}

func TestStreamGivesWholeCharacters(t *testing.T) {
	tok := load(t, parts.Model(t, "mote-chat-q8_0.gguf"))
	for _, text := range reference.Torture() {
		ids, err := tok.Encode(text, false, false)
		if err != nil {
			t.Fatal(err)
		}
		s, got := tok.Stream(), ""
		for _, id := range ids {
			part := s.Push(id)
			if !utf8.ValidString(part) {
				t.Errorf("%q: the part %q is torn", text, part)
			}
			got += part
		}
		// SentencePiece writes a space as U+2581, so that character comes back as a space.
		if got += s.Flush(); got != strings.ReplaceAll(text, space, " ") {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	s := tok.Stream()
	bytes := func(b byte) int32 { return int32(b) + 5 } // Mote's byte tokens begin at 5
	got := s.Push(bytes(0xE6)) + s.Push(bytes(0x97)) + s.Push(bytes('x')) + s.Push(bytes(0xFF)) + s.Push(bytes(0xC3)) + s.Flush() + s.Flush()
	if want := "\uFFFD\uFFFDx\uFFFD\uFFFD"; got != want {
		t.Errorf("broken bytes: got %q, want %q", got, want)
	}
}

func TestSplittingLosesNothing(t *testing.T) {
	for _, name := range []string{"llama-bpe", "qwen2", "qwen35", "gpt-2", "default", "falcon", "smollm"} {
		p, ok := preOf(name)
		if !ok {
			t.Fatalf("%s is unknown", name)
		}
		for _, text := range append(reference.Torture(), "\xff\xfe a\xc3", "'\xff") {
			if got := strings.Join(p.split(text), ""); got != text {
				t.Errorf("%s: %q came back as %q", name, text, got)
			}
		}
	}
}

// FuzzRoundTrip: whatever the bytes, encoding and decoding gives them back.
func FuzzRoundTrip(f *testing.F) {
	for _, text := range reference.Torture() {
		f.Add(text)
	}
	f.Add("\xff\xf0\x9f\x98 \xe6")
	scored, merged := load(f, parts.Model(f, "mote-chat-q8_0.gguf")), load(f, bpeModel(f, "llama-bpe"))
	f.Fuzz(func(t *testing.T, text string) {
		for name, tok := range map[string]*Tokenizer{"scored": scored, "merged": merged} {
			ids, err := tok.Encode(text, false, false)
			if err != nil {
				t.Fatalf("%s: %q: %v", name, text, err)
			}
			got, err := tok.Decode(ids, true)
			// SentencePiece writes a space as U+2581, so a text with that character comes back with a space.
			want := text
			if name == "scored" {
				want = strings.ReplaceAll(text, space, " ")
			}
			if err != nil || got != want {
				t.Errorf("%s: %q came back as %q, %v", name, want, got, err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	text := strings.Repeat(strings.Join(reference.Torture(), "\n"), 10)
	for name, path := range map[string]string{"scored": parts.Model(b, "mote-chat-q8_0.gguf"), "merged": bpeModel(b, "llama-bpe")} {
		tok := load(b, path)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tok.Encode(text, false, true)
			}
		})
	}
}

func TestFewestIsNeverMoreThanEncodeGives(t *testing.T) {
	tok := load(t, parts.Model(t, "mote-chat-q8_0.gguf"))
	for _, text := range []string{"", "a", strings.Repeat("<|im_start|>", 50), strings.Repeat("Paris the ", 200), "日本語 \x00\xff"} {
		ids, err := tok.Encode(text, false, true)
		if err != nil {
			t.Fatal(err)
		}
		if n := tok.Fewest(len(text)); n > len(ids) {
			t.Errorf("%.20q: at least %d tokens, but Encode gave %d", text, n, len(ids))
		}
	}
	if n := tok.Fewest(1 << 20); n < 10_000 {
		t.Errorf("got at least %d tokens for 1 MiB, want a bound that is of use", n)
	}
}

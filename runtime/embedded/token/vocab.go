package token

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// Token types as GGUF writes them (tokenizer.ggml.token_type).
const (
	typeNormal      = 1
	typeUnknown     = 2
	typeControl     = 3
	typeUserDefined = 4
	typeUnused      = 5
	typeByte        = 6
)

// maxVocab bounds the vocabulary; the largest in use has about 262,000 tokens.
const maxVocab = 4 << 20

// endTexts are the texts that end a turn wherever they stand in a vocabulary. Model
// files name only one end token; chat models stop at others too, and llama.cpp
// recognises them by text.
var endTexts = []string{
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
	"<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
	"<|end_of_text|>", "<end_of_utterance>", "<eos>",
}

// vocab is the vocabulary as the file gives it, with the tokens that have a role.
type vocab struct {
	texts  []string
	types  []int32
	scores []float64
	ids    map[string]int32

	bos, eos, unk  int32 // -1 where the vocabulary has none
	addBOS, addEOS bool
	eog            map[int32]bool
	stripRight     map[int32]bool // special tokens that eat the white space after them
	longest        int            // bytes of the longest token
}

// BOS is the token that begins a text, -1 where the vocabulary has none.
func (v *vocab) BOS() int32 { return v.bos }

// EOS is the token that the file names as the end of a text, -1 where there is none.
func (v *vocab) EOS() int32 { return v.eos }

// AddBOS says whether Encode with addSpecial begins with BOS.
func (v *vocab) AddBOS() bool { return v.addBOS && v.bos >= 0 }

// Len is the number of tokens in the vocabulary.
func (v *vocab) Len() int { return len(v.texts) }

// Fewest is a number of tokens that a text of n bytes has at least, told without encoding it. 0 says nothing.
func (v *vocab) Fewest(n int) int {
	if len(v.stripRight) > 0 {
		return 0 // white space that a special token eats costs none
	}
	return n / v.longest
}

// EOG says whether id ends an answer: end of text, of turn, or of message.
func (v *vocab) EOG(id int32) bool { return v.eog[id] }

// Text is the token as the vocabulary writes it, "" for an id outside it.
func (v *vocab) Text(id int32) string {
	if id < 0 || int(id) >= len(v.texts) {
		return ""
	}
	return v.texts[id]
}

func (v *vocab) isControl(id int32) bool {
	return v.types[id] == typeControl || v.types[id] == typeUnknown
}

// New builds the tokenizer that the file describes. It refuses, by name, a
// tokenizer model or pre-tokenizer that this package does not know.
func New(f *gguf.File) (*Tokenizer, error) { return fromMeta(f.Meta) }

func fromMeta(m gguf.Meta) (*Tokenizer, error) {
	kind, ok := m.String("tokenizer.ggml.model")
	if !ok {
		return nil, fmt.Errorf("cannot read the vocabulary: the file has no tokenizer.ggml.model")
	}
	t := &Tokenizer{}
	if err := t.vocab.read(m); err != nil {
		return nil, err
	}
	switch kind {
	case "llama":
		t.addSpace, t.addBOS = true, true
		t.merger = &spm{vocab: &t.vocab}
	case "gpt2":
		b, err := newBPE(&t.vocab, m)
		if err != nil {
			return nil, err
		}
		t.merger = b
		t.addBOS = b.pre.addBOS
	default:
		return nil, fmt.Errorf("cannot use the vocabulary: tokenizer model %q is not one of llama, gpt2: run this model with the llama-server engine", kind)
	}
	setBool(m, "tokenizer.ggml.add_space_prefix", &t.addSpace)
	setBool(m, "tokenizer.ggml.add_bos_token", &t.addBOS)
	setBool(m, "tokenizer.ggml.add_eos_token", &t.addEOS)
	t.findRoles(m)
	t.findSpecial(m)
	return t, nil
}

func setBool(m gguf.Meta, key string, to *bool) {
	if b, ok := m.Bool(key); ok {
		*to = b
	}
}

// read takes texts, types and scores and builds the index.
func (v *vocab) read(m gguf.Meta) error {
	var ok bool
	if v.texts, ok = m.Strings("tokenizer.ggml.tokens"); !ok || len(v.texts) == 0 {
		return fmt.Errorf("cannot read the vocabulary: the file has no tokenizer.ggml.tokens")
	}
	if len(v.texts) > maxVocab {
		return fmt.Errorf("cannot read the vocabulary: %d tokens, the limit is %d", len(v.texts), maxVocab)
	}
	n := len(v.texts)
	v.types = make([]int32, n)
	types, has := m.Ints("tokenizer.ggml.token_type")
	if has && len(types) != n {
		return fmt.Errorf("cannot read the vocabulary: %d tokens but %d token types", n, len(types))
	}
	for i := range v.types {
		v.types[i] = typeNormal
		if has {
			v.types[i] = int32(types[i])
		}
	}
	if v.scores, has = m.Floats("tokenizer.ggml.scores"); has && len(v.scores) != n {
		return fmt.Errorf("cannot read the vocabulary: %d tokens but %d scores", n, len(v.scores))
	}
	if !has {
		v.scores = make([]float64, n)
	}
	v.ids, v.longest = make(map[string]int32, n), 1
	for i, text := range v.texts {
		// As the vocabulary writes it, which is never shorter than what it stands for.
		v.ids[text], v.longest = int32(i), max(v.longest, len(text))
	}
	return nil
}

// findRoles fills in begin, end and unknown, and every token that ends an answer.
func (v *vocab) findRoles(m gguf.Meta) {
	role := func(key string) int32 {
		if id, ok := m.Uint("tokenizer.ggml." + key); ok && id < uint64(len(v.texts)) {
			return int32(id)
		}
		return -1
	}
	v.bos, v.eos, v.unk = role("bos_token_id"), role("eos_token_id"), role("unknown_token_id")
	v.eog = map[int32]bool{}
	for _, id := range []int32{v.eos, role("eot_token_id"), role("eom_token_id")} {
		if id >= 0 {
			v.eog[id] = true
		}
	}
	for _, text := range endTexts {
		if id, ok := v.ids[text]; ok {
			// Some converted files mark an end token as normal text; it must never reach an answer.
			v.eog[id], v.types[id] = true, typeControl
		}
	}
}

// findSpecial lists the tokens matched as whole texts, longest first.
func (t *Tokenizer) findSpecial(m gguf.Meta) {
	for i, kind := range t.types {
		if t.texts[i] != "" && (kind == typeControl || kind == typeUnknown || kind == typeUserDefined) {
			t.special = append(t.special, int32(i))
		}
	}
	slices.SortStableFunc(t.special, func(a, b int32) int { return cmp.Compare(len(t.texts[b]), len(t.texts[a])) })
	name, _ := m.String("general.name")
	if name = strings.ToLower(name); strings.Contains(name, "phi-3") || strings.Contains(name, "phi3") {
		t.stripAfterSpecial()
	}
}

// stripAfterSpecial makes the special tokens eat the white space that follows
// them. The Phi-3 files do not say that theirs do; llama.cpp knows them by name.
func (t *Tokenizer) stripAfterSpecial() {
	t.stripRight = map[int32]bool{}
	for _, id := range t.special {
		switch t.texts[id] {
		case "<unk>", "<s>", "<|endoftext|>":
		default:
			t.stripRight[id] = true
		}
	}
}

// byteToken reads "<0x41>" as the byte it names.
func byteToken(text string) (byte, bool) {
	if len(text) != 6 || !strings.HasPrefix(text, "<0x") || text[5] != '>' {
		return 0, false
	}
	n, err := strconv.ParseUint(text[3:5], 16, 8)
	return byte(n), err == nil
}

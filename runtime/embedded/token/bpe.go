package token

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// bpe splits text into words, writes each byte of a word as a visible character
// and merges neighbours by rank.
type bpe struct {
	vocab *vocab
	ranks map[[2]string]int32
	pre   pre
	chars [256]string   // the visible character of each byte
	bytes map[rune]byte // and back
}

func newBPE(v *vocab, m gguf.Meta) (*bpe, error) {
	name, _ := m.String("tokenizer.ggml.pre")
	p, ok := preOf(name)
	if !ok {
		return nil, fmt.Errorf("cannot use the vocabulary: pre-tokenizer %q is unknown: run this model with the llama-server engine", name)
	}
	lines, ok := m.Strings("tokenizer.ggml.merges")
	if !ok {
		return nil, fmt.Errorf("cannot read the vocabulary: the file has no tokenizer.ggml.merges")
	}
	b := &bpe{vocab: v, pre: p, ranks: make(map[[2]string]int32, len(lines)), bytes: make(map[rune]byte, 256)}
	for i, line := range lines {
		// A merged text may itself begin with the space, so look for the border from the second byte.
		at := strings.IndexByte(line[min(1, len(line)):], ' ')
		if at < 0 {
			return nil, fmt.Errorf("cannot read the vocabulary: merge %d, %q, does not name two texts", i, line)
		}
		b.ranks[[2]string{line[:at+1], line[at+2:]}] = int32(i)
	}
	b.mapBytes()
	return b, nil
}

// mapBytes lays out GPT-2's alphabet: printable Latin-1 bytes stand for
// themselves, the other 68 follow from U+0100 on.
func (b *bpe) mapBytes() {
	next := rune(0x100)
	for i := range 256 {
		r := rune(i)
		if !(r >= '!' && r <= '~' || r >= 0xA1 && r <= 0xAC || r >= 0xAE) {
			r = next
			next++
		}
		b.chars[i] = string(r)
		b.bytes[r] = byte(i)
	}
}

func (b *bpe) appendTokens(ids []int32, text string) ([]int32, error) {
	var word strings.Builder
	var ends []int
	for _, part := range b.pre.split(text) {
		word.Reset()
		ends = ends[:0]
		for i := range len(part) {
			word.WriteString(b.chars[part[i]])
			ends = append(ends, word.Len())
		}
		ids = b.appendWord(ids, word.String(), ends)
	}
	return ids, nil
}

// appendWord merges one word, given as visible characters.
func (b *bpe) appendWord(ids []int32, word string, ends []int) []int32 {
	v := b.vocab
	if b.pre.wholeWords {
		if id, ok := v.ids[word]; ok {
			return append(ids, id)
		}
	}
	left := merge(word, link(ends), func(l, r, _ string) (float64, bool) {
		rank, ok := b.ranks[[2]string{l, r}]
		return float64(rank), ok
	})
	for _, sym := range left {
		part := word[sym.start:sym.end]
		if id, ok := v.ids[part]; ok {
			ids = append(ids, id)
			continue
		}
		// A vocabulary without some byte drops it; llama.cpp tries the bytes of the
		// visible character one by one, which only finds ASCII.
		for i := range len(part) {
			if id, ok := v.ids[part[i:i+1]]; ok {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func (b *bpe) piece(text string) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range text {
		if c, ok := b.bytes[r]; ok {
			out = append(out, c)
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

package token

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// space is the visible mark that SentencePiece writes for a space.
const space = "\u2581"

// spm merges by score: of all neighbouring symbols whose joined text is in the
// vocabulary, those with the highest score first.
type spm struct{ vocab *vocab }

func (s *spm) piece(text string) []byte {
	return []byte(strings.ReplaceAll(text, space, " "))
}

func (s *spm) appendTokens(ids []int32, text string) ([]int32, error) {
	word := strings.ReplaceAll(text, " ", space)
	v := s.vocab
	left := merge(word, link(charEnds(word)), func(_, _, joined string) (float64, bool) {
		id, ok := v.ids[joined]
		if !ok {
			return 0, false
		}
		return -v.scores[id], true
	})
	for _, sym := range left {
		part := word[sym.start:sym.end]
		if id, ok := v.ids[part]; ok {
			ids = append(ids, id)
			continue
		}
		for i := range len(part) {
			id, ok := s.byteID(part[i])
			if !ok {
				return nil, fmt.Errorf("cannot tokenize byte 0x%02X: the vocabulary has neither a byte token nor an unknown token for it", part[i])
			}
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *spm) byteID(b byte) (int32, bool) {
	if id, ok := s.vocab.ids[fmt.Sprintf("<0x%02X>", b)]; ok {
		return id, true
	}
	if id, ok := s.vocab.ids[string([]byte{b})]; ok {
		return id, true
	}
	return s.vocab.unk, s.vocab.unk >= 0
}

// charEnds returns where each character ends; a byte that is part of none is one by itself.
func charEnds(text string) []int {
	ends := make([]int, 0, len(text))
	for i := 0; i < len(text); {
		_, n := utf8.DecodeRuneInString(text[i:])
		i += n
		ends = append(ends, i)
	}
	return ends
}

// Package token turns text into the token numbers of one model and back, by the
// vocabulary that its GGUF file carries.
//
// Two families are read: SentencePiece-style vocabularies with scores
// (tokenizer.ggml.model "llama") and byte-level BPE with ranked merges ("gpt2"),
// the latter with the pre-tokenizers of the supported model families. The
// promise is equality with llama-server's /tokenize and /detokenize, which the
// tests hold for text in many scripts; a vocabulary that cannot be read that way
// is refused by New, never approximated.
//
// A Tokenizer is immutable once built and safe for concurrent use. A Stream
// belongs to one generated answer. The package does no I/O: the caller hands in
// the metadata that it has read.
package token

import (
	"fmt"
	"strings"
	"unicode"
)

// MaxText is the longest text that Encode takes, in bytes. Merging costs n log n
// per word and a word may be the whole text, so the bound is on the text.
const MaxText = 16 << 20

// Tokenizer encodes and decodes text for one vocabulary.
// It is immutable and safe for concurrent use.
type Tokenizer struct {
	vocab
	merger   merger
	special  []int32 // tokens that are matched as whole texts before anything else, longest first
	addSpace bool
}

// merger turns text without special tokens into tokens.
type merger interface {
	appendTokens(ids []int32, text string) ([]int32, error)
	// piece is the bytes that a normal token stands for.
	piece(text string) []byte
}

// fragment is a stretch of the input: text still to be merged, or one special token (id >= 0).
type fragment struct {
	text string
	id   int32
}

// Encode returns the tokens of text.
//
// With addSpecial the vocabulary's begin and end tokens are added where the
// model file asks for them. With parseSpecial control tokens written in the
// text, such as <|im_end|>, become their token; without it they are ordinary
// text, so that a user cannot forge a turn. User-defined tokens are matched in
// both cases. Text that is not valid UTF-8 is encoded byte by byte.
func (t *Tokenizer) Encode(text string, addSpecial, parseSpecial bool) ([]int32, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("cannot tokenize %d bytes: the limit is %d", len(text), MaxText)
	}
	ids := make([]int32, 0, len(text)/3+2)
	if addSpecial && t.addBOS && t.bos >= 0 {
		ids = append(ids, t.bos)
	}
	afterSpecial := true // the start of the text counts as a border
	for _, f := range t.partition(text, parseSpecial) {
		if f.id >= 0 {
			ids, afterSpecial = append(ids, f.id), true
			continue
		}
		raw := f.text
		if t.addSpace && afterSpecial {
			raw = " " + raw
		}
		var err error
		if ids, err = t.merger.appendTokens(ids, raw); err != nil {
			return nil, err
		}
		afterSpecial = false
	}
	if addSpecial && t.addEOS && t.eos >= 0 {
		ids = append(ids, t.eos)
	}
	return ids, nil
}

// partition cuts text at the special tokens. The longest special token is cut
// out of the whole text first, then the next: the order matters where one
// token's text contains another's.
func (t *Tokenizer) partition(text string, parseSpecial bool) []fragment {
	if text == "" {
		return nil
	}
	parts := []fragment{{text, -1}}
	for _, id := range t.special {
		if !parseSpecial && t.types[id] != typeUserDefined {
			continue
		}
		if want := t.texts[id]; strings.Contains(text, want) {
			parts = t.cut(parts, id, want)
		}
	}
	return parts
}

// cut splits every text fragment at each occurrence of the special token.
func (t *Tokenizer) cut(parts []fragment, id int32, want string) []fragment {
	out := make([]fragment, 0, len(parts)+2)
	for _, f := range parts {
		for f.id < 0 {
			i := strings.Index(f.text, want)
			if i < 0 {
				break
			}
			left, right := f.text[:i], f.text[i+len(want):]
			if t.stripRight[id] {
				right = strings.TrimLeftFunc(right, unicode.IsSpace)
			}
			if left != "" {
				out = append(out, fragment{left, -1})
			}
			out = append(out, fragment{"", id})
			f.text = right
		}
		if f.id >= 0 || f.text != "" {
			out = append(out, f)
		}
	}
	return out
}

// Decode returns the text of ids. Control tokens are written out only with
// special; an id outside the vocabulary is an error. The bytes are those the
// model chose, which need not be valid UTF-8.
func (t *Tokenizer) Decode(ids []int32, special bool) (string, error) {
	var b strings.Builder
	for _, id := range ids {
		if id < 0 || int(id) >= len(t.texts) {
			return "", fmt.Errorf("cannot decode token %d: the vocabulary has %d", id, len(t.texts))
		}
		if special && t.isControl(id) {
			b.WriteString(t.texts[id])
			continue
		}
		b.Write(t.Piece(id))
	}
	return b.String(), nil
}

// Piece is the bytes that one token adds to an answer; nothing for control and
// unused tokens. A piece may end inside a UTF-8 character: see Stream. The
// slice belongs to the caller.
func (t *Tokenizer) Piece(id int32) []byte {
	if id < 0 || int(id) >= len(t.texts) {
		return nil
	}
	text := t.texts[id]
	switch t.types[id] {
	case typeUserDefined:
		return []byte(text)
	case typeByte:
		if b, ok := byteToken(text); ok {
			return []byte{b}
		}
		return nil
	case typeNormal:
		return t.merger.piece(text)
	}
	return nil
}

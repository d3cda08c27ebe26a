package token

import "unicode/utf8"

// Stream turns an answer's tokens into text as they come, never ending a piece
// inside a UTF-8 character. It belongs to one answer and one goroutine.
type Stream struct {
	t    *Tokenizer
	held []byte // the beginning of a character whose rest has not come
}

// Stream begins an answer.
func (t *Tokenizer) Stream() *Stream { return &Stream{t: t} }

// Push takes the next token and returns the text that is complete now, often
// all of its piece, sometimes nothing. Bytes that can no longer become a
// character are replaced by U+FFFD, one for each.
func (s *Stream) Push(id int32) string {
	return s.take(s.t.Piece(id), false)
}

// Flush returns what is still held, with U+FFFD for an unfinished character.
func (s *Stream) Flush() string { return s.take(nil, true) }

func (s *Stream) take(more []byte, last bool) string {
	b := append(s.held, more...)
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		if !last && !utf8.FullRune(b) {
			break
		}
		r, n := utf8.DecodeRune(b)
		out = utf8.AppendRune(out, r)
		b = b[n:]
	}
	s.held = append(s.held[:0], b...)
	return string(out)
}

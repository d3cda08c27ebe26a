package detect

import "strings"

// contextReach is how far before a number its name may stand, in bytes: a label and some punctuation, or half a sentence.
const contextReach = 64

// names are words by their first byte. Words are lower-case; a space in one
// stands for the punctuation of labels and keys too. One that ends in $ is a whole
// word; others may go on, as Telefon does in Telefonnummer.
type names [256][]string

func newNames(words ...string) *names {
	var n names
	for _, w := range words {
		n[w[0]] = append(n[w[0]], w)
	}
	return &n
}

// maxKeyReach is how much of a key is looked at, in bytes.
const maxKeyReach = 32

// named says whether one of the words begins shortly before i. A Latin word must
// begin where a word begins; other scripts do not all have spaces.
func (s *scan) named(i int, n *names) bool {
	from := max(0, i-contextReach)
	window := s.window(from, i)
	for at := range len(window) {
		words := n[window[at]]
		if words == nil {
			continue
		}
		inside := at > 0 && isWord(window[at-1]) || at == 0 && from > 0 && isWord(s.text[from-1])
		if inside && window[at] < 0x80 {
			continue
		}
		for _, w := range words {
			bare, whole := strings.CutSuffix(w, "$")
			if strings.HasPrefix(window[at:], bare) && (!whole || at+len(bare) >= len(window) || trigger[window[at+len(bare)]] != letter) {
				return true
			}
		}
	}
	return false
}

// window is the text [from,to) in lower case with spaces for punctuation. It is
// kept until another is asked for: the checks of one number ask for the same.
func (s *scan) window(from, to int) string {
	if s.windowEnd == to && s.windowText != "" {
		return s.windowText
	}
	var buffer [contextReach + maxKeyReach]byte
	key := ""
	if from == 0 && s.key != "" {
		key = s.key[:min(len(s.key), maxKeyReach-1)]
	}
	before := copy(buffer[:], key)
	if before > 0 {
		buffer[before] = ' '
		before++
	}
	copy(buffer[before:], s.text[from:to])
	window := buffer[:before+to-from]
	for j, c := range window {
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_' || c == '-' || c == '.' || c == '\n' || c == '\t' || c == '\'' || c == '"':
			c = ' '
		}
		window[j] = c
	}
	s.windowEnd, s.windowText = to, string(window)
	return s.windowText
}

// spaced writes date_of_birth for dateOfBirth, so that its words are seen.
func spaced(key string) string {
	at := 1
	for ; at < len(key); at++ {
		if 'A' <= key[at] && key[at] <= 'Z' && 'a' <= key[at-1] && key[at-1] <= 'z' {
			break
		}
	}
	if at >= len(key) {
		return key
	}
	var b strings.Builder
	for i := range len(key) {
		if i > 0 && 'A' <= key[i] && key[i] <= 'Z' && 'a' <= key[i-1] && key[i-1] <= 'z' {
			b.WriteByte('_')
		}
		b.WriteByte(key[i])
	}
	return b.String()
}

// isWord says whether the byte is part of a word: letters of every script, and digits.
func isWord(c byte) bool { return isAlnum(c) || c >= 0x80 }

package detect

import (
	"slices"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// inString is what a byte of a string is. Read only.
var inString = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return t
}()

// stringText reads the string at pos, scans it as the value under key, and returns it unescaped together
// with where its raw text begins. The text is valid until the next string is read.
func (w *walker) stringText(key string) (text string, raw int, err error) {
	raw = w.pos + 1
	i := raw
	for i < len(w.text) && inString[w.text[i]] {
		i++
	}
	if i < len(w.text) && w.text[i] == '"' {
		text, w.pos = w.text[raw:i], i+1
		w.record(scanUnder(key, text), raw)
		return text, raw, nil
	}
	w.scratch = append(w.scratch[:0], w.text[raw:i]...)
	w.pos = i
	for {
		from := w.pos
		for w.pos < len(w.text) && inString[w.text[w.pos]] {
			w.pos++
		}
		w.scratch = append(w.scratch, w.text[from:w.pos]...)
		switch w.peek() {
		case '"':
			w.pos++
			text = unsafe.String(unsafe.SliceData(w.scratch), len(w.scratch))
			w.recordEscaped(scanUnder(key, text), raw)
			return text, raw, nil
		case '\\':
			r, size := unescape(w.text[w.pos:])
			if size == 0 {
				return "", 0, w.fail("an escape is not one of JSON's")
			}
			w.scratch = utf8.AppendRune(w.scratch, r)
			w.pos += size
		default:
			if w.pos >= len(w.text) {
				return "", 0, w.fail("it ends inside a string")
			}
			return "", 0, w.fail("a string has a control character")
		}
	}
}

// unescape reads the escape that s begins with; size is 0 when it is none.
func unescape(s string) (r rune, size int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\', '/':
		return rune(s[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		return unescapeUnicode(s)
	}
	return 0, 0
}

// unescapeUnicode reads \uXXXX, or two of them that are a surrogate pair; half a pair is U+FFFD.
func unescapeUnicode(s string) (r rune, size int) {
	r, ok := hex4(s)
	switch {
	case !ok:
		return 0, 0
	case !utf16.IsSurrogate(r):
		return r, 6
	}
	if second, ok := hex4(s[6:]); ok {
		if pair := utf16.DecodeRune(r, second); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

func hex4(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	r := rune(0)
	for _, c := range []byte(s[2:6]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// recordEscaped takes findings of the unescaped string whose raw text begins at raw.
func (w *walker) recordEscaped(found []Finding, raw int) {
	if len(found) == 0 {
		return
	}
	var cuts []int
	for _, f := range found {
		cuts = append(cuts, f.Start, f.End)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	at := make([]int, len(cuts))
	from, done := raw, 0
	for i, c := range cuts {
		from, done = w.rawOffset(from, c-done), c
		at[i] = from
	}
	for _, f := range found {
		start, _ := slices.BinarySearch(cuts, f.Start)
		end, _ := slices.BinarySearch(cuts, f.End)
		w.out.add(f.Kind, at[start], at[end])
	}
}

// rawOffset is where in the body the unescaped byte stands that is offset bytes
// after the one whose raw text begins at raw. Findings begin and end at ASCII, so
// an offset never lies inside an escaped character.
func (w *walker) rawOffset(raw, offset int) int {
	i := raw
	for n := 0; n < offset; {
		if w.text[i] != '\\' {
			i++
			n++
			continue
		}
		r, size := unescape(w.text[i:])
		n += utf8.RuneLen(r)
		i += size
	}
	return i
}

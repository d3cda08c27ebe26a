package detect

import (
	"sort"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Answers of disguised that are no character.
const (
	undisguised = rune(-1) // stays as it is
	dropped     = rune(-2) // is not there
)

// leadsDisguise says whether a character that disguised answers for may begin with the byte.
func leadsDisguise(c byte) bool {
	switch {
	case c < 0xC2, 0xC3 <= c && c <= 0xCC, 0xCE <= c && c <= 0xD7, 0xE4 <= c && c <= 0xE9:
		return false // ASCII, continuation bytes, Latin, Greek, Cyrillic, Hebrew, CJK
	}
	return true
}

// disguised looks at the character that s begins with and says which ASCII
// character it stands for, if any, and how many bytes it takes: other scripts'
// digits, full-width forms, spaces and dashes of typography, characters that are
// not seen, and escapes that were left in the text.
func disguised(s string) (r rune, size int) {
	if s[0] == '\\' {
		return escaped(s)
	}
	r, size = utf8.DecodeRuneInString(s)
	return standsFor(r), size
}

// escaped reads \u0034, \n, \" and their like: text that was JSON twice, such as
// the arguments of a tool call. A backslash of its own stays.
func escaped(s string) (rune, int) {
	if len(s) < 2 {
		return undisguised, 1
	}
	switch s[1] {
	case 'n', 'r', 't':
		return '\n', 2
	case '"', '/':
		return rune(s[1]), 2
	case 'u':
		if len(s) >= 6 {
			return escapedRune(s[2:6])
		}
	}
	return undisguised, 1
}

func escapedRune(hex string) (rune, int) {
	v, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		return undisguised, 1
	}
	if v < 0x80 {
		return rune(v), 6
	}
	if r := standsFor(rune(v)); r != undisguised {
		return r, 6
	}
	return undisguised, 1
}

func standsFor(r rune) rune {
	switch {
	case r == 0xA0, 0x2000 <= r && r <= 0x200A, r == 0x202F, r == 0x205F, r == 0x3000:
		return ' '
	case 0x2010 <= r && r <= 0x2013, r == 0x2212, r == 0xFE58, r == 0xFE63:
		return '-'
	case 0xFF01 <= r && r <= 0xFF5E:
		return fullWidth(byte(r - 0xFF01 + '!'))
	case r == 0xAD, r == 0x34F, r == 0x61C, r == 0x180E, 0x200B <= r && r <= 0x200F,
		0x202A <= r && r <= 0x202E, 0x2060 <= r && r <= 0x2069, 0xFE00 <= r && r <= 0xFE0F, r == 0xFEFF:
		return dropped
	case r > 0x660 && unicode.Is(unicode.Nd, r) || r == 0x660:
		return '0' + decimal(r)
	}
	return undisguised
}

// fullWidth folds what a finding can consist of; the commas and brackets of Chinese and Japanese prose stay.
func fullWidth(c byte) rune {
	if isDotted(c) || c == '@' || c == '+' || c == '/' || c == '=' {
		return rune(c)
	}
	return undisguised
}

// decimal is the value of a digit of category Nd. Unicode keeps them in rows of ten from zero to nine.
func decimal(r rune) rune {
	for _, t := range unicode.Nd.R16 {
		if rune(t.Lo) <= r && r <= rune(t.Hi) {
			return (r - rune(t.Lo)) % 10
		}
	}
	for _, t := range unicode.Nd.R32 {
		if rune(t.Lo) <= r && r <= rune(t.Hi) {
			return (r - rune(t.Lo)) % 10
		}
	}
	return 0
}

// foldedText is a text without disguises, and where its bytes came from.
type foldedText struct {
	text  string
	marks []mark // wherever the distance between the two offsets changes
}

type mark struct{ folded, original int }

// fold takes the disguises off a text.
func fold(text string) foldedText {
	var f foldedText
	out := make([]byte, 0, len(text))
	from := 0
	for i := 0; i < len(text); {
		if trigger[text[i]] != exotic {
			i++
			continue
		}
		r, size := disguised(text[i:])
		if r != undisguised {
			out = append(out, text[from:i]...)
			f.marks = append(f.marks, mark{folded: len(out), original: i})
			if r != dropped {
				out = append(out, byte(r))
			}
			from = i + size
			f.marks = append(f.marks, mark{folded: len(out), original: from})
		}
		i += size
	}
	f.text = string(append(out, text[from:]...))
	return f
}

// original is the offset in the text that was folded.
func (f *foldedText) original(offset int) int {
	i := sort.Search(len(f.marks), func(i int) bool { return f.marks[i].folded > offset })
	if i == 0 {
		return offset
	}
	m := f.marks[i-1]
	return m.original + offset - m.folded
}

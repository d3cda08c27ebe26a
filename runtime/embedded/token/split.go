package token

import (
	"unicode"
	"unicode/utf8"
)

// pre says how a BPE vocabulary's text is split into words before merging.
// Merges never cross a word's border, so each family's splitting is part of its
// vocabulary.
type pre struct {
	stages     []stage
	wholeWords bool // a word that is itself a token is not built by merges
	addBOS     bool // where the file does not say
}

// stage finds the next word: given the text and a position it answers how many
// bytes from there belong together and whether they are a match; what lies
// between matches stays together as a word of its own.
type stage func(text string, at int) (n int, match bool)

// preOf names the splitting of tokenizer.ggml.pre. An absent name means the
// splitting that llama.cpp calls default.
func preOf(name string) (pre, bool) {
	switch name {
	case "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2":
		return pre{stages: []stage{modern{digits: 3}.next}, wholeWords: true, addBOS: true}, true
	case "qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "megrez":
		return pre{stages: []stage{modern{digits: 1}.next}}, true
	case "qwen35":
		return pre{stages: []stage{modern{digits: 1, marks: true}.next}}, true
	case "smaug-bpe", "chatglm-bpe", "glm4", "dbrx":
		return pre{stages: []stage{modern{digits: 3}.next}}, true
	case "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion", "granite-docling":
		return pre{stages: []stage{gpt2}}, true
	case "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b":
		return pre{stages: []stage{oneDigit, gpt2}}, true
	case "default", "":
		return pre{stages: []stage{punctuation, gpt2, numbers, threeDigits}}, true
	case "falcon":
		return pre{stages: []stage{punctuation, gpt2, threeDigits}}, true
	}
	return pre{}, false
}

// split cuts text into words; joined they are the text again.
func (p pre) split(text string) []string {
	words := []string{text}
	for _, next := range p.stages {
		words = splitAll(words, next)
	}
	return words
}

func splitAll(words []string, next stage) []string {
	out := make([]string, 0, len(words))
	for _, word := range words {
		from := 0 // where the text since the last match begins
		for at := 0; at < len(word); {
			n, match := next(word, at)
			if match {
				if from < at {
					out = append(out, word[from:at])
				}
				out = append(out, word[at:at+n])
				from = at + n
			}
			at += n
		}
		if from < len(word) {
			out = append(out, word[from:])
		}
	}
	return out
}

// class sorts characters as the patterns do: \s, \p{L}, \p{N} and the rest.
type class uint8

const (
	classEnd class = iota // past the end of the text
	classSpace
	classLetter
	classNumber
	classOther
)

// classAt is the class of the character at at, with the character and its length.
func classAt(text string, at int) (class, rune, int) {
	if at >= len(text) {
		return classEnd, -1, 0
	}
	r, n := utf8.DecodeRuneInString(text[at:])
	switch {
	case unicode.IsSpace(r):
		return classSpace, r, n
	case unicode.IsLetter(r):
		return classLetter, r, n
	case unicode.IsNumber(r):
		return classNumber, r, n
	}
	return classOther, r, n
}

// run is the length of the run of class c from at on.
func run(text string, at int, c class) int {
	end := at
	for {
		got, _, n := classAt(text, end)
		if got != c {
			return end - at
		}
		end += n
	}
}

// gpt2 is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func gpt2(text string, at int) (int, bool) {
	if n := contraction(text[at:], false); n > 0 {
		return n, true
	}
	skip := 0
	if text[at] == ' ' {
		skip = 1
	}
	if c, _, _ := classAt(text, at+skip); c != classSpace && c != classEnd {
		return skip + run(text, at+skip, c), true
	}
	return spaces(text, at), true
}

// spaces is \s+(?!\S)|\s+ : white space leaves its last character to the word that follows.
func spaces(text string, at int) int {
	n := run(text, at, classSpace)
	if at+n == len(text) {
		return n
	}
	_, last := utf8.DecodeLastRuneInString(text[at : at+n])
	if n > last {
		n -= last
	}
	return n
}

// contraction is the length of the English ending that text begins with, or 0.
func contraction(text string, anyCase bool) int {
	if len(text) < 2 || text[0] != '\'' {
		return 0
	}
	lower := func(i int) rune {
		if i >= len(text) {
			return -1
		}
		r, _ := utf8.DecodeRuneInString(text[i:])
		if anyCase {
			// The long s lowers to itself but matches s without regard to case; llama.cpp compares lowered characters.
			r = unicode.ToLower(r)
		}
		return r
	}
	switch a, b := lower(1), lower(2); {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case a == 'r' && b == 'e', a == 'v' && b == 'e', a == 'l' && b == 'l':
		return 3
	}
	return 0
}

// modern is the splitting that Llama 3 began and Qwen2 and others vary:
// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
type modern struct {
	digits int  // longest number
	marks  bool // combining marks count as letters
}

func (m modern) next(text string, at int) (int, bool) {
	if n := contraction(text[at:], true); n > 0 {
		return n, true
	}
	c, r, size := m.class(text, at)
	if c == classLetter {
		return m.run(text, at, classLetter), true
	}
	if c != classNumber && r != '\r' && r != '\n' {
		if n := m.run(text, at+size, classLetter); n > 0 {
			return size + n, true
		}
	}
	if c == classNumber {
		return m.number(text, at), true
	}
	skip := 0
	if r == ' ' {
		skip = 1
	}
	if n := m.run(text, at+skip, classOther); n > 0 {
		end := at + skip + n
		for end < len(text) && (text[end] == '\r' || text[end] == '\n') {
			end++
		}
		return end - at, true
	}
	return m.space(text, at), true
}

// space is \s*[\r\n]+|\s+(?!\S)|\s+ .
func (m modern) space(text string, at int) int {
	n := run(text, at, classSpace)
	for i := at + n; i > at; i-- {
		if text[i-1] == '\r' || text[i-1] == '\n' {
			return i - at
		}
	}
	return spaces(text, at)
}

func (m modern) number(text string, at int) int {
	end := at
	for range m.digits {
		c, _, n := classAt(text, end)
		if c != classNumber {
			break
		}
		end += n
	}
	return end - at
}

func (m modern) class(text string, at int) (class, rune, int) {
	c, r, n := classAt(text, at)
	if m.marks && c == classOther && unicode.IsMark(r) {
		c = classLetter
	}
	return c, r, n
}

func (m modern) run(text string, at int, c class) int {
	end := at
	for {
		got, _, n := m.class(text, end)
		if got != c {
			return end - at
		}
		end += n
	}
}

// oneDigit is \p{N} : every digit is a word.
func oneDigit(text string, at int) (int, bool) {
	c, _, n := classAt(text, at)
	return n, c == classNumber
}

// numbers is \p{N}+ .
func numbers(text string, at int) (int, bool) {
	if n := run(text, at, classNumber); n > 0 {
		return n, true
	}
	_, _, n := classAt(text, at)
	return n, false
}

// threeDigits is [0-9][0-9][0-9] .
func threeDigits(text string, at int) (int, bool) {
	digit := func(i int) bool { return i < len(text) && text[i] >= '0' && text[i] <= '9' }
	if digit(at) && digit(at+1) && digit(at+2) {
		return 3, true
	}
	_, _, n := classAt(text, at)
	return n, false
}

// punctuation is [\p{P}\$\+<=>\^~\|]+ .
func punctuation(text string, at int) (int, bool) {
	end := at
	for end < len(text) {
		r, n := utf8.DecodeRuneInString(text[end:])
		if !unicode.IsPunct(r) && !isSign(r) {
			break
		}
		end += n
	}
	if end > at {
		return end - at, true
	}
	_, _, n := classAt(text, at)
	return n, false
}

func isSign(r rune) bool {
	switch r {
	case '$', '+', '<', '=', '>', '^', '~', '|':
		return true
	}
	return false
}

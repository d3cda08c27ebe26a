package detect

import (
	"cmp"
	"slices"
	"strings"
)

// What a byte may begin. Everything that is not listed is stepped over.
const (
	plain  uint8 = iota
	letter       // a word: tokens by prefix
	digit        // a number: cards, IBANs
	atSign       // an e-mail address
	dash         // PEM armour
	exotic       // may be a character in disguise, see fold
)

// trigger is the class of each byte. Read only.
var trigger = func() (t [256]uint8) {
	for c := range t {
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
			t[c] = letter
		case '0' <= c && c <= '9':
			t[c] = digit
		case c == '@':
			t[c] = atSign
		case c == '-':
			t[c] = dash
		case c == '\\' || leadsDisguise(byte(c)):
			t[c] = exotic
		}
	}
	return t
}()

// minText is the shortest text that can hold a finding by itself: a@b.co. Under a key it may be a number of minRecord digits.
const minText = 6

// Scan finds everything of every kind in one text, in the order of the text.
// Findings of different kinds may overlap. It looks at each byte once, a second
// time when the text has characters that must be folded first.
func Scan(text string) []Finding { return scanUnder("", text) }

// scanUnder is Scan of a value that stands under a key: the key says what a number is.
func scanUnder(key, text string) []Finding {
	if len(text) < minText-1 {
		return nil
	}
	s := scan{text: text, key: key}
	if s.run() {
		return s.sorted()
	}
	folded := fold(text)
	s = scan{text: folded.text, key: key, folded: true}
	s.run()
	for i, f := range s.found {
		s.found[i].Start, s.found[i].End = folded.original(f.Start), folded.original(f.End)
	}
	return s.sorted()
}

// Parts scans texts that belong together, such as the content parts of a
// message: each by itself, and all as one without anything between them. Offsets
// are those of the joined text.
func Parts(texts []string) []Finding {
	if len(texts) == 1 {
		return Scan(texts[0])
	}
	s := scan{found: Scan(strings.Join(texts, ""))}
	start := 0
	for _, t := range texts {
		for _, f := range Scan(t) {
			s.add(f.Kind, f.Start+start, f.End+start)
		}
		start += len(t)
	}
	return s.sorted()
}

// scan is one pass over one text.
type scan struct {
	text   string
	key    string // that the text is the value of; "" when there is none
	folded bool   // disguises are gone already
	found  []Finding

	// What the last question about the words before a number looked at.
	windowEnd  int
	windowText string
	num        number // that national grows: its checks are called by reference
}

func (s *scan) add(k Kind, start, end int) {
	s.found = append(s.found, Finding{Kind: k, Start: start, End: end})
}

// sorted returns the findings in the order of the text, each once.
func (s *scan) sorted() []Finding {
	slices.SortFunc(s.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), cmp.Compare(a.Kind, b.Kind))
	})
	return slices.Compact(s.found)
}

// run visits the text; false when it met a character that must be folded first.
func (s *scan) run() bool {
	text := s.text
	for i := 0; i < len(text); {
		switch trigger[text[i]] {
		case plain:
			for i++; i < len(text) && trigger[text[i]] == plain; i++ {
			}
		case letter:
			if i+1 < len(text) && mayBeToken(text[i], text[i+1]) && (i == 0 || trigger[text[i-1]] != digit) {
				s.token(i)
			}
			start := i
			for i++; i < len(text) && trigger[text[i]] == letter; i++ {
			}
			if walletStart[text[start]] && (i-start >= minWallet || i < len(text) && trigger[text[i]] == digit) {
				s.wallet(start)
			}
		case digit:
			start, end := i, i+1
			for end < len(text) && trigger[text[end]] == digit {
				end++
			}
			if i = s.iban(i, end); i == 0 {
				i = max(s.card(start, end), end)
			}
			if i == end && walletStart[text[start]] {
				i = max(s.wallet(start), end)
			}
			if i == end {
				i = max(s.number(start, end), end)
			}
		case atSign:
			s.email(i)
			i++
		case dash:
			end := i + 1
			for end < len(text) && text[end] == '-' {
				end++
			}
			if end-i >= armourDashes {
				s.privateKey(i, end)
			}
			i = end
		case exotic:
			r, size := disguised(text[i:])
			if r != undisguised && !s.folded {
				return false
			}
			i += size
		}
	}
	return true
}

func isAlnum(c byte) bool { return trigger[c] == letter || trigger[c] == digit }

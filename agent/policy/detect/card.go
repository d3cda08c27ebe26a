package detect

const (
	minCard   = 13
	maxCard   = 19
	maxGap    = 3 // bytes between two groups of a number: " - "
	maxGroups = 8 // unless the digits stand one by one
	minGlued  = 2 // letters before a number written without a space: Visa4111...
	maxGlued  = 32
)

// card looks for a payment card that begins with the group of digits [i,end). A
// card is one group, several groups with spaces or dashes between them, or single
// digits that are spaced one by one and nothing but the card. It returns where
// the card ends, or 0.
func (s *scan) card(i, end int) int {
	if c := s.text[i]; c < '2' || c == '7' || end-i > maxCard || !s.cardMayBegin(i) {
		return 0
	}
	single := end-i == 1
	if single && s.groupBefore(i) {
		return 0
	}
	var digits [maxCard]byte
	n := copy(digits[:], s.text[i:end])
	for groups := 1; ; groups++ {
		next, nextEnd := s.nextGroup(end)
		if n >= minCard && (!single || next < 0) && s.cardMayEnd(end) && isCard(digits[:n]) {
			s.add(Card, i, end)
			return end
		}
		if next < 0 || n+nextEnd-next > maxCard || (single && nextEnd-next != 1) || (!single && groups == maxGroups) {
			return 0
		}
		n += copy(digits[n:], s.text[next:nextEnd])
		end = nextEnd
	}
}

// nextGroup is the group of digits that goes on after a number that ends at end; -1 when none does.
func (s *scan) nextGroup(end int) (start, stop int) {
	start = end
	for start < len(s.text) && start-end < maxGap && (s.text[start] == ' ' || s.text[start] == '-') {
		start++
	}
	if start == end && dotted(s.text, end) {
		start++
	}
	stop = start
	for stop < len(s.text) && trigger[s.text[stop]] == digit && stop-start <= maxCard {
		stop++
	}
	if start == end || stop == start {
		return -1, -1
	}
	return start, stop
}

// dotted says whether a dot at i stands between two groups of exactly four
// digits: 4111.1111 is a card's, 0.4111 a fraction's.
func dotted(text string, i int) bool {
	if i < 4 || i+5 > len(text) || text[i] != '.' {
		return false
	}
	for j := i - 4; j <= i+4; j++ {
		if j != i && trigger[text[j]] != digit {
			return false
		}
	}
	return (i == 4 || trigger[text[i-5]] != digit) && (i+5 == len(text) || trigger[text[i+5]] != digit)
}

// groupBefore says whether the digit at i goes on a row of digits spaced one by one.
func (s *scan) groupBefore(i int) bool {
	return i >= 2 && (s.text[i-1] == ' ' || s.text[i-1] == '-') && trigger[s.text[i-2]] == digit
}

// cardMayBegin refuses numbers that are the end of something else: a fraction, an id with digits in it.
func (s *scan) cardMayBegin(i int) bool {
	if i == 0 {
		return true
	}
	switch c := s.text[i-1]; {
	case c == '.' && i >= 2 && trigger[s.text[i-2]] == digit:
		return false
	case trigger[c] != letter:
		return true
	}
	return s.gluedWord(i)
}

// gluedWord says whether a whole word of letters stands right before i, as in IBANDE89 or Visa4111.
func (s *scan) gluedWord(i int) bool {
	j := i
	for j > 0 && i-j <= maxGlued && trigger[s.text[j-1]] == letter {
		j--
	}
	return i-j >= minGlued && (j == 0 || !isAlnum(s.text[j-1]))
}

// cardMayEnd refuses numbers that go on as something else.
func (s *scan) cardMayEnd(end int) bool {
	if end == len(s.text) {
		return true
	}
	if s.text[end] == '.' && end+1 < len(s.text) && trigger[s.text[end+1]] == digit {
		return false
	}
	return !isAlnum(s.text[end])
}

// isCard checks the issuer's range with its lengths, then the Luhn digit.
func isCard(digits []byte) bool {
	return issued(digits) && luhn(digits)
}

// luhn is ISO/IEC 7812-1 annex B.
func luhn(digits []byte) bool {
	sum := 0
	double := false
	for i := len(digits) - 1; i >= 0; i-- {
		d := int(digits[i] - '0')
		if double {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
		double = !double
	}
	return sum%10 == 0
}

// issued says whether a number of that length is given out under its first digits.
func issued(d []byte) bool {
	four := int(d[0]-'0')*1000 + int(d[1]-'0')*100 + int(d[2]-'0')*10 + int(d[3]-'0')
	two, three, n := four/100, four/10, len(d)
	switch {
	case two/10 == 4: // Visa
		return n == 13 || n == 16 || n == 18 || n == 19
	case 51 <= two && two <= 55, 2221 <= four && four <= 2720: // Mastercard
		return n == 16
	case two == 34 || two == 37: // American Express
		return n == 15
	case 300 <= three && three <= 305, three == 309, two == 38, two == 39: // Diners Club
		return n == 14 || n == 16 || n == 19
	case two == 36:
		return n >= 14
	case 3528 <= four && four <= 3589: // JCB
		return n >= 16
	case two == 62, two == 81: // UnionPay
		return n >= 16
	case two == 60, two == 64, two == 65, two == 82, three == 508: // Discover, RuPay, Verve
		return n >= 16
	case 2200 <= four && four <= 2205: // Mir
		return n >= 16
	case four == 9792: // Troy
		return n == 16
	case two == 50, 56 <= two && two <= 58, two == 63, two == 67: // Maestro
		return n >= minCard
	}
	return false
}

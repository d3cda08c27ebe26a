package detect

import "strings"

// lettered looks for a national number with letters in it whose first group of
// digits is [i,end). Where a check letter proves the number case does not matter;
// where nothing does, the letters must be capitals.
func (s *scan) lettered(i, end int) int {
	first, c := i, s.at(end)
	if (i == 0 || trigger[s.text[i-1]] != letter) && trigger[c] != letter && c != '-' && c != '.' && c != '+' && (c != ' ' || end-i != 2) {
		return 0
	}
	for first > 0 && i-first <= 6 && trigger[s.text[first-1]] == letter {
		first--
	}
	if first > 0 && isAlnum(s.text[first-1]) {
		return 0
	}
	word, digits := s.text[first:i], s.text[i:end]
	to := 0
	switch len(word) {
	case 0:
		to = s.digitsThenLetter(i, end)
	case 1:
		to = s.letterThenDigits(upper(word[0]), digits, end)
	case 2:
		to = s.nino(word, i, end)
	case 4:
		to = s.curp(word, i, end)
	case 5: // India's PAN: the fourth letter is the kind of holder
		if len(digits) == 4 && capitals(word) && strings.IndexByte("ABCFGHLJPT", word[3]) >= 0 && s.capital(end) {
			to = end + 1
		}
	case 6:
		to = s.codiceFiscale(word, i, end)
	}
	if to == 0 || to < len(s.text) && isAlnum(s.text[to]) {
		return 0
	}
	if word == "" && end-i == 2 && s.at(end) == ' ' {
		first -= len("AB ")
	}
	s.add(NationalID, first, to)
	return to
}

func upper(c byte) byte { return c &^ 0x20 }

func capitals(word string) bool {
	return strings.IndexFunc(word, func(r rune) bool { return r < 'A' || r > 'Z' }) < 0
}

// letterAt is the letter at i in upper case, 0 where there is none.
func (s *scan) letterAt(i int) byte {
	if i < len(s.text) && trigger[s.text[i]] == letter {
		return upper(s.text[i])
	}
	return 0
}

func (s *scan) capital(i int) bool { return i < len(s.text) && 'A' <= s.text[i] && s.text[i] <= 'Z' }

// digitsAt says whether n digits stand at i.
func (s *scan) digitsAt(i, n int) bool {
	if i+n > len(s.text) {
		return false
	}
	for _, c := range []byte(s.text[i : i+n]) {
		if trigger[c] != digit {
			return false
		}
	}
	return true
}

const dniLetters = "TRWAGMYFPDXBNJZSQVHLCKE" // Spain

// digitsThenLetter: numbers that begin with digits.
func (s *scan) digitsThenLetter(i, end int) int {
	d := []byte(s.text[i:end])
	after := end
	if after < len(s.text) && s.text[after] == '-' {
		after++
	}
	c := s.letterAt(after)
	switch {
	case len(d) <= 2 && s.text[min(end, len(s.text)-1)] == '.': // Chile, in groups
		if s.digitsAt(end+1, 3) && s.at(end+4) == '.' && s.digitsAt(end+5, 3) && s.at(end+8) == '-' && s.letterAt(end+9) == 'K' {
			d = append(append(d, s.text[end+1:end+4]...), s.text[end+5:end+8]...)
			if rutCheck(d) == 'K' {
				return end + 10
			}
		}
	case len(d) == 2 && s.at(end) == ' ' && i >= 3 && s.text[i-1] == ' ' && (i == 3 || !isWord(s.text[i-4])):
		return s.nino(s.text[i-3:i-1], i, end)
	case len(d) == 6:
		return s.hetu(d, end)
	case c == 0:
	case len(d) == 8 && dniLetters[modulo(d, 23)] == c && !s.digitsAt(after+1, 1):
		return after + 1
	case (len(d) == 7 || len(d) == 8) && after > end && c == 'K' && rutCheck(d) == 'K':
		return after + 1
	case len(d) == 8 && after == end && s.digitsAt(end+1, 3):
		return s.rentenversicherung(d, c, end)
	case len(d) == 7 && after == end:
		return s.pps(d, c, end)
	case len(d) == 17 && c == 'X' && residentBody(d) && residentCheck(d) == 'X':
		return after + 1
	}
	return 0
}

func (s *scan) at(i int) byte {
	if i < len(s.text) {
		return s.text[i]
	}
	return 0
}

// hetu: Finland's, ddmmyy, a sign for the century, three digits and a check.
func (s *scan) hetu(d []byte, end int) int {
	if strings.IndexByte("-+ABCDEFYXWVU", s.at(end)) < 0 || !s.digitsAt(end+1, 3) || !date(two(d[4:]), two(d[2:]), two(d)) {
		return 0
	}
	all := append(d, s.text[end+1:end+4]...)
	if "0123456789ABCDEFHJKLMNPRSTUVWXY"[modulo(all, 31)] != s.at(end+4) {
		return 0
	}
	return end + 5
}

// pps: Ireland's, with one letter or two.
func (s *scan) pps(d []byte, check byte, end int) int {
	sum, to := weighted(d, 8, 7, 6, 5, 4, 3, 2), end+1
	if second := s.letterAt(end + 1); second != 0 {
		if second > 'I' && second != 'W' {
			return 0
		}
		if second != 'W' {
			sum += 9 * int(second-'A'+1)
		}
		to++
	}
	if "WABCDEFGHIJKLMNOPQRSTUV"[sum%23] != check || !s.capital(end) {
		return 0
	}
	return to
}

// rentenversicherung: Germany's, area, date, letter, serial and check.
func (s *scan) rentenversicherung(d []byte, c byte, end int) int {
	place := int(c-'A') + 1
	all := append(append(append([]byte{}, d...), '0'+byte(place/10), '0'+byte(place%10)), s.text[end+1:end+3]...)
	sum := 0
	for i, w := range []int{2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1} {
		p := int(all[i]-'0') * w
		sum += p/10 + p%10
	}
	if sum%10 != int(s.text[end+3]-'0') || !date(two(d[6:]), two(d[4:]), two(d[2:])) {
		return 0
	}
	return end + 4
}

// letterThenDigits: Spain's NIE, Singapore, Taiwan, Hong Kong.
func (s *scan) letterThenDigits(first byte, digits string, end int) int {
	d := []byte(digits)
	switch {
	case len(d) == 7 && 'X' <= first && first <= 'Z':
		to := end
		if s.at(to) == '-' {
			to++
		}
		if dniLetters[modulo(append([]byte{first - 'X' + '0'}, d...), 23)] == s.letterAt(to) {
			return to + 1
		}
	case len(d) == 7 && strings.IndexByte("STFGM", first) >= 0:
		if nric(first, d) == s.letterAt(end) {
			return end + 1
		}
	case len(d) == 9 && (d[0] == '1' || d[0] == '2' || d[0] == '8' || d[0] == '9'):
		place := strings.IndexByte("ABCDEFGHJKLMNPQRSTUVXYWZIO", first) + 10
		if (place/10+place%10*9+weighted(d, 8, 7, 6, 5, 4, 3, 2, 1, 1))%10 == 0 {
			return end
		}
	case len(d) == 6:
		return s.hongKong(36*9+int(first-'A'+10)*8, d, end)
	}
	return 0
}

// nric is the check letter of a Singapore number.
func nric(first byte, d []byte) byte {
	sum := weighted(d, 2, 7, 6, 5, 4, 3, 2)
	switch first {
	case 'S':
		return "JZIHGFEDCBA"[sum%11]
	case 'T':
		return "JZIHGFEDCBA"[(sum+4)%11]
	case 'F':
		return "XWUTRQPNMLK"[sum%11]
	case 'G':
		return "XWUTRQPNMLK"[(sum+4)%11]
	}
	return "KLJNPQRTUWX"[10-(sum+3)%11]
}

// hongKong wants the check digit in brackets, as the card has it: without them one number in eleven would do.
func (s *scan) hongKong(sum int, d []byte, end int) int {
	if s.at(end) != '(' || s.at(end+2) != ')' {
		return 0
	}
	sum = (sum + weighted(d, 7, 6, 5, 4, 3, 2)) % 11
	if "0A987654321"[sum] != upperDigit(s.text[end+1]) {
		return 0
	}
	return end + 3
}

func upperDigit(c byte) byte {
	if trigger[c] == letter {
		return upper(c)
	}
	return c
}

// nino: Britain's, AB123456C or in pairs with spaces, and Hong Kong's with two letters.
func (s *scan) nino(word string, i, end int) int {
	if end-i == 6 && s.at(end) == '(' {
		return s.hongKong(int(upper(word[0])-'A'+10)*9+int(upper(word[1])-'A'+10)*8, []byte(s.text[i:end]), end)
	}
	bad := strings.Contains("BG GB KN NK NT TN ZZ", word) || strings.ContainsAny(word, "DFIQUV") || word[1] == 'O'
	if !capitals(word) || bad {
		return 0
	}
	if end-i == 2 && s.digitsAt(end+1, 2) && s.digitsAt(end+4, 2) && s.at(end) == ' ' && s.at(end+3) == ' ' {
		end += 6
	} else if end-i != 6 {
		return 0
	}
	if s.at(end) == ' ' {
		end++
	}
	if c := s.at(end); c < 'A' || c > 'D' {
		return 0
	}
	return end + 1
}

// curp: Mexico's, four letters, a date, sex, state, consonants and a check digit.
func (s *scan) curp(word string, i, end int) int {
	d := []byte(s.text[i:end])
	if len(d) != 6 || !capitals(word) || end+8 > len(s.text) || s.text[end] != 'H' && s.text[end] != 'M' ||
		!capitals(s.text[end:end+6]) || !date(two(d), two(d[2:]), two(d[4:])) {
		return 0
	}
	const alphabet = "0123456789ABCDEFGHIJKLMN&OPQRSTUVWXYZ" // with Ñ in the place of the ampersand
	sum := 0
	for k, c := range []byte(s.text[i-4 : end+7]) {
		sum += strings.IndexByte(alphabet, c) * (18 - k)
	}
	if (10-sum%10)%10 != int(s.text[end+7]-'0') {
		return 0
	}
	return end + 8
}

// codiceFiscale: Italy's, six letters, year, month, day and sex, place, and a check letter.
func (s *scan) codiceFiscale(word string, i, end int) int {
	if end-i != 2 || s.letterAt(end) == 0 || !s.digitsAt(end+1, 2) || s.letterAt(end+3) == 0 || !s.digitsAt(end+4, 3) || s.letterAt(end+7) == 0 {
		return 0
	}
	const odd = "BAKPLCQDREVOSFTGUHMINJWZYX" // the letter at n stands for n
	sum := 0
	for k, c := range []byte(word + s.text[i:end+7]) {
		n := int(upperDigit(c)) - 'A'
		if trigger[c] == digit {
			n = int(c - '0')
		}
		if k%2 == 0 {
			n = strings.IndexByte(odd, 'A'+byte(n))
		}
		sum += n
	}
	if 'A'+byte(sum%26) != s.letterAt(end+7) {
		return 0
	}
	return end + 8
}

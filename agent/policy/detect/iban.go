package detect

import "strings"

// ibanLengths is the IBAN registry (SWIFT, ISO 13616): country and length of the whole number.
const ibanLengths = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 " +
	"EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 " +
	"KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 " +
	"PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 " +
	"VG24 XK20 YE30"

// ibanLength is the length by the two letters; 0 for no country. Read only.
var ibanLength = func() (t [26 * 26]uint8) {
	for entry := range strings.SplitSeq(ibanLengths, " ") {
		t[int(entry[0]-'A')*26+int(entry[1]-'A')] = (entry[2]-'0')*10 + entry[3] - '0'
	}
	return t
}()

// iban looks for an account number whose check digits begin at i, in one piece or
// in groups with single spaces or dashes between them. It returns where the
// number ends, or 0.
func (s *scan) iban(i, end int) int {
	if end-i < 2 || i < 2 || trigger[s.text[i-1]] != letter || trigger[s.text[i-2]] != letter {
		return 0
	}
	start := i - 2
	want := int(ibanLength[int(s.text[start]&^0x20-'A')*26+int(s.text[start+1]&^0x20-'A')])
	if want == 0 || (start > 0 && isAlnum(s.text[start-1]) && !s.gluedWord(start)) {
		return 0
	}
	// Mod 97 of the number with its first four characters moved to the end: the rest is
	// taken first, the head is kept for last.
	rest, n, j := 0, 0, start
	for ; n < want && j < len(s.text); j++ {
		switch c := s.text[j]; {
		case isAlnum(c):
			if n >= 4 {
				rest = mod97(rest, c)
			}
			n++
		case (c == ' ' || c == '-') && isAlnum(s.text[j-1]):
		default:
			return 0
		}
	}
	if n < want || (j < len(s.text) && isAlnum(s.text[j])) {
		return 0
	}
	for k := start; k < start+4; k++ {
		rest = mod97(rest, s.text[k])
	}
	if rest != 1 {
		return 0
	}
	s.add(IBAN, start, j)
	return j
}

// mod97 appends a digit, or a letter as the two digits A=10 to Z=35.
func mod97(rest int, c byte) int {
	if trigger[c] == digit {
		return (rest*10 + int(c-'0')) % 97
	}
	return (rest*100 + int(c&^0x20-'A') + 10) % 97
}

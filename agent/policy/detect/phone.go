package detect

import "strings"

// callingCodes are the country codes of ITU-T E.164 with the fewest and the most
// digits that follow them, as the national numbering plans give them.
const callingCodes = "1:10-10 7:10-10 20:8-10 27:9-9 30:10-10 31:9-9 32:8-9 33:9-9 34:9-9 36:8-9 39:6-11 40:9-9 41:9-9 43:4-13 44:9-10 45:8-8 " +
	"46:7-10 47:8-8 48:9-9 49:5-13 51:8-9 52:10-10 53:6-8 54:10-11 55:10-11 56:9-9 57:8-10 58:10-10 60:8-10 61:9-9 62:8-12 63:8-10 64:8-10 " +
	"65:8-8 66:8-9 81:9-10 82:8-10 84:9-10 86:10-11 90:10-10 91:10-10 92:9-10 93:9-9 94:9-9 95:7-10 98:10-10 " +
	"211:9-9 212:9-9 213:8-9 216:8-8 218:9-9 220:7-7 221:9-9 222:8-8 223:8-8 224:9-9 225:10-10 226:8-8 227:8-8 228:8-8 229:8-10 230:7-8 231:7-9 232:8-8 " +
	"233:9-9 234:8-10 235:8-8 236:8-8 237:9-9 238:7-7 239:7-7 240:9-9 241:7-8 242:9-9 243:9-9 244:9-9 245:7-9 246:7-7 248:7-7 249:9-9 250:9-9 251:9-9 " +
	"252:7-9 253:8-8 254:9-9 255:9-9 256:9-9 257:8-8 258:8-9 260:9-9 261:9-9 262:9-9 263:9-9 264:8-9 265:7-9 266:8-8 267:7-8 268:8-8 269:7-7 " +
	"290:4-5 291:7-7 297:7-7 298:6-6 299:6-6 350:8-8 351:9-9 352:6-11 353:7-9 354:7-9 355:8-9 356:8-8 357:8-8 358:6-11 359:7-9 370:8-8 371:8-8 " +
	"372:7-8 373:8-8 374:8-8 375:9-9 376:6-9 377:8-9 378:6-10 379:6-11 380:9-9 381:8-9 382:8-8 383:8-8 385:8-9 386:8-8 387:8-8 389:8-8 420:9-9 " +
	"421:9-9 423:7-9 500:5-5 501:7-7 502:8-8 503:8-8 504:8-8 505:8-8 506:8-8 507:7-8 508:6-6 509:8-8 590:9-9 591:8-8 592:7-7 593:8-9 594:9-9 595:8-9 " +
	"596:9-9 597:6-7 598:8-8 599:7-8 670:7-8 672:6-6 673:7-7 674:7-7 675:7-8 676:5-7 677:5-7 678:5-7 679:7-7 680:7-7 681:6-6 682:5-5 683:4-4 685:5-7 " +
	"686:8-8 687:6-6 688:5-6 689:6-8 690:4-5 691:7-7 692:7-7 800:8-8 808:8-8 850:8-10 852:8-8 853:8-8 855:8-9 856:8-10 870:9-12 880:8-10 881:8-9 882:7-12 " +
	"883:7-12 886:8-9 888:8-12 960:7-7 961:7-8 962:8-9 963:8-9 964:8-10 965:8-8 966:8-9 967:7-9 968:8-8 970:8-9 971:8-9 972:8-9 973:8-8 974:8-8 975:7-8 " +
	"976:8-8 977:8-10 979:9-9 992:9-9 993:8-8 994:9-9 995:9-9 996:9-9 998:9-9"

// subscriber is how many digits follow each calling code; zero for no code. Read only.
var subscriber = func() (t [1000]struct{ min, max uint8 }) {
	for entry := range strings.SplitSeq(callingCodes, " ") {
		code, lengths, _ := strings.Cut(entry, ":")
		least, most, _ := strings.Cut(lengths, "-")
		at := &t[modulo([]byte(code), 1000)]
		at.min, at.max = uint8(modulo([]byte(least), 100)), uint8(modulo([]byte(most), 100))
	}
	return t
}()

var phoneNames = newNames(
	"phone", "mobile", "cell$", "call me", "call us", "tel$", "fax$", "whatsapp", "sms$", "text me", "reach me", "hotline", "dial$",
	"mobil", "handy", "rufnummer", "anruf", "ruf mich", "durchwahl", "téléphone", "portable", "appelez", "teléfono", "móvil", "llama$",
	"telefon", "telefono", "cellulare", "telefone", "celular", "telefoon", "puhelin", "телефон", "Телефон", "тел", "Тел", "電話", "电话", "手机", "전화", "هاتف",
)

const (
	minPhone = 7
	maxPhone = 15 // E.164
)

// phone looks for a telephone number whose first group of digits is [i,end): in
// the international form, with + or 00 and a calling code, or, where its name
// stands before it, in any national one.
func (s *scan) phone(i, end int) int {
	if i >= 2 && s.text[i-1] == ' ' && trigger[s.text[i-2]] == digit && s.text[i:min(i+2, len(s.text))] != "00" {
		return 0 // the rest of something that was looked at from its beginning
	}
	international := i > 0 && (s.text[i-1] == '+' || s.text[i-1] == '(' && i > 1 && s.text[i-2] == '+')
	var digits [maxPhone + 4]byte
	start, n, to := i, 0, i
	for from, stop := i, end; ; {
		if n+stop-from > maxPhone+2 {
			break
		}
		n += copy(digits[n:], s.text[from:stop])
		to = stop
		if from, stop = s.phoneGroup(to); stop == 0 {
			break
		}
	}
	d := digits[:n]
	if !s.ends(to) || n < minPhone {
		return 0
	}
	switch {
	case international:
		start = strings.LastIndexByte(s.text[:i], '+')
		if !dialled(d) {
			return 0
		}
	case s.goesOn(i) || i > 0 && isAlnum(s.text[i-1]):
		return 0
	case len(d) > 2+minPhone && string(d[:2]) == "00" && d[2] != '0' && dialled(d[2:]):
	case s.national7(d, i, to):
	default:
		return 0
	}
	if start > 0 && s.text[start-1] == '(' && !international {
		start--
	}
	s.add(Phone, start, to)
	return to
}

// national7 says whether the digits may be a number as it is dialled at home: with its name before it.
func (s *scan) national7(d []byte, i, to int) bool {
	if len(d) > 13 || strings.Trim(string(d), string(d[:1])) == "" {
		return false
	}
	return s.named(i, phoneNames) && !date8(s.text[i:to])
}

// date8 says whether the text is a day: 2024-05-17, 17.05.2024.
func date8(text string) bool {
	d := onlyDigits(text)
	if len(text) != 10 || len(d) != 8 {
		return false
	}
	if text[4] == '-' && text[7] == '-' {
		return plausibleYear(d) && date(0, two(d[4:]), two(d[6:]))
	}
	return (text[2] == '.' && text[5] == '.' || text[2] == '/' && text[5] == '/') && plausibleYear(d[4:]) &&
		(date(0, two(d[2:]), two(d)) || date(0, two(d), two(d[2:])))
}

func onlyDigits(text string) []byte {
	d := make([]byte, 0, maxNumber)
	for _, c := range []byte(text) {
		if trigger[c] == digit {
			d = append(d, c)
		}
	}
	return d
}

// phoneGroup is the next group of digits: after one or two of the marks that people write into numbers.
func (s *scan) phoneGroup(end int) (from, to int) {
	from = end
	for from < len(s.text) && from-end < 3 && strings.IndexByte(" -./()", s.text[from]) >= 0 {
		from++
	}
	if from == end || from >= len(s.text) || trigger[s.text[from]] != digit {
		return 0, 0
	}
	for to = from + 1; to < len(s.text) && trigger[s.text[to]] == digit; to++ {
	}
	return from, to
}

// dialled says whether the digits are a calling code with a number of a length that the country has.
func dialled(d []byte) bool {
	for n := 1; n <= 3 && n < len(d); n++ {
		plan := subscriber[modulo(d[:n], 1000)]
		if plan.max == 0 || d[0] == '0' {
			continue
		}
		rest := d[n:]
		// People write the trunk zero into the international form too: +44 (0) 20 ...
		if rest[0] == '0' && n > 1 {
			rest = rest[1:]
		}
		return int(plan.min) <= len(rest) && len(rest) <= int(plan.max) && len(rest)+n <= maxPhone
	}
	return false
}

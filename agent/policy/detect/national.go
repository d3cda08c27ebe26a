package detect

import "strings"

// format is a national number made of digits.
type format struct {
	// shapes are the lengths of the groups of digits with the byte between two, "3-2-4", with '|' between them.
	shapes string
	valid  func(d []byte) bool
	// names, one of which must stand before the number: for formats that one number in a hundred would pass by chance.
	// bare says that only the shape without separators needs it.
	names *names
	bare  bool
}

// names of the numbers, lower-case, as people and forms write them.
var (
	ssnNames       = newNames("ssn$", "social security", "itin$", "taxpayer id")
	sinNames       = newNames("sin$", "social insurance", "nas$", "assurance sociale")
	nhsNames       = newNames("nhs$")
	taxIDNames     = newNames("steuer", "idnr", "tin$", "tax id", "identifikationsnummer")
	bsnNames       = newNames("bsn$", "burgerservice", "sofi$")
	peselNames     = newNames("pesel")
	nifNames       = newNames("nif$", "contribuinte", "fiscal")
	svnrNames      = newNames("sv nr", "svnr", "sv nummer", "sozialversicherung", "versicherungsnummer")
	personNames    = newNames("personnummer", "person nr", "pers nr", "samordningsnummer", "personal identity")
	cprNames       = newNames("cpr$", "personnummer")
	birthNumbers   = newNames("rodn", "r c$", "rc$")
	cnpNames       = newNames("cnp$", "cod numeric")
	egnNames       = newNames("egn$", "ЕГН", "егн")
	oibNames       = newNames("oib$")
	amkaNames      = newNames("amka$", "ΑΜΚΑ", "αμκα")
	tcNames        = newNames("tc$", "t c$", "kimlik", "tckn$")
	cpfNames       = newNames("cpf$")
	aadhaarNames   = newNames("aadhaar", "aadhar", "uidai", "आधार")
	myNumberNames  = newNames("my number", "mynumber", "マイナンバー", "個人番号")
	tfnNames       = newNames("tfn$", "tax file")
	medicareNames  = newNames("medicare")
	israelNames    = newNames("teudat", "israeli id", "ת ז", "תעודת")
	innNames       = newNames("inn$", "ИНН", "инн")
	passportRussia = newNames("passport", "паспорт", "Паспорт")
	cuitNames      = newNames("cuit$", "cuil$")
)

// formats are the numbers by country. The checks are those of the issuing
// offices, as published; docs/policy.md lists the countries. Read only.
var formats = []format{
	{shapes: "3-2-4", valid: ssn},
	{shapes: "3 2 4|9", valid: ssn, names: ssnNames},
	{shapes: "3-3-3|3 3 3|9", valid: func(d []byte) bool { return d[0] != '8' && luhn(d) }, names: sinNames},
	{shapes: "3 3 4|3-3-4|10", valid: nhs, names: nhsNames},
	{shapes: "2 3 3 3|11", valid: steuerID, names: taxIDNames, bare: true},
	{shapes: "1 2 2 2 3 3 2|13 2|15", valid: nir},
	{shapes: "9|4.2.3|3 3 3", valid: bsn, names: bsnNames},
	{shapes: "2.2.2-3.2|2 2 2 3 2|6-3-2|6-3.2|11", valid: rijksregister},
	{shapes: "11", valid: pesel, names: peselNames},
	{shapes: "9|3 3 3", valid: nif, names: nifNames},
	{shapes: "3.4.4.2|13", valid: ahv},
	{shapes: "4 6|10", valid: svnr, names: svnrNames, bare: true},
	{shapes: "6-4|8-4|10|12", valid: personnummer, names: personNames, bare: true},
	{shapes: "6 5|11", valid: fodselsnummer},
	{shapes: "6-4|10", valid: func(d []byte) bool { return date(two(d[4:]), two(d[2:]), two(d)) }, names: cprNames},
	{shapes: "6/4|10", valid: rodneCislo, names: birthNumbers, bare: true},
	{shapes: "13", valid: cnp, names: cnpNames},
	{shapes: "10", valid: egn, names: egnNames},
	{shapes: "11", valid: mod1110, names: oibNames},
	{shapes: "11", valid: func(d []byte) bool { return date(two(d[4:]), two(d[2:]), two(d)) && luhn(d) }, names: amkaNames},
	{shapes: "11", valid: tckn, names: tcNames},
	{shapes: "3.3.3-2|11", valid: cpf, names: cpfNames, bare: true},
	{shapes: "4 4 4|4-4-4|12", valid: aadhaar, names: aadhaarNames},
	{shapes: "4 4 4|4-4-4|12", valid: myNumber, names: myNumberNames},
	{shapes: "18", valid: residentID},
	{shapes: "6-7", valid: func(d []byte) bool { return date(two(d), two(d[2:]), two(d[4:])) && '1' <= d[6] && d[6] <= '8' }},
	{shapes: "3 3 3|9", valid: func(d []byte) bool { return weighted(d, 1, 4, 3, 7, 5, 8, 6, 9, 10)%11 == 0 }, names: tfnNames},
	{shapes: "4 5 1|10", valid: medicare, names: medicareNames},
	{shapes: "13|6 4 2 1|6 4 3", valid: southAfrica},
	{shapes: "9", valid: luhn, names: israelNames},
	{shapes: "12", valid: inn, names: innNames},
	{shapes: "3-3-3 2", valid: snils},
	{shapes: "4 6|2 2 6", valid: func([]byte) bool { return true }, names: passportRussia},
	{shapes: "2-8-1|11", valid: cuit, names: cuitNames, bare: true},
	{shapes: "2.3.3-1|1.3.3-1|8-1|7-1", valid: rut},
}

// shapes is a tree of the shapes of formats, a level for each group of digits.
type shapes struct {
	formats []*format
	next    []branch
}

type branch struct {
	before byte // the byte between the groups; 0 for the first
	length int
	to     *shapes
}

func (n *shapes) follow(before byte, length int) *shapes {
	for k := range n.next {
		if n.next[k].before == before && n.next[k].length == length {
			return n.next[k].to
		}
	}
	return nil
}

// shaped is the root of the tree. Read only.
var shaped = func() *shapes {
	root := &shapes{}
	for i := range formats {
		for shape := range strings.SplitSeq(formats[i].shapes, "|") {
			root.grow(shape, &formats[i])
		}
	}
	return root
}()

func (n *shapes) grow(shape string, f *format) {
	before := byte(0)
	for shape != "" {
		digits := span(shape, func(c byte) bool { return '0' <= c && c <= '9' }, len(shape))
		length := modulo([]byte(shape[:digits]), 100)
		child := n.follow(before, length)
		if child == nil {
			child = &shapes{}
			n.next = append(n.next, branch{before, length, child})
		}
		n = child
		if shape = shape[digits:]; shape != "" {
			before, shape = shape[0], shape[1:]
		}
	}
	n.formats = append(n.formats, f)
}

// national looks for a number of formats that begins with the group [i,end).
func (s *scan) national(i, end int) int {
	at := shaped.follow(0, end-i)
	if at == nil || i > 0 && isAlnum(s.text[i-1]) && !s.gluedWord(i) {
		return 0
	}
	d := &s.num
	*d = number{start: i}
	d.group(s.text, i, end)
	for {
		if len(at.formats) > 0 && s.ends(d.end) {
			for _, f := range at.formats {
				if s.matches(f, d) {
					s.add(NationalID, i, d.end)
					return d.end
				}
			}
		}
		from, to := s.next(d.end)
		if to == 0 {
			return 0
		}
		if at = at.follow(s.text[d.end], to-from); at == nil {
			return 0
		}
		d.group(s.text, from, to)
	}
}

func (s *scan) matches(f *format, d *number) bool {
	if !f.valid(d.all()) {
		return false
	}
	if f.names == nil || f.bare && d.groups > 1 {
		return true
	}
	return s.named(d.start, f.names)
}

// ssn: SSA's rules since 2011; ITINs begin with 9 and have 50 to 99 in the middle.
func ssn(d []byte) bool {
	area, middle, serial := int(d[0]-'0')*100+two(d[1:]), two(d[3:]), two(d[5:])*100+two(d[7:])
	if area >= 900 {
		return middle >= 50
	}
	return area != 0 && area != 666 && middle != 0 && serial != 0
}

func nhs(d []byte) bool {
	check := 11 - weighted(d, 10, 9, 8, 7, 6, 5, 4, 3, 2)%11
	return check%11 == int(d[9]-'0') && check != 10
}

// steuerID: ISO 7064 MOD 11,10, and one of the first ten digits comes twice or three times.
func steuerID(d []byte) bool {
	var count [10]int
	for _, c := range d[:10] {
		count[c-'0']++
	}
	repeated := 0
	for _, n := range count {
		if n > 3 {
			return false
		}
		if n > 1 {
			repeated++
		}
	}
	return d[0] != '0' && repeated == 1 && mod1110(d)
}

// mod1110 is ISO 7064 MOD 11,10.
func mod1110(d []byte) bool {
	product := 10
	for _, c := range d[:len(d)-1] {
		sum := (int(c-'0') + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = sum * 2 % 11
	}
	return (11-product)%10 == int(d[len(d)-1]-'0')
}

// nir: France's, sex, year, month, place, order, and 97 less the rest.
func nir(d []byte) bool {
	month := two(d[3:])
	sex := strings.IndexByte("123478", d[0]) >= 0
	return sex && (1 <= month && month <= 12 || 20 <= month && month <= 42 || month >= 50) && 97-modulo(d[:13], 97) == two(d[13:])
}

func bsn(d []byte) bool {
	return weighted(d, 9, 8, 7, 6, 5, 4, 3, 2, -1)%11 == 0 && string(d) != "000000000"
}

// rijksregister: Belgium's; a 2 stands before the number of those born from 2000 on.
func rijksregister(d []byte) bool {
	if mm := two(d[2:]) % 20; mm > 12 || two(d[4:]) > 31 {
		return false
	}
	check := two(d[9:])
	return 97-modulo(d[:9], 97) == check || 97-modulo(append([]byte{'2'}, d[:9]...), 97) == check
}

func pesel(d []byte) bool {
	sum := weighted(d, 1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
	return (10-sum%10)%10 == int(d[10]-'0') && date(two(d), two(d[2:])%20, two(d[4:]))
}

func nif(d []byte) bool {
	check := 11 - weighted(d, 9, 8, 7, 6, 5, 4, 3, 2)%11
	if check >= 10 {
		check = 0
	}
	return d[0] != '0' && check == int(d[8]-'0')
}

// ahv: Switzerland's, an EAN-13 under 756.
func ahv(d []byte) bool {
	return string(d[:3]) == "756" && (10-weighted(d, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3)%10)%10 == int(d[12]-'0')
}

// svnr: Austria's; the fourth digit checks the others, then comes the date.
func svnr(d []byte) bool {
	return weighted(d, 3, 7, 9, 0, 5, 8, 4, 2, 1, 6)%11 == int(d[3]-'0') && d[0] != '0' && two(d[6:]) <= 15 && two(d[4:]) <= 31
}

// personnummer: Sweden's; 60 is added to the day of a coordination number.
func personnummer(d []byte) bool {
	d = d[len(d)-10:]
	return date(two(d), two(d[2:]), two(d[4:])%60) && luhn(d)
}

// fodselsnummer: Norway's, with 40 added to the day of a D number.
func fodselsnummer(d []byte) bool {
	if !date(two(d[4:]), two(d[2:])%40, two(d)%40) {
		return false
	}
	return weighted(d, 3, 7, 6, 1, 8, 9, 4, 5, 2, 1)%11 == 0 && weighted(d, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)%11 == 0
}

// rodneCislo: Czech and Slovak; 50 is added to a woman's month, 20 or 70 where numbers ran out.
func rodneCislo(d []byte) bool {
	month := two(d[2:]) % 50 % 20
	return modulo(d, 11) == 0 && date(two(d), month, two(d[4:]))
}

func cnp(d []byte) bool {
	check := weighted(d, 2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9) % 11
	return d[0] != '0' && check%10 == int(d[12]-'0') && (check < 10 || d[12] == '1') && date(two(d[1:]), two(d[3:]), two(d[5:]))
}

func egn(d []byte) bool {
	return date(two(d), two(d[2:])%20, two(d[4:])) && weighted(d, 2, 4, 8, 5, 10, 9, 7, 3, 6)%11%10 == int(d[9]-'0')
}

func tckn(d []byte) bool {
	odd, even := weighted(d, 1, 0, 1, 0, 1, 0, 1, 0, 1), weighted(d, 0, 1, 0, 1, 0, 1, 0, 1)
	return d[0] != '0' && (odd*7-even+80)%10 == int(d[9]-'0') && (odd+even+int(d[9]-'0'))%10 == int(d[10]-'0')
}

func cpf(d []byte) bool {
	first := weighted(d, 10, 9, 8, 7, 6, 5, 4, 3, 2) * 10 % 11 % 10
	second := weighted(d, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2) * 10 % 11 % 10
	return first == int(d[9]-'0') && second == int(d[10]-'0') && strings.Trim(string(d), string(d[:1])) != ""
}

// Verhoeff's tables of the dihedral group of order ten.
const (
	verhoeffTimes   = "0123456789" + "1234067895" + "2340178956" + "3401289567" + "4012395678" + "5987604321" + "6598710432" + "7659821043" + "8765932104" + "9876543210"
	verhoeffPermute = "0123456789" + "1576283094" + "5803796142" + "8916043527" + "9453126870" + "4286573901" + "2793806415" + "7046913258"
)

func aadhaar(d []byte) bool {
	c := 0
	for i := range d {
		p := int(verhoeffPermute[i%8*10+int(d[len(d)-1-i]-'0')] - '0')
		c = int(verhoeffTimes[c*10+p] - '0')
	}
	return c == 0 && d[0] >= '2'
}

func myNumber(d []byte) bool {
	rest := weighted(d, 6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2) % 11
	return (rest <= 1 && d[11] == '0') || (rest > 1 && 11-rest == int(d[11]-'0'))
}

// residentID: China's, GB 11643, with a last digit; one that ends in X is lettered.
func residentID(d []byte) bool { return residentBody(d) && residentCheck(d[:17]) == d[17] }

func residentBody(d []byte) bool {
	century := two(d[6:])
	return d[0] != '0' && (century == 19 || century == 20) && date(two(d[8:]), two(d[10:]), two(d[12:]))
}

func residentCheck(d []byte) byte {
	return "10X98765432"[weighted(d, 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)%11]
}

func medicare(d []byte) bool {
	return '2' <= d[0] && d[0] <= '6' && weighted(d, 1, 3, 7, 9, 1, 3, 7, 9)%10 == int(d[8]-'0') && d[9] != '0'
}

func southAfrica(d []byte) bool {
	return date(two(d), two(d[2:]), two(d[4:])) && d[10] <= '2' && luhn(d)
}

func inn(d []byte) bool {
	return weighted(d, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)%11%10 == int(d[10]-'0') && weighted(d, 3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)%11%10 == int(d[11]-'0')
}

func snils(d []byte) bool {
	return weighted(d, 9, 8, 7, 6, 5, 4, 3, 2, 1)%101%100 == two(d[9:])
}

func cuit(d []byte) bool {
	check := 11 - weighted(d, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)%11
	return strings.Contains("20 23 24 27 30 33 34", string(d[:2])) && check%11 == int(d[10]-'0')
}

// rut: Chile's, with a digit at its end; one that ends in K is lettered.
func rut(d []byte) bool { return rutCheck(d[:len(d)-1]) == d[len(d)-1] }

func rutCheck(d []byte) byte {
	sum, weight := 0, 2
	for i := len(d) - 1; i >= 0; i-- {
		sum += int(d[i]-'0') * weight
		if weight++; weight > 7 {
			weight = 2
		}
	}
	return "0K987654321"[sum%11]
}

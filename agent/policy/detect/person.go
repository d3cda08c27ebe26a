package detect

import "strings"

// birthNames stand before a date of birth.
var birthNames = newNames(
	"born", "dob$", "d o b$", "date of birth", "birth date", "birthdate", "birthday", "geb$", "geboren", "geburtsdatum", "geburtstag", "né le",
	"née le", "naissance", "nacimiento", "nacido", "nacida", "nato il$", "nata il$", "nascita", "nascimento", "geboortedatum", "född$", "født$", "syntynyt",
	"urodz", "narozen", "родил", "рождения", "生年月日", "出生", "생년월일", "doğum",
)

// patientNames stand before the number that a hospital gave a patient or a case.
var patientNames = newNames(
	"mrn$", "medical record", "patient id", "patient no", "patient number", "patient nr", "patientennummer", "patienten id", "patienten nr", "pat nr$", "pid$",
	"fallnummer", "fall nr$", "case number", "chart number", "chart no", "hospital number", "numéro de patient", "dossier médical", "historia clínica", "health record",
	"encounter", "accession", "aufnahmenummer",
)

// birthDate looks for a day with a name of birthNames before it.
func (s *scan) birthDate(i, end int) int {
	to := s.day(i, end)
	if to == 0 || !s.ends(to) || !s.named(i, birthNames) {
		return 0
	}
	s.add(BirthDate, i, to)
	return to
}

// months by their first three letters, in the languages of birthNames that use Latin ones, by their first. Read only.
var months = func() (t [256][]string) {
	const all = "jan feb mar apr may jun jul aug sep oct nov dec mär mai okt dez fév fev avr aoû déc ene abr ago dic gen mag giu lug set ott out maa mei maj kes"
	for m := range strings.SplitSeq(all, " ") {
		t[upper(m[0])] = append(t[upper(m[0])], m)
	}
	return t
}()

// ordinalDay looks for May 17th, 1980 with a name of birthNames before it.
func (s *scan) ordinalDay(i, end int) int {
	if end-i > 2 || end+2 > len(s.text) || !strings.Contains("st nd rd th", s.text[end:end+2]) {
		return 0
	}
	return s.birthDate(i, end)
}

// day reads a date: three groups of digits, or a day, the name of a month and a year, or, before the digits, a month's name.
func (s *scan) day(i, end int) int {
	n, c := end-i, s.at(end)
	if n > 4 || n == 3 || n == 4 && c != '-' && c != '/' && c != '.' {
		return 0
	}
	if c == ' ' || c != '-' && c != '/' && c != '.' || n <= 2 && c == '.' && !s.digitsAt(end+1, 1) {
		return s.spelledDay(i, end)
	}
	second, stop := s.next(end)
	third, to := 0, 0
	if stop > 0 && stop-second <= 2 {
		third, to = s.next(stop)
	}
	if to == 0 {
		return 0
	}
	a, b, last := []byte(s.text[i:end]), []byte(s.text[second:stop]), []byte(s.text[third:to])
	x, y, z := modulo(a, 10000), modulo(b, 100), modulo(last, 10000)
	switch {
	case len(a) == 4: // year, month, day
		if len(last) <= 2 && date(0, y, z) && plausibleYear(a) {
			return to
		}
	case len(last) == 4:
		if plausibleYear(last) && (date(0, y, x) || date(0, x, y)) {
			return to
		}
	case len(a) == 2 && len(b) == 2 && len(last) == 2:
		if date(0, y, x) || date(0, x, y) || date(0, y, z) {
			return to
		}
	}
	return 0
}

func plausibleYear(g []byte) bool { return two(g) == 19 || two(g) == 20 || two(g) == 18 }

// spelledDay reads 17 May 1980, 17. Mai 1980, and May 17, 1980.
func (s *scan) spelledDay(i, end int) int {
	at := end
	if end-i <= 2 && s.month(max(0, i-12), i) {
		if trigger[s.at(at)] == letter {
			at += len("th")
		}
		for at < len(s.text) && at-end < 4 && (s.text[at] == ' ' || s.text[at] == ',') {
			at++
		}
		return s.year(at)
	}
	if end-i > 2 || modulo([]byte(s.text[i:end]), 100) > 31 {
		return 0
	}
	for at < len(s.text) && at-end < 8 && (s.text[at] == '.' || s.text[at] == ' ' || strings.HasPrefix(s.text[at:], "de ")) {
		at++
	}
	word := at
	for at < len(s.text) && at-word < 16 && (trigger[s.text[at]] == letter || s.text[at] >= 0x80 || s.text[at] == '.') {
		at++
	}
	if !s.month(word, at) {
		return 0
	}
	for at < len(s.text) && (s.text[at] == ' ' || s.text[at] == ',' || strings.HasPrefix(s.text[at:], "de ")) {
		at++
		if at < len(s.text) && s.text[at-1] == 'd' {
			at++
		}
	}
	return s.year(at)
}

// month says whether the last word of [from,to) begins as a month's name does.
func (s *scan) month(from, to int) bool {
	for to > from && (s.text[to-1] == ' ' || s.text[to-1] == '.') {
		to--
	}
	at := to
	for at > from && (trigger[s.text[at-1]] == letter || s.text[at-1] >= 0x80) {
		at--
	}
	if at == to {
		return false
	}
	for _, m := range months[upper(s.text[at])] {
		if to-at >= len(m) && strings.EqualFold(s.text[at:at+len(m)], m) {
			return true
		}
	}
	return false
}

// year reads four digits of a plausible year at i and answers where they end.
func (s *scan) year(i int) int {
	if !s.digitsAt(i, 4) || !plausibleYear([]byte(s.text[i:i+4])) {
		return 0
	}
	return i + 4
}

// minRecord is how many digits the number of a patient has at least.
const minRecord = 5

// medicalRecord looks for five to twelve digits, with letters and dashes as hospitals use them, after a name of patientNames.
func (s *scan) medicalRecord(i, end int) int {
	start, stop := i, end
	for start > 0 && i-start < 4 && (trigger[s.text[start-1]] == letter || s.text[start-1] == '-') {
		start--
	}
	digits := end - i
	for stop < len(s.text) && stop-i < 20 && (isAlnum(s.text[stop]) || s.text[stop] == '-' || s.text[stop] == '/') {
		if trigger[s.text[stop]] == digit {
			digits++
		}
		stop++
	}
	if digits < minRecord || digits > 14 || !s.named(start, patientNames) || date8(s.text[i:stop]) {
		return 0
	}
	s.add(MedicalRecord, start, stop)
	return stop
}

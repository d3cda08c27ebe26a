package detect

// maxNumber is the most digits that one number has.
const maxNumber = 20

// number is what stands at one place as groups of digits, and grows by a group at a time.
type number struct {
	start, end int
	digits     [maxNumber]byte
	n          int
	groups     int
}

func (d *number) all() []byte { return d.digits[:d.n] }

// group appends the digits [from,to), as far as they have room.
func (d *number) group(text string, from, to int) {
	d.n += copy(d.digits[d.n:], text[from:to])
	d.end = to
	d.groups++
}

// number looks for everything else that begins with the group of digits [i,end):
// national ids, phone numbers, addresses of networks, dates of birth, numbers of
// patients. It returns where what it found ends, or 0.
func (s *scan) number(i, end int) int {
	if s.goesOn(i) || s.clock(i, end) {
		return 0
	}
	if to := s.network(i, end); to > 0 {
		return to
	}
	if to := s.lettered(i, end); to > 0 {
		return to
	}
	if trigger[s.at(end)] == letter && end-i < minRecord {
		return s.ordinalDay(i, end)
	}
	digits := s.reach(i, end)
	if digits < minRecord {
		return s.birthDate(i, end)
	}
	if digits >= minPhone {
		if to := s.phone(i, end); to > 0 {
			return to
		}
	}
	if digits >= minNational {
		if to := s.national(i, end); to > 0 {
			return to
		}
	}
	if to := s.birthDate(i, end); to > 0 {
		return to
	}
	return s.medicalRecord(i, end)
}

// clock says whether the digits that end at end begin a time of day: numbers of two digits behind colons, and no third.
func (s *scan) clock(i, end int) bool {
	if s.at(end) != ':' || i > 0 && s.text[i-1] == ':' || !s.digitsAt(end+1, 2) || isHex(s.at(end+3)) {
		return false
	}
	if s.at(end+3) != ':' {
		return true
	}
	return s.digitsAt(end+4, 2) && s.at(end+6) != ':' && !isHex(s.at(end+6))
}

// minNational is how many digits the shortest of formats has.
const minNational = 8

// reach counts the digits from i on that could be of one number, so that most
// numbers of a text cost no more than this.
func (s *scan) reach(i, end int) int {
	n := end - i
	for gap := 0; end < len(s.text) && gap < 3 && n < maxNumber; end++ {
		switch c := s.text[end]; {
		case trigger[c] == digit:
			n++
			gap = 0
		case c == ' ' || c == '-' || c == '.' || c == '/' || c == '(' || c == ')':
			gap++
		default:
			return n
		}
	}
	return n
}

// goesOn says whether the digits at i are the rest of a longer number: 1-123-45-6789.
func (s *scan) goesOn(i int) bool {
	if i < 2 || trigger[s.text[i-2]] != digit {
		return false
	}
	c := s.text[i-1]
	return c == '-' || c == '.' || c == '/' || c == ':'
}

// ends says whether a number may end here: what follows does not make it a part of something longer.
func (s *scan) ends(end int) bool {
	if end >= len(s.text) {
		return true
	}
	c := s.text[end]
	if isAlnum(c) {
		return false
	}
	if c == '-' || c == '.' || c == '/' || c == ',' || c == ':' {
		return end+1 >= len(s.text) || trigger[s.text[end+1]] != digit
	}
	return true
}

// next is the group of digits behind the byte at end; 0, 0 when there is none.
func (s *scan) next(end int) (from, to int) {
	if end+1 >= len(s.text) || trigger[s.text[end+1]] != digit {
		return 0, 0
	}
	switch s.text[end] {
	case ' ', '-', '.', '/':
	default:
		return 0, 0
	}
	from = end + 1
	for to = from + 1; to < len(s.text) && to-from <= maxNumber && trigger[s.text[to]] == digit; to++ {
	}
	return from, to
}

// date checks a day; the 29th of February counts in every year.
func date(yy, mm, dd int) bool {
	return 1 <= mm && mm <= 12 && 1 <= dd && dd <= 31 && (mm != 2 || dd <= 29) && (dd < 31 || mm != 4 && mm != 6 && mm != 9 && mm != 11) && yy >= 0
}

// two is the number of two digits.
func two(d []byte) int { return int(d[0]-'0')*10 + int(d[1]-'0') }

// weighted is the sum of digits times weights.
func weighted(d []byte, weights ...int) int {
	sum := 0
	for i, w := range weights {
		sum += int(d[i]-'0') * w
	}
	return sum
}

// modulo is the remainder of a decimal number of any length.
func modulo(d []byte, m int) int {
	rest := 0
	for _, c := range d {
		rest = (rest*10 + int(c-'0')) % m
	}
	return rest
}

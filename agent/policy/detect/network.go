package detect

import (
	"net/netip"
	"strings"
)

// network looks for an address of a machine whose first group of decimal digits
// is [i,end): IPv4, IPv6 or a MAC. One that begins with a letter is found at its
// first digit; every such address but a few of IPv6 has one.
func (s *scan) network(i, end int) int {
	if end-i <= 3 && s.at(end) == '.' {
		if to := s.ipv4(i); to > 0 {
			return to
		}
	}
	if !s.colonNear(i, end) {
		return 0
	}
	start, stop := i, end
	for start > 0 && i-start < 45 && isAddress(s.text[start-1]) {
		start--
	}
	for stop < len(s.text) && stop-i < 45 && isAddress(s.text[stop]) {
		stop++
	}
	if start > 0 && isWord(s.text[start-1]) || stop < len(s.text) && isWord(s.text[stop]) {
		return 0
	}
	text := strings.TrimRight(s.text[start:stop], ":-.")
	if isMAC(text) {
		s.add(MAC, start, start+len(text))
		return start + len(text)
	}
	if strings.HasSuffix(s.text[start:stop], "::") {
		text = s.text[start:stop]
	}
	if !strings.Contains(text, "::") && strings.Count(text, ":") < 6 { // 6: the last 32 bits may be written as IPv4
		return 0
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.IsLoopback() || a.IsUnspecified() || !strings.ContainsAny(text, "0123456789") {
		return 0
	}
	if strings.Count(text, ":") < 4 && len(text) < 8 { // 1::2 is a time or a slice more often than an address
		return 0
	}
	s.add(IP, start, start+len(text))
	return max(end, start+len(text))
}

// colonNear says whether a colon or dash of an address can belong to the group: most numbers end the question here.
func (s *scan) colonNear(i, end int) bool {
	if c := s.at(end); c == ':' || c == '-' && end-i <= 2 || c == '.' && end-i == 4 || isHex(c) && end-i < 4 {
		return true
	}
	if i == 0 {
		return false
	}
	c := s.text[i-1]
	return c == ':' || isHex(c)
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

func isAddress(c byte) bool { return isHex(c) || c == ':' || c == '-' || c == '.' }

// isMAC: six bytes with colons or dashes, or three groups of four with points.
func isMAC(text string) bool {
	switch {
	case len(text) == 17 && (text[2] == ':' || text[2] == '-'):
		for k := range 17 {
			if k%3 == 2 && text[k] != text[2] || k%3 != 2 && !isHex(text[k]) {
				return false
			}
		}
		return text != "00:00:00:00:00:00" && !strings.EqualFold(text, "ff:ff:ff:ff:ff:ff")
	case len(text) == 14 && text[4] == '.' && text[9] == '.':
		return strings.Count(text, ".") == 2 && !strings.ContainsAny(text, ":-")
	}
	return false
}

// versionNames stand before numbers with three points that are no address.
var versionNames = newNames("version", "v$", "ver$", "release$", "build$", "section$", "§", "chapter", "clause$", "oid$", "firmware", "driver", "revision")

// addressNames say that it is one all the same.
var addressNames = newNames("ip$", "host", "address", "server")

// ipv4 looks for four numbers with points between them at i. Loopback and
// unspecified addresses, and masks, name no machine.
func (s *scan) ipv4(i int) int {
	if i > 0 && (isWord(s.text[i-1]) || s.text[i-1] == '.' || s.text[i-1] == '-') {
		return 0
	}
	end, points := i, 0
	for ; end < len(s.text) && end-i < 16; end++ {
		if s.text[end] == '.' {
			points++
		} else if trigger[s.text[end]] != digit {
			break
		}
	}
	if points < 3 {
		return 0
	}
	text := strings.TrimRight(s.text[i:end], ".")
	if strings.Count(text, ".") != 3 || !s.ends(i+len(text)) && s.at(i+len(text)) != ':' && s.at(i+len(text)) != '/' {
		return 0
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.IsLoopback() || a.IsUnspecified() || strings.HasPrefix(text, "255.255.") || strings.HasPrefix(text, "0.") {
		return 0
	}
	if s.named(i, versionNames) && !s.named(i, addressNames) {
		return 0
	}
	s.add(IP, i, i+len(text))
	return i + len(text)
}

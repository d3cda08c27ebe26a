package detect

import (
	"slices"
	"strings"
)

const (
	maxLocalPart = 64 // RFC 5321 4.5.3.1.1
	maxDomain    = 253
)

// notDomains are last labels that stand after an "@" in file names and code, not
// in addresses. A name that is not listed counts: a missed address leaves the box,
// a wrong one only keeps a request on it.
var notDomains = []string{
	"bmp", "css", "dtype", "gif", "html", "ico", "jpeg", "jpg", "js", "json", "jsx", "mjs", "pdf", "png",
	"route", "scss", "service", "shape", "socket", "svg", "target", "ts", "tsx", "txt", "webp", "xml", "yaml", "yml",
}

// email looks for an address around the "@" at i.
func (s *scan) email(i int) {
	start := i
	for start > 0 && i-start < maxLocalPart && isLocalPart(s.text[start-1]) {
		start--
	}
	for start < i && s.text[start] == '.' || start < i && s.text[start] == '\'' {
		start++
	}
	if start == i || s.text[i-1] == '.' {
		return
	}
	end, ok := s.domain(i + 1)
	if !ok || s.text[start:i] == "git" && end < len(s.text) && (s.text[end] == ':' || s.text[end] == '/') {
		return
	}
	s.add(Email, start, end)
}

// isLocalPart is the unquoted local part of RFC 5321 with RFC 6531's UTF-8, less the
// marks that in running text are more often around an address than in it.
func isLocalPart(c byte) bool {
	return isAlnum(c) || c >= 0x80 || strings.IndexByte("!#$%&'*+-.?^_{}~", c) >= 0
}

// domain reads a host name of at least two labels from start and says where it
// ends: after the last label that may end one, so that what follows the dot of a
// sentence does not hide the address.
func (s *scan) domain(start int) (end int, ok bool) {
	label := start
	for i := start; ; i++ {
		if i < len(s.text) && i-start < maxDomain && (isAlnum(s.text[i]) || s.text[i] == '-' || s.text[i] >= 0x80) {
			continue
		}
		name := strings.TrimRight(s.text[label:i], "-")
		if name == "" || name[0] == '-' {
			return end, ok
		}
		if label > start && isTopLevel(name) {
			end, ok = label+len(name), true
		}
		if i >= len(s.text) || s.text[i] != '.' || len(name) != i-label {
			return end, ok
		}
		label = i + 1
	}
}

// isTopLevel says whether the label may end a host name.
func isTopLevel(label string) bool {
	if len(label) < 2 || len(label) > 63 {
		return false
	}
	lower := strings.ToLower(label)
	if strings.HasPrefix(lower, "xn--") {
		return true
	}
	for _, c := range []byte(label) {
		if trigger[c] != letter && c < 0x80 {
			return false
		}
	}
	_, listed := slices.BinarySearch(notDomains, lower)
	return !listed
}

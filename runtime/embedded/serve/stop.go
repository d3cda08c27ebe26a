package serve

import "strings"

// stopper looks for stop strings in a text that comes in pieces. It holds back
// what may be the beginning of one until it is sure.
type stopper struct {
	stops []string
	held  string
}

// push takes the next piece and returns the text that may go out. hit says that
// a stop string was found: the text ends before it and nothing may follow.
func (s *stopper) push(text string) (out string, hit bool) {
	if len(s.stops) == 0 {
		return text, false
	}
	all := s.held + text
	at := -1
	for _, stop := range s.stops {
		if i := strings.Index(all, stop); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		s.held = ""
		return all[:at], true
	}
	keep := 0
	for _, stop := range s.stops {
		keep = max(keep, overlap(all, stop))
	}
	s.held = all[len(all)-keep:]
	return all[:len(all)-keep], false
}

// flush returns what is still held back.
func (s *stopper) flush() string {
	out := s.held
	s.held = ""
	return out
}

// overlap is the length of the longest end of text that begins stop.
func overlap(text, stop string) int {
	for n := min(len(text), len(stop)-1); n > 0; n-- {
		if strings.HasSuffix(text, stop[:n]) {
			return n
		}
	}
	return 0
}

// validText is b with each byte that is no part of a character replaced.
func validText(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

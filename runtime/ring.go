package runtime

import (
	"bytes"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	ringLines   = 1000    // kept an alias
	ringLineMax = 4 << 10 // bytes of a line; the rest is cut
	tailLines   = 8       // quoted in an error, which is stored and sent
	tailLineMax = 300     // bytes of such a line
)

// Line is one line that an engine wrote.
type Line struct {
	Time       time.Time `json:"time"`
	Generation uint64    `json:"generation"`
	Text       string    `json:"text"` // valid UTF-8 without control characters
}

// ring keeps the last lines of an alias's engines. Safe for concurrent use.
type ring struct {
	mu    sync.Mutex
	lines [ringLines]Line
	n     uint64 // lines ever added
}

func (r *ring) add(l Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines[r.n%ringLines] = l
	r.n++
}

// last returns the newest n lines, oldest first, of one generation or, with gen 0, of all. n <= 0 means all kept.
func (r *ring) last(n int, gen uint64) []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := int(min(r.n, ringLines))
	if n <= 0 || n > kept {
		n = kept
	}
	out := make([]Line, 0, n)
	for i := 0; i < kept && len(out) < n; i++ {
		if l := r.lines[(r.n-1-uint64(i))%ringLines]; gen == 0 || l.Generation == gen {
			out = append(out, l)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// tail is the text of a generation's last lines, for an error.
func (r *ring) tail(gen uint64) []string {
	var out []string
	for _, l := range r.last(tailLines, gen) {
		text := l.Text
		if len(text) > tailLineMax {
			text = strings.ToValidUTF8(text[:tailLineMax], "") + "..."
		}
		out = append(out, text)
	}
	return out
}

// lineWriter cuts an engine's output into lines. One goroutine writes; a last line without its newline is given by finish.
type lineWriter struct {
	line    func(string)
	buf     []byte
	cutting bool // the rest of an overlong line is being dropped
}

// Write never fails and never blocks on more than the line function.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		head, rest, end := bytes.Cut(p, []byte{'\n'})
		p = rest
		if room := ringLineMax - len(w.buf); !w.cutting && len(head) > room {
			head, w.cutting = head[:room], true
			w.buf = append(w.buf, head...)
		} else if !w.cutting {
			w.buf = append(w.buf, head...)
		}
		if end {
			w.flush()
		}
	}
	return n, nil
}

// finish gives out what is left of the last line. Nothing may write any more.
func (w *lineWriter) finish() {
	if len(w.buf) > 0 {
		w.flush()
	}
}

func (w *lineWriter) flush() {
	w.line(clean(w.buf))
	w.buf, w.cutting = w.buf[:0], false
}

// clean makes a line safe to show at a terminal: engines quote what requests contain.
func clean(b []byte) string {
	s := strings.ToValidUTF8(strings.TrimRight(string(b), "\r"), "\uFFFD")
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}

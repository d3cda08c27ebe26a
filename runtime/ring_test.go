package runtime

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestRingKeepsTheNewest(t *testing.T) {
	r := &ring{}
	for i := range ringLines + 10 {
		r.add(Line{Generation: uint64(1 + i%2), Text: fmt.Sprint(i)})
	}
	all := r.last(0, 0)
	if len(all) != ringLines || all[0].Text != "10" || all[ringLines-1].Text != fmt.Sprint(ringLines+9) {
		t.Errorf("got %d lines from %s to %s, want the newest %d", len(all), all[0].Text, all[len(all)-1].Text, ringLines)
	}
	if got := r.tail(2); len(got) != tailLines || got[tailLines-1] != fmt.Sprint(ringLines+9) || got[0] != fmt.Sprint(ringLines+9-2*(tailLines-1)) {
		t.Errorf("got %v, want the last lines of generation 2 in order", got)
	}
	if got := (&ring{}).last(5, 0); len(got) != 0 {
		t.Errorf("got %v of an empty ring", got)
	}
}

func TestLinesAreCutAndCleaned(t *testing.T) {
	for _, c := range []struct {
		writes []string
		want   []string
	}{
		{[]string{"a\nb", "c\n", "d"}, []string{"a", "bc", "d"}},
		{[]string{"\n\n"}, []string{"", ""}},
		{[]string{"red \x1b[31mtext\x07\r\n"}, []string{"red [31mtext"}},
		{[]string{"tab\there\n"}, []string{"tab here"}},
		{[]string{"bad \xff\xfe byte\n"}, []string{"bad \uFFFD byte"}},
		{[]string{strings.Repeat("x", ringLineMax+5), "more", "\nnext\n"}, []string{strings.Repeat("x", ringLineMax), "next"}},
		{[]string{strings.Repeat("y", ringLineMax), "\n"}, []string{strings.Repeat("y", ringLineMax)}},
	} {
		var got []string
		w := &lineWriter{line: func(s string) { got = append(got, s) }}
		for _, p := range c.writes {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("got %d, %v, want all %d bytes taken", n, err, len(p))
			}
		}
		w.finish()
		if !slices.Equal(got, c.want) {
			t.Errorf("%.40q: got %.60q, want %.60q", c.writes, got, c.want)
		}
	}
}

func FuzzLineWriter(f *testing.F) {
	f.Add("a\nb", 2)
	f.Add(strings.Repeat("x", 9000)+"\n\x1b]0;t\x07", 4096)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		w := &lineWriter{line: func(s string) {
			if len(s) > 3*ringLineMax || strings.ContainsAny(s, "\x1b\n\r\x07") {
				t.Fatalf("got the line %.80q", s)
			}
		}}
		if cut = min(max(cut, 0), len(text)); cut > 0 {
			w.Write([]byte(text[:cut]))
		}
		w.Write([]byte(text[cut:]))
		w.finish()
		if cap(w.buf) > 4*ringLineMax {
			t.Fatalf("keeps %d bytes", cap(w.buf))
		}
	})
}

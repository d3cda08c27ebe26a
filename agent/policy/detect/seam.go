package detect

import "slices"

// seamEnd is how much of each end of a long string is looked at together with its
// neighbours: longer than any finding but a private key, of which it shows enough.
const seamEnd = 256

// seam is the strings of one group one after another, long ones without their middle.
type seam struct {
	text      []byte
	fragments []fragment
}

// fragment is a stretch of a seam: the decoded bytes from skip on of the string
// whose raw text begins at raw.
type fragment struct {
	at, raw, skip int
}

// messageGroup is the group of the pieces of a conversation.
const messageGroup = 1

// groupOf says which strings belong together: those under the same key, and all
// that a model reads as the conversation.
func groupOf(hash uint64, key string) uint64 {
	switch key {
	case "content", "text", "input", "prompt", "value", "input_text", "output_text":
		return messageGroup
	}
	return hash
}

// group is that of the value at pos; an array's values have its own.
func (w *walker) group() uint64 {
	if len(w.open) == 0 {
		return 0
	}
	return w.top().group
}

// join adds a string to the seam of its group.
func (w *walker) join(text string, raw int, group uint64) {
	if text == "" {
		return
	}
	s := w.seams[group]
	if s == nil {
		s = &seam{}
		w.seams[group] = s
	}
	s.fragments = append(s.fragments, fragment{at: len(s.text), raw: raw})
	if len(text) <= 2*seamEnd {
		s.text = append(s.text, text...)
		return
	}
	s.text = append(s.text, text[:seamEnd]...)
	s.text = append(s.text, 0)
	s.fragments = append(s.fragments, fragment{at: len(s.text), raw: raw, skip: len(text) - seamEnd})
	s.text = append(s.text, text[len(text)-seamEnd:]...)
}

// scanSeams looks at the strings of each group as one text.
func (w *walker) scanSeams() {
	for _, s := range w.seams {
		if len(s.fragments) < 2 {
			continue
		}
		for _, f := range Scan(string(s.text)) {
			w.out.add(f.Kind, w.seamOffset(s, f.Start), w.seamOffset(s, f.End-1)+1)
		}
	}
}

// seamOffset is where in the body the byte of the seam stands.
func (w *walker) seamOffset(s *seam, offset int) int {
	i, exact := slices.BinarySearchFunc(s.fragments, offset, func(f fragment, o int) int { return f.at - o })
	if !exact {
		i--
	}
	f := &s.fragments[i]
	if f.skip > 0 {
		f.raw, f.skip = w.rawOffset(f.raw, f.skip), 0 // once: a long string is not walked for every finding at its end
	}
	return w.rawOffset(f.raw, offset-f.at)
}

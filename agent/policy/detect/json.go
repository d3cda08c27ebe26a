package detect

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"
)

// MaxDepth bounds how deeply objects and arrays may nest in a body.
const MaxDepth = 128

// ErrTooDeep is returned by JSON for a body that nests deeper than MaxDepth. What
// it was asked to scan was then not scanned in full.
var ErrTooDeep = errors.New("cannot scan the body: JSON nested too deeply")

// JSON scans a request body: every key, every string and every long number, each
// unescaped, wherever it stands, and the strings under one key once more as one
// text, so that a number split over content parts or messages is found too.
// Findings point into body as it was sent.
//
// dupKeys reports that some object has the same key twice, ignoring case: two
// readers may then see two different requests. err is ErrTooDeep, or says at which
// byte the body stops being JSON (RFC 8259); findings up to there are returned.
//
// The body is not modified and not kept. Safe for concurrent use.
func JSON(body []byte) (found []Finding, dupKeys bool, err error) {
	// The string shares the body's memory: it lives no longer than this call, during which nobody writes.
	w := walker{text: unsafe.String(unsafe.SliceData(body), len(body)), seams: map[uint64]*seam{}}
	err = w.document()
	w.scanSeams()
	return w.out.sorted(), w.duplicate, err
}

// walker reads JSON without building it.
type walker struct {
	text      string
	pos       int
	out       scan // collects findings with offsets into text
	scratch   []byte
	open      []frame
	keys      []uint64 // hashes of the keys of every open object
	duplicate bool

	seams map[uint64]*seam // by group
}

// frame is an open object or array.
type frame struct {
	object bool
	keys   int    // where its keys begin
	group  uint64 // of its strings: see groupOf
	key    string // that its values stand under
}

func (w *walker) fail(format string, args ...any) error {
	return fmt.Errorf("cannot read JSON at byte %d: %s", w.pos, fmt.Sprintf(format, args...))
}

// document reads one value and the end of the body. It keeps its own stack, so
// that the depth of a body is a number to compare and not a goroutine's memory.
func (w *walker) document() error {
	for {
		if err := w.value(); err != nil {
			return err
		}
		for w.afterValue() {
			w.close()
		}
		if len(w.open) == 0 {
			break
		}
		if err := w.separator(); err != nil {
			return err
		}
	}
	if w.space(); w.pos < len(w.text) {
		return w.fail("there is more after the end of the value")
	}
	return nil
}

// afterValue says whether the innermost object or array ends here.
func (w *walker) afterValue() bool {
	w.space()
	if len(w.open) == 0 || w.pos >= len(w.text) {
		return false
	}
	c := w.text[w.pos]
	return c == '}' && w.top().object || c == ']' && !w.top().object
}

func (w *walker) top() *frame { return &w.open[len(w.open)-1] }

// close leaves the innermost object or array and settles whether its keys were distinct.
func (w *walker) close() {
	w.pos++
	f := *w.top()
	w.open = w.open[:len(w.open)-1]
	if !f.object || w.duplicate {
		w.keys = w.keys[:f.keys]
		return
	}
	keys := w.keys[f.keys:]
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		w.duplicate = w.duplicate || keys[i] == keys[i-1]
	}
	w.keys = w.keys[:f.keys]
}

// separator reads the comma before the next value, and in an object its key.
func (w *walker) separator() error {
	if w.pos >= len(w.text) {
		return w.fail("it ends inside an object or array")
	}
	if w.text[w.pos] != ',' {
		return w.fail("a comma or the end is missing")
	}
	w.pos++
	if w.top().object {
		return w.key()
	}
	return nil
}

// value reads one value; of an object or array only its opening, and what leads to its first value.
func (w *walker) value() error {
	for {
		w.space()
		if w.pos >= len(w.text) {
			return w.fail("it ends where a value is expected")
		}
		switch c := w.text[w.pos]; c {
		case '{', '[':
			if len(w.open) == MaxDepth {
				return ErrTooDeep
			}
			w.pos++
			w.open = append(w.open, frame{object: c == '{', keys: len(w.keys), group: w.group(), key: w.under()})
			if w.afterValue() {
				w.close()
				return nil
			}
			if c == '{' {
				if err := w.key(); err != nil {
					return err
				}
			}
		case '"':
			return w.stringValue()
		case 't':
			return w.literal("true")
		case 'f':
			return w.literal("false")
		case 'n':
			return w.literal("null")
		default:
			return w.number()
		}
	}
}

func (w *walker) space() {
	for w.pos < len(w.text) {
		switch w.text[w.pos] {
		case ' ', '\n', '\r', '\t':
			w.pos++
		default:
			return
		}
	}
}

func (w *walker) literal(word string) error {
	if !strings.HasPrefix(w.text[w.pos:], word) {
		return w.fail("a value is expected")
	}
	w.pos += len(word)
	return nil
}

// number reads a number and looks at its digits when it is as long as a patient's.
func (w *walker) number() error {
	start := w.pos
	if w.peek() == '-' {
		w.pos++
	}
	switch c := w.peek(); {
	case c == '0':
		w.pos++
	case '1' <= c && c <= '9':
		w.digits()
	default:
		return w.fail("a value is expected")
	}
	if w.peek() == '.' {
		w.pos++
		if !w.digits() {
			return w.fail("a number ends in its point")
		}
	}
	if c := w.peek(); c == 'e' || c == 'E' {
		w.pos++
		if c := w.peek(); c == '+' || c == '-' {
			w.pos++
		}
		if !w.digits() {
			return w.fail("a number ends in its exponent")
		}
	}
	if w.pos-start >= minRecord {
		w.record(scanUnder(w.under(), w.text[start:w.pos]), start)
	}
	return nil
}

func (w *walker) peek() byte {
	if w.pos < len(w.text) {
		return w.text[w.pos]
	}
	return 0
}

func (w *walker) digits() bool {
	start := w.pos
	for trigger[w.peek()] == digit {
		w.pos++
	}
	return w.pos > start
}

// record takes findings of a text that stands in the body byte for byte from start on.
func (w *walker) record(found []Finding, start int) {
	for _, f := range found {
		w.out.add(f.Kind, f.Start+start, f.End+start)
	}
}

// key reads a key and its colon.
func (w *walker) key() error {
	w.space()
	if w.peek() != '"' {
		return w.fail("a key is expected")
	}
	text, raw, err := w.stringText("")
	if err != nil {
		return err
	}
	h := keyHash(text)
	w.keys = append(w.keys, h)
	w.top().group = groupOf(h, text)
	w.top().key = w.lasting(text, raw)
	w.space()
	if w.peek() != ':' {
		return w.fail("a colon is expected")
	}
	w.pos++
	return nil
}

// under is the key of the value at pos; the values of an array have its own.
func (w *walker) under() string {
	if len(w.open) == 0 {
		return ""
	}
	return w.top().key
}

// lasting is the beginning of a key in memory that stays as it is: that of the body, or its own.
func (w *walker) lasting(text string, raw int) string {
	text = text[:min(len(text), maxKeyReach)]
	if strings.HasPrefix(w.text[raw:], text) {
		return spaced(w.text[raw : raw+len(text)])
	}
	return spaced(strings.Clone(text))
}

func (w *walker) stringValue() error {
	text, raw, err := w.stringText(w.under())
	if err != nil {
		return err
	}
	w.join(text, raw, w.group())
	return nil
}

// keyHash is FNV-1a of the key without its case: a collision reports a duplicate
// that is none, which only refuses.
func keyHash(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		c := key[i]
		if c >= 0x80 {
			return keyHashFold(key)
		}
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// keyHashFold takes the way over upper case for the two letters that fold into
// ASCII (U+017F, U+212A), as encoding/json does when it matches keys to fields.
func keyHashFold(key string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(strings.ToLower(strings.ToUpper(key))) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

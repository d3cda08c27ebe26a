package gateway

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// cursor walks JSON that is known to be valid and not deeply nested, without building it.
type cursor struct {
	b []byte
	i int
}

func (c *cursor) space() {
	for c.i < len(c.b) && (c.b[c.i] == ' ' || c.b[c.i] == '\t' || c.b[c.i] == '\n' || c.b[c.i] == '\r') {
		c.i++
	}
}

// enter calls each at the beginning of every member or element of the object or
// array at the cursor; each passes it.
func (c *cursor) enter(each func()) {
	c.space()
	c.i++ // { or [
	for c.space(); c.b[c.i] != '}' && c.b[c.i] != ']'; c.space() {
		if c.b[c.i] == ',' {
			c.i++
			c.space()
		}
		each()
	}
	c.i++
}

// colon moves from the end of a member's key to its value.
func (c *cursor) colon() {
	c.space()
	c.i++
	c.space()
}

// members calls each with the decoded key and the raw value of every member of the object at the cursor.
func (c *cursor) members(each func(key string, value []byte)) {
	c.enter(func() {
		key := decodeString(c.value())
		c.colon()
		each(key, c.value())
	})
}

// encode appends the value at the cursor to out, every string from its decoded
// form, numbers as they are, no spaces, and passes it.
func (c *cursor) encode(out []byte) []byte {
	begin := c.b[c.i]
	if begin == '"' {
		return appendString(out, decodeString(c.value()))
	}
	if begin != '{' && begin != '[' {
		return append(out, c.value()...)
	}
	out = append(out, begin)
	inside := len(out)
	c.enter(func() {
		if len(out) > inside {
			out = append(out, ',')
		}
		if begin == '{' {
			out = append(appendString(out, decodeString(c.value())), ':')
			c.colon()
		}
		out = c.encode(out)
	})
	return append(out, begin+2) // '}' is '{'+2, ']' is '['+2
}

// value skips the value at the cursor and gives its bytes.
func (c *cursor) value() []byte {
	start, depth := c.i, 0
	for ; c.i < len(c.b); c.i++ {
		switch c.b[c.i] {
		case '"':
			c.quoted()
			if depth == 0 {
				c.i++
				return c.b[start:c.i]
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of what holds a number or a literal
				return c.b[start:c.i]
			}
			if depth--; depth == 0 {
				c.i++
				return c.b[start:c.i]
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return c.b[start:c.i]
			}
		}
	}
	return c.b[start:c.i]
}

// quoted moves to the closing quote of the string at the cursor. It looks at each
// byte a bounded number of times, however many escapes there are.
func (c *cursor) quoted() {
	quote := -1 // the next quotation mark, escaped or not
	for c.i++; ; {
		if quote < c.i {
			// Jump over plain text: prompts are long.
			quote = c.i + bytes.IndexByte(c.b[c.i:], '"')
		}
		escape := bytes.IndexByte(c.b[c.i:quote], '\\')
		if escape < 0 {
			c.i = quote
			return
		}
		c.i += escape + 2
	}
}

// decodeString gives the text of a JSON string; invalid UTF-8 becomes U+FFFD, as engines read it.
func decodeString(quoted []byte) string {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return string(bytes.ToValidUTF8(inner, []byte("\uFFFD")))
	}
	return s
}

const hexDigits = "0123456789abcdef"

// appendString writes s, which is valid UTF-8, as a JSON string.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		ch := s[i]
		if ch >= 0x20 && ch != '"' && ch != '\\' && ch != 0x7f {
			continue
		}
		out = append(out, s[start:i]...)
		switch ch {
		case '"', '\\':
			out = append(out, '\\', ch)
		case '\n':
			out = append(out, '\\', 'n')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', hexDigits[ch>>4], hexDigits[ch&15])
		}
		start = i + 1
	}
	return append(append(out, s[start:]...), '"')
}

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

// members calls each with the decoded key and the raw value of every member of the object at the cursor.
func (c *cursor) members(each func(key string, value []byte)) {
	c.space()
	c.i++ // {
	for c.space(); c.b[c.i] != '}'; c.space() {
		if c.b[c.i] == ',' {
			c.i++
			c.space()
		}
		key := decodeString(c.value())
		c.space()
		c.i++ // :
		c.space()
		each(key, c.value())
	}
	c.i++
}

// elements calls each with the raw value of every element of the array at the cursor.
func (c *cursor) elements(each func(value []byte)) {
	c.space()
	c.i++ // [
	for c.space(); c.b[c.i] != ']'; c.space() {
		if c.b[c.i] == ',' {
			c.i++
			c.space()
		}
		each(c.value())
	}
	c.i++
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

// quoted moves to the closing quote of the string at the cursor.
func (c *cursor) quoted() {
	for c.i++; ; c.i++ {
		// Jump over plain text: prompts are long and escapes rare.
		next := bytes.IndexByte(c.b[c.i:], '"')
		if escape := bytes.IndexByte(c.b[c.i:c.i+next], '\\'); escape >= 0 {
			c.i += escape + 1 // the escaped byte is passed by the loop
			continue
		}
		c.i += next
		return
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

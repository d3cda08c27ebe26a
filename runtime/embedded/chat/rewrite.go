package chat

import "strings"

// The calls that count the depth of macros.
const (
	enterMacro = "bothy_enter_macro"
	leaveMacro = "bothy_leave_macro"
	enterCall  = " " + enterMacro + "() "
	leaveCall  = " " + leaveMacro + "() "
)

// rewrite replaces inline conditions, which the library parses only at the top
// of {{ }} and {% set %}, by an expression that it parses anywhere:
//
//	a if c else b   ->   ((c) and [a] or [b])[0]
//
// The lists keep a and b lazy and let either be false.
//
// It also removes the white space that Jinja2's trim_blocks and lstrip_blocks
// remove: the library strips blanks before a tag even where text or another tag
// stands before them on the line.
func rewrite(source string) string {
	var out strings.Builder
	lineStart := true // nothing of this line has been written yet
	for source != "" {
		at, end := nextTag(source)
		text := source[:at]
		if at < len(source) && end != "}}" && !strings.HasPrefix(source[at+2:], "+") && !strings.HasPrefix(source[at+2:], "-") {
			text = trimLine(text, lineStart)
		}
		out.WriteString(text)
		if source = source[at:]; source == "" {
			break
		}
		tag, rest := cutTag(source, end)
		if end != "#}" {
			toks := scan(tag[2:], end)
			writeTag(&out, tag, toks, end)
			if word, _ := nextWord(toks, 0); word == "raw" {
				raw, after := cutRaw(rest)
				out.WriteString(strings.TrimPrefix(raw, "\n"))
				rest = after
			}
		} else if strings.HasPrefix(tag, "{#-") || strings.HasSuffix(tag, "-#}") {
			out.WriteString(tag)
		}
		lineStart = false
		if end != "}}" && strings.HasPrefix(rest, "\n") && !strings.HasSuffix(tag, "+"+end) {
			rest, lineStart = rest[1:], true
		}
		source = rest
	}
	return out.String()
}

// nextTag is where the next tag begins, len(source) if there is none, and the
// text that ends it.
func nextTag(source string) (at int, end string) {
	for i := 0; i+1 < len(source); i++ {
		if source[i] != '{' {
			continue
		}
		switch source[i+1] {
		case '{':
			return i, "}}"
		case '%':
			return i, "%}"
		case '#':
			return i, "#}"
		}
	}
	return len(source), ""
}

// cutTag splits source, which begins with a tag, behind the tag.
func cutTag(source, end string) (tag, rest string) {
	n := 2
	if end == "#}" {
		if n = strings.Index(source, end); n < 0 {
			return source, ""
		}
	} else {
		for _, t := range scan(source[2:], end) {
			n += len(t)
		}
	}
	n = min(n+2, len(source))
	return source[:n], source[n:]
}

// cutRaw splits before the tag that ends a raw block.
func cutRaw(source string) (raw, rest string) {
	for i := 0; i < len(source); {
		n, end := nextTag(source[i:])
		if i += n; i >= len(source) {
			break
		}
		if word, _ := nextWord(scan(source[i+2:], end), 0); end == "%}" && word == "endraw" {
			return source[:i], source[i:]
		}
		i += 2
	}
	return source, ""
}

// trimLine removes the blanks at the end of text if they are all of their line.
func trimLine(text string, lineStart bool) string {
	cut := strings.TrimRight(text, " \t")
	if cut == "" && lineStart || strings.HasSuffix(cut, "\n") {
		return cut
	}
	return text
}

// writeTag writes one tag. A macro's body is put between calls that count how
// deep macros are nested, because one that calls itself for ever would exhaust
// the stack, which cannot be recovered. The calls carry the tags' trim marks on.
func writeTag(out *strings.Builder, tag string, toks []string, end string) {
	word, _ := nextWord(toks, 0)
	if end == "%}" && word == "endmacro" {
		if strings.HasPrefix(tag, "{%-") {
			out.WriteString("{{-" + leaveCall + "}}")
		} else {
			out.WriteString("{{" + leaveCall + "}}")
		}
	}
	out.WriteString(tag[:2])
	out.WriteString(strings.TrimPrefix(rewriteTag(toks, end), "+"))
	out.WriteString(strings.TrimPrefix(tag[2:], strings.Join(toks, "")))
	if end == "%}" && word == "macro" {
		if strings.HasSuffix(tag, "-%}") {
			out.WriteString("{{" + enterCall + "-}}")
		} else {
			out.WriteString("{{" + enterCall + "}}")
		}
	}
}

// nextWord is the first token from i on that is not white space or a trim mark.
func nextWord(toks []string, i int) (string, int) {
	for ; i < len(toks); i++ {
		if t := strings.TrimSpace(toks[i]); t != "" && t != "-" && t != "+" {
			return t, i
		}
	}
	return "", len(toks)
}

// scan splits a tag's inside into names, strings, runs of white space and single
// characters, up to and without its end at depth 0.
func scan(s, end string) []string {
	var toks []string
	depth := 0
	for s != "" {
		if depth <= 0 && strings.HasPrefix(s, end) {
			break
		}
		n := 1
		switch c := s[0]; {
		case c == '\'' || c == '"':
			n = stringEnd(s)
		case isWord(c):
			for n < len(s) && isWord(s[n]) {
				n++
			}
		case isBlank(c):
			for n < len(s) && isBlank(s[n]) {
				n++
			}
		case strings.IndexByte("([{", c) >= 0:
			depth++
		case strings.IndexByte(")]}", c) >= 0:
			depth--
		}
		toks = append(toks, s[:n])
		s = s[n:]
	}
	return toks
}

func stringEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			return i + 1
		}
	}
	return len(s)
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// rewriteTag rewrites one tag's inside. At the top only {{ }} and what follows
// the = of a set tag are expressions; deeper, everything in brackets is.
func rewriteTag(toks []string, end string) string {
	word, at := nextWord(toks, 0)
	switch {
	case end == "}}":
		lead, body, tail := trimMarks(toks)
		return lead + rewriteItem(body) + tail
	case word == "set":
		for i := at; i < len(toks); i++ {
			if toks[i] == "=" {
				_, body, tail := trimMarks(toks[i+1:])
				return rewriteNested(toks[:i+1]) + " " + rewriteItem(body) + tail
			}
		}
	}
	return rewriteNested(toks)
}

// trimMarks takes the white-space marks off both ends of a tag's inside.
func trimMarks(toks []string) (lead string, body []string, tail string) {
	if len(toks) > 0 && (toks[0] == "-" || toks[0] == "+") {
		lead, toks = toks[0], toks[1:]
	}
	if n := len(toks); n > 0 && (toks[n-1] == "-" || toks[n-1] == "+") {
		tail, toks = toks[n-1], toks[:n-1]
	}
	return lead, toks, tail
}

// rewriteNested rewrites what stands in brackets and leaves the rest.
func rewriteNested(toks []string) string {
	var out strings.Builder
	for i := 0; i < len(toks); i++ {
		if !opens(toks[i]) {
			out.WriteString(toks[i])
			continue
		}
		end := match(toks, i)
		out.WriteString(toks[i])
		for j, item := range splitAt(toks[i+1:end], ",") {
			if j > 0 {
				out.WriteByte(',')
			}
			out.WriteString(rewriteArgument(item, toks[i] == "{"))
		}
		if end < len(toks) {
			out.WriteString(toks[end])
		}
		i = end
	}
	return out.String()
}

// rewriteArgument rewrites one element in brackets, behind its name= or key: .
func rewriteArgument(item []string, object bool) string {
	sep := "="
	if object {
		sep = ":"
	}
	depth := 0
	for i, t := range item {
		switch {
		case opens(t):
			depth++
		case closes(t):
			depth--
		case t == sep && depth == 0:
			if sep == "=" && (i+1 < len(item) && item[i+1] == "=" || i > 0 && strings.Contains("=!<>", item[i-1])) {
				return rewriteItem(item) // a comparison
			}
			return rewriteNested(item[:i]) + sep + rewriteItem(item[i+1:])
		}
	}
	return rewriteItem(item)
}

// rewriteItem rewrites one expression: its own inline condition and those inside.
func rewriteItem(item []string) string {
	at := find(item, "if", 0)
	if at < 0 {
		return rewriteNested(item)
	}
	other := find(item, "else", at)
	then, no := rewriteNested(item[:at]), "''"
	if other < 0 {
		other = len(item)
	} else {
		no = rewriteItem(item[other+1:])
	}
	return " ((" + rewriteNested(item[at+1:other]) + ") and [" + then + "] or [" + no + "])[0] "
}

// find is the index of the word at depth 0, from from on, or -1.
func find(toks []string, word string, from int) int {
	depth := 0
	for i := from; i < len(toks); i++ {
		switch {
		case opens(toks[i]):
			depth++
		case closes(toks[i]):
			depth--
		case depth == 0 && toks[i] == word && (i == 0 || toks[i-1] != "."):
			return i
		}
	}
	return -1
}

func splitAt(toks []string, sep string) [][]string {
	var out [][]string
	depth, start := 0, 0
	for i, t := range toks {
		switch {
		case opens(t):
			depth++
		case closes(t):
			depth--
		case t == sep && depth == 0:
			out = append(out, toks[start:i])
			start = i + 1
		}
	}
	return append(out, toks[start:])
}

// match is the index of the bracket that closes the one at i, or len(toks).
func match(toks []string, i int) int {
	depth := 0
	for j := i; j < len(toks); j++ {
		if opens(toks[j]) {
			depth++
		} else if closes(toks[j]) {
			if depth--; depth == 0 {
				return j
			}
		}
	}
	return len(toks)
}

func opens(t string) bool  { return t == "(" || t == "[" || t == "{" }
func closes(t string) bool { return t == ")" || t == "]" || t == "}" }

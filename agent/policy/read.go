package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a document. The YAML parser takes time quadratic in the nesting
// depth (100,000 open brackets take it 38 s), so depth is bounded before it runs.
const (
	maxSource = 256 << 10
	maxIndent = 64
	maxFlow   = 16
)

// reader walks a YAML tree into the document and notes where everything stood.
// It is stricter than YAML: no anchors, aliases, tags, merge keys, nulls, or a
// second document, so that what a person reads is what is in force.
type reader struct {
	problems
	refs      []reference
	upstreams []position // of each upstream, in order
}

// reference is a name that must be defined elsewhere in the document.
type reference struct {
	kind string // "upstream" or "class"
	name string
	by   *rule // nil for a probe
	pos  position
}

// field is one key that a mapping may have.
type field struct {
	name     string
	required bool
	read     func(ast.Node)
}

// root parses the source down to its one top-level node; nil when that failed.
func (r *reader) root(src []byte) ast.Node {
	if len(src) > maxSource {
		r.add(position{}, "the policy has %d bytes; the limit is %d", len(src), maxSource)
		return nil
	}
	if at, deep := tooDeep(src); deep {
		r.add(at, "nested too deeply")
		return nil
	}
	file, err := parser.ParseBytes(src, 0)
	if err != nil {
		r.syntax(err)
		return nil
	}
	var bodies []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil {
			bodies = append(bodies, d.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		r.add(position{}, "the policy is empty; one that keeps every request on this box has just the lines \"schema: 1\" and \"name: local-only\"")
		return nil
	case len(bodies) > 1:
		r.add(at(bodies[1]), "a second document begins here; a policy is one document")
		return nil
	}
	return bodies[0]
}

func (r *reader) syntax(err error) {
	var se yaml.Error
	if errors.As(err, &se) && se.GetToken() != nil {
		r.add(tokenAt(se.GetToken()), "not valid YAML: %s", se.GetMessage())
		return
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	r.add(position{}, "not valid YAML: %s", first)
}

// tooDeep bounds the nesting with one look at the bytes: open brackets, and the
// run of indentation and indicators that a line begins with.
func tooDeep(src []byte) (position, bool) {
	at := position{line: 1}
	flow, leading := 0, true
	for _, b := range src {
		at.column++
		switch b {
		case '\n':
			at, leading = position{line: at.line + 1}, true
			continue
		case '[', '{':
			flow++
		case ']', '}':
			flow = max(flow-1, 0)
		}
		leading = leading && strings.IndexByte(" \t-?:!&*|>", b) >= 0
		if flow > maxFlow || (leading && at.column > maxIndent) {
			return at, true
		}
	}
	return at, false
}

func tokenAt(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{}
	}
	return position{line: t.Position.Line, column: t.Position.Column}
}

// at is where a node begins. A block mapping's own token is its first colon, so its first key counts.
func at(n ast.Node) position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return tokenAt(m.Values[0].Key.GetToken())
	}
	return tokenAt(n.GetToken())
}

// mapping reads the keys of n. What is a noun with its article, for messages.
// Later names fields of the design that this version does not honour, with what to do instead.
func (r *reader) mapping(n ast.Node, what string, fields []field, later map[string]string) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		r.add(at(n), "%s is a mapping of fields, not %s", what, describe(n))
		return
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	seen := map[string]bool{}
	for _, v := range m.Values {
		key := keyText(v.Key)
		pos := tokenAt(v.Key.GetToken())
		i := slices.Index(names, key)
		switch {
		case seen[key]:
			r.add(pos, "field %q is given twice", key)
		case i >= 0 && isNull(v.Value):
			r.add(pos, "field %q of %s has no value", key, what)
		case i >= 0:
			fields[i].read(v.Value)
		case later[key] != "":
			r.add(pos, "field %q of %s is not supported by this version: %s", key, what, later[key])
		default:
			r.add(pos, "unknown field %q of %s%s", key, what, hint(key, names))
		}
		seen[key] = true
	}
	for _, f := range fields {
		if f.required && !seen[f.name] {
			r.add(at(n), "%s needs the field %q", what, f.name)
		}
	}
}

func keyText(k ast.MapKeyNode) string {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value
	}
	return k.GetToken().Value
}

func isNull(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return null || n == nil
}

// describe names what a node is, for "not a list" messages.
func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode:
		return "nothing"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		return "an anchor, alias, tag or merge key (policies use none)"
	default:
		return strings.ToLower(n.Type().String())
	}
}

// list reads every item of a sequence; where scalar is true one bare value stands for a list of one.
func (r *reader) list(n ast.Node, what string, scalar bool, item func(ast.Node)) {
	seq, ok := n.(*ast.SequenceNode)
	switch {
	case ok && len(seq.Values) == 0:
		r.add(at(n), "%s lists nothing; leave the field out", what)
	case ok:
		for _, v := range seq.Values {
			item(v)
		}
	case scalar:
		item(n)
	default:
		r.add(at(n), "%s is a list, not %s", what, describe(n))
	}
}

// text reads a string of one to max bytes.
func (r *reader) text(n ast.Node, what string, limit int) string {
	var s string
	switch v := n.(type) {
	case *ast.StringNode:
		s = v.Value
	case *ast.LiteralNode:
		s = v.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		r.add(at(n), "%s is text, not %s; put it in quotes", what, describe(n))
		return ""
	default:
		r.add(at(n), "%s is text, not %s", what, describe(n))
		return ""
	}
	switch {
	case s == "":
		r.add(at(n), "%s is empty", what)
	case len(s) > limit:
		r.add(at(n), "%s has %d bytes; the limit is %d", what, len(s), limit)
	}
	return s
}

// name reads a word that appears in headers and records: letters, digits, ".", "_" and "-".
func (r *reader) name(n ast.Node, what string) string {
	s := r.text(n, what, 64)
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			r.add(at(n), "%s %q may have only letters, digits, \".\", \"_\" and \"-\"", what, s)
			break
		}
	}
	return s
}

func (r *reader) integer(n ast.Node, what string, low, high int) int {
	v, err := strconv.ParseInt(n.GetToken().Value, 0, 64)
	if _, ok := n.(*ast.IntegerNode); !ok || err != nil || v < int64(low) || v > int64(high) {
		limit := fmt.Sprintf("from %d to %d", low, high)
		if high == math.MaxInt {
			limit = fmt.Sprintf("of at least %d", low)
		}
		r.add(at(n), "%s is a whole number %s", what, limit)
		return low
	}
	return int(v)
}

func (r *reader) boolean(n ast.Node, what string) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		r.add(at(n), "%s is true or false, not %s", what, describe(n))
		return false
	}
	return b.Value
}

func (r *reader) duration(n ast.Node, what string) time.Duration {
	d, err := time.ParseDuration(n.GetToken().Value)
	if _, ok := n.(*ast.StringNode); !ok || err != nil || d <= 0 || d > 24*time.Hour {
		r.add(at(n), "%s is a duration with its unit, up to 24h, for example \"500ms\", \"10s\" or \"2m\"", what)
		return time.Second
	}
	return d
}

// choice reads one of a closed set of words.
func (r *reader) choice(n ast.Node, what string, words []string) string {
	s := r.text(n, what, 64)
	if s != "" && !slices.Contains(words, s) {
		r.add(at(n), "unknown %s %q%s", what, s, hint(s, words))
	}
	return s
}

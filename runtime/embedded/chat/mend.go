package chat

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/nikolalohinski/gonja/v2/builtins"
	controlStructures "github.com/nikolalohinski/gonja/v2/builtins/control_structures"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// tags are the library's tags that chat templates use. Those that read other
// templates are left out: a template that includes itself would never end.
var tags = []string{"if", "for", "set", "macro", "call", "filter", "with", "raw", "break", "continue", "do"}

// environment is the library's own with what differs from Jinja2 replaced. It
// copies every set: the library's are shared by the whole process.
func (t *Template) environment() (*exec.Environment, error) {
	known := map[string]exec.FilterFunction{}
	filters := exec.NewFilterSet(known).Update(builtins.Filters) // fills known
	tests := exec.NewTestSet(map[string]exec.TestFunction{}).Update(builtins.Tests)
	controls := map[string]parser.ControlStructureParser{"generation": parseGeneration}
	for _, name := range tags {
		if p, ok := builtins.ControlStructures.Get(name); ok {
			controls[name] = p
		}
	}
	controls["set"] = setParser(controls["set"])
	controls["for"] = refuseRecursive(controls["for"])
	err := errors.Join(
		filters.Replace("tojson", toJSON),
		filters.Replace("items", itemsFilter),
		tests.Replace("true", isTrue), tests.Replace("false", isFalse),
		tests.Replace("sequence", isSequence),
	)
	filters = exec.NewFilterSet(t.budget.filters(known))
	methods := builtins.Methods
	methods.Dict = dictMethods()
	methods.Str = t.budget.strMethods()
	return &exec.Environment{
		Filters: filters, Tests: tests, Methods: methods,
		ControlStructures: exec.NewControlStructureSet(controls),
		Context:           exec.EmptyContext().Update(builtins.GlobalFunctions).Update(t.functions()).Update(exec.NewContext(t.budget.counters())),
	}, err
}

// functions are the globals that Transformers gives to templates.
func (t *Template) functions() *exec.Context {
	return exec.NewContext(map[string]any{
		"range":    t.numbers,
		enterMacro: t.enter,
		leaveMacro: t.leave,
		"raise_exception": func(_ *exec.Evaluator, p *exec.VarArgs) (*exec.Value, error) {
			t.raised, t.refused = p.First().String(), true
			return nil, errors.New(t.raised)
		},
		"strftime_now": func(_ *exec.Evaluator, p *exec.VarArgs) (string, error) {
			return strftime(t.Now(), p.First().String()), nil
		},
	})
}

func (t *Template) enter(_ *exec.Evaluator, _ *exec.VarArgs) (string, error) {
	if t.depth++; t.depth > maxDepth {
		return "", fmt.Errorf("macros are nested deeper than %d", maxDepth)
	}
	return "", nil
}

func (t *Template) leave(_ *exec.Evaluator, _ *exec.VarArgs) (string, error) {
	t.depth--
	return "", nil
}

// forLoop is the library's for tag.
type forLoop = controlStructures.ForControlStructure

// refuseRecursive refuses loops that call themselves: no chat template is known
// to, and one without end would exhaust the stack.
func refuseRecursive(plain parser.ControlStructureParser) parser.ControlStructureParser {
	return func(p, args *parser.Parser) (nodes.ControlStructure, error) {
		cs, err := plain(p, args)
		if loop, ok := cs.(*forLoop); ok && loop.Recursive {
			return nil, errors.New("recursive loops are not supported")
		}
		return cs, err
	}
}

// numbers is range(). The library's feeds a channel from a goroutine that stays
// behind when the loop ends early, and knows no bound.
func (t *Template) numbers(_ *exec.Evaluator, p *exec.VarArgs) (list, error) {
	args := []int{0, 0, 1}
	for _, a := range p.Args {
		if !a.IsInteger() {
			return nil, errors.New("range() takes whole numbers")
		}
	}
	switch len(p.Args) {
	case 1:
		args[1] = p.Args[0].Integer()
	case 2, 3:
		for i, a := range p.Args {
			args[i] = a.Integer()
		}
	default:
		return nil, errors.New("range() takes one to three numbers")
	}
	if args[2] == 0 {
		return nil, errors.New("range() cannot step by 0")
	}
	out := list{}
	for i := args[0]; args[2] > 0 && i < args[1] || args[2] < 0 && i > args[1]; i += args[2] {
		if t.steps--; t.steps < 0 {
			return nil, fmt.Errorf("range() gave out more than %d numbers", maxSteps)
		}
		out = append(out, i)
	}
	return out, nil
}

// Tests that the library answers for values of any type.

func isTrue(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
	return in.IsBool() && in.Bool(), nil
}

func isFalse(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
	return in.IsBool() && !in.Bool(), nil
}

func isSequence(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) {
	return in.IsList() || in.IsString() || in.IsDict(), nil
}

// itemsOf is an object's entries as pairs, in order.
func itemsOf(v *exec.Value) list {
	out := list{}
	for _, p := range pairsOf(v) {
		out = append(out, list{p.Key.Interface(), p.Value.Interface()})
	}
	return out
}

func itemsFilter(_ *exec.Evaluator, in *exec.Value, _ *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	return exec.AsValue(itemsOf(in))
}

// dictMethods keeps the order of keys, which the library sorts.
func dictMethods() *exec.MethodSet[map[string]any] {
	type method = exec.Method[map[string]any]
	set := map[string]method{
		"items": func(_ map[string]any, self *exec.Value, _ *exec.VarArgs) (any, error) { return itemsOf(self), nil },
		"keys": func(_ map[string]any, self *exec.Value, _ *exec.VarArgs) (any, error) {
			out := list{}
			for _, p := range pairsOf(self) {
				out = append(out, p.Key.Interface())
			}
			return out, nil
		},
		"values": func(_ map[string]any, self *exec.Value, _ *exec.VarArgs) (any, error) {
			out := list{}
			for _, p := range pairsOf(self) {
				out = append(out, p.Value.Interface())
			}
			return out, nil
		},
		"get": func(_ map[string]any, self *exec.Value, p *exec.VarArgs) (any, error) {
			if v, ok := self.GetItem(p.First().String()); ok {
				return v.Interface(), nil
			}
			if len(p.Args) > 1 {
				return p.Args[1].Interface(), nil
			}
			return nil, nil
		},
	}
	for _, name := range []string{"pop", "setdefault", "update", "copy", "clear"} {
		if m, ok := builtins.Methods.Dict.Get(name); ok {
			set[name] = m
		}
	}
	return exec.NewMethodSet(set)
}

// strMethods makes what splits return lists that know negative indexes.
func (b *budget) strMethods() *exec.MethodSet[string] {
	set := map[string]exec.Method[string]{}
	for _, name := range strings.Fields("capitalize casefold center count endswith expandtabs find format isalnum isalpha " +
		"isascii isdecimal isdigit islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition " +
		"removeprefix removesuffix replace rfind rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill") {
		m, ok := builtins.Methods.Str.Get(name)
		if !ok {
			continue
		}
		set[name] = func(self string, v *exec.Value, p *exec.VarArgs) (any, error) {
			out, err := m(self, v, p)
			if parts, ok := out.([]string); ok {
				return texts(parts), err
			}
			return out, err
		}
	}
	for name, trim := range map[string]func(string, func(rune) bool) string{"strip": strings.TrimFunc, "lstrip": strings.TrimLeftFunc, "rstrip": strings.TrimRightFunc} {
		cut := set[name]
		set[name] = func(self string, v *exec.Value, p *exec.VarArgs) (any, error) {
			if len(p.Args)+len(p.KwArgs) == 0 {
				return trim(self, unicode.IsSpace), nil
			}
			return cut(self, v, p)
		}
	}
	set["replace"] = optional(set["replace"], 2, -1)
	words := set["split"]
	set["split"] = func(self string, v *exec.Value, p *exec.VarArgs) (any, error) {
		if len(p.Args)+len(p.KwArgs) == 0 || len(p.Args) == 1 && p.Args[0].IsNil() {
			return texts(strings.Fields(self)), nil
		}
		return words(self, v, p)
	}
	for name, m := range set {
		set[name] = func(self string, v *exec.Value, p *exec.VarArgs) (any, error) {
			if err := b.before(name, exec.AsValue(self), p); err != nil {
				return nil, err
			}
			out, err := m(self, v, p)
			return out, errors.Join(err, b.check(exec.ToValue(out)))
		}
	}
	return exec.NewMethodSet(set)
}

// optional gives a method its n-th argument where the template leaves it out.
func optional(m exec.Method[string], n int, fallback any) exec.Method[string] {
	return func(self string, v *exec.Value, p *exec.VarArgs) (any, error) {
		if len(p.Args) == n && len(p.KwArgs) == 0 {
			p = &exec.VarArgs{Args: append(p.Args[:n:n], exec.AsValue(fallback)), KwArgs: p.KwArgs}
		}
		return m(self, v, p)
	}
}

func texts(parts []string) list {
	l := make(list, len(parts))
	for i, part := range parts {
		l[i] = part
	}
	return l
}

// setTuple is {% set a, b = x %}, which the library does not have.
type setTuple struct {
	at     *tokens.Token
	names  []string
	values []nodes.Expression
}

func (s *setTuple) Position() *tokens.Token { return s.at }
func (s *setTuple) String() string          { return "set " + strings.Join(s.names, ", ") }

// Execute binds the names to the values, or to the elements of the one value.
func (s *setTuple) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	var got []any
	for _, e := range s.values {
		v := r.Eval(e)
		if v.IsError() {
			return v
		}
		got = append(got, v.Interface())
	}
	if len(s.values) == 1 {
		v := exec.ToValue(got[0])
		got = nil
		v.Iterate(func(_, _ int, item, _ *exec.Value) bool {
			got = append(got, item.Interface())
			return true
		}, func() {})
	}
	if len(got) != len(s.names) {
		return fmt.Errorf("cannot set %d names from %d values", len(s.names), len(got))
	}
	for i, name := range s.names {
		r.Environment.Context.Set(name, got[i])
	}
	return nil
}

func setParser(plain parser.ControlStructureParser) parser.ControlStructureParser {
	return func(p, args *parser.Parser) (nodes.ControlStructure, error) {
		if args.Current(tokens.Name) == nil || args.Peek(tokens.Comma) == nil {
			return plain(p, args)
		}
		s := &setTuple{at: p.Current()}
		for name := args.Match(tokens.Name); name != nil; name = args.Match(tokens.Name) {
			s.names = append(s.names, name.Val)
			if args.Match(tokens.Comma) == nil {
				break
			}
		}
		if args.Match(tokens.Assign) == nil {
			return nil, args.Error("Expected '='.", args.Current())
		}
		for more := true; more; more = args.Match(tokens.Comma) != nil {
			e, err := args.ParseExpression()
			if err != nil {
				return nil, err
			}
			s.values = append(s.values, e)
		}
		if !args.End() {
			return nil, args.Error("Malformed 'set' tag args.", args.Current())
		}
		return s, nil
	}
}

// generation is {% generation %}...{% endgeneration %}, which marks the
// assistant's words for training and is transparent otherwise.
type generation struct {
	at   *tokens.Token
	body *nodes.Wrapper
}

func (g *generation) Position() *tokens.Token { return g.at }
func (g *generation) String() string          { return "generation" }

// Execute renders the body.
func (g *generation) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	return r.ExecuteWrapper(g.body)
}

func parseGeneration(p, args *parser.Parser) (nodes.ControlStructure, error) {
	at := p.Current()
	body, end, err := p.WrapUntil("endgeneration")
	if err != nil {
		return nil, err
	}
	if !args.End() || !end.End() {
		return nil, args.Error("Arguments not allowed here.", nil)
	}
	return &generation{at, body}, nil
}

// strftime formats t as C does, for the conversions that templates use; others stay as they are.
func strftime(t time.Time, layout string) string {
	conversions := map[byte]string{
		'd': "02", 'b': "Jan", 'B': "January", 'Y': "2006", 'y': "06", 'm': "01", 'H': "15", 'I': "03", 'M': "04", 'S': "05",
		'p': "PM", 'A': "Monday", 'a': "Mon", 'e': "_2", 'j': "002", 'Z': "MST", 'z': "-0700", 'F': "2006-01-02", 'T': "15:04:05",
	}
	var out strings.Builder
	for i := 0; i < len(layout); i++ {
		if layout[i] != '%' || i+1 == len(layout) {
			out.WriteByte(layout[i])
			continue
		}
		i++
		if format, ok := conversions[layout[i]]; ok {
			out.WriteString(t.Format(format))
		} else if layout[i] == '%' {
			out.WriteByte('%')
		} else {
			out.WriteString(layout[i-1 : i+1])
		}
	}
	return out.String()
}

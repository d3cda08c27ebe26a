package chat

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

const (
	maxBodies = 1 << 16  // loop items and bodies of tags in one rendering
	maxText   = 16 << 20 // bytes of one text that a template makes
	maxWork   = 1 << 30  // bytes of text that a rendering touches, copies counted each time
	itemWork  = 512      // what an element of a list counts as: the library copies them slowly
)

// The functions that bind puts into the parsed tree. A template that calls them itself spends only its own budget.
const (
	countBody  = "bothy_count_body"
	countItems = "bothy_count_items"
	countText  = "bothy_count_text"
	leftSide   = "bothy_left_side"
	rightSide  = "bothy_right_side"
)

// budget is what one rendering may still spend.
type budget struct {
	bodies, work int
	left         []*exec.Value // left sides of operators whose right side is being evaluated
}

func (b *budget) reset() { *b = budget{bodies: maxBodies, work: maxWork, left: b.left[:0]} }

// touch counts the text or list that v is.
func (b *budget) touch(v *exec.Value) error {
	if n := weight(v); n > 0 {
		return b.spend(n)
	}
	return nil
}

func (b *budget) spend(n int) error {
	if b.work -= n; b.work < 0 {
		return fmt.Errorf("the template handles more than %d bytes of text", maxWork)
	}
	return nil
}

func (b *budget) run(n int) error {
	if b.bodies -= n; b.bodies < 0 {
		return fmt.Errorf("the template runs more than %d loop bodies", maxBodies)
	}
	return nil
}

// weight is a text's bytes, or a list's elements times itemWork.
func weight(v *exec.Value) int {
	switch {
	case v == nil || v.IsNil():
		return 0
	case v.IsString():
		return len(v.String())
	case v.IsList():
		return v.Len() * itemWork
	case v.IsDict():
		return len(pairsOf(v)) * itemWork
	}
	return 0
}

// check counts what a filter, method or operator has made.
func (b *budget) check(v *exec.Value) error {
	if v != nil && !v.IsNil() && v.IsString() && len(v.String()) > maxText {
		return errTextSize
	}
	return b.touch(v)
}

var errTextSize = fmt.Errorf("the template makes a text over %d bytes", maxText)

// counters are the functions behind the names above.
func (b *budget) counters() map[string]any {
	type function = func(*exec.Evaluator, *exec.VarArgs) (*exec.Value, error)
	return map[string]any{
		countBody: function(func(_ *exec.Evaluator, p *exec.VarArgs) (*exec.Value, error) {
			return exec.AsValue(""), errors.Join(b.run(1), b.spend(p.First().Integer()))
		}),
		countItems: function(func(_ *exec.Evaluator, p *exec.VarArgs) (*exec.Value, error) {
			n := weight(p.First())
			if !p.First().IsString() {
				n /= itemWork
			}
			return p.First(), b.run(n)
		}),
		countText: function(func(_ *exec.Evaluator, p *exec.VarArgs) (*exec.Value, error) {
			return p.First(), b.touch(p.First())
		}),
		leftSide: function(func(_ *exec.Evaluator, p *exec.VarArgs) (*exec.Value, error) {
			b.left = append(b.left, p.First())
			return p.First(), nil
		}),
		rightSide: function(func(_ *exec.Evaluator, p *exec.VarArgs) (*exec.Value, error) {
			left := b.left[len(b.left)-1]
			b.left = b.left[:len(b.left)-1]
			return p.First(), b.operate(left, p.First(), len(p.Args) > 1)
		}),
	}
}

// operate counts what an operator reads and makes of two values.
func (b *budget) operate(left, right *exec.Value, repeats bool) error {
	l, r := weight(left), weight(right)
	if repeats && left.IsString() {
		if n := right.Integer(); n < 0 || l > 0 && n > maxText/l {
			return errTextSize
		}
		r = l * max(right.Integer()-1, 0)
	}
	if (left.IsString() || right.IsString()) && l+r > maxText {
		return errTextSize
	}
	return b.spend(l + r)
}

// bind puts the counting calls into a parsed template. The library keeps what is inside its tags private, so the
// tree is read by reflection; only nodes with public fields are changed.
func bind(parsed *exec.Template) {
	seen := map[uintptr]bool{}
	walk(reflect.ValueOf(parsed).Elem().FieldByName("root"), seen)
}

func walk(v reflect.Value, seen map[uintptr]bool) {
	switch v.Kind() {
	case reflect.Interface:
		walk(v.Elem(), seen)
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), seen)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			walk(it.Value(), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			walk(v.Field(i), seen)
		}
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] || v.Type() == reflect.TypeFor[*tokens.Token]() {
			return
		}
		seen[v.Pointer()] = true
		walk(v.Elem(), seen)
		change(v)
	}
}

// change adds the calls to one node, whose insides have theirs already.
func change(v reflect.Value) {
	at := v.UnsafePointer()
	switch v.Type() {
	case reflect.TypeFor[*nodes.Wrapper]():
		w := (*nodes.Wrapper)(at)
		w.Nodes = append([]nodes.Node{bodyCount(w.Nodes)}, w.Nodes...)
	case reflect.TypeFor[*nodes.Output]():
		o := (*nodes.Output)(at)
		o.Expression = call(countText, o.Expression)
		if o.Alternative != nil {
			o.Alternative = call(countText, o.Alternative)
		}
	case reflect.TypeFor[*nodes.BinaryExpression]():
		e := (*nodes.BinaryExpression)(at)
		switch e.Operator.Token.Type {
		case tokens.And, tokens.Or:
			return
		case tokens.Multiply:
			e.Right = call(rightSide, e.Right, &nodes.Bool{Location: e.Operator.Token, Val: true})
		default:
			e.Right = call(rightSide, e.Right)
		}
		e.Left = call(leftSide, e.Left)
	case reflect.TypeFor[*nodes.GetSlice]():
		s := (*nodes.GetSlice)(at)
		s.Node = call(countText, s.Node)
	case reflect.TypeFor[*forLoop]():
		f := (*forLoop)(at)
		f.ObjectEvaluator = call(countItems, f.ObjectEvaluator)
	}
}

// bodyCount is the node that counts a body and its literal text.
func bodyCount(body []nodes.Node) nodes.Node {
	n := 0
	for _, node := range body {
		if d, ok := node.(*nodes.Data); ok {
			n += len(d.Data.Val)
		}
	}
	at := &tokens.Token{Type: tokens.Integer}
	return &nodes.Output{Start: at, Expression: call(countBody, &nodes.Integer{Location: at, Val: n}), End: at}
}

// call is a call of one of the counting functions.
func call(name string, args ...nodes.Node) *nodes.Call {
	at := args[0].Position()
	c := &nodes.Call{Location: at, Func: &nodes.Name{Name: &tokens.Token{Type: tokens.Name, Val: name, Line: at.Line, Col: at.Col}}}
	for _, a := range args {
		c.Args = append(c.Args, a)
	}
	return c
}

// filters makes every filter of set count what it reads and makes.
func (b *budget) filters(set map[string]exec.FilterFunction) map[string]exec.FilterFunction {
	out := make(map[string]exec.FilterFunction, len(set))
	for name, f := range set {
		out[name] = func(e *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
			if err := b.before(name, in, p); err != nil {
				return exec.AsValue(err)
			}
			v := f(e, in, p)
			if err := b.check(v); err != nil {
				return exec.AsValue(err)
			}
			return v
		}
	}
	return out
}

// before counts what a filter or method reads, and refuses arguments that would make it write too much.
func (b *budget) before(name string, in *exec.Value, p *exec.VarArgs) error {
	total := weight(in)
	most := 0
	for _, a := range p.Args {
		most = max(most, growth(a))
	}
	for _, a := range p.KwArgs {
		most = max(most, growth(a))
	}
	switch name {
	case "replace", "join", "indent", "expandtabs":
		if most > 0 && total+1 > maxText/most {
			return errTextSize
		}
	default:
		if most > maxText {
			return errTextSize
		}
	}
	return b.spend(total + most)
}

// growth is how much an argument can add to a text for each of its characters.
func growth(v *exec.Value) int {
	if v.IsInteger() {
		return max(v.Integer(), 0)
	}
	return weight(v)
}

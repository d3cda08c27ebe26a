package chat

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// toJSON is the tojson filter with the output of Python's json.dumps(x,
// ensure_ascii=False), which the models saw in training: ", " and ": " between,
// keys in order, nothing escaped for HTML.
func toJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := -1
	if v := params.GetKeywordArgument("indent", nil); v.IsInteger() {
		indent = v.Integer()
	} else if len(params.Args) > 0 && params.Args[0].IsInteger() {
		indent = params.Args[0].Integer()
	}
	w := jsonWriter{indent: min(indent, 16)}
	if err := w.write(in, 0); err != nil {
		return exec.AsValue(err)
	}
	return exec.AsSafeValue(w.String())
}

type jsonWriter struct {
	strings.Builder
	indent int // spaces a level; negative writes one line
}

func (w *jsonWriter) write(v *exec.Value, depth int) error {
	switch {
	case depth > maxDepth:
		return fmt.Errorf("tojson: nested deeper than %d", maxDepth)
	case v.IsNil():
		w.WriteString("null")
	case v.IsBool():
		w.WriteString(strconv.FormatBool(v.Bool()))
	case v.IsInteger():
		w.WriteString(strconv.Itoa(v.Integer()))
	case v.IsFloat():
		w.WriteString(pythonFloat(v.Float()))
	case v.IsString():
		return w.text(v.String())
	case v.IsList():
		return w.list(v, depth)
	case v.IsDict():
		return w.object(v, depth)
	default:
		return fmt.Errorf("tojson: cannot write %s", v.String())
	}
	return nil
}

func (w *jsonWriter) text(s string) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return err
	}
	out := strings.TrimSuffix(b.String(), "\n")
	// Go escapes these two for JavaScript's sake; Python does not.
	out = strings.ReplaceAll(out, `\u2028`, "\u2028")
	w.WriteString(strings.ReplaceAll(out, `\u2029`, "\u2029"))
	return nil
}

func (w *jsonWriter) list(v *exec.Value, depth int) error {
	n := v.Len()
	w.WriteByte('[')
	for i := range n {
		w.next(i, depth+1)
		if err := w.write(v.Index(i), depth+1); err != nil {
			return err
		}
	}
	w.close(n, depth)
	w.WriteByte(']')
	return nil
}

func (w *jsonWriter) object(v *exec.Value, depth int) error {
	pairs := pairsOf(v)
	w.WriteByte('{')
	for i, p := range pairs {
		w.next(i, depth+1)
		if err := w.text(p.Key.String()); err != nil {
			return err
		}
		w.WriteString(": ")
		if err := w.write(exec.ToValue(p.Value), depth+1); err != nil {
			return err
		}
	}
	w.close(len(pairs), depth)
	w.WriteByte('}')
	return nil
}

// next writes what stands before the i-th element.
func (w *jsonWriter) next(i, depth int) {
	switch {
	case w.indent >= 0:
		if i > 0 {
			w.WriteByte(',')
		}
		w.newline(depth)
	case i > 0:
		w.WriteString(", ")
	}
}

func (w *jsonWriter) close(n, depth int) {
	if n > 0 && w.indent >= 0 {
		w.newline(depth)
	}
}

func (w *jsonWriter) newline(depth int) {
	w.WriteByte('\n')
	w.WriteString(strings.Repeat(" ", depth*w.indent))
}

// pythonFloat is Python's repr of a float.
func pythonFloat(f float64) string {
	if math.IsNaN(f) {
		return "NaN"
	}
	if math.IsInf(f, 0) {
		return strings.TrimPrefix(fmt.Sprintf("%+f", f), "+") + "inity"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

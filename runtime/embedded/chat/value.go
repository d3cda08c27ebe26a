package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// maxDepth bounds nesting in messages and tools.
const maxDepth = 100

// list is an array as templates see it. The library's own slices answer a
// negative index only down to -(len-1), so messages[-1] of a single message was undefined.
type list []any

// GetItem is the element at key, counted from the end when negative.
func (l list) GetItem(key any) (*exec.Value, bool) {
	i, ok := key.(int)
	if ok && i < 0 {
		i += len(l)
	}
	if !ok || i < 0 || i >= len(l) {
		return exec.AsValue(nil), false
	}
	return exec.ToValue(l[i]), true
}

// toValue turns a Go value into what templates see. json.RawMessage keeps the
// order of its keys; everything else takes the way through JSON.
func toValue(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int, float64:
		return v, nil
	case json.RawMessage:
		return decode(v)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decode(raw)
}

// decode reads one JSON value; objects keep the order of their keys.
func decode(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := decodeNext(d, maxDepth)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the JSON value")
	}
	return v, nil
}

func decodeNext(d *json.Decoder, depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("JSON is nested deeper than %d", maxDepth)
	}
	tok, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch tok := tok.(type) {
	case json.Number:
		return number(tok)
	case json.Delim:
		if tok == '[' {
			return decodeList(d, depth)
		}
		return decodeObject(d, depth)
	}
	return tok, nil
}

func number(n json.Number) (any, error) {
	if i, err := strconv.Atoi(n.String()); err == nil {
		return i, nil
	}
	return n.Float64()
}

func decodeList(d *json.Decoder, depth int) (any, error) {
	out := list{}
	for d.More() {
		v, err := decodeNext(d, depth-1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := d.Token()
	return out, err
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	dict := exec.NewDict()
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		v, err := decodeNext(d, depth-1)
		if err != nil {
			return nil, err
		}
		set(dict, fmt.Sprint(key), v)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if len(dict.Pairs) == 0 && depth < maxDepth {
		// The library takes an ordered object for true even when it is empty.
		return map[string]any{}, nil
	}
	return dict, nil
}

// get is the value of an object's key, nil where it has none.
func get(d *exec.Dict, key string) any {
	for _, p := range d.Pairs {
		if p.Key.String() == key {
			return p.Value.Interface()
		}
	}
	return nil
}

// set replaces the value of key or adds it at the end.
func set(d *exec.Dict, key string, v any) {
	for _, p := range d.Pairs {
		if p.Key.String() == key {
			p.Value = exec.AsValue(v)
			return
		}
	}
	d.Pairs = append(d.Pairs, &exec.Pair{Key: exec.AsValue(key), Value: exec.AsValue(v)})
}

// pairsOf lists an object's entries: in order for ordered ones, sorted for maps.
func pairsOf(v *exec.Value) []*exec.Pair {
	switch o := v.Interface().(type) {
	case *exec.Dict:
		return o.Pairs
	case exec.Dict:
		return o.Pairs
	}
	var out []*exec.Pair
	v.Iterate(func(_, _ int, key, value *exec.Value) bool {
		out = append(out, &exec.Pair{Key: key, Value: value})
		return true
	}, func() {})
	return out
}

package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// kind is the type of a metadata value as written in the file.
type kind uint32

const (
	kindU8   kind = 0
	kindI8   kind = 1
	kindU16  kind = 2
	kindI16  kind = 3
	kindU32  kind = 4
	kindI32  kind = 5
	kindF32  kind = 6
	kindBool kind = 7
	kindStr  kind = 8
	kindArr  kind = 9
	kindU64  kind = 10
	kindI64  kind = 11
	kindF64  kind = 12
)

func (k kind) size() int {
	switch k {
	case kindU8, kindI8, kindBool:
		return 1
	case kindU16, kindI16:
		return 2
	case kindU32, kindI32, kindF32:
		return 4
	case kindU64, kindI64, kindF64:
		return 8
	}
	return 0
}

// value is one metadata value, still in the map.
type value struct {
	kind  kind
	elem  kind // of an array
	count int  // of an array
	raw   []byte
}

// Meta is the file's metadata. Getters return ok false when the key is absent
// or holds something else; integers of any width and sign convert as long as
// the value fits. What getters return is a copy.
type Meta struct {
	keys   []string
	values map[string]value
}

func readMeta(r *reader, n int) (Meta, error) {
	m := Meta{values: make(map[string]value, n)}
	for i := range n {
		key := r.name(fmt.Sprintf("key %d", i))
		v := readValue(r, kind(r.u32("the type of "+key)), key)
		if r.err != nil {
			return m, r.err
		}
		if _, dup := m.values[key]; dup {
			return m, r.fail("the key %q is there twice", key)
		}
		m.keys = append(m.keys, key)
		m.values[key] = v
	}
	return m, nil
}

func readValue(r *reader, k kind, key string) value {
	v := value{kind: k}
	switch {
	case r.err != nil:
	case k.size() > 0:
		v.raw = r.bytes(uint64(k.size()), key)
	case k == kindStr:
		v.raw = r.bytes(r.u64("the length of "+key), key)
	case k == kindArr:
		v.elem = kind(r.u32("the element type of " + key))
		start := r.at
		v.count = skipArray(r, v.elem, key, maxNesting)
		v.raw = r.b[start+min(8, r.at-start) : r.at]
	default:
		r.fail("%q has the unknown type %d", key, k)
	}
	return v
}

// skipArray walks over an array's count and elements and returns the count.
func skipArray(r *reader, elem kind, key string, depth int) int {
	least := uint64(max(elem.size(), 1))
	if elem == kindStr {
		least = 8
	} else if elem == kindArr {
		least = 12
	}
	n := r.count(least, math.MaxInt64, "elements of "+key)
	switch {
	case r.err != nil:
	case elem.size() > 0:
		r.bytes(uint64(n)*uint64(elem.size()), key)
	case elem == kindStr:
		for range n {
			if r.bytes(r.u64(key), key); r.err != nil {
				return 0
			}
		}
	case elem == kindArr && depth > 0:
		for range n {
			if skipArray(r, kind(r.u32(key)), key, depth-1); r.err != nil {
				return 0
			}
		}
	default:
		r.fail("%q has elements of the unknown type %d, or too deeply nested", key, elem)
	}
	return n
}

// Keys are all keys in the order of the file.
func (m Meta) Keys() []string { return slices.Clone(m.keys) }

// Has says whether the key is there, with a value of any kind.
func (m Meta) Has(key string) bool { _, ok := m.values[key]; return ok }

// String is a string value.
func (m Meta) String(key string) (string, bool) {
	v, ok := m.values[key]
	if !ok || v.kind != kindStr {
		return "", false
	}
	return string(v.raw), true
}

// Uint is an integer value that is not negative.
func (m Meta) Uint(key string) (uint64, bool) {
	v, ok := m.values[key]
	if !ok {
		return 0, false
	}
	n, neg, ok := integer(v.kind, v.raw)
	return n, ok && !neg
}

// Int is an integer value that fits int64.
func (m Meta) Int(key string) (int64, bool) {
	v, ok := m.values[key]
	if !ok {
		return 0, false
	}
	n, neg, ok := integer(v.kind, v.raw)
	return int64(n), ok && (neg || n <= math.MaxInt64)
}

// Float is a floating-point value, or an integer converted.
func (m Meta) Float(key string) (float64, bool) {
	v, ok := m.values[key]
	if !ok {
		return 0, false
	}
	return float(v.kind, v.raw)
}

// Bool is a truth value.
func (m Meta) Bool(key string) (value, ok bool) {
	v, ok := m.values[key]
	if !ok || v.kind != kindBool {
		return false, false
	}
	return v.raw[0] != 0, true
}

// Len is the number of elements of an array.
func (m Meta) Len(key string) (int, bool) {
	v, ok := m.values[key]
	return v.count, ok && v.kind == kindArr
}

// Strings is an array of strings. It allocates about the array's size in the file.
func (m Meta) Strings(key string) ([]string, bool) {
	v, ok := m.values[key]
	if !ok || v.kind != kindArr || v.elem != kindStr {
		return nil, false
	}
	out := make([]string, v.count)
	p := v.raw
	for i := range out {
		n := binary.LittleEndian.Uint64(p)
		out[i] = string(p[8 : 8+n])
		p = p[8+n:]
	}
	return out, true
}

// Floats is an array of floating-point values or integers.
func (m Meta) Floats(key string) ([]float64, bool) {
	return elements(m, key, float)
}

// Ints is an array of integers that fit int64.
func (m Meta) Ints(key string) ([]int64, bool) {
	return elements(m, key, func(k kind, raw []byte) (int64, bool) {
		n, neg, ok := integer(k, raw)
		return int64(n), ok && (neg || n <= math.MaxInt64)
	})
}

func elements[T any](m Meta, key string, get func(kind, []byte) (T, bool)) ([]T, bool) {
	v, ok := m.values[key]
	if !ok || v.kind != kindArr || v.elem.size() == 0 {
		return nil, false
	}
	out := make([]T, v.count)
	for i := range out {
		if out[i], ok = get(v.elem, v.raw[i*v.elem.size():]); !ok {
			return nil, false
		}
	}
	return out, true
}

// integer is the value's bits, sign-extended, and whether it is negative.
func integer(k kind, p []byte) (n uint64, negative, ok bool) {
	le := binary.LittleEndian
	switch k {
	case kindU8:
		return uint64(p[0]), false, true
	case kindU16:
		return uint64(le.Uint16(p)), false, true
	case kindU32:
		return uint64(le.Uint32(p)), false, true
	case kindU64:
		return le.Uint64(p), false, true
	case kindI8:
		n = uint64(int8(p[0]))
	case kindI16:
		n = uint64(int16(le.Uint16(p)))
	case kindI32:
		n = uint64(int32(le.Uint32(p)))
	case kindI64:
		n = le.Uint64(p)
	default:
		return 0, false, false
	}
	return n, int64(n) < 0, true
}

func float(k kind, p []byte) (float64, bool) {
	switch k {
	case kindF32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(p))), true
	case kindF64:
		return math.Float64frombits(binary.LittleEndian.Uint64(p)), true
	}
	n, neg, ok := integer(k, p)
	if neg {
		return float64(int64(n)), ok
	}
	return float64(n), ok
}

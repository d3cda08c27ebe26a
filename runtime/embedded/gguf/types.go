package gguf

import "fmt"

// Type is a tensor's number format. The values are those written in files.
type Type uint32

// The formats that this reader knows the size of.
const (
	F32   Type = 0
	F16   Type = 1
	Q4_0  Type = 2
	Q4_1  Type = 3
	Q5_0  Type = 6
	Q5_1  Type = 7
	Q8_0  Type = 8
	Q8_1  Type = 9
	Q2_K  Type = 10
	Q3_K  Type = 11
	Q4_K  Type = 12
	Q5_K  Type = 13
	Q6_K  Type = 14
	Q8_K  Type = 15
	IQ4NL Type = 20
	IQ4XS Type = 23
	I8    Type = 24
	I16   Type = 25
	I32   Type = 26
	I64   Type = 27
	F64   Type = 28
	BF16  Type = 30
	MXFP4 Type = 39
)

type layout struct {
	name  string
	block int // values in a block
	bytes int // bytes of a block
}

// layoutOf describes t; ok is false for a format this reader does not know.
func layoutOf(t Type) (l layout, ok bool) {
	switch t {
	case F32:
		return layout{"f32", 1, 4}, true
	case F16:
		return layout{"f16", 1, 2}, true
	case BF16:
		return layout{"bf16", 1, 2}, true
	case F64:
		return layout{"f64", 1, 8}, true
	case I8:
		return layout{"i8", 1, 1}, true
	case I16:
		return layout{"i16", 1, 2}, true
	case I32:
		return layout{"i32", 1, 4}, true
	case I64:
		return layout{"i64", 1, 8}, true
	}
	return quantLayout(t)
}

func quantLayout(t Type) (l layout, ok bool) {
	switch t {
	case Q4_0:
		return layout{"q4_0", 32, 18}, true
	case Q4_1:
		return layout{"q4_1", 32, 20}, true
	case Q5_0:
		return layout{"q5_0", 32, 22}, true
	case Q5_1:
		return layout{"q5_1", 32, 24}, true
	case Q8_0:
		return layout{"q8_0", 32, 34}, true
	case Q8_1:
		return layout{"q8_1", 32, 36}, true
	case IQ4NL:
		return layout{"iq4_nl", 32, 18}, true
	case MXFP4:
		return layout{"mxfp4", 32, 17}, true
	case Q2_K:
		return layout{"q2_k", 256, 84}, true
	case Q3_K:
		return layout{"q3_k", 256, 110}, true
	case Q4_K:
		return layout{"q4_k", 256, 144}, true
	case Q5_K:
		return layout{"q5_k", 256, 176}, true
	case Q6_K:
		return layout{"q6_k", 256, 210}, true
	case Q8_K:
		return layout{"q8_k", 256, 292}, true
	case IQ4XS:
		return layout{"iq4_xs", 256, 136}, true
	}
	return layout{}, false
}

// String is the format's name as llama.cpp prints it, for example "q4_k".
func (t Type) String() string {
	if l, ok := layoutOf(t); ok {
		return l.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Block is how many values share a block; 0 when the format is unknown.
func (t Type) Block() int { l, _ := layoutOf(t); return l.block }

// RowBytes is the size of a row of n values, or 0 when the format is unknown
// or n is no whole number of blocks.
func (t Type) RowBytes(n int) int {
	l, ok := layoutOf(t)
	if !ok || n%l.block != 0 {
		return 0
	}
	return n / l.block * l.bytes
}

package kernel

import (
	"encoding/binary"
	"math"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

func float32At(p []byte, i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
}

func brainAt(p []byte, i int) float32 {
	return math.Float32frombits(uint32(binary.LittleEndian.Uint16(p[2*i:])) << 16)
}

// FormOf is the form that activations need to meet weights of type t; ok is
// false when the engine has no kernel for t.
func FormOf(t gguf.Type) (f Form, ok bool) {
	switch t {
	case gguf.F32:
		return Plain, true
	case gguf.F16:
		return Half, true
	case gguf.BF16:
		return Brain, true
	case gguf.Q8_0, gguf.Q4_0, gguf.Q4_1, gguf.Q5_0, gguf.Q5_1, gguf.IQ4NL:
		return Blocks32, true
	case gguf.Q2_K, gguf.Q3_K, gguf.Q4_K, gguf.Q5_K, gguf.Q6_K, gguf.IQ4XS:
		return Blocks256, true
	}
	return 0, false
}

// dot is the oracle: one row of the file times token t, in plain Go.
func dot(typ gguf.Type, row []byte, b *Batch, t int) float32 {
	form, _ := FormOf(typ)
	switch form {
	case Blocks32:
		return dot32(typ, row, b, t)
	case Blocks256:
		return dot256(typ, row, b, t)
	}
	x := b.floats(form, t)
	var sum float32
	switch typ {
	case gguf.F32:
		for i, v := range x {
			sum += float32At(row, i) * v
		}
	case gguf.F16:
		for i, v := range x {
			sum += half(row[2*i:]) * v
		}
	case gguf.BF16:
		for i, v := range x {
			sum += brainAt(row, i) * v
		}
	}
	return sum
}

func dot32(typ gguf.Type, row []byte, b *Batch, t int) float32 {
	var w block32
	var sum float32
	x := b.ints[0]
	size := typ.RowBytes(32)
	for n := range b.Width / 32 {
		unpack32(typ, row[n*size:], &w)
		at := b.at(t, n)
		sum += float32(products(w.q[:], x.Q[at*32:at*32+32])) * (w.scale * x.Scale[at])
		sum += w.floor * x.Sum[at]
	}
	return sum
}

func dot256(typ gguf.Type, row []byte, b *Batch, t int) float32 {
	var w block256
	var sum float32
	x := b.ints[1]
	size := typ.RowBytes(256)
	for n := range b.Width / 256 {
		unpack256(typ, row[n*size:], &w)
		var up, down int32
		for part := range 16 {
			at := b.at(t, n*8+part/2)
			q := x.Q[at*32+part%2*16 : at*32+part%2*16+16]
			up += w.mul[part] * products(w.q[part*16:part*16+16], q)
			down += w.sub[part] * (x.Bias6[2*at+part%2] / -128)
		}
		scale := x.Scale[b.at(t, n*8)]
		sum += scale * w.scale * float32(up)
		sum -= scale * w.low * float32(down)
	}
	return sum
}

func products(w, x []int8) int32 {
	var sum int32
	x = x[:len(w)]
	for i, v := range w {
		sum += int32(v) * int32(x[i])
	}
	return sum
}

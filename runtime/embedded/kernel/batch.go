package kernel

import "math"

// Form is how activations are brought to meet a weight type.
type Form uint8

// The forms. A Batch can hold several at once.
const (
	Plain     Form = iota // float32 as they are
	Half                  // rounded to half precision, kept as float32
	Brain                 // rounded to bfloat16, kept as float32
	Blocks32              // int8 in blocks of 32, scale rounded to half precision
	Blocks256             // int8 in blocks of 256
	forms
)

// quants is a batch of activations as int8. Blocks of 32 values lie in tiles of
// one or eight tokens: block n of token t is at index at(t, n) of Scale and the
// sums, and at 32 times that index of Q.
type quants struct {
	Q     []int8
	Scale []float32 // of the block of 32
	Bias8 []int32   // -128 times the block's sum: weights stored with 0x80 added
	Bias4 []int32   // -8 times the block's sum
	Sum   []float32 // scale times the block's sum, which the minima are multiplied with
	Bias6 []int32   // for each half block, -128 times its sum
}

// Batch is a set of activation rows, each of Width values.
type Batch struct {
	Width  int
	level  Level
	tokens int
	tile   int
	x      []float32 // as given, tokens rows
	round  [2][]float32
	ints   [2]*quants
}

// NewBatch makes room for up to most rows of width values, in the forms that
// the matrices of that level need.
func NewBatch(level Level, most, width int, needs ...Form) *Batch {
	b := &Batch{Width: width, level: level}
	tiled := (most + 7) &^ 7
	b.x = make([]float32, most*width)
	for _, f := range needs {
		switch f {
		case Half, Brain:
			if b.round[f-Half] == nil {
				b.round[f-Half] = make([]float32, most*width)
			}
		case Blocks32, Blocks256:
			if b.ints[f-Blocks32] == nil {
				b.ints[f-Blocks32] = newQuants(tiled, width)
			}
		}
	}
	return b
}

func newQuants(tokens, width int) *quants {
	n := tokens * (width / 32)
	return &quants{
		Q: make([]int8, n*32), Scale: make([]float32, n), Sum: make([]float32, n),
		Bias8: make([]int32, n), Bias4: make([]int32, n), Bias6: make([]int32, 2*n),
	}
}

// Reset sets the number of rows. What the batch held is gone.
func (b *Batch) Reset(tokens int) {
	b.tokens, b.tile = tokens, 1
	if tokens > 1 && b.level == VNNI { // the only level with kernels for eight at once
		b.tile = 8
	}
}

// Row is row t to be filled before Set.
func (b *Batch) Row(t int) []float32 { return b.x[t*b.Width : (t+1)*b.Width] }

// at is the index of block n (of 32 values) of token t.
func (b *Batch) at(t, n int) int {
	return (t/b.tile*(b.Width/32)+n)*b.tile + t%b.tile
}

// Set brings row t into form f, which NewBatch was told of. Different rows may
// be set concurrently.
func (b *Batch) Set(f Form, t int) {
	x := b.Row(t)
	switch f {
	case Half, Brain:
		out := b.round[f-Half][t*b.Width : (t+1)*b.Width]
		for i, v := range x {
			if f == Half {
				out[i] = RoundHalf(v)
			} else {
				out[i] = roundBrain(v)
			}
		}
	case Blocks32:
		b.blocks32(t, x)
	case Blocks256:
		b.blocks256(t, x)
	}
}

// floats is row t in one of the floating-point forms.
func (b *Batch) floats(f Form, t int) []float32 {
	if f == Plain {
		return b.Row(t)
	}
	return b.round[f-Half][t*b.Width : (t+1)*b.Width]
}

// roundEven rounds to the nearest integer, ties to even; |x| stays below 2^22.
func roundEven(x float32) float32 {
	const magic = 3 << 22
	return float32(float32(x+magic) - magic)
}

// blocks32 is llama.cpp's q8_0: the largest magnitude of 32 becomes 127.
func (b *Batch) blocks32(t int, x []float32) {
	q := b.ints[0]
	for n := range b.Width / 32 {
		v := x[n*32 : n*32+32]
		var most float32
		for _, f := range v {
			most = max(most, math.Float32frombits(math.Float32bits(f)&0x7fffffff))
		}
		var inverse float32
		if most != 0 {
			inverse = 127 / most
		}
		at := b.at(t, n)
		scale := most / 127
		q.Scale[at] = RoundHalf(scale)
		q.Sum[at] = RoundHalf(scale * float32(q.put(at, v, inverse)))
	}
}

// blocks256 is llama.cpp's q8_K: the value of the largest magnitude becomes
// -127, whatever its sign, and the scale keeps its full precision.
func (b *Batch) blocks256(t int, x []float32) {
	q := b.ints[1]
	for n := range b.Width / 256 {
		v := x[n*256 : n*256+256]
		var peak, most float32
		for _, f := range v {
			if a := math.Float32frombits(math.Float32bits(f) & 0x7fffffff); a > most {
				peak, most = f, a
			}
		}
		var inverse, scale float32
		if most != 0 {
			inverse = -127 / peak
			scale = 1 / inverse
		}
		for i := range 8 {
			at := b.at(t, n*8+i)
			q.Scale[at] = scale
			q.Sum[at] = scale * float32(q.put(at, v[i*32:i*32+32], inverse))
		}
	}
}

// put stores one block of 32, multiplied by inverse and rounded, with what the
// kernels need of its sum, and returns that sum.
func (q *quants) put(at int, v []float32, inverse float32) int32 {
	out := q.Q[at*32 : at*32+32]
	var sums [2]int32
	for i, f := range v {
		n := int32(min(roundEven(f*inverse), 127))
		out[i] = int8(n)
		sums[i>>4] += n
	}
	sum := sums[0] + sums[1]
	q.Bias6[2*at], q.Bias6[2*at+1] = -128*sums[0], -128*sums[1]
	q.Bias8[at], q.Bias4[at] = -128*sum, -8*sum
	return sum
}

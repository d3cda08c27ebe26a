package kernel

// Level names a set of kernels.
type Level string

// The levels, slowest first.
const (
	Scalar Level = "scalar"      // plain Go
	AVX2   Level = "avx2"        // with FMA and F16C
	VNNI   Level = "avx512-vnni" // AVX-512 F, BW, DQ, VL and VNNI
)

// Levels are those that this machine can run, slowest first.
func Levels() []Level {
	all := []Level{Scalar, AVX2, VNNI}
	for i, l := range all {
		if l == Best() {
			return all[:i+1]
		}
	}
	return all[:1]
}

// dots are a level's loops over vectors of a multiple of 16; nil: plain Go.
type dots struct {
	float func(x, w *float32, n int) float32
	half  func(x *float32, w *uint16, n int) float32
	brain func(x *float32, w *uint16, n int) float32
	add   func(out *float32, w float32, v *uint16, n int)
	round func(out *float32, w float32, v *uint16, n int)
}

// Vectors are the loops of attention at a level. Safe for concurrent use.
type Vectors struct{ dots dots }

// NewVectors chooses the loops of a level.
func NewVectors(l Level) Vectors { return Vectors{dotsOf(l)} }

// DotHalf is the sum of a[i]*b[i].
func (v Vectors) DotHalf(a []float32, b []uint16) float32 {
	n := len(a) &^ 15
	if v.dots.half == nil || n == 0 {
		return dotHalf(a, b)
	}
	b = b[:len(a)]
	sum := v.dots.half(&a[0], &b[0], n)
	if n < len(a) {
		sum += dotHalf(a[n:], b[n:])
	}
	return sum
}

// AddHalf adds w*b to out.
func (v Vectors) AddHalf(out []float32, w float32, b []uint16) {
	b = b[:len(out)]
	n := len(out) &^ 15
	if v.dots.add == nil {
		n = 0
	}
	if n > 0 {
		v.dots.add(&out[0], w, &b[0], n)
	}
	for i := n; i < len(out); i++ {
		out[i] += w * HalfToFloat(b[i])
	}
}

// AddRounded adds w*b to out and rounds every sum to half precision.
func (v Vectors) AddRounded(out []float32, w float32, b []uint16) {
	b = b[:len(out)]
	n := len(out) &^ 15
	if v.dots.round == nil {
		n = 0
	}
	if n > 0 {
		v.dots.round(&out[0], w, &b[0], n)
	}
	for i := n; i < len(out); i++ {
		out[i] = RoundHalf(out[i] + w*HalfToFloat(b[i]))
	}
}

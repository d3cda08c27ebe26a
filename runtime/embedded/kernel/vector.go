package kernel

import "math"

// Exp is e to the x, right to the last bit but for ties; 0 below -87.
func Exp(x float32) float32 {
	if !(x >= -87) { // NaN and -Inf too
		if x != x {
			return x
		}
		return 0
	}
	// In float64 seven terms on half a power of two leave an error of 1e-9.
	const magic = 3 << 51
	v := float64(min(x, 88)) * math.Log2E
	n := float64(v+magic) - magic
	f := (v - n) * math.Ln2
	p := 1 + f*(1+f*(1./2+f*(1./6+f*(1./24+f*(1./120+f*(1./720+f*(1./5040+f/40320)))))))
	return float32(p * math.Float64frombits(uint64(int64(n)+1023)<<52))
}

// SiluMul sets out to gate/(1+e^-gate) * up, element by element.
func SiluMul(out, gate, up []float32) {
	gate, up = gate[:len(out)], up[:len(out)]
	for i, g := range gate {
		out[i] = g / (1 + Exp(-g)) * up[i]
	}
}

func dotHalf(a []float32, b []uint16) float32 {
	var sum float32
	b = b[:len(a)]
	for i, v := range a {
		sum += v * HalfToFloat(b[i])
	}
	return sum
}

// ToHalf rounds src into dst.
func ToHalf(dst []uint16, src []float32) {
	src = src[:len(dst)]
	for i, v := range src {
		dst[i] = FloatToHalf(v)
	}
}

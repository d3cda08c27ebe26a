package kernel

import "math"

// Exp is e to the x with a relative error below 1e-6; 0 below -87.
func Exp(x float32) float32 {
	if !(x >= -87) { // NaN and -Inf too
		if x != x {
			return x
		}
		return 0
	}
	x = min(x, 88)
	n := roundEven(x * 1.44269504)
	f := x - n*0.693359375
	f += n * 2.12194440e-4
	p := 1 + f*(1+f*(0.5+f*(0.16666667+f*(0.041666668+f*(0.008333334+f*0.0013888889)))))
	return p * math.Float32frombits(uint32(int32(n)+127)<<23)
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

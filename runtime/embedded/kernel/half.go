package kernel

import "math"

// HalfToFloat converts an IEEE half precision number.
func HalfToFloat(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 31
	frac := uint32(h & 0x3ff)
	switch exp {
	case 0:
		v := float32(frac) / (1 << 24)
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// FloatToHalf converts to half precision, to nearest, ties to even.
func FloatToHalf(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits>>16) & 0x8000
	bits &= 0x7fffffff
	switch {
	case bits > 0x7f800000: // NaN stays NaN
		return sign | 0x7e00
	case bits >= 0x477ff000: // rounds to 65536 or more
		return sign | 0x7c00
	case bits < 0x38800000: // below the smallest normal: a multiple of 2^-24
		// Adding 0.5 leaves the rounded count of 2^-24 in the low bits.
		v := math.Float32frombits(bits) + 0.5
		return sign | uint16(math.Float32bits(v)-math.Float32bits(0.5))
	}
	bits += 0xfff + bits>>13&1
	return sign | uint16(bits>>13-112<<10)
}

// RoundHalf is f rounded to half precision.
func RoundHalf(f float32) float32 { return HalfToFloat(FloatToHalf(f)) }

// roundBrain is f rounded to bfloat16, to nearest, ties to even.
func roundBrain(f float32) float32 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 {
		return f
	}
	return math.Float32frombits((bits + 0x7fff + bits>>16&1) &^ 0xffff)
}

func half(p []byte) float32 { return HalfToFloat(uint16(p[0]) | uint16(p[1])<<8) }

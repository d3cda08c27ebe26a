package kernel

import (
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"golang.org/x/sys/cpu"
)

// Best is the fastest level that this machine can run.
func Best() Level {
	x := &cpu.X86
	switch {
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VNNI:
		return VNNI
	case x.HasAVX2 && x.HasFMA:
		// F16C has no flag in x/sys/cpu; every processor with AVX2 has it.
		return AVX2
	}
	return Scalar
}

//go:noescape
func bytesOne512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)

//go:noescape
func bytesEight512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)

//go:noescape
func nibblesOne512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)

//go:noescape
func nibblesEight512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)

//go:noescape
func nibblesKOne512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func nibblesKEight512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func bytesKOne512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func bytesKEight512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func bytesFloorOne512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func bytesFloorEight512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func partsOne512(w, s *byte, x *int8, dx *float32, bias *int32, nsb int, out *float32)

//go:noescape
func partsEight512(w, s *byte, x *int8, dx *float32, bias *int32, nsb int, out *float32)

//go:noescape
func bytesOne256(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)

//go:noescape
func nibblesOne256(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)

//go:noescape
func bytesFloorOne256(w, s *byte, x *int8, dx, sx *float32, nb int, out *float32)

//go:noescape
func nibblesKOne256(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func bytesKOne256(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)

//go:noescape
func partsOne256(w, s *byte, x *int8, dx *float32, bias *int32, nsb int, out *float32)

//go:noescape
func dotHalf512(x *float32, w *uint16, n int) float32

//go:noescape
func dotFloat512(x *float32, w *float32, n int) float32

//go:noescape
func dotBrain512(x *float32, w *uint16, n int) float32

//go:noescape
func dotHalf256(x *float32, w *uint16, n int) float32

//go:noescape
func dotFloat256(x *float32, w *float32, n int) float32

//go:noescape
func dotBrain256(x *float32, w *uint16, n int) float32

//go:noescape
func addHalf512(out *float32, w float32, v *uint16, n int)

//go:noescape
func addHalf256(out *float32, w float32, v *uint16, n int)

//go:noescape
func addRounded512(out *float32, w float32, v *uint16, n int)

//go:noescape
func addRounded256(out *float32, w float32, v *uint16, n int)

type intKernel = func(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)
type sumKernel = func(w, s *byte, x *int8, dx, sx *float32, nb int, out *float32)

// packingOf is the layout and kernel of a level for a type, or nil.
func packingOf(l Level, t gguf.Type) *packing {
	switch l {
	case VNNI:
		return packing512(t)
	case AVX2:
		return packing256(t)
	}
	return nil
}

func packing512(t gguf.Type) *packing {
	switch t {
	case gguf.Q8_0, gguf.Q5_0, gguf.IQ4NL:
		return &packing{lane: laneBytes, offset: 0x80, weights: 512, scales: 32, run: withBias(bytesOne512, bytesEight512, bias8)}
	case gguf.Q4_0:
		return &packing{lane: laneNibbles, weights: 256, scales: 32, run: withBias(nibblesOne512, nibblesEight512, bias4)}
	case gguf.Q4_1, gguf.Q5_1:
		return &packing{lane: laneFloor, weights: 512, scales: 64, run: withSum(bytesFloorOne512, bytesFloorEight512)}
	case gguf.Q4_K:
		return &packing{lane: laneNibblesK, weights: 2048, scales: 320, run: withSum(nibblesKOne512, nibblesKEight512)}
	case gguf.Q5_K:
		return &packing{lane: laneBytesK, weights: 4096, scales: 320, run: withSum(bytesKOne512, bytesKEight512)}
	case gguf.Q6_K, gguf.Q3_K, gguf.IQ4XS:
		return &packing{lane: laneParts, offset: 0x80, weights: 4096, scales: 288, run: withBias(partsOne512, partsEight512, bias6)}
	}
	return nil
}

func packing256(t gguf.Type) *packing {
	switch t {
	case gguf.Q8_0, gguf.Q5_0, gguf.IQ4NL:
		return &packing{lane: laneBytes, weights: 512, scales: 32, run: withBias(bytesOne256, nil, bias8)}
	case gguf.Q4_0:
		return &packing{lane: laneNibbles, weights: 256, scales: 32, run: withBias(nibblesOne256, nil, bias4)}
	case gguf.Q4_1, gguf.Q5_1:
		return &packing{lane: laneFloor, weights: 512, scales: 64, run: withSum(bytesFloorOne256, nil)}
	case gguf.Q4_K:
		return &packing{lane: laneNibblesK, weights: 2048, scales: 320, run: withSum(nibblesKOne256, nil)}
	case gguf.Q5_K:
		return &packing{lane: laneBytesK, weights: 4096, scales: 320, run: withSum(bytesKOne256, nil)}
	case gguf.Q6_K, gguf.Q3_K, gguf.IQ4XS:
		return &packing{lane: laneParts, weights: 4096, scales: 288, run: withBias(partsOne256, nil, bias6)}
	}
	return nil
}

func bias8(q *quants, at int) *int32 { return &q.Bias8[at] }
func bias4(q *quants, at int) *int32 { return &q.Bias4[at] }
func bias6(q *quants, at int) *int32 { return &q.Bias6[2*at] }

func withBias(one, eight intKernel, bias func(*quants, int) *int32) runFunc {
	return func(w, s []byte, q *quants, at, blocks int, tile bool, out *float32) {
		k := one
		if tile {
			k = eight
		}
		k(&w[0], &s[0], &q.Q[at*32], &q.Scale[at], bias(q, at), blocks, out)
	}
}

func withSum(one, eight sumKernel) runFunc {
	return func(w, s []byte, q *quants, at, blocks int, tile bool, out *float32) {
		k := one
		if tile {
			k = eight
		}
		k(&w[0], &s[0], &q.Q[at*32], &q.Scale[at], &q.Sum[at], blocks, out)
	}
}

func dotsOf(l Level) dots {
	switch l {
	case VNNI:
		return dots{float: dotFloat512, half: dotHalf512, brain: dotBrain512, add: addHalf512, round: addRounded512}
	case AVX2:
		return dots{float: dotFloat256, half: dotHalf256, brain: dotBrain256, add: addHalf256, round: addRounded256}
	}
	return dots{}
}

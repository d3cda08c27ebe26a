package kernel

import (
	"encoding/binary"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// block32 is one unpacked block of 32 weights: scale*q + floor.
type block32 struct {
	q            [32]int8
	scale, floor float32
}

// block256 is one unpacked block of 256 weights in sixteen parts:
// scale*mul[part]*q - low*sub[part].
type block256 struct {
	q          [256]int8
	mul, sub   [16]int32
	scale, low float32
}

// nonlinear holds the sixteen steps of the iq4 types.
var nonlinear = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// unpack32 expands the first block of p. ok is false for types of other blocks.
func unpack32(t gguf.Type, p []byte, out *block32) (ok bool) {
	out.scale, out.floor = half(p), 0
	switch t {
	case gguf.Q8_0:
		for i := range out.q {
			out.q[i] = int8(p[2+i])
		}
	case gguf.Q4_0:
		nibbles(p[2:], &out.q, -8)
	case gguf.Q4_1:
		out.floor = half(p[2:])
		nibbles(p[4:], &out.q, 0)
	case gguf.Q5_0:
		nibbles(p[6:], &out.q, -16)
		fifthBits(p[2:], &out.q)
	case gguf.Q5_1:
		out.floor = half(p[2:])
		nibbles(p[8:], &out.q, 0)
		fifthBits(p[4:], &out.q)
	case gguf.IQ4NL:
		nibbles(p[2:], &out.q, 0)
		for i, q := range out.q {
			out.q[i] = nonlinear[q]
		}
	default:
		return false
	}
	return true
}

// nibbles splits sixteen bytes: low halves first, then high halves.
func nibbles(p []byte, q *[32]int8, plus int8) {
	for i := range 16 {
		q[i] = int8(p[i]&15) + plus
		q[i+16] = int8(p[i]>>4) + plus
	}
}

func fifthBits(p []byte, q *[32]int8) {
	bits := binary.LittleEndian.Uint32(p)
	for i := range q {
		q[i] += int8(bits >> i & 1 << 4)
	}
}

// unpack256 expands the first block of p. ok is false for types of other blocks.
func unpack256(t gguf.Type, p []byte, out *block256) (ok bool) {
	out.low = 0
	switch t {
	case gguf.Q2_K:
		unpackQ2K(p, out)
	case gguf.Q3_K:
		unpackQ3K(p, out)
	case gguf.Q4_K:
		unpackScales(p, out)
		for i := range 128 {
			v := p[16+i]
			at := i/32*64 + i%32
			out.q[at], out.q[at+32] = int8(v&15), int8(v>>4)
		}
	case gguf.Q5_K:
		unpackScales(p, out)
		for i := range 128 {
			v, high := p[48+i], p[16+i%32]>>(i/32*2)
			at := i/32*64 + i%32
			out.q[at], out.q[at+32] = int8(v&15|high&1<<4), int8(v>>4|high&2<<3)
		}
	case gguf.Q6_K:
		unpackQ6K(p, out)
	case gguf.IQ4XS:
		unpackIQ4XS(p, out)
	default:
		return false
	}
	return true
}

// unpackScales reads the head of q4_k and q5_k: two half floats and eight
// six-bit pairs of scale and minimum packed in twelve bytes.
func unpackScales(p []byte, out *block256) {
	out.scale, out.low = half(p), half(p[2:])
	for j := range 8 {
		mul, sub := sixBits(p[4:16], j)
		out.mul[2*j], out.mul[2*j+1] = int32(mul), int32(mul)
		out.sub[2*j], out.sub[2*j+1] = int32(sub), int32(sub)
	}
}

func sixBits(s []byte, j int) (mul, sub byte) {
	if j < 4 {
		return s[j] & 63, s[j+4] & 63
	}
	return s[j+4]&15 | s[j-4]>>6<<4, s[j+4]>>4 | s[j]>>6<<4
}

func unpackQ2K(p []byte, out *block256) {
	out.scale, out.low = half(p[80:]), half(p[82:])
	for j := range 16 {
		out.mul[j], out.sub[j] = int32(p[j]&15), int32(p[j]>>4)
	}
	for i := range out.q {
		out.q[i] = int8(p[16+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3)
	}
}

func unpackQ3K(p []byte, out *block256) {
	out.scale = half(p[108:])
	s := p[96:108]
	for j := range 16 {
		low := s[j%8] >> (j / 8 * 4) & 15
		high := s[8+j%4] >> (j / 4 * 2) & 3
		out.mul[j], out.sub[j] = int32(low|high<<4)-32, 0
	}
	for i := range out.q {
		q := int8(p[32+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3)
		if p[i%32]>>(i/32)&1 == 0 {
			q -= 4
		}
		out.q[i] = q
	}
}

func unpackQ6K(p []byte, out *block256) {
	out.scale = half(p[208:])
	for j := range 16 {
		out.mul[j], out.sub[j] = int32(int8(p[192+j])), 0
	}
	for i := range out.q {
		group, quarter, l := i/128, i%128/32, i%32
		low := p[group*64+quarter%2*32+l] >> (quarter / 2 * 4) & 15
		high := p[128+group*32+l] >> (quarter * 2) & 3
		out.q[i] = int8(low|high<<4) - 32
	}
}

func unpackIQ4XS(p []byte, out *block256) {
	out.scale = half(p)
	high := binary.LittleEndian.Uint16(p[2:])
	for j := range 8 {
		mul := int32(p[4+j/2]>>(j%2*4)&15) | int32(high>>(2*j)&3)<<4
		out.mul[2*j], out.mul[2*j+1] = mul-32, mul-32
		out.sub[2*j], out.sub[2*j+1] = 0, 0
		for i := range 16 {
			v := p[8+j*16+i]
			out.q[j*32+i], out.q[j*32+16+i] = nonlinear[v&15], nonlinear[v>>4]
		}
	}
}

// Expand writes a row of the file as float32. len(out) is the row's length.
func Expand(t gguf.Type, row []byte, out []float32) {
	switch t {
	case gguf.F32:
		for i := range out {
			out[i] = float32At(row, i)
		}
	case gguf.F16:
		for i := range out {
			out[i] = half(row[2*i:])
		}
	case gguf.BF16:
		for i := range out {
			out[i] = brainAt(row, i)
		}
	default:
		expandQuants(t, row, out)
	}
}

func expandQuants(t gguf.Type, row []byte, out []float32) {
	size := t.RowBytes(t.Block())
	if t.Block() == 32 {
		var b block32
		for n := range len(out) / 32 {
			unpack32(t, row[n*size:], &b)
			for i, q := range b.q {
				out[n*32+i] = b.scale*float32(q) + b.floor
			}
		}
		return
	}
	var b block256
	for n := range len(out) / 256 {
		unpack256(t, row[n*size:], &b)
		for i, q := range b.q {
			out[n*256+i] = b.scale*float32(b.mul[i/16])*float32(q) - b.low*float32(b.sub[i/16])
		}
	}
}

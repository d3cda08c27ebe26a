package kernel

import "github.com/bothy-edge/bothy/runtime/embedded/gguf"

// packing is a level's layout for a type: where the sixteen rows of a group put
// a block, and the kernel that reads it.
type packing struct {
	lane            func(p *packing, t gguf.Type, block []byte, row int, w, s []byte)
	offset          byte // flipped into the weights' bytes
	weights, scales int  // bytes of a group for one block of the type
	run             runFunc
}

// runFunc computes a group for the activations whose first block is at: one
// token, or a tile of eight. out has Lanes values a token.
type runFunc func(w, s []byte, q *quants, at, blocks int, tile bool, out *float32)

// interleave spreads n values of one row over the vectors of its group.
func (p *packing) interleave(q []int8, row int, w []byte) {
	for i := 0; i < len(q); i += 4 {
		from, to := q[i:i+4:i+4], w[i*16+row*4:][:4:4]
		to[0], to[1] = byte(from[0])^p.offset, byte(from[1])^p.offset
		to[2], to[3] = byte(from[2])^p.offset, byte(from[3])^p.offset
	}
}

// interleaveBytes is interleave for bytes that stay as they are.
func interleaveBytes(p []byte, row int, w []byte) {
	for i := 0; i < len(p); i += 4 {
		copy(w[i*16+row*4:][:4], p[i:i+4])
	}
}

// laneBytes: a byte a weight, one scale for 32.
func laneBytes(p *packing, t gguf.Type, block []byte, row int, w, s []byte) {
	var b block32
	unpack32(t, block, &b)
	copy(s[row*2:], block[:2])
	p.interleave(b.q[:], row, w)
}

// laneNibbles: q4_0's own nibbles, one scale for 32.
func laneNibbles(_ *packing, _ gguf.Type, block []byte, row int, w, s []byte) {
	copy(s[row*2:], block[:2])
	interleaveBytes(block[2:18], row, w)
}

// laneFloor: a byte a weight, a scale and a floor for 32, the floor negated.
func laneFloor(p *packing, t gguf.Type, block []byte, row int, w, s []byte) {
	var b block32
	unpack32(t, block, &b)
	copy(s[row*2:], block[:2])
	s[32+row*2], s[32+row*2+1] = block[2], block[3]^0x80
	p.interleave(b.q[:], row, w)
}

// laneNibblesK: q4_k's own nibbles, with multipliers and minima taken apart.
func laneNibblesK(_ *packing, _ gguf.Type, block []byte, row int, w, s []byte) {
	scalesK(block, row, s)
	interleaveBytes(block[16:144], row, w)
}

// laneBytesK: a byte a weight, with multipliers and minima for 32.
func laneBytesK(p *packing, t gguf.Type, block []byte, row int, w, s []byte) {
	var b block256
	unpack256(t, block, &b)
	scalesK(block, row, s)
	p.interleave(b.q[:], row, w)
}

func scalesK(block []byte, row int, s []byte) {
	copy(s[row*2:], block[:2])
	copy(s[32+row*2:], block[2:4])
	for j := range 8 {
		mul, sub := sixBits(block[4:16], j)
		s[64+j*32+row], s[64+j*32+16+row] = mul, sub
	}
}

// laneParts: a byte a weight, an int8 multiplier for 16, one scale for 256.
func laneParts(p *packing, t gguf.Type, block []byte, row int, w, s []byte) {
	var b block256
	unpack256(t, block, &b)
	scale := FloatToHalf(b.scale) // exact: it was a half
	s[row*2], s[row*2+1] = byte(scale), byte(scale>>8)
	for j, mul := range b.mul {
		s[32+j*16+row] = byte(int8(mul))
	}
	p.interleave(b.q[:], row, w)
}

#include "textflag.h"

// Kernels for AVX-512 with VNNI, weights with one scale per block of 32.
//
// A group is 16 rows. For each block of 32 inputs the weights lie as vectors of
// 64 bytes: vector j holds inputs 4j to 4j+3 of the 16 rows, four bytes a row.
// VPDPBUSD multiplies unsigned weights with four signed activations that are
// broadcast to all rows, so nothing is ever summed across lanes. Weights are
// stored with an offset that makes them unsigned; the accumulator starts at
// minus offset times the activations' sum, which the Batch carries.
//
// x: int8 activations, [block][token of the tile][32]; dx: their scales and
// bias: the accumulators' starts, [block][token]; s: half-precision scales, 16 a block.

#define TOK8(xo, so, acc) \
	VPBROADCASTD so(SI), Z8 \
	VPXORD Z9, Z9, Z9 \
	VPDPBUSD.BCST (xo+0)(CX), Z16, Z8 \
	VPDPBUSD.BCST (xo+4)(CX), Z17, Z9 \
	VPDPBUSD.BCST (xo+8)(CX), Z18, Z8 \
	VPDPBUSD.BCST (xo+12)(CX), Z19, Z9 \
	VPDPBUSD.BCST (xo+16)(CX), Z20, Z8 \
	VPDPBUSD.BCST (xo+20)(CX), Z21, Z9 \
	VPDPBUSD.BCST (xo+24)(CX), Z22, Z8 \
	VPDPBUSD.BCST (xo+28)(CX), Z23, Z9 \
	VPADDD Z9, Z8, Z8 \
	VCVTDQ2PS Z8, Z8 \
	VMULPS.BCST so(DX), Z24, Z10 \
	VFMADD231PS Z10, Z8, acc

#define ZERO8 \
	VPXORD Z0, Z0, Z0 \
	VPXORD Z1, Z1, Z1 \
	VPXORD Z2, Z2, Z2 \
	VPXORD Z3, Z3, Z3 \
	VPXORD Z4, Z4, Z4 \
	VPXORD Z5, Z5, Z5 \
	VPXORD Z6, Z6, Z6 \
	VPXORD Z7, Z7, Z7

#define STORE8 \
	VMOVUPS Z0, (R8) \
	VMOVUPS Z1, 64(R8) \
	VMOVUPS Z2, 128(R8) \
	VMOVUPS Z3, 192(R8) \
	VMOVUPS Z4, 256(R8) \
	VMOVUPS Z5, 320(R8) \
	VMOVUPS Z6, 384(R8) \
	VMOVUPS Z7, 448(R8)

#define ALLTOK \
	TOK8(0, 0, Z0) \
	TOK8(32, 4, Z1) \
	TOK8(64, 8, Z2) \
	TOK8(96, 12, Z3) \
	TOK8(128, 16, Z4) \
	TOK8(160, 20, Z5) \
	TOK8(192, 24, Z6) \
	TOK8(224, 28, Z7)

#define NIB \
	VMOVDQU32 (AX), Z16 \
	VMOVDQU32 64(AX), Z17 \
	VMOVDQU32 128(AX), Z18 \
	VMOVDQU32 192(AX), Z19 \
	VPSRLD $4, Z16, Z20 \
	VPSRLD $4, Z17, Z21 \
	VPSRLD $4, Z18, Z22 \
	VPSRLD $4, Z19, Z23 \
	VPANDD Z16, Z30, Z16 \
	VPANDD Z17, Z30, Z17 \
	VPANDD Z18, Z30, Z18 \
	VPANDD Z19, Z30, Z19 \
	VPANDD Z20, Z30, Z20 \
	VPANDD Z21, Z30, Z21 \
	VPANDD Z22, Z30, Z22 \
	VPANDD Z23, Z30, Z23

// func bytesOne512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)
// weights are bytes, signed with 0x80 added
TEXT ·bytesOne512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ bias+32(FP), SI
	MOVQ nb+40(FP), DI
	MOVQ out+48(FP), R8
	VPXORD Z31, Z31, Z31
q8l:
	VPBROADCASTD (SI), Z0
	VPXORD Z1, Z1, Z1
	VMOVDQU32 (AX), Z2
	VMOVDQU32 64(AX), Z3
	VMOVDQU32 128(AX), Z4
	VMOVDQU32 192(AX), Z5
	VMOVDQU32 256(AX), Z6
	VMOVDQU32 320(AX), Z7
	VMOVDQU32 384(AX), Z8
	VMOVDQU32 448(AX), Z9
	PREFETCHT0 4096(AX)
	PREFETCHT0 4160(AX)
	PREFETCHT0 4224(AX)
	PREFETCHT0 4288(AX)
	PREFETCHT0 4352(AX)
	PREFETCHT0 4416(AX)
	PREFETCHT0 4480(AX)
	PREFETCHT0 4544(AX)
	VPDPBUSD.BCST (CX), Z2, Z0
	VPDPBUSD.BCST 4(CX), Z3, Z1
	VPDPBUSD.BCST 8(CX), Z4, Z0
	VPDPBUSD.BCST 12(CX), Z5, Z1
	VPDPBUSD.BCST 16(CX), Z6, Z0
	VPDPBUSD.BCST 20(CX), Z7, Z1
	VPDPBUSD.BCST 24(CX), Z8, Z0
	VPDPBUSD.BCST 28(CX), Z9, Z1
	VPADDD Z1, Z0, Z0
	VCVTDQ2PS Z0, Z0
	VCVTPH2PS (BX), Z10
	VMULPS.BCST (DX), Z10, Z10
	VFMADD231PS Z10, Z0, Z31
	ADDQ $512, AX
	ADDQ $32, BX
	ADDQ $32, CX
	ADDQ $4, DX
	ADDQ $4, SI
	DECQ DI
	JNZ  q8l
	VMOVUPS Z31, (R8)
	VZEROUPPER
	RET

// func bytesEight512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)
// the same for eight tokens; out is [token][row]
TEXT ·bytesEight512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ bias+32(FP), SI
	MOVQ nb+40(FP), DI
	MOVQ out+48(FP), R8
	ZERO8
g8l:
	VMOVDQU32 (AX), Z16
	VMOVDQU32 64(AX), Z17
	VMOVDQU32 128(AX), Z18
	VMOVDQU32 192(AX), Z19
	VMOVDQU32 256(AX), Z20
	VMOVDQU32 320(AX), Z21
	VMOVDQU32 384(AX), Z22
	VMOVDQU32 448(AX), Z23
	VCVTPH2PS (BX), Z24
	ALLTOK
	ADDQ $512, AX
	ADDQ $32, BX
	ADDQ $256, CX
	ADDQ $32, DX
	ADDQ $32, SI
	DECQ DI
	JNZ  g8l
	STORE8
	VZEROUPPER
	RET

// func nibblesOne512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)
// weights are nibbles with 8 added: the low ones of a block are its first 16 inputs
TEXT ·nibblesOne512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ bias+32(FP), SI
	MOVQ nb+40(FP), DI
	MOVQ out+48(FP), R8
	MOVL $0x0f0f0f0f, R9
	VPBROADCASTD R9, Z30
	VPXORD Z0, Z0, Z0
q4l:
	PREFETCHT0 4096(AX)
	PREFETCHT0 4160(AX)
	PREFETCHT0 4224(AX)
	PREFETCHT0 4288(AX)
	NIB
	VCVTPH2PS (BX), Z24
	TOK8(0, 0, Z0)
	ADDQ $256, AX
	ADDQ $32, BX
	ADDQ $32, CX
	ADDQ $4, DX
	ADDQ $4, SI
	DECQ DI
	JNZ  q4l
	VMOVUPS Z0, (R8)
	VZEROUPPER
	RET

// func nibblesEight512(w, s *byte, x *int8, dx *float32, bias *int32, nb int, out *float32)
// the same for eight tokens; out is [token][row]
TEXT ·nibblesEight512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ bias+32(FP), SI
	MOVQ nb+40(FP), DI
	MOVQ out+48(FP), R8
	MOVL $0x0f0f0f0f, R9
	VPBROADCASTD R9, Z30
	ZERO8
g4l:
	NIB
	VCVTPH2PS (BX), Z24
	ALLTOK
	ADDQ $256, AX
	ADDQ $32, BX
	ADDQ $256, CX
	ADDQ $32, DX
	ADDQ $32, SI
	DECQ DI
	JNZ  g4l
	STORE8
	VZEROUPPER
	RET


#include "textflag.h"

// Kernels for AVX-512 with VNNI, weights of K types with an int8 multiplier for
// each 16 inputs and no minimum (q6_k, q3_k, iq4_xs): bytes with 0x80 added, in
// the order that blocks32_amd64.s describes. The multiplied sums stay integers
// over a whole block of 256, as in llama.cpp.
//
// s: for each block of 256 the half-precision scales of 16 rows, then sixteen
// times 16 multipliers. bias: -128 times the sum of each 16 activations,
// [block of 32][token][2].

#define PART(xo, bo, acc) \
	VPBROADCASTD bo(SI), Z21 \
	VPXORD Z22, Z22, Z22 \
	VPDPBUSD.BCST (xo+0)(CX), Z16, Z21 \
	VPDPBUSD.BCST (xo+4)(CX), Z17, Z22 \
	VPDPBUSD.BCST (xo+8)(CX), Z18, Z21 \
	VPDPBUSD.BCST (xo+12)(CX), Z19, Z22 \
	VPADDD Z22, Z21, Z21 \
	VPMULLD Z20, Z21, Z21 \
	VPADDD Z21, acc, acc

#define LOADPART(wo, so) \
	VMOVDQU32 (wo+0)(AX), Z16 \
	VMOVDQU32 (wo+64)(AX), Z17 \
	VMOVDQU32 (wo+128)(AX), Z18 \
	VMOVDQU32 (wo+192)(AX), Z19 \
	VPMOVSXBD so(BX), Z20

#define FINISH(do, sum, acc) \
	VCVTDQ2PS sum, sum \
	VMULPS.BCST do(DX), Z28, Z23 \
	VFMADD231PS Z23, sum, acc

#define ALLPARTS(xo, bo) \
	PART((xo+0), (bo+0), Z8) \
	PART((xo+32), (bo+8), Z9) \
	PART((xo+64), (bo+16), Z10) \
	PART((xo+96), (bo+24), Z11) \
	PART((xo+128), (bo+32), Z12) \
	PART((xo+160), (bo+40), Z13) \
	PART((xo+192), (bo+48), Z14) \
	PART((xo+224), (bo+56), Z15)

// func partsOne512(w, s *byte, x *int8, dx *float32, bias *int32, nsb int, out *float32)
TEXT ·partsOne512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ bias+32(FP), SI
	MOVQ nsb+40(FP), DI
	MOVQ out+48(FP), R8
	VPXORD Z0, Z0, Z0
ps:
	VCVTPH2PS (BX), Z28
	ADDQ $32, BX
	VPXORD Z8, Z8, Z8
	MOVQ $8, R10
pp:
	PREFETCHT0 4096(AX)
	PREFETCHT0 4160(AX)
	PREFETCHT0 4224(AX)
	PREFETCHT0 4288(AX)
	PREFETCHT0 4352(AX)
	PREFETCHT0 4416(AX)
	PREFETCHT0 4480(AX)
	PREFETCHT0 4544(AX)
	LOADPART(0, 0)
	PART(0, 0, Z8)
	LOADPART(256, 16)
	PART(16, 4, Z8)
	ADDQ $512, AX
	ADDQ $32, BX
	ADDQ $32, CX
	ADDQ $8, SI
	DECQ R10
	JNZ  pp
	FINISH(0, Z8, Z0)
	ADDQ $32, DX
	DECQ DI
	JNZ  ps
	VMOVUPS Z0, (R8)
	VZEROUPPER
	RET

// func partsEight512(w, s *byte, x *int8, dx *float32, bias *int32, nsb int, out *float32)
TEXT ·partsEight512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ bias+32(FP), SI
	MOVQ nsb+40(FP), DI
	MOVQ out+48(FP), R8
	VPXORD Z0, Z0, Z0
	VPXORD Z1, Z1, Z1
	VPXORD Z2, Z2, Z2
	VPXORD Z3, Z3, Z3
	VPXORD Z4, Z4, Z4
	VPXORD Z5, Z5, Z5
	VPXORD Z6, Z6, Z6
	VPXORD Z7, Z7, Z7
es:
	VCVTPH2PS (BX), Z28
	ADDQ $32, BX
	VPXORD Z8, Z8, Z8
	VPXORD Z9, Z9, Z9
	VPXORD Z10, Z10, Z10
	VPXORD Z11, Z11, Z11
	VPXORD Z12, Z12, Z12
	VPXORD Z13, Z13, Z13
	VPXORD Z14, Z14, Z14
	VPXORD Z15, Z15, Z15
	MOVQ $8, R10
ep:
	LOADPART(0, 0)
	ALLPARTS(0, 0)
	LOADPART(256, 16)
	ALLPARTS(16, 4)
	ADDQ $512, AX
	ADDQ $32, BX
	ADDQ $256, CX
	ADDQ $64, SI
	DECQ R10
	JNZ  ep
	FINISH(0, Z8, Z0)
	FINISH(4, Z9, Z1)
	FINISH(8, Z10, Z2)
	FINISH(12, Z11, Z3)
	FINISH(16, Z12, Z4)
	FINISH(20, Z13, Z5)
	FINISH(24, Z14, Z6)
	FINISH(28, Z15, Z7)
	ADDQ $256, DX
	DECQ DI
	JNZ  es
	VMOVUPS Z0, (R8)
	VMOVUPS Z1, 64(R8)
	VMOVUPS Z2, 128(R8)
	VMOVUPS Z3, 192(R8)
	VMOVUPS Z4, 256(R8)
	VMOVUPS Z5, 320(R8)
	VMOVUPS Z6, 384(R8)
	VMOVUPS Z7, 448(R8)
	VZEROUPPER
	RET

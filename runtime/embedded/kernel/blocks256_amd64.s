#include "textflag.h"

// Kernels for AVX-512 with VNNI, weights of K types with a scale and a minimum
// for each 32 inputs; see blocks32_amd64.s for the order of weights.
//
// s: for each block of 256 the half-precision scales of 16 rows, then their
// minima, then eight times 16 bytes of multipliers and 16 bytes of minima's.
// sx: the activations' scale times their sum, [block of 32][token].

#define TOKK(xo, so, acc) \
	VPXORD Z8, Z8, Z8 \
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
	VFMADD231PS Z10, Z8, acc \
	VFNMADD231PS.BCST so(SI), Z25, acc

#define SCALES \
	VPMOVZXBD (BX), Z24 \
	VPMOVZXBD 16(BX), Z25 \
	VCVTDQ2PS Z24, Z24 \
	VCVTDQ2PS Z25, Z25 \
	VMULPS Z24, Z28, Z24 \
	VMULPS Z25, Z29, Z25

#define LOADLO \
	VPANDD (AX), Z30, Z16 \
	VPANDD 64(AX), Z30, Z17 \
	VPANDD 128(AX), Z30, Z18 \
	VPANDD 192(AX), Z30, Z19 \
	VPANDD 256(AX), Z30, Z20 \
	VPANDD 320(AX), Z30, Z21 \
	VPANDD 384(AX), Z30, Z22 \
	VPANDD 448(AX), Z30, Z23

#define LOADHI \
	VPSRLD $4, (AX), Z16 \
	VPSRLD $4, 64(AX), Z17 \
	VPSRLD $4, 128(AX), Z18 \
	VPSRLD $4, 192(AX), Z19 \
	VPSRLD $4, 256(AX), Z20 \
	VPSRLD $4, 320(AX), Z21 \
	VPSRLD $4, 384(AX), Z22 \
	VPSRLD $4, 448(AX), Z23 \
	VPANDD Z16, Z30, Z16 \
	VPANDD Z17, Z30, Z17 \
	VPANDD Z18, Z30, Z18 \
	VPANDD Z19, Z30, Z19 \
	VPANDD Z20, Z30, Z20 \
	VPANDD Z21, Z30, Z21 \
	VPANDD Z22, Z30, Z22 \
	VPANDD Z23, Z30, Z23

#define ALLTOKK \
	TOKK(0, 0, Z0) \
	TOKK(32, 4, Z1) \
	TOKK(64, 8, Z2) \
	TOKK(96, 12, Z3) \
	TOKK(128, 16, Z4) \
	TOKK(160, 20, Z5) \
	TOKK(192, 24, Z6) \
	TOKK(224, 28, Z7)

#define LOADB \
	VMOVDQU32 (AX), Z16 \
	VMOVDQU32 64(AX), Z17 \
	VMOVDQU32 128(AX), Z18 \
	VMOVDQU32 192(AX), Z19 \
	VMOVDQU32 256(AX), Z20 \
	VMOVDQU32 320(AX), Z21 \
	VMOVDQU32 384(AX), Z22 \
	VMOVDQU32 448(AX), Z23

// func nibblesKOne512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)
// low nibbles of 64 inputs are the first 32
TEXT ·nibblesKOne512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ sx+32(FP), SI
	MOVQ nsb+40(FP), DI
	MOVQ out+48(FP), R8
	MOVL $0x0f0f0f0f, R9
	VPBROADCASTD R9, Z30
	VPXORD Z0, Z0, Z0
sb:
	VCVTPH2PS (BX), Z28
	VCVTPH2PS 32(BX), Z29
	ADDQ $64, BX
	MOVQ $4, R10
sg:
	PREFETCHT0 4096(AX)
	PREFETCHT0 4160(AX)
	PREFETCHT0 4224(AX)
	PREFETCHT0 4288(AX)
	PREFETCHT0 4352(AX)
	PREFETCHT0 4416(AX)
	PREFETCHT0 4480(AX)
	PREFETCHT0 4544(AX)
	SCALES
	LOADLO
	TOKK(0, 0, Z0)
	ADDQ $32, BX
	SCALES
	LOADHI
	TOKK(32, 4, Z0)
	ADDQ $32, BX
	ADDQ $512, AX
	ADDQ $64, CX
	ADDQ $8, DX
	ADDQ $8, SI
	DECQ R10
	JNZ  sg
	DECQ DI
	JNZ  sb
	VMOVUPS Z0, (R8)
	VZEROUPPER
	RET

// func nibblesKEight512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)
TEXT ·nibblesKEight512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ sx+32(FP), SI
	MOVQ nsb+40(FP), DI
	MOVQ out+48(FP), R8
	MOVL $0x0f0f0f0f, R9
	VPBROADCASTD R9, Z30
	VPXORD Z0, Z0, Z0
	VPXORD Z1, Z1, Z1
	VPXORD Z2, Z2, Z2
	VPXORD Z3, Z3, Z3
	VPXORD Z4, Z4, Z4
	VPXORD Z5, Z5, Z5
	VPXORD Z6, Z6, Z6
	VPXORD Z7, Z7, Z7
msb:
	VCVTPH2PS (BX), Z28
	VCVTPH2PS 32(BX), Z29
	ADDQ $64, BX
	MOVQ $4, R10
msg:
	SCALES
	LOADLO
	ALLTOKK
	ADDQ $32, BX
	ADDQ $256, CX
	ADDQ $32, DX
	ADDQ $32, SI
	SCALES
	LOADHI
	ALLTOKK
	ADDQ $32, BX
	ADDQ $512, AX
	ADDQ $256, CX
	ADDQ $32, DX
	ADDQ $32, SI
	DECQ R10
	JNZ  msg
	DECQ DI
	JNZ  msb
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

// func bytesKOne512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)
// weights are bytes without offset
TEXT ·bytesKOne512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ sx+32(FP), SI
	MOVQ nsb+40(FP), DI
	MOVQ out+48(FP), R8
	VPXORD Z0, Z0, Z0
bk:
	VCVTPH2PS (BX), Z28
	VCVTPH2PS 32(BX), Z29
	ADDQ $64, BX
	MOVQ $8, R10
bb:
	SCALES
	LOADB
	TOKK(0, 0, Z0)
	ADDQ $32, BX
	ADDQ $512, AX
	ADDQ $32, CX
	ADDQ $4, DX
	ADDQ $4, SI
	DECQ R10
	JNZ  bb
	DECQ DI
	JNZ  bk
	VMOVUPS Z0, (R8)
	VZEROUPPER
	RET

// func bytesKEight512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)
TEXT ·bytesKEight512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ sx+32(FP), SI
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
ek:
	VCVTPH2PS (BX), Z28
	VCVTPH2PS 32(BX), Z29
	ADDQ $64, BX
	MOVQ $8, R10
eb:
	SCALES
	LOADB
	ALLTOKK
	ADDQ $32, BX
	ADDQ $512, AX
	ADDQ $256, CX
	ADDQ $32, DX
	ADDQ $32, SI
	DECQ R10
	JNZ  eb
	DECQ DI
	JNZ  ek
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

// One block of 32 bytes with a half-precision scale and a floor of its own
// (types q4_1 and q5_1): s is 16 scales, then 16 floors with the sign turned.
// func bytesFloorOne512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)
TEXT ·bytesFloorOne512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ sx+32(FP), SI
	MOVQ nsb+40(FP), DI
	MOVQ out+48(FP), R8
	VPXORD Z0, Z0, Z0
fo:
	VCVTPH2PS (BX), Z24
	VCVTPH2PS 32(BX), Z25
	LOADB
	TOKK(0, 0, Z0)
	ADDQ $64, BX
	ADDQ $512, AX
	ADDQ $32, CX
	ADDQ $4, DX
	ADDQ $4, SI
	DECQ DI
	JNZ  fo
	VMOVUPS Z0, (R8)
	VZEROUPPER
	RET

// func bytesFloorEight512(w, s *byte, x *int8, dx, sx *float32, nsb int, out *float32)
TEXT ·bytesFloorEight512(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), AX
	MOVQ s+8(FP), BX
	MOVQ x+16(FP), CX
	MOVQ dx+24(FP), DX
	MOVQ sx+32(FP), SI
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
fe:
	VCVTPH2PS (BX), Z24
	VCVTPH2PS 32(BX), Z25
	LOADB
	ALLTOKK
	ADDQ $64, BX
	ADDQ $512, AX
	ADDQ $256, CX
	ADDQ $32, DX
	ADDQ $32, SI
	DECQ DI
	JNZ  fe
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

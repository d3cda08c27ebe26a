// Package kernel multiplies quantised weight matrices with activations on the
// CPU and holds the other inner loops of the embedded engine.
//
// It computes as llama.cpp does, so that both engines give the same tokens: an
// activation row is first brought into the form that belongs to the weight's
// type (int8 blocks of 32 or 256 values, or rounded to f16 or bf16), the dot
// products of a block are exact integers, and only the blocks' scales and the
// sum over blocks are float32.
//
// There are three levels, chosen once from CPUID: plain Go, always there and
// the oracle of the tests; AVX2 with FMA and F16C; AVX-512 with VNNI. The
// faster levels keep their weights in a layout of their own: sixteen rows
// interleaved in groups of four bytes, so that one instruction feeds sixteen
// outputs and no sum crosses lanes. A type without a kernel at a level runs
// through plain Go on the bytes of the file.
//
// The result for a token does not depend on what else is in the batch: every
// level adds the blocks of a row in the same order for one token as for many.
//
// Matrix values are immutable and safe for concurrent use. A Batch may be
// filled concurrently for different tokens and then read by any number of
// goroutines. Slices are trusted: the package is for the engine's own use.
package kernel

package kernel

import (
	"fmt"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// Lanes is how many rows a group has; Mul works on whole groups.
const Lanes = 16

// Matrix is a weight matrix of Rows outputs and Cols inputs.
type Matrix struct {
	Type       gguf.Type
	Rows, Cols int

	raw    []byte // as in the file; nil once packed
	stride int    // bytes of a row of raw
	pack   *packed
}

// packed is a matrix in the layout of a kernel.
type packed struct {
	kernel  *kernelFuncs
	weights []byte
	scales  []byte
}

// kernelFuncs computes one group of rows with the planes at w and s.
type kernelFuncs struct {
	one   func(w, s []byte, q *Quants, blocks int, out *float32)                // one token
	eight func(w, s []byte, q *Quants, at, blocks int, out *[8 * Lanes]float32) // the tile whose first block is at; nil: none
	// bytes of a group for one block of the type
	block, weights, scales int
	fill                   func(t gguf.Type, block []byte, w, s []byte) // one row's block into its lane
}

// NewMatrix takes data, rows of the type as they lie in the file. It refers to
// data where the level has no layout of its own for the type.
func NewMatrix(t gguf.Type, data []byte, rows, cols int, level Level) (*Matrix, error) {
	if _, ok := FormOf(t); !ok {
		return nil, fmt.Errorf("cannot multiply with weights of type %v", t)
	}
	stride := t.RowBytes(cols)
	if stride == 0 || rows < 1 || len(data) != stride*rows {
		return nil, fmt.Errorf("cannot use %d bytes as %d rows of %d values of type %v", len(data), rows, cols, t)
	}
	return &Matrix{Type: t, Rows: rows, Cols: cols, raw: data, stride: stride}, nil
}

// Form is the form of activations that Mul reads.
func (m *Matrix) Form() Form { f, _ := FormOf(m.Type); return f }

// Groups is the number of groups of Lanes rows; the last may be partial.
func (m *Matrix) Groups() int { return (m.Rows + Lanes - 1) / Lanes }

// Mul computes the rows of groups [lo, hi) for every token of b: the value of
// row r for token t goes to out[t*stride+r].
func (m *Matrix) Mul(b *Batch, lo, hi int, out []float32, stride int) {
	for r := lo * Lanes; r < min(hi*Lanes, m.Rows); r++ {
		row := m.raw[r*m.stride : (r+1)*m.stride]
		for t := range b.tokens {
			out[t*stride+r] = dot(m.Type, row, b, t)
		}
	}
}

// Pack brings the groups [lo, hi) into the level's layout. It must run once for
// every group before Mul; different groups may be packed concurrently.
func (m *Matrix) Pack(lo, hi int) {}

// Close frees the matrix's own memory.
func (m *Matrix) Close() error { return nil }

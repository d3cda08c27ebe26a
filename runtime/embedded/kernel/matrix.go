package kernel

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// Lanes is how many rows a group has; Mul works on whole groups.
const Lanes = 16

// Matrix is a weight matrix of Rows outputs and Cols inputs.
type Matrix struct {
	Type       gguf.Type
	Rows, Cols int

	raw    []byte // as in the file
	stride int    // bytes of a row of raw
	dots   dots

	packing *packing // nil: raw is what Mul reads
	blocks  int      // of the type, in a row
	weights []byte
	scales  []byte
}

// NewMatrix takes data, rows of the type as they lie in the file, and refers to
// it as long as it lives. Pack must run before Mul, and Close at the end.
func NewMatrix(t gguf.Type, data []byte, rows, cols int, level Level) (*Matrix, error) {
	if _, ok := FormOf(t); !ok {
		return nil, fmt.Errorf("cannot multiply with weights of type %v", t)
	}
	stride := t.RowBytes(cols)
	if stride == 0 || rows < 1 || len(data) != stride*rows {
		return nil, fmt.Errorf("cannot use %d bytes as %d rows of %d values of type %v", len(data), rows, cols, t)
	}
	m := &Matrix{Type: t, Rows: rows, Cols: cols, raw: data, stride: stride, dots: dotsOf(level)}
	p := packingOf(level, t)
	if p == nil {
		return m, nil
	}
	m.packing, m.blocks = p, cols/t.Block()
	n := m.Groups() * m.blocks
	var err error
	if m.weights, err = Alloc(n * p.weights); err != nil {
		return nil, fmt.Errorf("cannot pack %d bytes of weights: %w", len(data), err)
	}
	if m.scales, err = Alloc(n * p.scales); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot pack %d bytes of weights: %w", len(data), err), m.Close())
	}
	return m, nil
}

// PackedBytes is what NewMatrix maps for a matrix beside the file's own bytes, in
// bytes of whole pages: 0 when the level reads the type as it lies in the file.
func PackedBytes(t gguf.Type, rows, cols int, level Level) int64 {
	p := packingOf(level, t)
	if p == nil || rows < 1 || t.RowBytes(cols) == 0 {
		return 0
	}
	n := (int64(rows) + Lanes - 1) / Lanes * int64(cols/t.Block())
	return MapBytes(n*int64(p.weights)) + MapBytes(n*int64(p.scales))
}

// Mapped is the memory that the matrix has of its own, in bytes.
func (m *Matrix) Mapped() int64 { return int64(cap(m.weights)) + int64(cap(m.scales)) }

// Form is the form of activations that Mul reads.
func (m *Matrix) Form() Form { f, _ := FormOf(m.Type); return f }

// Groups is the number of groups of Lanes rows; the last may be partial.
func (m *Matrix) Groups() int { return (m.Rows + Lanes - 1) / Lanes }

// planes are the packed weights and scales of group g.
func (m *Matrix) planes(g int) (w, s []byte) {
	nw, ns := m.blocks*m.packing.weights, m.blocks*m.packing.scales
	return m.weights[g*nw : (g+1)*nw], m.scales[g*ns : (g+1)*ns]
}

// Pack brings the groups [lo, hi) into the level's layout. It must run once for
// every group before Mul; different groups may be packed concurrently.
func (m *Matrix) Pack(lo, hi int) {
	if m.packing == nil {
		return
	}
	p, size := m.packing, m.Type.RowBytes(m.Type.Block())
	for g := lo; g < hi; g++ {
		w, s := m.planes(g)
		for lane := range min(Lanes, m.Rows-g*Lanes) {
			row := m.raw[(g*Lanes+lane)*m.stride:]
			for n := range m.blocks {
				p.lane(p, m.Type, row[n*size:(n+1)*size], lane, w[n*p.weights:], s[n*p.scales:])
			}
		}
	}
}

// Mul computes the rows of groups [lo, hi) for every token of b: the value of
// row r for token t goes to out[t*stride+r].
func (m *Matrix) Mul(b *Batch, lo, hi int, out []float32, stride int) {
	if m.packing == nil {
		m.mulRows(b, lo*Lanes, min(hi*Lanes, m.Rows), out, stride)
		return
	}
	form := m.Form()
	q := b.ints[form-Blocks32]
	var tile [8 * Lanes]float32
	for g := lo; g < hi; g++ {
		w, s := m.planes(g)
		rows := min(Lanes, m.Rows-g*Lanes)
		for t := 0; t < b.tokens; t += b.tile {
			m.tokens(b, q, w, s, t, &tile)
			for i := range min(b.tile, b.tokens-t) {
				copy(out[(t+i)*stride+g*Lanes:][:rows], tile[i*Lanes:])
			}
		}
	}
}

// tokens computes a group for the tile that begins with token t.
func (m *Matrix) tokens(b *Batch, q *quants, w, s []byte, t int, tile *[8 * Lanes]float32) {
	m.packing.run(w, s, q, b.at(t, 0), m.blocks, b.tile == 8, &tile[0])
}

// mulRows works on the bytes of the file, row by row.
func (m *Matrix) mulRows(b *Batch, lo, hi int, out []float32, stride int) {
	for r := lo; r < hi; r++ {
		row := m.raw[r*m.stride : (r+1)*m.stride]
		for t := range b.tokens {
			out[t*stride+r] = m.dot(row, b, t)
		}
	}
}

func (m *Matrix) dot(row []byte, b *Batch, t int) float32 {
	if m.dots.half == nil || m.Cols%16 != 0 {
		return dot(m.Type, row, b, t)
	}
	// GGUF aligns tensors, and rows of a multiple of 16 values keep it.
	first := unsafe.Pointer(&row[0])
	switch m.Type {
	case gguf.F32:
		return m.dots.float(&b.floats(Plain, t)[0], (*float32)(first), m.Cols)
	case gguf.F16:
		return m.dots.half(&b.floats(Half, t)[0], (*uint16)(first), m.Cols)
	case gguf.BF16:
		return m.dots.brain(&b.floats(Brain, t)[0], (*uint16)(first), m.Cols)
	}
	return dot(m.Type, row, b, t)
}

// Close frees the matrix's own memory. Closing twice is fine.
func (m *Matrix) Close() error {
	var errs []error
	for _, plane := range []*[]byte{&m.weights, &m.scales} {
		if *plane != nil {
			errs = append(errs, Free(*plane))
			*plane = nil
		}
	}
	return errors.Join(errs...)
}

package model

import (
	"context"
	"math"
	"slices"

	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
)

// scratch is what a step works in, for up to most tokens.
type scratch struct {
	most     int
	x        []float32 // the residual stream
	q, k, v  []float32
	gate, up []float32
	add      []float32     // what a block adds to x
	cos, sin []float32     // of each token's position, HeadDim/2 each
	wide     *kernel.Batch // rows of Embd
	heads    *kernel.Batch // rows of Heads*HeadDim
	forward  *kernel.Batch // rows of FeedForward
	last     *kernel.Batch // the rows whose logits are wanted
	vectors  kernel.Vectors
	logits   []float32
}

func newScratch(c Config, w *weights, most int) *scratch {
	level := kernel.Level(c.Kernel)
	s := &scratch{most: most, vectors: kernel.NewVectors(level)}
	rows := func(width int) []float32 { return make([]float32, most*width) }
	s.x, s.add = rows(c.Embd), rows(c.Embd)
	s.q, s.k, s.v = rows(c.Heads*c.HeadDim), rows(c.KVHeads*c.HeadDim), rows(c.KVHeads*c.HeadDim)
	s.gate, s.up = rows(c.FeedForward), rows(c.FeedForward)
	s.cos, s.sin = rows(c.HeadDim/2), rows(c.HeadDim/2)
	var heads, forward []kernel.Form
	var wide []kernel.Form
	for i := range w.layers {
		l := &w.layers[i]
		wide = append(wide, l.q.Form(), l.k.Form(), l.v.Form(), l.gate.Form(), l.up.Form())
		heads = append(heads, l.o.Form())
		forward = append(forward, l.down.Form())
	}
	s.wide = kernel.NewBatch(level, most, c.Embd, wide...)
	s.heads = kernel.NewBatch(level, most, c.Heads*c.HeadDim, heads...)
	s.forward = kernel.NewBatch(level, most, c.FeedForward, forward...)
	s.last = kernel.NewBatch(level, most, c.Embd, w.output.Form())
	return s
}

// split cuts the collected logits into rows.
func (s *scratch) split(vocab int) [][]float32 {
	out := make([][]float32, len(s.logits)/vocab)
	for i := range out {
		out[i] = s.logits[i*vocab : (i+1)*vocab : (i+1)*vocab]
	}
	return out
}

// product is one matrix of a group that reads the same activations.
type product struct {
	m   *kernel.Matrix
	out []float32
}

// multiply computes all products of b as one parallel region.
func (m *Model) multiply(b *kernel.Batch, products ...product) {
	total := 0
	for _, p := range products {
		total += p.m.Groups()
	}
	piece := min(16, total/(4*(m.pool.workers+1)))
	m.pool.each(total, piece, func(lo, hi int) {
		for _, p := range products {
			if n := p.m.Groups(); lo < n {
				p.m.Mul(b, lo, min(hi, n), p.out, p.m.Rows)
			}
			lo, hi = max(lo-p.m.Groups(), 0), hi-p.m.Groups()
			if hi <= 0 {
				return
			}
		}
	})
}

// step runs at most scratch.most tokens through all layers.
func (m *Model) step(ctx context.Context, in []Input) error {
	s, c := m.scratch, &m.config
	m.embed(in)
	for i := range m.weights.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := &m.weights.layers[i]
		m.normalise(s.wide, len(in), l.attnNorm, l.q, l.k, l.v)
		m.multiply(s.wide, product{l.q, s.q}, product{l.k, s.k}, product{l.v, s.v})
		m.store(i, in)
		m.attend(i, in, l.o.Form())
		m.multiply(s.heads, product{l.o, s.add})
		m.residual(len(in) * c.Embd)
		m.normalise(s.wide, len(in), l.ffnNorm, l.gate, l.up)
		m.multiply(s.wide, product{l.gate, s.gate}, product{l.up, s.up})
		m.activate(len(in), l.down.Form())
		m.multiply(s.forward, product{l.down, s.add})
		m.residual(len(in) * c.Embd)
	}
	m.head(in)
	for _, t := range in {
		m.cache.filled[t.Seq] = t.Pos + 1
	}
	return nil
}

// embed fills the residual stream and the angles of the tokens' positions.
func (m *Model) embed(in []Input) {
	s, c := m.scratch, &m.config
	e := m.weights.embed
	stride := e.Type.RowBytes(c.Embd)
	m.pool.each(len(in), 8, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			at := int(in[t].Token) * stride
			kernel.Expand(e.Type, e.Data[at:at+stride], s.x[t*c.Embd:(t+1)*c.Embd])
			n := c.HeadDim / 2
			m.angles(in[t].Pos, s.cos[t*n:(t+1)*n], s.sin[t*n:(t+1)*n])
		}
	})
}

// angles steps through the frequencies in float32 as llama.cpp does: at large
// positions the rounding of the steps is part of the result.
func (m *Model) angles(pos int, cos, sin []float32) {
	c := &m.config
	step := float32(math.Pow(float64(c.ropeBase), float64(-2/float32(c.HeadDim))))
	theta := float32(pos)
	for i := range cos {
		angle := theta
		if m.weights.ropeFactors != nil {
			angle /= m.weights.ropeFactors[i]
		}
		sn, cs := math.Sincos(float64(angle * c.ropeScale))
		cos[i], sin[i] = float32(cs), float32(sn)
		theta = float32(theta * step)
	}
}

// normalise brings the residual stream, scaled to unit root mean square and
// multiplied with weight, into b in the forms of the matrices that read it.
func (m *Model) normalise(b *kernel.Batch, tokens int, weight []float32, readers ...*kernel.Matrix) {
	s, c := m.scratch, &m.config
	forms := formsOf(readers)
	b.Reset(tokens)
	m.pool.each(tokens, 4, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			rms(b.Row(t), s.x[t*c.Embd:(t+1)*c.Embd], weight, c.epsilon)
			for _, f := range forms {
				b.Set(f, t)
			}
		}
	})
}

func formsOf(readers []*kernel.Matrix) []kernel.Form {
	var forms []kernel.Form
	for _, r := range readers {
		if !slices.Contains(forms, r.Form()) {
			forms = append(forms, r.Form())
		}
	}
	return forms
}

func rms(out, x, weight []float32, epsilon float32) {
	out, weight = out[:len(x)], weight[:len(x)]
	var sum float64
	for _, v := range x {
		sum += float64(v * v)
	}
	mean := float32(sum / float64(len(x)))
	scale := 1 / float32(math.Sqrt(float64(mean+epsilon)))
	for i, v := range x {
		out[i] = v * scale * weight[i]
	}
}

// residual adds what the last block computed.
func (m *Model) residual(n int) {
	s := m.scratch
	x, add := s.x[:n], s.add[:n]
	for i, v := range add {
		x[i] += v
	}
}

// activate computes silu(gate)*up as the input of the down projection.
func (m *Model) activate(tokens int, form kernel.Form) {
	s, n := m.scratch, m.config.FeedForward
	s.forward.Reset(tokens)
	m.pool.each(tokens, 1, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			kernel.SiluMul(s.forward.Row(t), s.gate[t*n:(t+1)*n], s.up[t*n:(t+1)*n])
			s.forward.Set(form, t)
		}
	})
}

// head computes the logits of the tokens that ask and appends them.
func (m *Model) head(in []Input) {
	s, c := m.scratch, &m.config
	wanted := 0
	for _, t := range in {
		if t.Logits {
			wanted++
		}
	}
	if wanted == 0 {
		return
	}
	s.last.Reset(wanted)
	row := 0
	for t := range in {
		if !in[t].Logits {
			continue
		}
		rms(s.last.Row(row), s.x[t*c.Embd:(t+1)*c.Embd], m.weights.norm, c.epsilon)
		s.last.Set(m.weights.output.Form(), row)
		row++
	}
	at := len(s.logits)
	s.logits = slices.Grow(s.logits, wanted*c.Vocab)[:at+wanted*c.Vocab]
	m.multiply(s.last, product{m.weights.output, s.logits[at:]})
}

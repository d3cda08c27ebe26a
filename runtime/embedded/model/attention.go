package model

import (
	"math"

	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
)

// store turns queries and keys by their positions and writes keys and values of
// the batch into the cache, before anything of it is read.
func (m *Model) store(layer int, in []Input) {
	s, c := m.scratch, &m.config
	n, heads, shared := c.HeadDim/2, c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	m.pool.each(len(in), 4, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			cos, sin := s.cos[t*n:(t+1)*n], s.sin[t*n:(t+1)*n]
			turn(s.q[t*heads:(t+1)*heads], cos, sin)
			turn(s.k[t*shared:(t+1)*shared], cos, sin)
			at := in[t].Pos * c.HeadDim
			for h := range c.KVHeads {
				from := t*shared + h*c.HeadDim
				kernel.ToHalf(m.cache.keys(layer, in[t].Seq, h)[at:at+c.HeadDim], s.k[from:from+c.HeadDim])
				kernel.ToHalf(m.cache.values(layer, in[t].Seq, h)[at:at+c.HeadDim], s.v[from:from+c.HeadDim])
			}
		}
	})
}

// turn rotates neighbouring pairs of each head.
func turn(v, cos, sin []float32) {
	for head := 0; head < len(v); head += 2 * len(cos) {
		for i := range cos {
			a, b := v[head+2*i], v[head+2*i+1]
			v[head+2*i] = a*cos[i] - b*sin[i]
			v[head+2*i+1] = a*sin[i] + b*cos[i]
		}
	}
}

// rounded is how far attention follows llama.cpp's own rounding. There a query
// is rounded to half precision and the sum of values is kept in it; a difference
// of that size can turn an int8 step of the next matrix and with it a token that
// was nearly a tie. Beyond 256 positions llama.cpp splits the sum by its number
// of threads, so there is no one result to follow, and float32 is the better sum.
const rounded = 256

// stretch is how many positions are scored before they are summed.
const stretch = 128

// attend computes every head of every token over its own sequence.
func (m *Model) attend(layer int, in []Input, form kernel.Form) {
	s, c := m.scratch, &m.config
	s.heads.Reset(len(in))
	share := c.Heads / c.KVHeads
	total := len(in) * c.Heads
	m.pool.each(total, max(1, total/(8*(m.pool.workers+1))), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			t, h := i/c.Heads, i%c.Heads
			keys := m.cache.keys(layer, in[t].Seq, h/share)
			values := m.cache.values(layer, in[t].Seq, h/share)
			q := s.q[i*c.HeadDim : (i+1)*c.HeadDim]
			out := s.heads.Row(t)[h*c.HeadDim : (h+1)*c.HeadDim]
			if n := in[t].Pos + 1; n <= rounded {
				attendRounded(s.vectors, out, q, keys, values, n)
			} else {
				attendLong(s.vectors, out, q, keys, values, n)
			}
		}
	})
	m.pool.each(len(in), 4, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			s.heads.Set(form, t)
		}
	})
}

// attendRounded is softmax(q*keys/sqrt(d))*values over the first n positions,
// one by one, with llama.cpp's rounding. q is rounded in place.
func attendRounded(v kernel.Vectors, out, q []float32, keys, values []uint16, n int) {
	d := len(q)
	scale := float32(1 / math.Sqrt(float64(d)))
	clear(out)
	for i, x := range q {
		q[i] = kernel.RoundHalf(x)
	}
	most := float32(math.Inf(-1))
	var sum float32
	for at := 0; at < n*d; at += d {
		score, shrink, w := v.DotHalf(q, keys[at:at+d])*scale, float32(1), float32(1)
		if score > most {
			shrink = kernel.Exp(most - score)
			most = score
			for i, x := range out {
				out[i] = kernel.RoundHalf(x * shrink)
			}
		} else {
			w = kernel.Exp(score - most)
		}
		v.AddRounded(out, w, values[at:at+d])
		sum = sum*shrink + w
	}
	normalised(out, sum)
}

// attendLong is the same in float32, with the running maximum of online
// softmax, stretch by stretch.
func attendLong(v kernel.Vectors, out, q []float32, keys, values []uint16, n int) {
	d := len(q)
	scale := float32(1 / math.Sqrt(float64(d)))
	clear(out)
	most := float32(math.Inf(-1))
	var sum float32
	var scores [stretch]float32
	for from := 0; from < n; from += stretch {
		part := scores[:min(stretch, n-from)]
		peak := most
		for i := range part {
			at := (from + i) * d
			part[i] = v.DotHalf(q, keys[at:at+d]) * scale
			peak = max(peak, part[i])
		}
		if peak > most {
			shrink := kernel.Exp(most - peak)
			sum *= shrink
			for i := range out {
				out[i] *= shrink
			}
			most = peak
		}
		for i, score := range part {
			w := kernel.Exp(score - most)
			sum += w
			at := (from + i) * d
			v.AddHalf(out, w, values[at:at+d])
		}
	}
	normalised(out, sum)
}

func normalised(out []float32, sum float32) {
	inverse := 1 / sum
	for i := range out {
		out[i] *= inverse
	}
}

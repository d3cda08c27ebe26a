package model

import (
	"errors"
	"fmt"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
)

// weights are the tensors of the model.
type weights struct {
	embed       *gguf.Tensor // rows are expanded one by one
	layers      []layer
	norm        []float32
	output      *kernel.Matrix
	ropeFactors []float32 // nil: none
}

type layer struct {
	attnNorm, ffnNorm []float32
	q, k, v, o        *kernel.Matrix
	gate, up, down    *kernel.Matrix
}

func (w *weights) matrices() []*kernel.Matrix {
	var all []*kernel.Matrix
	for i := range w.layers {
		l := &w.layers[i]
		all = append(all, l.q, l.k, l.v, l.o, l.gate, l.up, l.down)
	}
	return append(all, w.output)
}

func (w *weights) close() error {
	var errs []error
	for _, m := range w.matrices() {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// loader takes tensors out of the file, checks their shapes and remembers which
// were used.
type loader struct {
	file   *gguf.File
	config *Config
	level  kernel.Level
	pool   *pool
	used   map[string]bool
	err    error
}

func (l *loader) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// weights loads everything; what it got so far is returned even with an error,
// to be closed.
func (l *loader) weights() (weights, error) {
	var w weights
	c := l.config
	w.embed = l.file.Tensor("token_embd.weight")
	if w.embed == nil || len(w.embed.Dims) != 2 || w.embed.Row() != c.Embd {
		return w, fmt.Errorf("%w: token_embd.weight is missing or has no rows of %d", gguf.ErrFormat, c.Embd)
	}
	if _, ok := kernel.FormOf(w.embed.Type); !ok {
		return w, unsupported("token_embd.weight of type %v", w.embed.Type)
	}
	l.used[w.embed.Name] = true
	c.Vocab = w.embed.Rows()
	if l.file.Tensor("rope_freqs.weight") != nil {
		w.ropeFactors = l.vector("rope_freqs.weight", c.HeadDim/2)
	}
	w.norm = l.vector("output_norm.weight", c.Embd)
	for i := range c.Layers {
		if l.err != nil {
			return w, l.err
		}
		w.layers = append(w.layers, l.layer(fmt.Sprintf("blk.%d.", i)))
	}
	head := "output.weight"
	if l.file.Tensor(head) == nil {
		head = w.embed.Name // tied: the embedding is the head too
	}
	w.output = l.matrix(head, c.Vocab, c.Embd)
	l.unused()
	l.describe()
	return w, l.err
}

func (l *loader) layer(prefix string) layer {
	c := l.config
	heads, shared := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	return layer{
		attnNorm: l.vector(prefix+"attn_norm.weight", c.Embd),
		ffnNorm:  l.vector(prefix+"ffn_norm.weight", c.Embd),
		q:        l.matrix(prefix+"attn_q.weight", heads, c.Embd),
		k:        l.matrix(prefix+"attn_k.weight", shared, c.Embd),
		v:        l.matrix(prefix+"attn_v.weight", shared, c.Embd),
		o:        l.matrix(prefix+"attn_output.weight", c.Embd, heads),
		gate:     l.matrix(prefix+"ffn_gate.weight", c.FeedForward, c.Embd),
		up:       l.matrix(prefix+"ffn_up.weight", c.FeedForward, c.Embd),
		down:     l.matrix(prefix+"ffn_down.weight", c.Embd, c.FeedForward),
	}
}

// tensor finds a tensor of the given shape, outermost first.
func (l *loader) tensor(name string, rows, cols int) *gguf.Tensor {
	t := l.file.Tensor(name)
	if t == nil {
		l.fail(fmt.Errorf("%w: tensor %s is missing", gguf.ErrFormat, name))
		return nil
	}
	if t.Row() != cols || t.Rows() != rows {
		l.fail(fmt.Errorf("%w: tensor %s has the shape %v, want rows of %d, %d of them", gguf.ErrFormat, name, t.Dims, cols, rows))
		return nil
	}
	l.used[name] = true
	return t
}

func (l *loader) vector(name string, n int) []float32 {
	t := l.tensor(name, 1, n)
	if t == nil {
		return nil
	}
	switch t.Type {
	case gguf.F32, gguf.F16, gguf.BF16:
	default:
		l.fail(unsupported("tensor %s of type %v", name, t.Type))
		return nil
	}
	out := make([]float32, n)
	kernel.Expand(t.Type, t.Data, out)
	return out
}

func (l *loader) matrix(name string, rows, cols int) *kernel.Matrix {
	t := l.tensor(name, rows, cols)
	if t == nil {
		return nil
	}
	if _, ok := kernel.FormOf(t.Type); !ok {
		l.fail(unsupported("tensor %s of type %v", name, t.Type))
		return nil
	}
	m, err := kernel.NewMatrix(t.Type, t.Data, rows, cols, l.level)
	if err != nil {
		l.fail(fmt.Errorf("tensor %s: %w", name, err))
		return nil
	}
	l.pool.each(m.Groups(), max(1, m.Groups()/64), m.Pack)
	return m
}

// unused refuses tensors that the architecture as built here has no place for:
// leaving one out would give wrong answers, not an error.
func (l *loader) unused() {
	for _, t := range l.file.Tensors {
		if !l.used[t.Name] {
			l.fail(unsupported("tensor %s", t.Name))
		}
	}
}

// describe fills in what the tensors say about the model.
func (l *loader) describe() {
	count := map[gguf.Type]uint64{}
	for _, t := range l.file.Tensors {
		n := uint64(t.Row()) * uint64(t.Rows())
		count[t.Type] += n
		l.config.Parameters += n
	}
	best := gguf.F32
	for t, n := range count {
		if n > count[best] || n == count[best] && t < best {
			best = t
		}
	}
	l.config.FileType = best.String()
}

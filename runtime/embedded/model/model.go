// Package model runs llama-architecture models from GGUF files on the CPU.
//
// Load maps weights into the kernels' layouts and lays out a key/value cache for
// a fixed number of sequences. Forward takes a batch of tokens of any of the
// sequences and gives logits for those that ask; the numbers follow llama.cpp
// (see package kernel), so that greedy output is the same, and they do not
// depend on what else is in the batch.
//
// What this engine cannot run is refused by Load with an error that wraps
// ErrUnsupported and names the engine that can: other architectures, mixtures
// of experts, tensors it has no use for, types it has no kernel for.
//
// A Model is owned by one goroutine, the scheduler's loop: none of its methods
// may run beside another. It uses its own goroutines for the arithmetic.
package model

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
)

// Options say how a model is to be loaded. Zero values choose.
type Options struct {
	Threads   int          // 0: as many as the process may use; more than 1,024 are 1,024
	Context   int          // tokens a sequence may hold; 0 or more than trained: what the model was trained for
	Sequences int          // sequences held at once; 0: one
	Batch     int          // tokens computed in one step; 0: 256. Longer batches are split
	Kernel    kernel.Level // "": the best this machine has
}

// maxThreads is more than any machine here has; each takes a goroutine's stack.
const maxThreads = 1024

// Input is one token of a batch.
type Input struct {
	Seq    int // 0 to Sequences-1
	Pos    int // must be the number of tokens that the sequence holds so far
	Token  int32
	Logits bool // give the logits after this token
}

// Model is a loaded model with its cache.
type Model struct {
	config  Config
	weights weights
	cache   *cache
	pool    *pool
	scratch *scratch
	closed  bool
}

// Load reads the weights of f, which must stay open as long as the Model.
func Load(f *gguf.File, o Options) (*Model, error) {
	c, err := Inspect(f)
	if err != nil {
		return nil, err
	}
	o = o.filled(c)
	c.Context, c.Sequences, c.Threads, c.Kernel = o.Context, o.Sequences, o.Threads, string(o.Kernel)
	m := &Model{config: c, pool: newPool(o.Threads)}
	if err := m.load(f, o); err != nil {
		m.Close()
		return nil, fmt.Errorf("cannot load model: %w", err)
	}
	return m, nil
}

func (o Options) filled(c Config) Options {
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	o.Threads = min(o.Threads, maxThreads)
	if o.Context <= 0 || o.Context > c.Trained {
		o.Context = c.Trained
	}
	if o.Batch <= 0 {
		o.Batch = 256
	}
	o.Sequences = max(o.Sequences, 1)
	// Wide layers, which a file may claim cheaply, get smaller batches: about a GiB of scratch.
	perToken := 4 * (3*c.FeedForward + 8*c.Embd + 4*c.Heads*c.HeadDim)
	o.Batch = min(o.Batch, o.Context, max(1, 1<<30/perToken))
	if o.Kernel == "" {
		o.Kernel = kernel.Best()
	}
	return o
}

func (m *Model) load(f *gguf.File, o Options) error {
	l := loader{file: f, config: &m.config, level: o.Kernel, pool: m.pool, used: map[string]bool{}}
	var err error
	if m.weights, err = l.weights(); err != nil {
		return err
	}
	if m.cache, err = newCache(m.config); err != nil {
		return err
	}
	m.scratch = newScratch(m.config, &m.weights, o.Batch)
	return nil
}

// Config is the model's description.
func (m *Model) Config() Config { return m.config }

// Len is the number of tokens that the sequence holds.
func (m *Model) Len(seq int) int { return m.cache.filled[seq] }

// Truncate drops what the sequence holds from position pos on.
func (m *Model) Truncate(seq, pos int) {
	m.cache.filled[seq] = min(max(pos, 0), m.cache.filled[seq])
}

// Close frees the cache and ends the goroutines. Closing twice is fine.
func (m *Model) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	m.pool.close()
	var errs []error
	if m.cache != nil {
		errs = append(errs, m.cache.close())
	}
	return errors.Join(append(errs, m.weights.close())...)
}

// Forward adds the inputs to their sequences and returns the logits of those
// that ask for them, in their order. The slices are the Model's and valid until
// its next call. When ctx ends the call stops at the next layer, and the
// sequences hold what they held before.
func (m *Model) Forward(ctx context.Context, in []Input) ([][]float32, error) {
	if err := m.check(in); err != nil {
		return nil, err
	}
	before := append([]int(nil), m.cache.filled...)
	m.scratch.logits = m.scratch.logits[:0]
	for len(in) > 0 {
		n := min(len(in), m.scratch.most)
		if err := m.step(ctx, in[:n]); err != nil {
			copy(m.cache.filled, before)
			return nil, err
		}
		in = in[n:]
	}
	return m.scratch.split(m.config.Vocab), nil
}

// check refuses inputs that would read or write outside the model.
func (m *Model) check(in []Input) error {
	if m.closed {
		return errors.New("internal error: forward on a closed model")
	}
	ahead := make([]int, m.config.Sequences)
	for _, t := range in {
		switch {
		case t.Seq < 0 || t.Seq >= m.config.Sequences:
			return fmt.Errorf("internal error: sequence %d of %d", t.Seq, m.config.Sequences)
		case t.Token < 0 || int(t.Token) >= m.config.Vocab:
			return fmt.Errorf("cannot run token %d: the vocabulary has %d", t.Token, m.config.Vocab)
		case t.Pos >= m.config.Context:
			return fmt.Errorf("cannot run position %d: the context has %d tokens", t.Pos, m.config.Context)
		case t.Pos != m.cache.filled[t.Seq]+ahead[t.Seq]:
			return fmt.Errorf("internal error: position %d of sequence %d, which holds %d", t.Pos, t.Seq, m.cache.filled[t.Seq]+ahead[t.Seq])
		}
		ahead[t.Seq]++
	}
	return nil
}

package model

import (
	"errors"
	"fmt"
	"math"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// ErrUnsupported is wrapped when the file is sound but this engine cannot run
// it. The error text names the engine that can.
var ErrUnsupported = errors.New("the embedded engine cannot run it; the llama-server engine can")

// Config describes a loaded model. Sizes are counts of values.
type Config struct {
	Architecture string
	Name         string // general.name, may be empty
	Vocab        int
	Embd         int
	Layers       int
	Heads        int
	KVHeads      int
	HeadDim      int
	FeedForward  int
	Trained      int // the context the model was trained for
	Context      int // tokens a sequence may hold here
	Sequences    int
	Threads      int    // that compute
	Kernel       string // the level of kernels in use, for logs
	Parameters   uint64
	FileType     string // the type most weights have, for example "q4_k"

	epsilon   float32
	ropeBase  float32
	ropeScale float32
}

// Limits of shapes that are believed. The file's size bounds the tensors; these
// bound what is only a number in the header.
const (
	maxLayers  = 1 << 12
	maxContext = 1 << 22
	maxWidth   = 1 << 20
)

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrUnsupported)
}

// Inspect reads the configuration without loading weights. It refuses what Load
// would refuse from the header alone.
func Inspect(f *gguf.File) (Config, error) {
	arch, ok := f.Meta.String("general.architecture")
	if !ok {
		return Config{}, fmt.Errorf("cannot load model: %w: general.architecture is missing", gguf.ErrFormat)
	}
	if arch != "llama" {
		return Config{}, fmt.Errorf("cannot load model: %w", unsupported("architecture %q", arch))
	}
	h := header{f: f, arch: arch}
	c := h.config()
	if h.err != nil {
		return Config{}, fmt.Errorf("cannot load model: %w", h.err)
	}
	return c, nil
}

// header collects the first error while it reads keys.
type header struct {
	f    *gguf.File
	arch string
	err  error
}

func (h *header) fail(err error) {
	if h.err == nil {
		h.err = err
	}
}

// size reads a positive integer no larger than most; missing takes the place of
// an absent key, 0 meaning that the key must be there.
func (h *header) size(key string, most, missing int) int {
	key = h.arch + "." + key
	n, ok := h.f.Meta.Uint(key)
	if !ok && !h.f.Meta.Has(key) && missing > 0 {
		return missing
	}
	if !ok {
		n = h.same(key)
	}
	if n == 0 || n > uint64(most) {
		h.fail(fmt.Errorf("%w: %s is %d, not 1 to %d", gguf.ErrFormat, key, n, most))
		return 1
	}
	return int(n)
}

// same reads an array with a value for each layer, which must all be equal.
func (h *header) same(key string) uint64 {
	all, ok := h.f.Meta.Ints(key)
	if !ok || len(all) == 0 {
		h.fail(fmt.Errorf("%w: %s is missing or no number", gguf.ErrFormat, key))
		return 0
	}
	for _, n := range all {
		if n != all[0] {
			h.fail(unsupported("%s differs between layers", key))
		}
	}
	return uint64(max(all[0], 0))
}

func (h *header) float(key string, missing float32) float32 {
	key = h.arch + "." + key
	v, ok := h.f.Meta.Float(key)
	if !ok && !h.f.Meta.Has(key) && missing != 0 {
		return missing
	}
	if !ok || !(v > 0) || math.IsInf(v, 0) {
		h.fail(fmt.Errorf("%w: %s is missing or no positive number", gguf.ErrFormat, key))
		return 1
	}
	return float32(v)
}

func (h *header) config() Config {
	c := Config{Architecture: h.arch}
	c.Name, _ = h.f.Meta.String("general.name")
	c.Embd = h.size("embedding_length", maxWidth, 0)
	c.Layers = h.size("block_count", maxLayers, 0)
	c.Heads = h.size("attention.head_count", maxWidth, 0)
	c.KVHeads = h.size("attention.head_count_kv", maxWidth, c.Heads)
	c.FeedForward = h.size("feed_forward_length", maxWidth*16, 0)
	c.Trained = h.size("context_length", maxContext, 0)
	c.HeadDim = h.size("attention.key_length", maxWidth, max(c.Embd/c.Heads, 1))
	values := h.size("attention.value_length", maxWidth, max(c.Embd/c.Heads, 1))
	rotated := h.size("rope.dimension_count", maxWidth, c.HeadDim)
	c.epsilon = h.float("attention.layer_norm_rms_epsilon", 0)
	c.ropeBase = h.float("rope.freq_base", 10000)
	c.ropeScale = h.ropeScale()
	switch {
	case c.Heads%c.KVHeads != 0:
		h.fail(fmt.Errorf("%w: %d heads cannot share %d key heads", gguf.ErrFormat, c.Heads, c.KVHeads))
	case c.HeadDim != values:
		h.fail(unsupported("keys of %d and values of %d", c.HeadDim, values))
	case rotated != c.HeadDim || c.HeadDim%2 != 0:
		h.fail(unsupported("rotary embedding of %d of %d dimensions", rotated, c.HeadDim))
	}
	if n, _ := h.f.Meta.Uint(h.arch + ".expert_count"); n > 0 {
		h.fail(unsupported("a mixture of %d experts", n))
	}
	return c
}

// ropeScale is what positions are multiplied with: linear scaling is the only
// kind that is a factor alone.
func (h *header) ropeScale() float32 {
	kind, _ := h.f.Meta.String(h.arch + ".rope.scaling.type")
	switch kind {
	case "", "linear":
	case "none":
		return 1
	default:
		h.fail(unsupported("rotary scaling of type %q", kind))
	}
	missing := h.float("rope.scale_linear", 1)
	return 1 / h.float("rope.scaling.factor", missing)
}

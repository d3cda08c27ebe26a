package model

import (
	"errors"
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
)

// cache holds keys and values in half precision. Pages that no token has
// reached cost no memory.
type cache struct {
	config Config
	filled []int // tokens of each sequence
	mem    []byte
	half   []uint16
	plane  int // values of one head of one sequence: Context * HeadDim
}

func newCache(c Config) (*cache, error) {
	size := uint64(4) // two planes of two bytes
	for _, n := range []int{c.Layers, c.Sequences, c.KVHeads, c.Context, c.HeadDim} {
		hi, lo := bits.Mul64(size, uint64(n))
		if hi != 0 || lo > 1<<46 {
			return nil, fmt.Errorf("cannot hold %d sequences of %d tokens: ask for a smaller context", c.Sequences, c.Context)
		}
		size = lo
	}
	mem, err := kernel.Alloc(int(size))
	if err != nil {
		return nil, fmt.Errorf("cannot allocate %d bytes for %d sequences of %d tokens: %w", size, c.Sequences, c.Context, err)
	}
	return &cache{
		config: c, filled: make([]int, c.Sequences), plane: c.Context * c.HeadDim,
		mem: mem, half: unsafe.Slice((*uint16)(unsafe.Pointer(&mem[0])), size/2),
	}, nil
}

// keys are the keys of one head, position after position.
func (c *cache) keys(layer, seq, head int) []uint16 {
	at := (((layer*c.config.Sequences+seq)*c.config.KVHeads+head)*2 + 0) * c.plane
	return c.half[at : at+c.plane]
}

// values are the values of one head, position after position.
func (c *cache) values(layer, seq, head int) []uint16 {
	at := (((layer*c.config.Sequences+seq)*c.config.KVHeads+head)*2 + 1) * c.plane
	return c.half[at : at+c.plane]
}

func (c *cache) close() error {
	mem := c.mem
	c.mem, c.half = nil, nil
	if mem == nil {
		return nil
	}
	if err := kernel.Free(mem); err != nil {
		return errors.Join(errors.New("cannot free the key/value cache"), err)
	}
	return nil
}

package model

import (
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// The memory that is asked for before a load must be what the load takes.
func TestEstimateIsWhatLoadTakes(t *testing.T) {
	for _, name := range []string{"mote-256-q4_k_m.gguf", "mote-256-f16.gguf", "mote-chat-q8_0.gguf"} {
		path := parts.Model(t, name)
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		m, err := Load(f, Options{Threads: 1, Context: 512, Sequences: 4})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		weights := len(m.weights.embed.Data)
		for i, matrix := range m.weights.matrices() {
			if n := matrix.Mapped(); n > 0 {
				weights += int(n)
			} else if i < len(m.weights.matrices())-1 || f.Tensor("output.weight") != nil {
				weights += matrix.Rows * matrix.Type.RowBytes(matrix.Cols) // used as it lies in the file
			}
		}
		took := weights + cap(m.cache.mem)
		plain, err := runtime.Estimate(path, 512, 4)
		if err != nil {
			t.Fatal(err)
		}
		need, err := runtime.EstimateEmbedded(path, 512, 4)
		if err != nil {
			t.Fatal(err)
		}
		got := int(need.Weights + need.KV)
		t.Logf("%s: file %d, estimate %d, took %d", name, plain.Weights+plain.KV, got, took)
		if got < took || got > took*102/100 { // a little more: norms are small
			t.Errorf("%s: got an estimate of %d bytes of weights and cache, want the %d that were taken", name, got, took)
		}
	}
}

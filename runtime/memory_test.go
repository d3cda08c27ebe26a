package runtime

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
)

func TestEstimateOfMote(t *testing.T) {
	n, err := Estimate(parts.Model(t, "mote-256-f16.gguf"), 1000, 3)
	if err != nil {
		t.Fatal(err)
	}
	// 2 layers of 256 values each way, half precision, unless the model shares its heads.
	info, err := os.Stat(parts.Model(t, "mote-256-f16.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if n.Weights >= uint64(info.Size()) || n.Weights < uint64(info.Size())*9/10 {
		t.Errorf("got %d bytes of weights of a file of %d, want a little less than all", n.Weights, info.Size())
	}
	one, err := Estimate(parts.Model(t, "mote-256-f16.gguf"), 1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if one.KV == 0 || n.KV != 3*one.KV {
		t.Errorf("got a cache of %d for three slots and %d for one, want three times as much", n.KV, one.KV)
	}
	if perToken := one.KV / 1000; perToken > 2*2*256*2 || perToken < 2*2*32*2 {
		t.Errorf("got %d bytes of cache a token, outside what 2 layers of 256 can need", perToken)
	}
	trained, err := Estimate(parts.Model(t, "mote-256-f16.gguf"), 0, 0)
	if err != nil || trained.Context != 1024 || trained.Slots != 1 {
		t.Errorf("got %+v (%v), want the trained context of 1024 and one slot", trained, err)
	}
}

func TestFitsShowsTheArithmetic(t *testing.T) {
	n := Need{Weights: 4 << 30, KV: 1 << 30, Compute: 256 << 20, Process: 32 << 20, Context: 8192, Slots: 4}
	if err := fits(n, 6<<30, 8<<30); err != nil {
		t.Errorf("got %v, want a fit", err)
	}
	err := fits(n, 5<<30, 8<<30)
	if err == nil {
		t.Fatal("got a fit of 5.3 GiB into 5 GiB")
	}
	for _, want := range []string{"5.3 GiB", "weights 4.0 GiB", "4 x 8192 tokens 1.0 GiB", "buffers 256.0 MiB", "8.0 GiB", "5.0 GiB are free", "smaller context"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %q", err, want)
		}
	}
}

func TestFitsHost(t *testing.T) {
	model := parts.Model(t, "mote-chat-q8_0.gguf")
	if err := FitsHost(Spec{Files: []string{model}, Context: 512, Slots: 2}); err != nil {
		t.Errorf("got %v for a model of one megabyte", err)
	}
	if err := FitsHost(Spec{Files: []string{model}, Context: maxContext, Slots: maxSlots}); err == nil || !strings.Contains(err.Error(), "key/value cache") {
		t.Errorf("got %v, want a refusal of a cache of terabytes", err)
	}
	other := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(other, []byte("not gguf but long enough to have a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := FitsHost(Spec{Files: []string{other}}); err != nil {
		t.Errorf("got %v for another format, want it left to its engine", err)
	}
	whole, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short.gguf")
	if err := os.WriteFile(short, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := FitsHost(Spec{Files: []string{short}}); err == nil {
		t.Error("got a fit of a truncated file")
	}
}

// A header may claim anything; the estimate must neither overflow nor say that it fits.
func TestEstimateOfAbsurdHeaders(t *testing.T) {
	model, err := os.ReadFile(parts.Model(t, "mote-chat-q8_0.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]uint32{
		"llama.block_count": math.MaxUint32, "llama.attention.head_count_kv": math.MaxUint32,
		"llama.context_length": math.MaxUint32, "llama.feed_forward_length": math.MaxUint32,
	} {
		path := patched(t, model, key, value)
		n, err := Estimate(path, 0, maxSlots)
		if err == nil && fits(n, 64<<30, 64<<30) == nil {
			t.Errorf("%s of %d: got %v, which fits 64 GiB", key, value, n)
		}
	}
	for _, key := range []string{"llama.attention.head_count", "llama.embedding_length"} {
		if _, err := Estimate(patched(t, model, key, 0), 0, 1); err != nil {
			t.Errorf("%s of 0: got %v; the engine is the one to refuse the model", key, err)
		}
	}
}

// A release may come with a number format that only a newer llama-server reads.
func TestFitsHostLetsUnknownNumberFormatsPass(t *testing.T) {
	model, err := os.ReadFile(parts.Model(t, "mote-chat-q8_0.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	const name = "token_embd.weight"
	at := bytes.Index(model, []byte(name)) + len(name) + 4 + 2*8 // its dimensions, then its type
	binary.LittleEndian.PutUint32(model[at:], 18)                // IQ3_XXS
	path := filepath.Join(t.TempDir(), "iq3.gguf")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := FitsHost(Spec{Files: []string{path}, Context: 512}); err != nil {
		t.Errorf("got %v, want the engine to judge", err)
	}
}

// The embedded engine packs q4_k and q6_k into larger layouts; the refusal must show the larger number.
func TestEmbeddedEngineIsEstimatedByItsOwnLayouts(t *testing.T) {
	model := parts.Model(t, "mote-256-q4_k_m.gguf")
	file, err := Estimate(model, 512, 1)
	if err != nil {
		t.Fatal(err)
	}
	held, err := EstimateEmbedded(model, 512, 1)
	if err != nil {
		t.Fatal(err)
	}
	if kernel.Best() != kernel.Scalar && held.Weights <= file.Weights {
		t.Errorf("got %d bytes held of %d in the file, want more", held.Weights, file.Weights)
	}
	if long, err := EstimateEmbedded(model, maxContext, 1); err != nil || long.Context != 1024 {
		t.Errorf("got %+v (%v), want the trained context of 1024, which the engine keeps to", long, err)
	}
	spec := Spec{Engine: "embedded", Files: []string{model}, Context: 1024, Slots: maxSlots * 1024}
	need, err := EstimateEmbedded(model, spec.Context, spec.Slots)
	if err != nil {
		t.Fatal(err)
	}
	if err := FitsHost(spec); err == nil || !strings.Contains(err.Error(), "weights "+size(need.Weights)) {
		t.Errorf("got %v, want a refusal that shows weights of %s", err, size(need.Weights))
	}
}

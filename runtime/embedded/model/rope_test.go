package model_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
)

// extended is one of the project's models with keys and perhaps one more vector.
type extended struct {
	keys   []byte
	count  uint64
	name   string
	vector []float32
}

func text(s string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(s))), s...)
}

func (e *extended) float(key string, v float32) *extended {
	e.keys = append(append(e.keys, text(key)...), 6, 0, 0, 0)
	e.keys = binary.LittleEndian.AppendUint32(e.keys, math.Float32bits(v))
	e.count++
	return e
}

func (e *extended) str(key, v string) *extended {
	e.keys = append(append(append(e.keys, text(key)...), 8, 0, 0, 0), text(v)...)
	e.count++
	return e
}

// write makes the file: keys go before the first key, the tensor's entry behind
// the last entry, its data behind all data.
func (e *extended) write(tb testing.TB, source string) string {
	tb.Helper()
	raw, err := os.ReadFile(source)
	if err != nil {
		tb.Fatal(err)
	}
	f := parsed(tb, raw)
	size := 0
	for _, t := range f.Tensors {
		size += (len(t.Data) + 31) &^ 31
	}
	le := binary.LittleEndian
	data := bytes.Clone(raw[len(raw)-size:])
	last := &f.Tensors[len(f.Tensors)-1]
	entry := bytes.Index(raw, text(last.Name)) + len(text(last.Name)) + 4 + 8*len(last.Dims) + 4 + 8
	head := append(bytes.Clone(raw[:24]), e.keys...)
	head = append(head, raw[24:entry]...)
	le.PutUint64(head[16:], le.Uint64(head[16:])+e.count)
	if e.name != "" {
		le.PutUint64(head[8:], le.Uint64(head[8:])+1)
		head = append(append(head, text(e.name)...), 1, 0, 0, 0)
		head = le.AppendUint64(head, uint64(len(e.vector)))
		head = le.AppendUint32(head, uint32(gguf.F32))
		head = le.AppendUint64(head, uint64(len(data)))
		for _, v := range e.vector {
			data = le.AppendUint32(data, math.Float32bits(v))
		}
	}
	for len(head)%32 != 0 {
		head = append(head, 0)
	}
	path := filepath.Join(tb.TempDir(), "extended.gguf")
	if err := os.WriteFile(path, append(head, data...), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// TestPositionsAreScaledAsLlamaServerDoes runs models that say how positions
// turn into angles in every way that is supported.
func TestPositionsAreScaledAsLlamaServerDoes(t *testing.T) {
	source := parts.Model(t, "mote-chat-q8_0.gguf")
	f, err := gguf.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := model.Inspect(f)
	if err != nil {
		t.Fatal(err)
	}
	factors := make([]float32, c.HeadDim/2)
	for i := range factors {
		factors[i] = 1 + float32(i)/2
	}
	for name, e := range map[string]*extended{
		"linear":         (&extended{}).str("llama.rope.scaling.type", "linear").float("llama.rope.scaling.factor", 4),
		"the old factor": (&extended{}).float("llama.rope.scale_linear", 2),
		"none":           (&extended{}).str("llama.rope.scaling.type", "none").float("llama.rope.scaling.factor", 4),
		"factors":        {name: "rope_freqs.weight", vector: factors},
	} {
		t.Run(name, func(t *testing.T) { compare(t, e.write(t, source), false) })
	}
}

func TestScalingThatIsNotSupportedIsRefused(t *testing.T) {
	path := (&extended{}).str("llama.rope.scaling.type", "yarn").write(t, parts.Model(t, "mote-chat-q8_0.gguf"))
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	refused(t, f, `rotary scaling of type "yarn"`)

	path = (&extended{name: "blk.0.attn_q.bias", vector: make([]float32, 8)}).write(t, parts.Model(t, "mote-chat-q8_0.gguf"))
	g, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	refused(t, g, "tensor blk.0.attn_q.bias")
}

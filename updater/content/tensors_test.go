package content

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// safetensors writes a file of that format: tensors in order of their names,
// metadata as given.
func safetensors(tb testing.TB, metadata map[string]string, tensors map[string][]byte) []byte {
	tb.Helper()
	header := map[string]any{}
	if metadata != nil {
		header["__metadata__"] = metadata
	}
	var data []byte
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		b := tensors[name]
		header[name] = map[string]any{"dtype": "U8", "shape": []int{len(b)}, "data_offsets": []int{len(data), len(data) + len(b)}}
		data = append(data, b...)
	}
	head, err := json.Marshal(header)
	if err != nil {
		tb.Fatal(err)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	return append(append(out, head...), data...)
}

// layers is a model of eight layers of 2.5 MiB, each with a norm of 4 KiB.
func layers(seed uint64) map[string][]byte {
	all := map[string][]byte{"embed": noise(1000*seed, 5<<20+100)}
	for i := range 8 {
		all[fmt.Sprintf("layer.%d.weight", i)] = noise(1000*seed+uint64(10+i), 5<<19)
		all[fmt.Sprintf("layer.%d.norm", i)] = noise(1000*seed+uint64(100+i), 4<<10)
	}
	return all
}

// reused is the share of next's bytes, in per cent, whose blocks old has.
func reused(tb testing.TB, old, next []byte) float64 {
	tb.Helper()
	have := map[[32]byte]bool{}
	for _, k := range mustIndex(tb, old).Blocks {
		have[k.SHA256] = true
	}
	same := 0
	for _, k := range mustIndex(tb, next).Blocks {
		if have[k.SHA256] {
			same += k.Length
		}
	}
	return 100 * float64(same) / float64(len(next))
}

func TestSafetensorsShareTheirTensors(t *testing.T) {
	base := layers(1)
	old := safetensors(t, map[string]string{"format": "pt"}, base)
	subset, tuned := maps.Clone(base), maps.Clone(base)
	delete(subset, "layer.0.weight")
	delete(subset, "layer.0.norm")
	for i := range 2 {
		tuned[fmt.Sprintf("layer.%d.weight", 3+i)] = noise(uint64(500+i), 5<<19)
	}
	for _, c := range []struct {
		name string
		next []byte
		want float64 // per cent, at least
	}{
		{"longer metadata", safetensors(t, map[string]string{"format": "pt", "note": strings.Repeat("edited ", 700)}, base), 99},
		{"two layers of eight tuned", safetensors(t, map[string]string{"format": "pt"}, tuned), 78},
		{"one layer taken out", safetensors(t, nil, subset), 99},
	} {
		got := reused(t, old, c.next)
		t.Logf("%s: %.1f %% of %d bytes reused", c.name, got, len(c.next))
		if got < c.want {
			t.Errorf("%s: got %.1f %% reused, want at least %.0f", c.name, got, c.want)
		}
	}
	if got := reused(t, old, safetensors(t, nil, layers(2))); got != 0 {
		t.Errorf("another model: got %.1f %% reused, want none", got)
	}
}

func TestSafetensorsBlocksStartAtTensors(t *testing.T) {
	base := layers(1)
	b := safetensors(t, nil, base)
	starts := map[int64]bool{}
	for _, k := range mustIndex(t, b).Blocks {
		starts[k.Offset] = true
	}
	at := int64(8 + binary.LittleEndian.Uint64(b))
	for _, name := range slices.Sorted(maps.Keys(base)) {
		if large := len(base[name]) >= smallTensor; starts[at] != large {
			t.Errorf("%s of %d bytes: starts a block: %v, want %v", name, len(base[name]), starts[at], large)
		}
		at += int64(len(base[name]))
	}
}

func TestHostileSafetensorsHeaderIsCutPlainly(t *testing.T) {
	file := func(header string, data int) []byte {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		return append(append(b, header...), make([]byte, data)...)
	}
	tensor := func(begin, end int64) string {
		return fmt.Sprintf(`{"w":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}}`, begin, end)
	}
	for name, b := range map[string][]byte{
		"length beyond the file":   binary.LittleEndian.AppendUint64(nil, 1<<20),
		"length beyond the limit":  append(binary.LittleEndian.AppendUint64(nil, 1<<62), "{}"...),
		"no JSON":                  file("hello, world", 10),
		"cut short":                file(tensor(0, 1)[:30], 10),
		"tensor outside the file":  file(tensor(1<<40, 1<<41), 100<<10),
		"offset that wraps":        file(tensor(-1, 5), 100<<10),
		"end before begin":         file(tensor(70<<10, 5), 100<<10),
		"one offset":               file(`{"w":{"data_offsets":[5]}}`, 100<<10),
		"deep":                     file(`{"w":`+strings.Repeat("[", 50000), 100<<10),
		"array instead of object":  file(`[1,2,3]`, 100<<10),
		"number instead of tensor": file(`{"w":5}`, 100<<10),
	} {
		if x := mustIndex(t, b); len(x.Blocks) != 1 || x.Blocks[0].Length != len(b) {
			t.Errorf("%s: got %d blocks, want one", name, len(x.Blocks))
		}
	}
}

func FuzzSafetensorsStarts(f *testing.F) {
	f.Add(safetensors(f, map[string]string{"a": "b"}, map[string][]byte{"x": make([]byte, smallTensor), "y": make([]byte, smallTensor+3)}))
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, '{', '}'})
	f.Add(append(binary.LittleEndian.AppendUint64(nil, 49), `{"w":{"dtype":"F16","data_offsets":[0,4294967296]}}`...))
	f.Fuzz(func(t *testing.T, b []byte) {
		last := int64(0)
		for _, s := range safetensorsStarts(bytes.NewReader(b), int64(len(b))) {
			if s <= last || s > int64(len(b)) {
				t.Fatalf("start %d after %d in %d bytes", s, last, len(b))
			}
			last = s
		}
	})
}

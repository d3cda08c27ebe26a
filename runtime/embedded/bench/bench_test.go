package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/bench"
)

// clock moves by a second at every look but the first: every test takes one second.
func clock() func() time.Time {
	now := time.Unix(0, 0)
	return func() time.Time {
		now = now.Add(time.Second)
		return now
	}
}

func TestRunMeasuresEveryCombination(t *testing.T) {
	var all []bench.Result
	err := bench.Run(t.Context(), bench.Options{
		Model: parts.Model(t, "mote-256-q4_k_m.gguf"), Prompt: []int{0, 16, 32}, Gen: []int{4}, Threads: []int{1, 2}, Repeat: 3, Now: clock(),
	}, func(r bench.Result) error {
		all = append(all, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range all {
		names = append(names, r.Test())
		if r.AvgTS != float64(r.Prompt+r.Gen) || r.StddevTS != 0 || len(r.SamplesNS) != 3 || r.AvgNS != 1e9 {
			t.Errorf("%s: %+v", r.Test(), r)
		}
	}
	if got := strings.Join(names, " "); got != "pp16 pp32 tg4 pp16 pp32 tg4" || all[0].Threads != 1 || all[3].Threads != 2 {
		t.Errorf("ran %s", got)
	}
	if r := all[0]; r.Type != "llama q4_k" || r.Parameters == 0 || r.Size == 0 || !strings.HasPrefix(r.Backend, "bothy ") {
		t.Errorf("the description is %+v", r)
	}
}

func TestRunRefuses(t *testing.T) {
	path := parts.Model(t, "mote-256-q4_k_m.gguf")
	none := func(bench.Result) error { return nil }
	for name, o := range map[string]bench.Options{
		"no file":          {Model: "/nowhere.gguf", Gen: []int{1}},
		"a negative count": {Model: path, Gen: []int{-1}},
		"a long prompt":    {Model: path, Prompt: []int{1 << 20}},
	} {
		if err := bench.Run(t.Context(), o, none); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := bench.Run(ctx, bench.Options{Model: path, Gen: []int{4}}, none); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestOutput(t *testing.T) {
	r := bench.Result{Model: "m.gguf", Type: "llama q8_0", Size: 3 << 20, Parameters: 1130000, Backend: "bothy avx2", Threads: 2, Gen: 128, AvgTS: 12.345, StddevTS: 0.5}
	var table bytes.Buffer
	row := bench.Markdown(&table)
	if err := errors.Join(row(r), row(r)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(table.String()), "\n")
	if len(lines) != 4 || !strings.Contains(lines[3], "tg128") || !strings.Contains(lines[3], "12.35 ± 0.50") || !strings.Contains(lines[1], "---:") {
		t.Errorf("the table is\n%s", table.String())
	}
	for _, results := range [][]bench.Result{nil, {r}} {
		var out bytes.Buffer
		if err := bench.JSON(&out, results); err != nil {
			t.Fatal(err)
		}
		var back []map[string]any
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back) != len(results) {
			t.Errorf("%d results became %s (%v)", len(results), out.String(), err)
		}
		if len(back) == 1 && (back[0]["avg_ts"] != 12.345 || back[0]["n_gen"] != 128.0) {
			t.Errorf("the result is %v", back[0])
		}
	}
}

// Package bench measures the embedded engine's speed the way llama-bench does:
// processing a prompt of p tokens, and generating n tokens one by one, each from
// an empty context, repeated, with the mean and the standard deviation of
// tokens per second. Options and output follow llama-bench, so that results can
// be laid side by side.
//
// Run loads the model itself, once for each number of threads. It may be called
// from anywhere; nothing is shared between calls.
package bench

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
)

// Options of a run; lists are multiplied with each other.
type Options struct {
	Model   string       // path of the GGUF file (-m)
	Prompt  []int        // lengths of prompts to process; 0: none (-p)
	Gen     []int        // numbers of tokens to generate; 0: none (-n)
	Threads []int        // (-t)
	Repeat  int          // how often each test runs after one to warm up (-r)
	Batch   int          // tokens computed in one step; 0: the engine's own (-b)
	Kernel  kernel.Level // "": the best this machine has
	Now     func() time.Time
}

// Result is one line of the table.
type Result struct {
	Model      string    `json:"model_filename"`
	Type       string    `json:"model_type"`
	Size       int64     `json:"model_size"` // bytes
	Parameters uint64    `json:"model_n_params"`
	Backend    string    `json:"backends"`
	Threads    int       `json:"n_threads"`
	Prompt     int       `json:"n_prompt"`
	Gen        int       `json:"n_gen"`
	AvgNS      int64     `json:"avg_ns"`
	AvgTS      float64   `json:"avg_ts"` // tokens per second
	StddevTS   float64   `json:"stddev_ts"`
	SamplesNS  []int64   `json:"samples_ns"`
	SamplesTS  []float64 `json:"samples_ts"`
}

// Test is the result's name as llama-bench writes it, for example "pp512".
func (r Result) Test() string {
	if r.Prompt > 0 {
		return fmt.Sprintf("pp%d", r.Prompt)
	}
	return fmt.Sprintf("tg%d", r.Gen)
}

func (o Options) filled() (Options, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(o.Threads) == 0 {
		o.Threads = []int{0}
	}
	o.Repeat = max(o.Repeat, 1)
	for _, list := range [][]int{o.Prompt, o.Gen, o.Threads} {
		for _, n := range list {
			if n < 0 {
				return o, fmt.Errorf("cannot measure %d of anything", n)
			}
		}
	}
	return o, nil
}

// Run measures and calls each with every result as it is there. When ctx ends
// it stops with the context's error.
func Run(ctx context.Context, o Options, each func(Result) error) error {
	o, err := o.filled()
	if err != nil {
		return err
	}
	f, err := gguf.Open(o.Model)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, threads := range o.Threads {
		if err := o.run(ctx, f, threads, each); err != nil {
			return err
		}
	}
	return nil
}

// run does all tests with one number of threads.
func (o Options) run(ctx context.Context, f *gguf.File, threads int, each func(Result) error) error {
	longest := 1
	for _, n := range append(append([]int(nil), o.Prompt...), o.Gen...) {
		longest = max(longest, n)
	}
	m, err := model.Load(f, model.Options{Threads: threads, Context: longest, Batch: o.Batch, Kernel: o.Kernel})
	if err != nil {
		return err
	}
	defer m.Close()
	c := m.Config()
	if longest > c.Context {
		return fmt.Errorf("cannot measure %d tokens: the model was trained for a context of %d", longest, c.Context)
	}
	base := Result{
		Model: filepath.Base(o.Model), Type: c.Architecture + " " + c.FileType, Size: f.Size,
		Parameters: c.Parameters, Backend: "bothy " + c.Kernel, Threads: c.Threads,
	}
	measure := func(prompt, gen int) error {
		r := base
		r.Prompt, r.Gen = prompt, gen
		if err := o.measure(ctx, m, &r); err != nil {
			return err
		}
		return each(r)
	}
	for _, n := range o.Prompt {
		if n > 0 {
			if err := measure(n, 0); err != nil {
				return err
			}
		}
	}
	for _, n := range o.Gen {
		if n > 0 {
			if err := measure(0, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure repeats one test; the first run only warms up.
func (o Options) measure(ctx context.Context, m *model.Model, r *Result) error {
	tokens := r.Prompt + r.Gen
	for i := range o.Repeat + 1 {
		m.Truncate(0, 0)
		start := o.Now()
		var err error
		if r.Prompt > 0 {
			err = prompt(ctx, m, r.Prompt)
		} else {
			err = generate(ctx, m, r.Gen)
		}
		if err != nil {
			return err
		}
		if took := max(o.Now().Sub(start), 1); i > 0 {
			r.SamplesNS = append(r.SamplesNS, took.Nanoseconds())
			r.SamplesTS = append(r.SamplesTS, float64(tokens)/took.Seconds())
		}
	}
	r.summarise()
	return nil
}

func prompt(ctx context.Context, m *model.Model, n int) error {
	in := make([]model.Input, n)
	for i := range in {
		in[i] = model.Input{Pos: i, Token: token(m, i), Logits: i == n-1}
	}
	_, err := m.Forward(ctx, in)
	return err
}

func generate(ctx context.Context, m *model.Model, n int) error {
	for i := range n {
		if _, err := m.Forward(ctx, []model.Input{{Pos: i, Token: token(m, i), Logits: true}}); err != nil {
			return err
		}
	}
	return nil
}

// token is some token; which one does not change the speed.
func token(m *model.Model, i int) int32 { return int32(i * 7919 % m.Config().Vocab) }

func (r *Result) summarise() {
	n := float64(len(r.SamplesTS))
	var ns, ts, square float64
	for i, v := range r.SamplesTS {
		ts += v / n
		ns += float64(r.SamplesNS[i]) / n
	}
	for _, v := range r.SamplesTS {
		square += (v - ts) * (v - ts)
	}
	r.AvgNS, r.AvgTS = int64(ns), ts
	if n > 1 {
		r.StddevTS = math.Sqrt(square / (n - 1))
	}
}

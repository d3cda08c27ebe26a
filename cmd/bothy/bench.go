package main

import (
	"errors"
	"fmt"
	goruntime "runtime"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/runtime/embedded/bench"
)

func engineBench() *cobra.Command {
	var o bench.Options
	var format string
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure the built-in engine's speed, as llama-bench does",
		Long: "Measure the built-in engine's speed in tokens per second: processing a prompt (pp) and\ngenerating (tg). Options and output are those of llama-bench.",
		Args: exactly(), Example: "  bothy engine bench -m model.gguf -p 128,512 -n 64 -t 1,2",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Model == "" {
				return usageError{errors.New("-m is missing: name a GGUF file")}
			}
			out := cmd.OutOrStdout()
			switch format {
			case "md":
				return bench.Run(cmd.Context(), o, bench.Markdown(out))
			case "json":
				var all []bench.Result
				if err := bench.Run(cmd.Context(), o, func(r bench.Result) error { all = append(all, r); return nil }); err != nil {
					return err
				}
				return bench.JSON(out, all)
			}
			return usageError{fmt.Errorf("cannot write -o %q: want md or json", format)}
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Model, "model", "m", "", "GGUF file")
	f.IntSliceVarP(&o.Prompt, "n-prompt", "p", []int{128}, "prompt lengths")
	f.IntSliceVarP(&o.Gen, "n-gen", "n", []int{64}, "numbers of tokens to generate")
	f.IntSliceVarP(&o.Threads, "threads", "t", []int{goruntime.NumCPU()}, "threads")
	f.IntVarP(&o.Repeat, "repetitions", "r", 5, "how often each test runs")
	f.IntVarP(&o.Batch, "batch-size", "b", 0, "tokens in one step (default: the engine's own)")
	f.StringVarP(&format, "output", "o", "md", "md or json")
	return cmd
}

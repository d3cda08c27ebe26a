package bench

import (
	"encoding/json"
	"fmt"
	"io"
)

// Markdown returns a function for Run that writes llama-bench's table to w.
func Markdown(w io.Writer) func(Result) error {
	head := true
	return func(r Result) error {
		if head {
			head = false
			if _, err := fmt.Fprintf(w, "| %-30s | %10s | %10s | %-18s | %7s | %12s | %20s |\n| %s | %s: | %s: | %s | %s: | %s: | %s: |\n",
				"model", "size", "params", "backend", "threads", "test", "t/s",
				dashes(30), dashes(9), dashes(9), dashes(18), dashes(6), dashes(11), dashes(19)); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, "| %-30s | %10s | %10s | %-18s | %7d | %12s | %20s |\n",
			r.Type, fmt.Sprintf("%.2f MiB", float64(r.Size)/(1<<20)), fmt.Sprintf("%.2f M", float64(r.Parameters)/1e6),
			r.Backend, r.Threads, r.Test(), fmt.Sprintf("%.2f ± %.2f", r.AvgTS, r.StddevTS))
		return err
	}
}

func dashes(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '-'
	}
	return string(b)
}

// JSON writes all results as one array, as llama-bench does.
func JSON(w io.Writer, results []Result) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if results == nil {
		results = []Result{}
	}
	if err := e.Encode(results); err != nil {
		return fmt.Errorf("cannot write results: %w", err)
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"

	"github.com/bothy-edge/bothy/agent"
)

// shownSpans is how many spans of one file a screen gets; --json has more.
const shownSpans = 20

// explainChange asks where the artifacts of a change came from, and prints it.
func (o *options) explainChange(ctx context.Context, w io.Writer, change string) error {
	var e agent.Explained
	if err := o.adminCall(ctx, "GET", "/v1/changes/"+url.PathEscape(change)+"/explain", nil, &e); err != nil {
		return err
	}
	if o.json {
		return printJSON(w, e)
	}
	return printExplained(w, e)
}

func printExplained(w io.Writer, e agent.Explained) error {
	for _, f := range e.Files {
		state := ""
		if f.State != "here" {
			state = ", " + f.State
		}
		fmt.Fprintf(w, "%s %s  %s  sha256:%.12s%s%s\n", f.Release, f.Path, sizeText(uint64(f.Size)), f.SHA256, state, sources(f.BySource))
		tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		for i, s := range f.Spans {
			if i == shownSpans {
				fmt.Fprintf(tw, "  and %d more; --json lists them\n", len(f.Spans)-i+f.More)
				break
			}
			source := s.Source
			if source == "" {
				source = "missing"
			}
			fmt.Fprintf(tw, "  %d-%d\t%s\t%s\n", s.Offset, s.Offset+s.Length-1, sizeText(uint64(s.Length)), source)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if len(e.Files) == 0 {
		_, err := fmt.Fprintf(w, "change %d wants no files\n", e.Change)
		return err
	}
	return nil
}

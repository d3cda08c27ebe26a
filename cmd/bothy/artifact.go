package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/updater"
)

func artifactCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "artifact", Short: "List the files of releases on this box, why they stay, and pin them",
		Long: "List the files of releases on this box and why they stay. What runs, what ran before\n" +
			"it, what a change needs and what is pinned stays; the rest is collected when a\nchange has ended and the fleet was heard.",
		Example: "  bothy artifact list",
	}
	drop := &cobra.Command{
		Use: "drop-previous", Short: "Give up the files of the set that ran before this one", Args: exactly(),
		Long:    "Give up the files of the set that ran before this one, to make room. It costs nothing\nthat runs: going back to that set fetches them again.",
		Example: "  bothy artifact drop-previous",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.adminCall(cmd.Context(), "POST", "/v1/artifacts/drop-previous", nil, nil)
		},
	}
	cmd.AddCommand(artifactList(o),
		artifactPin(o, "pin", "Keep a release's files, or one file, whatever runs"),
		artifactPin(o, "unpin", "Take a pin out; what nothing else keeps is collected"), drop)
	return cmd
}

func artifactList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List files with their sizes and why they stay", Args: exactly(), Example: "  bothy artifact list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := []updater.Artifact{}
			if err := o.adminCall(cmd.Context(), "GET", "/v1/artifacts", nil, &all); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return printArtifacts(cmd.OutOrStdout(), all)
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

func printArtifacts(w io.Writer, all []updater.Artifact) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "SHA256\tSIZE\tON DISK\tFILE\tRELEASES\tWHY")
	var taken, previous, loose int64
	for _, a := range all {
		why := strings.Join(a.Why, ", ")
		taken += a.Taken
		switch why {
		case "previous":
			previous += a.Taken
		case "":
			why, loose = "nothing: to be collected", loose+a.Taken
		}
		fmt.Fprintf(tw, "%.12s\t%s\t%s\t%s\t%s\t%s\n", a.SHA256, sizeText(uint64(a.Size)), sizeText(uint64(max(a.Taken, 0))), a.Path, strings.Join(a.Releases, " "), why)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s in all; %s only for the set before (bothy artifact drop-previous), %s to be collected\n",
		sizeText(uint64(taken)), sizeText(uint64(previous)), sizeText(uint64(loose)))
	return err
}

func artifactPin(o *options, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " RELEASE|SHA256", Short: short, Args: exactly("RELEASE|SHA256"), Example: "  bothy artifact " + verb + " mote@2",
		Long: short + ". Name the release, NAME@VERSION, or\nthe digest or its first digits (eight at least). Its files must lie on this box.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.adminCall(cmd.Context(), "POST", "/v1/artifacts/"+verb, agent.PinRequest{What: args[0]}, nil)
		},
	}
}

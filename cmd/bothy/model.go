package main

import (
	"fmt"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/runtime"
)

func modelCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "model", Short: "List and show models, and read what their engines wrote",
		Example: "  bothy model list",
	}
	cmd.AddCommand(modelList(o), modelShow(o), modelLogs(o))
	return cmd
}

func modelList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List models with their releases and states", Args: exactly(), Example: "  bothy model list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []runtime.AliasStatus
			if err := o.adminCall(cmd.Context(), "GET", "/v1/models", nil, &all); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(tw, "ALIAS\tRELEASE\tENGINE\tSTATE")
			for _, m := range all {
				release, engine := modelText(m)
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", m.Alias, release, engine, m.Phase)
			}
			return tw.Flush()
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

func modelText(m runtime.AliasStatus) (release, engine string) {
	if m.Spec == nil {
		return "", ""
	}
	return m.Spec.Release, engineText(*m.Spec)
}

// engineText names an engine, and the release that it comes from where it is not the box's own.
func engineText(s runtime.Spec) string {
	if r := s.EngineRelease(); r != "" {
		return s.Engine + " (" + r + ")"
	}
	return s.Engine
}

func modelShow(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ALIAS", Short: "Show one model and its generations", Args: exactly("ALIAS"), Example: "  bothy model show assistant",
		RunE: func(cmd *cobra.Command, args []string) error {
			var m runtime.AliasStatus
			if err := o.adminCall(cmd.Context(), "GET", "/v1/models/"+url.PathEscape(args[0]), nil, &m); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), m)
			}
			out := screen{tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)}
			printModels(out, []runtime.AliasStatus{m}, time.Now())
			if m.Spec != nil {
				out.line("settings", "context %s, slots %s, threads %s", orChosen(m.Spec.Context), orChosen(m.Spec.Slots), orChosen(m.Spec.Threads))
				for _, f := range m.Spec.Files {
					out.line("file", "%s", f)
				}
				for _, f := range append(m.Spec.Adapters, m.Spec.Projector) {
					if f != "" {
						out.line("with", "%s", f)
					}
				}
			}
			for _, l := range m.LastLines {
				out.line("engine", "%s", l)
			}
			return out.tw.Flush()
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

// orChosen writes a setting; 0 is left to the engine.
func orChosen(n int) string {
	if n == 0 {
		return "by the engine"
	}
	return strconv.Itoa(n)
}

func modelLogs(o *options) *cobra.Command {
	var n int
	cmd := &cobra.Command{
		Use: "logs ALIAS", Short: "Print the last lines that a model's engines wrote", Args: exactly("ALIAS"), Example: "  bothy model logs assistant -n 50",
		RunE: func(cmd *cobra.Command, args []string) error {
			var lines []runtime.Line
			if err := o.adminCall(cmd.Context(), "GET", fmt.Sprintf("/v1/logs/%s?n=%d", url.PathEscape(args[0]), n), nil, &lines); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), lines)
			}
			for _, l := range lines {
				fmt.Fprintf(cmd.OutOrStdout(), "%s %d %s\n", l.Time.Local().Format(time.DateTime), l.Generation, l.Text)
			}
			return nil
		},
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 100, "how many lines")
	jsonFlag(cmd, o)
	return cmd
}

package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
)

func doctorCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look for what is wrong on this box, and say what to type",
		Long: "Look at folders, sockets, disk, memory, clock, engine, GPU reader, kernel, enrolment,\nbroker and upstreams, and say what to type. Works with the agent down. Exits 1 when\nsomething critical was found.",
		Args: exactly(), Example: "  bothy doctor --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.loadConfig()
			if err != nil {
				return err
			}
			all := agent.Examine(cmd.Context(), c)
			critical := false
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for _, e := range all {
				critical = critical || e.Severity == agent.HealthCritical
				fmt.Fprintf(tw, "%s\t%s\t%s\n", e.Severity, e.Name, e.What)
				if e.Why != "" {
					fmt.Fprintf(tw, "\t\twhy: %s\n", e.Why)
				}
				if e.Hint != "" {
					fmt.Fprintf(tw, "\t\tdo:  %s\n", e.Hint)
				}
			}
			if o.json {
				err = printJSON(cmd.OutOrStdout(), all)
			} else {
				err = tw.Flush()
			}
			if err == nil && critical {
				return exitError(1)
			}
			return err
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

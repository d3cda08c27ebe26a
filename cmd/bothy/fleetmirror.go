package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
)

func fleetMirror() *cobra.Command {
	var o fleet.MirrorOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use: "mirror DIR --out FOLDER", Short: "Write what devices need, and no key, for a web server or a stick",
		Long: "Write what devices need, and no key, into a folder: for a web server that devices\nname as `mirror` in their configuration, or for a stick and `bothy update import`.\n" +
			"May be repeated: only what is new is written, each file appears whole, and what\nleads to the others last. Whoever reads the folder reads the models: let the web\nserver ask for a certificate of the fleet (docs/updates.md).",
		Example: "  bothy fleet mirror /srv/fleet --out /srv/www/fleet --prune",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			bar := newBar(cmd.ErrOrStderr(), "copying")
			o.Progress = bar.set
			did, err := f.Mirror(cmd.Context(), o)
			bar.done()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), did)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d devices, %d files written (%s), %d were there, %d artifacts removed\n",
				o.To, len(did.Devices), did.Written, sizeText(uint64(did.Bytes)), did.Kept, did.Removed)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.To, "out", "", "`FOLDER` to write to (required)")
	f.StringArrayVar(&o.Devices, "device", nil, "only what this device needs; may be given again")
	f.BoolVar(&o.Verify, "verify", false, "read artifacts that are there, and replace damaged ones")
	f.BoolVar(&o.Prune, "prune", false, "remove artifacts that no device needs any more")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	required(cmd, "out")
	return cmd
}

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func fleetRetire() *cobra.Command {
	var device string
	var audit, yes, asJSON bool
	cmd := &cobra.Command{
		Use: "retire DIR", Short: "Retire a device: it removes what it holds, then it is revoked",
		Long: "Retire a device that can be reached: its set is emptied, and a signed order makes it\nremove its models, policies and store, tell the fleet, and remove its identity. The\n" +
			"audit log stays there, unless --wipe-audit is given. Its certificates are revoked once\nit has told; its name is not given again. `bothy fleet serve` must run.\n\nThe director's root keys must be in the folder for this.\n\nFor a device that is lost or stolen: bothy fleet enroll revoke, which is immediate.",
		Example: "  bothy fleet retire /srv/fleet --device press-7",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &passphrases{})
			if err != nil {
				return err
			}
			if !yes {
				if err := confirmRetire(device); err != nil {
					return err
				}
			}
			o, err := f.OrderWipe(device, audit)
			if err != nil {
				return withHint{err, "bothy fleet enroll list " + args[0] + "; a device without a record is ended on the box, by removing its state folder"}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), o)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "order %d makes device %q remove what it holds; it waits until %s\n", o.Number, device, o.Expires.Local().Format(time.DateTime))
			fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: see what became of it with bothy fleet order %s --device %s --list; if it never answers: bothy fleet enroll revoke %s %s\n", args[0], device, args[0], device)
			return nil
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "name of the device (required)")
	cmd.Flags().BoolVar(&audit, "wipe-audit", false, "its audit log goes too")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(cmd, "device")
	return cmd
}

func confirmRetire(device string) error {
	tty, ok := openTerminal()
	if !ok {
		return withHint{errors.New("nobody is there to confirm"), "add --yes; it cannot be taken back"}
	}
	_ = tty.Close() // it is opened again to ask
	return confirm(fmt.Sprintf("Device %q will remove everything it holds.", device))
}

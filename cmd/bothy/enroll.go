package main

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/updater/trust"
)

func enrollCommand(o *options) *cobra.Command {
	var device string
	cmd := &cobra.Command{
		Use: "enroll TICKET", Short: "Make this box a device of a fleet",
		Long:    "Make this box a device of a fleet. TICKET is the file enroll.json that `bothy fleet\ninit` wrote; it holds the roots of trust, so bring it on a way that you trust, not\nover the broker. The device's key is made here and never leaves.",
		Example: "  bothy enroll /media/usb/enroll.json --device press-7",
		Args:    exactly("TICKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.loadConfig()
			if err != nil {
				return err
			}
			if err := ownState(c.State, os.Geteuid(), "bothy enroll "+args[0]+" --device "+device); err != nil {
				return err
			}
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("cannot read the ticket: %w", err)
			}
			ticket, err := trust.ParseTicket(raw)
			if err != nil {
				return withHint{err, "use the file enroll.json from the folder of the fleet"}
			}
			id, err := trust.Enroll(filepath.Join(c.State, agent.IdentityFolder), ticket, device)
			if err != nil {
				return folderHint(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "device %q of tenant %q is enrolled\ndevice key: %x\n", id.Device, id.Tenant, id.Key.Public().(ed25519.PublicKey))
			fmt.Fprintln(os.Stderr, "bothy: hint: restart the agent if it is running, then look at `bothy status`")
			return nil
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "name of this box in the fleet (required)")
	required(cmd, "device")
	return cmd
}

// ownState refuses to write into a state folder of somebody else. Root could, and the agent, which runs as the
// folder's owner, could not read its key then and would not start.
func ownState(state string, euid int, command string) error {
	info, err := os.Stat(state)
	if err != nil {
		return nil // made by this command, or refused where it writes
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == euid {
		return nil
	}
	name := strconv.Itoa(int(owner.Uid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return withHint{fmt.Errorf("cannot enrol: %s belongs to %s, who could not read the key", state, name), "sudo runuser -u " + name + " -- " + command}
}

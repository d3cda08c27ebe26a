package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/trust"
)

func fleetEnroll() *cobra.Command {
	cmd := &cobra.Command{
		Use: "enroll", Short: "Let boxes become devices: tokens, approval, revocation",
		Long: "Let boxes become devices. A token goes to the box out of band; `bothy enroll` there\nsends the box's public key; approved, the box gets its certificate and its name.\n" +
			"`bothy fleet serve` carries both over the broker; without one they travel as files.",
		Example: "  bothy fleet enroll token /srv/fleet --device press-7 --out press-7.json",
	}
	cmd.AddCommand(enrollToken(), enrollList(), enrollApprove(), enrollDeny(), enrollAuto(), enrollRevoke())
	return cmd
}

func enrollToken() *cobra.Command {
	var o fleet.TokenOptions
	var unnamed bool
	var out string
	cmd := &cobra.Command{
		Use: "token DIR", Short: "Make a one-time token with which one box can enrol",
		Long: "Make a token with which one box can enrol, once, until it expires. It holds a secret:\nbring it to the box on a way that you trust. With --approve the first key that comes\n" +
			"with it is approved at once; otherwise `bothy fleet enroll approve` decides.",
		Example: "  bothy fleet enroll token /srv/fleet --device press-7 --out press-7.json",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (o.Device == "") == !unnamed {
				return usageError{errors.New("say which device it is for: --device NAME, or --any to name it at the approval")}
			}
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			token, err := f.NewToken(o)
			if err != nil {
				return err
			}
			raw, err := token.Encode()
			if err != nil {
				return err
			}
			if out == "" {
				_, err = cmd.OutOrStdout().Write(raw)
				return err
			}
			if err := store.WriteFile(out, raw, 0o600); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "token %s, good until %s: %s\n", token.ID, token.Expiry.Local().Format(time.RFC3339), out)
			fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: on the box: bothy enroll %s\n", out)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Device, "device", "", "name that the box gets")
	fl.BoolVar(&unnamed, "any", false, "name it at the approval")
	fl.BoolVar(&o.Approve, "approve", false, "approve the first key that comes with it")
	fl.DurationVar(&o.Life, "ttl", 24*time.Hour, "how long it is good for")
	fl.StringVar(&out, "out", "", "`FILE` to write, mode 0600 (default: standard output)")
	return cmd
}

func enrollList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list DIR", Short: "Show tokens, and the boxes that wait for approval",
		Example: "  bothy fleet enroll list /srv/fleet", Args: exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			all, err := f.Enrolments()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TOKEN\tSTATE\tDEVICE\tKEY\tEXPIRES\tNOTE")
			for _, e := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Token, e.State, cmp.Or(e.Device, "-"), cmp.Or(e.Key, "-"), humanize.Time(e.Expires), e.Reason)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// enrolmentOf finds a token in one of the states by its id, or by the name of its device.
func enrolmentOf(f *fleet.Fleet, dir, who string, states ...string) (string, error) {
	if enrolment.CheckTokenID(who) == nil {
		return who, nil
	}
	all, err := f.Enrolments()
	if err != nil {
		return "", err
	}
	all = slices.DeleteFunc(all, func(e fleet.Enrolment) bool { return e.Device != who })
	fits := slices.DeleteFunc(slices.Clone(all), func(e fleet.Enrolment) bool { return !slices.Contains(states, e.State) })
	if len(fits) == 1 {
		return fits[0].Token, nil
	}
	err = fmt.Errorf("cannot choose an enrolment: there is no token for %q", who)
	switch {
	case len(fits) > 1:
		err = fmt.Errorf("cannot choose an enrolment: %d boxes want the name %q; name the token", len(fits), who)
	case len(all) > 0:
		err = fmt.Errorf("cannot choose an enrolment: no box waits for the name %q; its token is %s", who, all[len(all)-1].State)
	}
	return "", withHint{err, "bothy fleet enroll list " + dir}
}

type approval struct {
	device, request, out string
	replace              bool
}

func enrollApprove() *cobra.Command {
	var a approval
	cmd := &cobra.Command{
		Use: "approve DIR [TOKEN|DEVICE]", Short: "Make a waiting box a device",
		Long: "Make a waiting box a device. Compare the key that `enroll list` shows with the one on\nthe box first. With --csr the request comes from a file of `bothy enroll --csr-out`,\n" +
			"and --out takes the answer for `bothy enroll --answer`.",
		Example: "  bothy fleet enroll approve /srv/fleet press-7\n  bothy fleet enroll approve /srv/fleet --csr press-7.csr --out press-7.answer",
		Args: func(_ *cobra.Command, args []string) error {
			if a.request == "" {
				return exactly("DIR", "TOKEN or DEVICE")(nil, args)
			}
			return exactly("DIR")(nil, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			token, err := a.token(f, args)
			if err != nil {
				return err
			}
			d, err := f.Approve(token, a.device, a.replace)
			if errors.Is(err, fleet.ErrInUse) && !a.replace {
				return withHint{err, "if that box was made anew, add --replace: the certificate it had is revoked"}
			}
			if err != nil {
				return err
			}
			if err := a.answer(cmd, f, token); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "device %q is enrolled with the key %s\n", d.Device, enrolment.Fingerprint(d.PublicKey))
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&a.device, "device", "", "name that the box gets, where the token names none")
	fl.BoolVar(&a.replace, "replace", false, "take the name from the device that has it: the box was made anew")
	fl.StringVar(&a.request, "csr", "", "`FILE` with the box's request")
	fl.StringVar(&a.out, "out", "", "`FILE` to write the answer to")
	return cmd
}

// token is the one that is meant; a request from a file is taken in first.
func (a approval) token(f *fleet.Fleet, args []string) (string, error) {
	if a.request == "" {
		return enrolmentOf(f, args[0], args[1], string(fleet.DevicePending))
	}
	raw, err := os.ReadFile(a.request)
	if err != nil {
		return "", fmt.Errorf("cannot read the request: %w", err)
	}
	if _, err := f.Enrol(raw); err != nil {
		return "", err
	}
	return enrolment.TokenOf(raw)
}

// answer hands over the answer where it does not go over the broker.
func (a approval) answer(cmd *cobra.Command, f *fleet.Fleet, token string) error {
	if a.request == "" && a.out == "" {
		return nil
	}
	raw, err := f.Answer(token)
	if err != nil {
		return err
	}
	if a.out == "" {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), string(raw))
		return err
	}
	return store.WriteFile(a.out, append(raw, '\n'), 0o644)
}

func enrollDeny() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "deny DIR TOKEN|DEVICE", Short: "Use a token up without making a device",
		Example: "  bothy fleet enroll deny /srv/fleet press-7 --reason 'the key is not the one on the box'",
		Args:    exactly("DIR", "TOKEN or DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			token, err := enrolmentOf(f, args[0], args[1], string(fleet.DevicePending), "open")
			if err != nil {
				return err
			}
			if err := f.Deny(token, reason); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "token %s is denied\n", token)
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "an operator denied it", "what the box is told")
	return cmd
}

func enrollAuto() *cobra.Command {
	return &cobra.Command{
		Use: "auto DIR on|off", Short: "Approve boxes whose token names them without being asked",
		Long:    "Approve boxes whose token names them without being asked, at most 60 a minute. A name\nthat another device has still waits for a person.",
		Example: "  bothy fleet enroll auto /srv/fleet on", Args: exactly("DIR", "on or off"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] != "on" && args[1] != "off" {
				return usageError{fmt.Errorf("cannot read %q: want on or off", args[1])}
			}
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			if err := f.SetAutoApproval(args[1] == "on"); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "automatic approval of tokens that name their device is %s\n", args[1])
			return err
		},
	}
}

func enrollRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke DIR DEVICE", Short: "End a device: its certificates, its set and its name",
		Long:    "End a device: its certificates are revoked (ca/crl.pem), its set is emptied, and its\nname is not given again. The embedded broker drops it at once; another one must read\nthe new list: bothy fleet acl, then reload it.",
		Example: "  bothy fleet enroll revoke /srv/fleet press-7", Args: exactly("DIR", "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &passphrases{})
			if err != nil {
				return err
			}
			d, err := f.Retire(args[1])
			if errors.Is(err, trust.ErrNotFound) {
				return withHint{err, "bothy fleet status " + args[0]}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "device %q is retired, revoked: %s\n", d.Device, counted(len(d.Issued), "certificate"))
			return err
		},
	}
}

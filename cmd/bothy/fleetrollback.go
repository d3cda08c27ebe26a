package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
)

func fleetRollback() *cobra.Command {
	var names, releases []string
	var all, dryRun, asJSON bool
	var back fleet.Back
	cmd := &cobra.Command{
		Use: "rollback DIR", Short: "Let devices run again what they ran before",
		Long: "Sign a newer want that carries older releases: those of the set before, of an earlier\nwant (--to), or the named ones (--release, --policy). Devices refuse older releases\n" +
			"otherwise. A policy older than one that a device had allows no cloud there: to open\nit again, add the text as a new version. What is not in the catalog any more is refused.",
		Example: "  bothy fleet rollback /srv/fleet --device 'press-*' --dry-run",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(names) > 0) {
				return usageError{errors.New("name either --device or --all")}
			}
			if back.To != 0 && (all || !one(names)) {
				return usageError{errors.New("--to is for one device: every device counts its wants by itself")}
			}
			var err error
			if back.Models, err = aliases(releases); err != nil {
				return err
			}
			f, err := openFleet(args[0], &passphrases{})
			if err != nil {
				return err
			}
			if names, err = devicesNamed(f, names); err != nil {
				return err
			}
			back.DryRun = dryRun
			return rollBack(cmd.OutOrStdout(), cmd.ErrOrStderr(), f, names, back, asJSON)
		},
	}
	cmd.Flags().StringArrayVar(&names, "device", nil, "`DEVICE` or pattern; may be repeated")
	cmd.Flags().BoolVar(&all, "all", false, "every device")
	cmd.Flags().Uint64Var(&back.To, "to", 0, "the set of the want with this `COUNTER`")
	cmd.Flags().StringArrayVar(&releases, "release", nil, "`ALIAS=NAME@VERSION` instead; may be repeated")
	cmd.Flags().StringVar(&back.Policy, "policy", "", "policy release, `NAME@VERSION`, instead")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change, sign nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// rollBack does each device by itself: one that cannot go back keeps no other from it.
func rollBack(out, talk io.Writer, f *fleet.Fleet, devices []string, back fleet.Back, asJSON bool) error {
	done := []fleet.RolledBack{}
	var failed error
	for _, device := range devices {
		r, err := f.Rollback(device, back)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		done = append(done, r)
		if !asJSON {
			tellRollback(out, talk, r)
		}
	}
	if asJSON {
		failed = errors.Join(failed, printJSON(out, done))
	}
	return failed
}

func tellRollback(out, talk io.Writer, r fleet.RolledBack) {
	verb := "would be"
	if r.Signed {
		verb = "is"
	}
	of := ""
	if r.To != 0 {
		of = fmt.Sprintf(", with the set of want %d", r.To)
	}
	fmt.Fprintf(out, "want %d of device %q %s signed%s: %s\n", r.Counter, r.Device, verb, of, strings.Join(r.Changes, ", "))
	if r.Local {
		fmt.Fprintf(talk, "bothy: hint: the policy is older than one that device %q had: nothing leaves that box until a newer one is assigned (bothy fleet add --policy)\n", r.Device)
	}
}

// aliases reads ALIAS=RELEASE arguments.
func aliases(args []string) (map[string]string, error) {
	models := map[string]string{}
	for _, a := range args {
		alias, id, ok := strings.Cut(a, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("cannot read %q: write it as alias=name@version", a)}
		}
		models[alias] = id
	}
	return models, nil
}

// devicesNamed puts the names of devices for patterns; nothing is all that have a
// set. A plain name may be one that the fleet does not know yet.
func devicesNamed(f *fleet.Fleet, names []string) ([]string, error) {
	var patterns, plain []string
	for _, n := range names {
		if one([]string{n}) {
			plain = append(plain, n)
		} else {
			patterns = append(patterns, n)
		}
	}
	if len(patterns) == 0 && len(plain) > 0 {
		return plain, nil
	}
	known, err := f.Known()
	if err != nil {
		return nil, err
	}
	matched, err := fleet.Match(known, patterns)
	if err != nil {
		return nil, withHint{err, "bothy fleet status DIR, which lists all of them"}
	}
	for _, m := range matched {
		if !slices.Contains(plain, m) {
			plain = append(plain, m)
		}
	}
	return plain, nil
}

// assignTo changes the sets of devices, each by itself. One that is named alone is
// answered by itself, as JSON too.
func assignTo(out io.Writer, f *fleet.Fleet, names []string, c fleet.Change, asJSON bool) error {
	devices, err := devicesNamed(f, names)
	if err != nil {
		return err
	}
	signed := []release.Assignment{}
	var failed error
	for _, device := range devices {
		got, err := f.AssignChange(device, c)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		signed = append(signed, got)
		if !asJSON {
			fmt.Fprintf(out, "want %d of device %q is signed\n", got.Counter, device)
		}
	}
	switch {
	case !asJSON:
		return failed
	case !one(names):
		return errors.Join(failed, printJSON(out, signed))
	case failed != nil:
		return failed
	}
	return printJSON(out, signed[0])
}

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/depot"
	"github.com/bothy-edge/bothy/updater/release"
)

// orderLook is how often --wait looks for answers in the folder.
const orderLook = 250 * time.Millisecond

func fleetOrder() *cobra.Command {
	var devices, pairs []string
	var all, list, asJSON bool
	var life, wait time.Duration
	cmd := &cobra.Command{
		Use: "order DIR (pause|resume|cancel|recheck|report|collect-logs)", Short: "Give devices a signed order, or list the orders",
		Long: "Sign an order to devices. The depot (bothy fleet serve) sends it until the device\n" +
			"answers or it expires; a device carries out each order at most once.\n\n" +
			"  pause, resume   stop a change that has not begun to switch, and let it go on\n  cancel          end the change that is under way\n" +
			"  recheck         look for a new want now\n  report          send the state now\n" +
			"  collect-logs    send the agent's last log lines (--arg lines=2000) to DIR/logs/;\n                  no prompts, no keys, nothing of the engines' logs",
		Example: "  bothy fleet order /srv/fleet --device 'press-*' pause\n  bothy fleet order /srv/fleet --all collect-logs --wait 2m\n  bothy fleet order /srv/fleet --list",
		Args: func(_ *cobra.Command, args []string) error {
			if list {
				return exactly("DIR")(nil, args)
			}
			return exactly("DIR", "ORDER")(nil, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &passphrases{})
			if err != nil {
				return err
			}
			if all == (len(devices) > 0) && !(list && !all) {
				return usageError{fmt.Errorf("name the devices with either --device or --all")}
			}
			if all || len(devices) == 0 {
				devices, err = f.Devices()
			} else {
				devices, err = devicesNamed(f, devices)
			}
			if err != nil {
				return err
			}
			if all && !list {
				if devices, err = withoutRetired(f, devices); err != nil {
					return err
				}
			}
			if list {
				return listOrders(cmd.OutOrStdout(), f, devices, asJSON)
			}
			given, err := giveOrder(f, args[1], pairs, life, devices)
			if len(given) == 0 && err != nil {
				return err
			}
			if err == nil && wait > 0 {
				given, err = awaitAnswers(cmd.Context(), f, given, wait)
			}
			if printErr := printOrders(cmd.OutOrStdout(), given, asJSON); err == nil {
				err = printErr
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&devices, "device", nil, "`DEVICE` or pattern; may be repeated")
	fl.BoolVar(&all, "all", false, "every device that has a set and is not retired")
	fl.DurationVar(&life, "expires", time.Hour, "how long the order holds")
	fl.StringArrayVar(&pairs, "arg", nil, "argument as name=value; may be given again")
	fl.DurationVar(&wait, "wait", 0, "wait so long for the answers")
	fl.BoolVar(&list, "list", false, "list orders and answers")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// withoutRetired leaves out the devices that can answer nobody any more.
func withoutRetired(f *fleet.Fleet, devices []string) ([]string, error) {
	retired, err := f.Retired()
	return slices.DeleteFunc(devices, func(d string) bool {
		_, is := retired[d]
		return is
	}), err
}

func giveOrder(f *fleet.Fleet, word string, pairs []string, life time.Duration, devices []string) ([]fleet.OrderRecord, error) {
	kind := release.OrderKind(word)
	known := []release.OrderKind{release.OrderPause, release.OrderResume, release.OrderCancel, release.OrderRecheck, release.OrderReport, release.OrderLogs}
	if !slices.Contains(known, kind) {
		return nil, usageError{fmt.Errorf("there is no order %q; want one of %v", word, known)}
	}
	args := map[string]string{}
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("cannot read --arg %q: write it as name=value", p)}
		}
		args[name] = value
	}
	if len(devices) == 0 {
		return nil, withHint{fmt.Errorf("cannot order %s: no device has a set", word), "bothy fleet assign " + f.Dir() + " --device NAME ALIAS=RELEASE"}
	}
	return f.Order(kind, args, life, devices...)
}

// awaitAnswers looks at the folder until every order is answered or time is up.
func awaitAnswers(ctx context.Context, f *fleet.Fleet, given []fleet.OrderRecord, wait time.Duration) ([]fleet.OrderRecord, error) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	look := time.NewTicker(orderLook)
	defer look.Stop()
	for {
		open := 0
		for i, g := range given {
			now, err := f.Orders(g.Device)
			if err != nil {
				return given, err
			}
			if at := slices.IndexFunc(now, func(r fleet.OrderRecord) bool { return r.Number == g.Number }); at >= 0 {
				given[i] = now[at]
			}
			if r := given[i]; r.Outcome == "" || r.Outcome == "done" && r.Kind == release.OrderLogs && r.Logs == "" {
				open++
			}
		}
		if open == 0 {
			return given, nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return given, ctx.Err()
		case <-limit.C:
			return given, withHint{fmt.Errorf("%d of %d orders are not answered within %s", open, len(given), wait), "is the depot running (bothy fleet serve), and the device online and enrolled? See: bothy fleet order " + f.Dir() + " --list"}
		}
	}
}

func listOrders(out io.Writer, f *fleet.Fleet, devices []string, asJSON bool) error {
	records := []fleet.OrderRecord{}
	for _, d := range devices {
		all, err := f.Orders(d)
		if err != nil {
			return err
		}
		records = append(records, all...)
	}
	return printOrders(out, records, asJSON)
}

func printOrders(out io.Writer, records []fleet.OrderRecord, asJSON bool) error {
	if asJSON {
		return printJSON(out, records)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tORDER\tKIND\tEXPIRES\tANSWER")
	for _, r := range records {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", r.Device, r.Number, r.Kind, r.Expires.Format(time.RFC3339), answerText(r))
	}
	return w.Flush()
}

func answerText(r fleet.OrderRecord) string {
	switch {
	case r.Outcome != "":
		text := string(r.Outcome)
		for _, more := range []string{r.Code, r.Detail, r.Logs} {
			if more != "" {
				text += ": " + more
			}
		}
		return text
	case r.Taken:
		return "taken"
	case time.Now().After(r.Expires):
		return "expired"
	}
	return "waiting"
}

// takeReports keeps what devices report about orders, beside what the inventory keeps; take may be nil.
func takeReports(f *fleet.Fleet, take func(depot.Report), log *slog.Logger) func(depot.Report) {
	return func(r depot.Report) {
		if take != nil {
			take(r)
		}
		if err := f.OrderReport(r.Device, r.Kind, r.Payload); err != nil {
			log.Debug("report about orders not kept", "device", r.Device, "error", err)
		}
	}
}

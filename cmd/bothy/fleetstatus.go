package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/inventory"
	"github.com/bothy-edge/bothy/updater/report"
)

// fleetShown is what `fleet status --json` prints.
type fleetShown struct {
	Fleet   fleetCounts       `json:"fleet"`
	Devices []inventory.View  `json:"devices"`
	Events  []inventory.Event `json:"events,omitempty"` // of one device
}

// eventsShown is how many events the page of one device shows.
const eventsShown = 10

// eventWidth bounds the line of one event.
const eventWidth = 160

func fleetStatus() *cobra.Command {
	var names []string
	var asJSON, acknowledge bool
	cmd := &cobra.Command{
		Use: "status DIR", Short: "Show what the devices of a fleet run, shall run, and suffer from",
		Long: "Show what the devices of a fleet run, what they shall run and what is wrong with\nthem, the worst first, from what `bothy fleet serve` has heard of them. SIGNED says\n" +
			"whether the device's registered key vouches for it. With one --device: all of it,\nand its last events. Exits 1 when something is critical.",
		Example: "  bothy fleet status /srv/fleet --device 'press-*'",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			if acknowledge {
				return acknowledgeDevices(cmd.OutOrStdout(), f, names)
			}
			s, err := shownFleet(f, names)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), s)
			} else {
				err = s.print(cmd.OutOrStdout(), time.Now())
			}
			if err == nil && s.Fleet.Critical > 0 {
				err = exitError(1)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&names, "device", nil, "only this `DEVICE`, or those that match a pattern; may be repeated")
	cmd.Flags().BoolVar(&acknowledge, "acknowledge", false, "end the alarms of the named devices that do not end by themselves")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// acknowledgeDevices takes names only: whoever says that he has seen an alarm says of which device.
func acknowledgeDevices(out io.Writer, f *fleet.Fleet, names []string) error {
	if len(names) == 0 {
		return usageError{fmt.Errorf("--device is missing: name those whose alarms you have seen")}
	}
	for _, name := range names {
		if err := inventory.Acknowledge(f, name); err != nil {
			return err
		}
		fmt.Fprintf(out, "alarms of device %q until now are acknowledged\n", name)
	}
	return nil
}

func shownFleet(f *fleet.Fleet, names []string) (fleetShown, error) {
	all, err := inventory.OpenBoard(f).Devices()
	if err != nil {
		return fleetShown{}, err
	}
	if all, err = pick(all, names); err != nil {
		return fleetShown{}, err
	}
	s := fleetShown{Fleet: countDevices(all), Devices: all}
	if one(names) {
		s.Events, err = inventory.Events(f, names[0], eventsShown)
	}
	return s, err
}

// one says that a device itself is named, and no pattern.
func one(names []string) bool { return len(names) == 1 && !strings.ContainsAny(names[0], `*?[\`) }

// pick keeps the devices that a pattern names, in their order.
func pick(all []inventory.View, patterns []string) ([]inventory.View, error) {
	var known []string
	for _, v := range all {
		known = append(known, v.Device)
	}
	picked, err := fleet.Match(known, patterns)
	if err != nil {
		return nil, withHint{err, "bothy fleet status DIR, which lists all of them"}
	}
	kept := []inventory.View{}
	for _, v := range all {
		if slices.Contains(picked, v.Device) {
			kept = append(kept, v)
		}
	}
	return kept, nil
}

func (s fleetShown) print(out io.Writer, now time.Time) error {
	if s.Events != nil || len(s.Devices) == 1 {
		return printDevice(out, s.Devices[0], s.Events, now)
	}
	width := 0
	if file, ok := out.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		if w, _, err := term.GetSize(int(file.Fd())); err == nil {
			width = w
		}
	}
	for _, line := range deviceTable(s.Devices, now, width, 0) {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

// printDevice is the page of one device.
func printDevice(w io.Writer, v inventory.View, events []inventory.Event, now time.Time) error {
	out := screen{tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)}
	record := string(v.Record)
	if record == "" {
		record = "no record"
	}
	out.line(v.Device, "health %s, %s, online %s, signed by its key: %s", v.Health, record, yesNo(v.Online), yesNo(v.Verified))
	out.line("want", "%s", wantText(v))
	if s := v.State; s != nil {
		out.line("runs", "%s", runsText(*s))
		out.line("change", "%s", changeLine(s.Change))
		out.line("agent", "%s, started %s, report %d, seen %s ago", s.Agent, time.Unix(int64(s.Epoch), 0).Local().Format(time.DateTime), s.Seq, span(max(0, now.Sub(v.Seen))))
		out.line("metadata", "catalog %d, director %d, want %d", s.Catalog.Snapshot, s.Director.Targets, s.Counter)
		out.line("audit", "%s", auditText(s.Audit))
		if !s.Certificate.IsZero() {
			out.line("certificate", "until %s", s.Certificate.Format(time.DateOnly))
		}
		out.line("machine", "%s", machineText(s.Capacity))
	}
	for _, e := range events {
		out.line(e.Came.Local().Format(time.DateTime), "%s", eventText(e))
	}
	if err := out.tw.Flush(); err != nil {
		return err
	}
	for _, f := range v.Findings {
		since := ""
		if !f.Since.IsZero() {
			since = ", since " + f.Since.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "\n%s: %s%s\n  %s\n", f.Severity, f.ID, since, f.What)
	}
	return nil
}

// auditText is the end of the audit log, for people.
func auditText(h report.Head) string {
	if h.Seq == 0 && h.Hash == "" {
		return "no records"
	}
	return h.String()
}

// eventText is one event for people. The body is the device's own word: what would move a cursor is taken out.
func eventText(e inventory.Event) string {
	var b struct {
		Change                      uint64
		State, Summary, Code, Error string
		Number                      uint64
		Kind, Outcome, Detail       string
		Part, Parts                 int
	}
	text := e.Kind + " " + string(e.Body)
	if err := json.Unmarshal(e.Body, &b); err == nil {
		switch {
		case e.Kind == "change" && b.State != "":
			text = fmt.Sprintf("change %d %s", b.Change, joined(b.State, b.Summary, b.Code, b.Error))
		case e.Kind == "order" && b.Outcome != "":
			text = fmt.Sprintf("order %d %s", b.Number, joined(b.Kind, b.Outcome, b.Detail))
		case e.Kind == "logs":
			text = fmt.Sprintf("logs for order %d, part %d of %d", b.Number, b.Part+1, b.Parts)
		}
	}
	return shortened(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text), eventWidth)
}

// joined puts what there is behind one another.
func joined(words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), ": ")
}

func changeLine(c *report.Change) string {
	if c == nil {
		return "none"
	}
	text := fmt.Sprintf("%d %s", c.ID, changeText(c))
	for _, more := range []string{c.Summary, c.Error} {
		if more != "" {
			text += ": " + more
		}
	}
	return text
}

func machineText(c report.Capacity) string {
	text := fmt.Sprintf("%d cores, memory %s free of %s, disk %s free of %s", c.Cores, sizeText(c.MemoryAvailable), sizeText(c.MemoryTotal), sizeText(c.DiskFree), sizeText(c.DiskTotal))
	if c.GPUs > 0 {
		text += fmt.Sprintf(", %d %s with %s used of %s", c.GPUs, c.GPU, sizeText(c.GPUUsed), sizeText(c.GPUTotal))
	}
	return text
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/updater"
)

func changeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "change", Short: "List, show and wait for changes of what this box runs",
		Long:    "A change is one journaled intention: what the fleet wants, how far it is, how it\nended. A change that cannot be completed is undone.",
		Example: "  bothy change list",
	}
	cmd.AddCommand(changeList(o), changeShow(o), changeWait(o),
		changeOrder(o, "approve", "Agree to a change that the fleet wants approved"),
		changeOrder(o, "start", "Let a change fetch and switch now, outside its window"),
		changeOrder(o, "cancel", "End a change; one that has begun to switch is undone"),
		changeOrder(o, "pause", "Hold a change that has not begun to switch; what was fetched stays"),
		changeOrder(o, "resume", "Let a paused change go on now"))
	return cmd
}

func changeList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List changes, the newest first", Args: exactly(), Example: "  bothy change list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []updater.Change
			if err := o.adminCall(cmd.Context(), "GET", "/v1/changes", nil, &all); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(tw, "ID\tSTATE\tUPDATED\tWHAT")
			for _, c := range all {
				fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", c.ID, c.State, c.Updated.Local().Format(time.DateTime), about(c))
			}
			return tw.Flush()
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

// about is a change on one line. An error that begins with the subject is not told twice.
func about(c updater.Change) string {
	switch {
	case strings.HasPrefix(c.Error, c.Summary):
		return c.Error
	case c.Error != "":
		return c.Summary + ": " + c.Error
	}
	return c.Summary
}

func changeShow(o *options) *cobra.Command {
	var explain bool
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one change with its tasks and history",
		Long: "Show one change with its tasks and history. With --explain: where each part of its\nfiles came from: another file on the disk, a folder, a peer, a mirror, the broker.",
		Args: exactly("ID"), Example: "  bothy change show 4",
		RunE: func(cmd *cobra.Command, args []string) error {
			if explain {
				return o.explainChange(cmd.Context(), cmd.OutOrStdout(), args[0])
			}
			var c updater.Change
			if err := o.adminCall(cmd.Context(), "GET", "/v1/changes/"+url.PathEscape(args[0]), nil, &c); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), c)
			}
			return printChange(cmd.OutOrStdout(), c)
		},
	}
	cmd.Flags().BoolVar(&explain, "explain", false, "show where each part of its files came from")
	jsonFlag(cmd, o)
	return cmd
}

func printChange(w io.Writer, c updater.Change) error {
	out := screen{tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)}
	out.line(fmt.Sprintf("change %d", c.ID), "%s: %s", c.State, c.Summary)
	if c.Reason != "" {
		out.line("reason", "%s", c.Reason)
	}
	if !c.Approved.IsZero() {
		out.line("approved", "%s", c.Approved.Local().Format(time.DateTime))
	}
	if w := c.Want.Window; w != nil {
		out.line("window", "%s", windowText(*w, c.Anytime))
	}
	if c.From != "" {
		out.line("from", "%s", c.From)
	}
	if c.Error != "" {
		out.line("error", "%s (%s)", c.Error, c.Code)
	}
	if c.Progress.Total > 0 {
		out.line("files", "%s of %s%s%s", sizeText(uint64(c.Progress.Done)), sizeText(uint64(c.Progress.Total)), sources(c.Progress.BySource), slowed(c))
	}
	for _, t := range c.Tasks {
		text := strings.TrimSpace(t.Name + " " + t.Alias)
		if t.Generation != 0 {
			text += fmt.Sprintf(", generation %d", t.Generation)
		}
		if t.Error != "" {
			text += ": " + t.Error
		}
		out.line("task", "%s: %s", text, t.State)
	}
	for _, h := range c.History {
		text := string(h.State)
		if h.Reason != "" {
			text += " (" + h.Reason + ")"
		}
		if h.Error != "" {
			text += ": " + h.Error
		}
		out.line(h.At.Local().Format(time.DateTime), "%s", text)
	}
	return out.tw.Flush()
}

// sources says how much came from where: ", 1.2 MiB from depot".
func sources(by map[string]int64) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(&text, ", %s from %s", sizeText(uint64(by[name])), name)
	}
	return text.String()
}

func changeWait(o *options) *cobra.Command {
	var after, counter uint64
	var limit time.Duration
	var anyEnd bool
	cmd := &cobra.Command{
		Use: "wait [ID]", Short: "Wait until a change has ended; exit 0 when it was committed",
		Long:    "Wait until a change has ended: the one with the number ID, the next one --after a\nnumber, or the one that carries the want --counter. Exits 1 unless it was committed.",
		Example: "  bothy change wait --counter 7 --timeout 10m",
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		given := len(args)
		for _, name := range []string{"after", "counter"} {
			if cmd.Flags().Changed(name) {
				given++
			}
		}
		if given != 1 {
			return usageError{errors.New("name one change: ID, --after or --counter")}
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := "/v1/wait?counter=" + strconv.FormatUint(counter, 10)
		if len(args) == 1 {
			path = "/v1/changes/" + url.PathEscape(args[0]) + "/wait"
		} else if cmd.Flags().Changed("after") {
			path = "/v1/wait?after=" + strconv.FormatUint(after, 10)
		}
		ctx, cancel := withTimeout(cmd.Context(), limit)
		defer cancel()
		if err := o.awaitAgent(ctx); err != nil {
			return err
		}
		var c updater.Change
		if err := o.adminWait(ctx, cmd.ErrOrStderr(), path, &c); err != nil {
			return err
		}
		return changeEnd(cmd.OutOrStdout(), c, o.json, anyEnd)
	}
	f := cmd.Flags()
	f.Uint64Var(&after, "after", 0, "wait for the next change after this number")
	f.Uint64Var(&counter, "counter", 0, "wait for the change that carries this want, or a newer one")
	f.DurationVar(&limit, "timeout", 0, "give up after this long")
	f.BoolVar(&anyEnd, "any", false, "exit 0 however the change ended")
	jsonFlag(cmd, o)
	return cmd
}

// adminWait calls a route that answers late, and says on talk meanwhile what the newest change does.
func (o *options) adminWait(ctx context.Context, talk io.Writer, path string, c *updater.Change) error {
	done := make(chan struct{})
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		o.narrate(ctx, talk, done)
	}()
	err := o.adminCall(ctx, "GET", path, nil, c)
	close(done)
	<-shown
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return withHint{errors.New("the change has not ended in time; it goes on"), "bothy change list"}
	}
	return err
}

// narrate writes the states of the change in progress and, at a terminal, moves a bar while files come.
func (o *options) narrate(ctx context.Context, talk io.Writer, done <-chan struct{}) {
	b := newBar(talk, "update")
	defer b.done()
	said := ""
	for {
		select {
		case <-done:
			return
		case <-time.After(300 * time.Millisecond):
		}
		var s agent.Status
		if o.adminCall(ctx, "GET", "/v1/status", nil, &s) != nil {
			continue
		}
		u := s.Update
		b.set(u.Done, u.Total)
		if line := fmt.Sprintf("change %d: %s", u.Change, doing(u)); line != said && !updater.State(u.State).Ended() && u.Change != 0 {
			said = line
			fmt.Fprintln(talk, line)
		}
	}
}

// doing is a state for people who wait for its end.
func doing(u agent.UpdateStatus) string {
	switch updater.State(u.State) {
	case updater.Watch:
		return "serving; on probation until the watch ends"
	case updater.Paused, updater.Waiting:
		if u.Reason == "approval" {
			return fmt.Sprintf("waiting for approval: bothy change approve %d", u.Change)
		}
		if u.Error != "" {
			return u.State + ": " + u.Error
		}
	}
	return u.State
}

func changeEnd(w io.Writer, c updater.Change, asJSON, anyEnd bool) error {
	if asJSON {
		if err := printJSON(w, c); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(w, "change %d %s: %s\n", c.ID, c.State, about(c)); err != nil {
		return err
	}
	if c.State != updater.Committed && !anyEnd {
		return exitError(1)
	}
	return nil
}

func changeOrder(o *options, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID", Short: short, Args: exactly("ID"), Example: "  bothy change " + verb + " 4",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.adminCall(cmd.Context(), "POST", "/v1/changes/"+url.PathEscape(args[0])+"/"+verb, nil, nil)
		},
	}
}

func updateCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "update", Short: "Look for a new want, or import one from a folder",
		Long:    "Look for a new want now, or import one from a folder that was carried to the box.\nBoth are verified in the same way.",
		Example: "  bothy update check",
	}
	check := &cobra.Command{
		Use: "check", Short: "Ask the fleet now", Args: exactly(), Example: "  bothy update check --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var u agent.UpdateStatus
			if err := o.adminCall(cmd.Context(), "POST", "/v1/update/check", nil, &u); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), u)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), updateLine(u))
			return err
		},
	}
	jsonFlag(check, o)
	var limit time.Duration
	var explain bool
	imp := &cobra.Command{
		Use: "import DIR", Short: "Install what a folder holds for this device, and wait for the end",
		Long: "Install what a folder holds for this device: a fleet's folder, or a copy of its\ncatalog, director and blobs on a stick. Waits for the end of the change.",
		Args: exactly("DIR"), Example: "  bothy update import /media/usb/fleet",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := withTimeout(cmd.Context(), limit)
			defer cancel()
			return o.importFolder(ctx, cmd, args[0], explain)
		},
	}
	imp.Flags().DurationVar(&limit, "timeout", 0, "give up waiting after this long")
	imp.Flags().BoolVar(&explain, "explain", false, "show at the end where each part of the files came from")
	jsonFlag(imp, o)
	cmd.AddCommand(check, imp)
	return cmd
}

func (o *options) importFolder(ctx context.Context, cmd *cobra.Command, dir string, explain bool) error {
	path, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("cannot import from %s: %w", dir, err)
	}
	if err := o.awaitAgent(ctx); err != nil {
		return err
	}
	var started agent.ImportAnswer
	if err := o.adminCall(ctx, "POST", "/v1/update/import", agent.ImportRequest{Path: path}, &started); err != nil {
		return err
	}
	if started.Change == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "this box runs what the folder holds for it")
		return nil
	}
	var c updater.Change
	if err := o.adminWait(ctx, cmd.ErrOrStderr(), fmt.Sprintf("/v1/changes/%d/wait", started.Change), &c); err != nil {
		return err
	}
	if explain {
		if err := o.explainChange(ctx, cmd.OutOrStdout(), strconv.FormatUint(c.ID, 10)); err != nil {
			return err
		}
		if o.json && c.State == updater.Committed {
			return nil // one document on the output
		}
		if o.json {
			return exitError(1)
		}
	}
	return changeEnd(cmd.OutOrStdout(), c, o.json, false)
}

// slowed says why a fetch under way is slower than the line allows.
func slowed(c updater.Change) string {
	if c.State != updater.Fetching || c.Progress.Slowed == "" {
		return ""
	}
	if c.Progress.Slowed == "window" {
		return fmt.Sprintf(", outside the hours to fetch in: bothy change start %d", c.ID)
	}
	return ", slowed: " + c.Progress.Slowed
}

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/inventory"
)

// watchEvery is the pause between two looks.
const watchEvery = time.Second

// Terminal control: ECMA-48, and the second screen of xterm and its kin.
const (
	screenOther = "\x1b[?1049h\x1b[?25l"
	screenBack  = "\x1b[?25h\x1b[?1049l"
	cursorHome  = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

func fleetWatch() *cobra.Command {
	var until []string
	cmd := &cobra.Command{
		Use: "watch DIR [DEVICE...]", Short: "Watch the devices of a fleet live, the worst first",
		Long: "Watch the devices of a fleet live, the worst first: all, or those that a name or a\npattern names. On a terminal it is a table that is drawn anew; elsewhere a line for\n" +
			"each device that changed. It ends with Ctrl-C. For scripts: --until done ends when\nevery device runs what it shall, --until 10m after that time; given both, the exit\nstatus is 1 when the time came first. Only what a device signed counts as done.",
		Example: "  bothy fleet watch /srv/fleet 'press-*' --until done --until 30m",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 {
				return exactly("DIR")(nil, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			w := newWatcher(cmd.OutOrStdout())
			if err := w.until(until); err != nil {
				return err
			}
			board := inventory.OpenBoard(f)
			w.look = func() ([]inventory.View, error) {
				all, err := board.Devices()
				if err != nil {
					return nil, err
				}
				return pick(all, args[1:])
			}
			return w.run(cmd.Context())
		},
	}
	cmd.Flags().StringArrayVar(&until, "until", nil, "`done`, or a duration such as 30m; may be given twice")
	return cmd
}

// watcher shows a fleet until it ends.
type watcher struct {
	look  func() ([]inventory.View, error)
	out   io.Writer
	size  func() (width, height int) // nil: no terminal
	done  bool                       // end when every device is
	limit time.Duration              // 0: none
	last  map[string]string          // line of each device, without what always moves
}

func newWatcher(out io.Writer) *watcher {
	w := &watcher{out: out, last: map[string]string{}}
	if file, ok := out.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		w.size = func() (int, int) {
			width, height, err := term.GetSize(int(file.Fd()))
			if err != nil || width < 1 || height < 1 {
				return 80, 24
			}
			return width, height
		}
	}
	return w
}

func (w *watcher) until(conditions []string) error {
	for _, c := range conditions {
		if c == "done" {
			w.done = true
			continue
		}
		d, err := time.ParseDuration(c)
		if err != nil || d <= 0 {
			return usageError{fmt.Errorf("cannot read --until %q: want done, or a duration such as 30m", c)}
		}
		w.limit = d
	}
	return nil
}

// run draws until ctx ends, which is no error, or what --until says.
func (w *watcher) run(ctx context.Context) error {
	if w.size != nil {
		fmt.Fprint(w.out, screenOther)
	}
	all, err := w.loop(ctx)
	if w.size != nil {
		fmt.Fprint(w.out, screenBack) // what was on the screen before comes back, and one line is left
		fmt.Fprintln(w.out, countDevices(all))
	}
	return err
}

func (w *watcher) loop(ctx context.Context) (all []inventory.View, err error) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	began := time.Now()
	for {
		if all, err = w.look(); err != nil {
			return all, err
		}
		if err := w.draw(all, time.Now()); err != nil {
			return all, err
		}
		switch {
		case w.done && countDevices(all).Done == len(all):
			return all, nil
		case w.limit > 0 && time.Since(began) >= w.limit && w.done:
			return all, exitError(1)
		case w.limit > 0 && time.Since(began) >= w.limit:
			return all, nil
		}
		select {
		case <-ctx.Done():
			return all, nil
		case <-tick.C:
		}
	}
}

func (w *watcher) draw(all []inventory.View, now time.Time) error {
	if w.size == nil {
		return w.news(all, now)
	}
	width, height := w.size()
	out := bufio.NewWriter(w.out)
	fmt.Fprint(out, cursorHome)
	for i, line := range deviceTable(all, now, width, height) {
		if i > 0 {
			fmt.Fprint(out, "\r\n") // none after the last: it would scroll
		}
		fmt.Fprint(out, line, clearLine)
	}
	fmt.Fprint(out, clearBelow)
	return out.Flush()
}

// news writes a line for each device of which more changed than the time and the bytes.
func (w *watcher) news(all []inventory.View, now time.Time) error {
	for _, v := range all {
		still := v
		if v.State != nil && v.State.Change != nil {
			state, change := *v.State, *v.State.Change
			change.Done, change.Total = 0, 0
			state.Change, still.State = &change, &state
		}
		key := strings.Join(deviceRow(still, still.Seen), "\x00")
		if w.last[v.Device] == key {
			continue
		}
		w.last[v.Device] = key
		row := deviceRow(v, now)
		trouble := ""
		if row[8] != "" {
			trouble = ", " + row[8]
		}
		_, err := fmt.Fprintf(w.out, "%s %s: %s, online %s, signed %s, want %s, runs %s, change %s%s\n", now.Format(time.DateTime), row[0], row[1], row[2], row[3], row[4], row[5], row[6], trouble)
		if err != nil {
			return err
		}
	}
	return nil
}

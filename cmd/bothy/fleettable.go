package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bothy-edge/bothy/updater/fleet/inventory"
	"github.com/bothy-edge/bothy/updater/report"
)

// deviceHeader names the columns of a table of devices.
func deviceHeader() []string {
	return []string{"DEVICE", "HEALTH", "ONLINE", "SIGNED", "WANT", "RUNS", "CHANGE", "SEEN", "TROUBLE"}
}

// deviceRow is one device in the columns of deviceHeader.
func deviceRow(v inventory.View, now time.Time) []string {
	row := []string{v.Device, v.Health, yesNo(v.Online), yesNo(v.Verified), wantText(v), "-", "-", "never", troubleText(v)}
	if v.State == nil {
		return row
	}
	row[5], row[6], row[7] = runsText(*v.State), changeText(v.State.Change), span(max(0, now.Sub(v.Seen)))
	return row
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// wantText is the number of the set that runs, and of the one that shall.
func wantText(v inventory.View) string {
	running := uint64(0)
	if v.State != nil {
		running = v.State.Running
	}
	if running == v.Wanted {
		return fmt.Sprint(v.Wanted)
	}
	return fmt.Sprintf("%d -> %d", running, v.Wanted)
}

func runsText(s report.State) string {
	var parts []string
	for _, alias := range slices.Sorted(maps.Keys(s.Models)) {
		parts = append(parts, alias+"="+s.Models[alias].Release)
	}
	for _, single := range []struct{ what, id string }{{"policy", s.Policy}, {"engine", s.Engine}} {
		if single.id != "" {
			parts = append(parts, single.what+"="+single.id)
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, " ")
}

// changeText is where a change stands, with a bar while bytes are on their way.
func changeText(c *report.Change) string {
	if c == nil {
		return "-"
	}
	text := c.State
	if c.Reason != "" {
		text += " (" + c.Reason + ")"
	}
	if c.Total > 0 && c.Done < c.Total && c.Done >= 0 {
		share := float64(c.Done) / float64(c.Total)
		text += fmt.Sprintf(" %s %2.0f %%", progressBar(share, 10), 100*share)
	}
	return text
}

func progressBar(share float64, cells int) string {
	full := min(max(int(share*float64(cells)), 0), cells)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]"
}

// troubleText names the worst finding, and how many there are besides.
func troubleText(v inventory.View) string {
	for _, severity := range []string{report.Critical, report.Warning} {
		i := slices.IndexFunc(v.Findings, func(f inventory.Finding) bool { return f.Severity == severity })
		if i < 0 {
			continue
		}
		if n := len(v.Findings) - 1; n > 0 {
			return fmt.Sprintf("%s, and %d more", v.Findings[i].ID, n)
		}
		return v.Findings[i].ID
	}
	return ""
}

// maxCell bounds a column: one device with many models must not push the rest off the screen.
const maxCell = 48

// columns lays rows out in columns. A width above 0 cuts the lines there.
func columns(rows [][]string, width int) []string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = min(max(widths[i], utf8.RuneCountInString(cell)), maxCell)
		}
	}
	lines := make([]string, 0, len(rows))
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			cell = shortened(cell, widths[i])
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		text := strings.TrimRight(line.String(), " ")
		if width > 0 {
			text = shortened(text, width)
		}
		lines = append(lines, text)
	}
	return lines
}

func shortened(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width-1, 0)]) + "~"
}

// fleetCounts is a fleet in numbers.
type fleetCounts struct {
	Devices  int `json:"devices"`
	Done     int `json:"done"` // run what they shall
	Online   int `json:"online"`
	Warning  int `json:"warning"`
	Critical int `json:"critical"`
}

func countDevices(all []inventory.View) fleetCounts {
	c := fleetCounts{Devices: len(all)}
	for _, v := range all {
		for _, n := range []struct {
			is bool
			n  *int
		}{{v.Done(), &c.Done}, {v.Online, &c.Online}, {v.Health == report.Warning, &c.Warning}, {v.Health == report.Critical, &c.Critical}} {
			if n.is {
				*n.n++
			}
		}
	}
	return c
}

// String is the summary above a table.
func (c fleetCounts) String() string {
	if c.Devices == 0 {
		return "no devices yet; bothy fleet enroll token DIR --device NAME"
	}
	return fmt.Sprintf("%s: %d run what they shall, %d online, %d critical, %d with warnings", counted(c.Devices, "device"), c.Done, c.Online, c.Critical, c.Warning)
}

// deviceTable is the table of all devices; height above 0 bounds its lines, the
// summary included. The worst come first, so what is left out is well.
func deviceTable(all []inventory.View, now time.Time, width, height int) []string {
	shown := all
	if height > 0 && len(all)+2 > height {
		shown = all[:max(height-3, 0)]
	}
	rows := [][]string{deviceHeader()}
	for _, v := range shown {
		rows = append(rows, deviceRow(v, now))
	}
	lines := []string{countDevices(all).String()}
	if width > 0 {
		lines[0] = shortened(lines[0], width)
	}
	if len(all) > 0 {
		lines = append(lines, columns(rows, width)...)
	}
	if n := len(all) - len(shown); n > 0 {
		lines = append(lines, shortened(fmt.Sprintf("and %d more", n), max(width, 12)))
	}
	return lines
}

// counted is a number with its noun, which takes an s.
func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

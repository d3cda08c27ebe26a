package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater/content"
)

func TestUpdateTakesOnlyWhatTheDiskCanSpare(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name        string
		disk        volume
		need, files int64
		says        string // empty: it fits
	}{
		{"plenty", volume{free: 10 * gib, inodes: 1e6, counted: true}, gib, 2, ""},
		{"exactly, with the reserve", volume{free: gib + diskReserve, inodes: 1e6, counted: true}, gib, 2, ""},
		{"one byte short of the reserve", volume{free: gib + diskReserve - 1, inodes: 1e6, counted: true}, gib, 2, "256 MiB stay in reserve"},
		{"nothing left for root only", volume{free: -1, inodes: 1e6, counted: true}, 0, 0, "0 B are free"},
		{"no inodes", volume{free: 10 * gib, inodes: inodeReserve + inodesAFile, counted: true}, gib, 2, "12 inodes"},
		{"no inodes, none needed", volume{free: 10 * gib, counted: true}, 0, 0, ""},
		{"inodes that are not counted", volume{free: 10 * gib}, gib, 2, ""},
	} {
		err := c.disk.holds(c.need, c.files)
		if (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, content.ErrNoSpace) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.says)
		}
	}
}

func TestFindingOfAFullDiskNamesWhatCanBeGivenUp(t *testing.T) {
	for spare, want := range map[int64]string{0: "bothy artifact list", 3 << 30: "3.0 GiB: bothy artifact drop-previous"} {
		all := updateFindings(Status{Update: UpdateStatus{Change: 4, State: "paused", Reason: "nospace", Spare: spare}}, hour)
		if len(all) != 1 || !strings.Contains(all[0].Hint, want) {
			t.Errorf("got %+v, want a hint with %q", all, want)
		}
	}
}

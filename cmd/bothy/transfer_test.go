package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/updater/release"
)

func TestTransferIsReadAsItIsWritten(t *testing.T) {
	night := &release.Window{From: "22:00", Until: "04:00"}
	weekend := &release.Window{Days: []string{"sat", "sun"}, From: "08:00", Until: "18:00"}
	for text, want := range map[string]release.Transfer{
		"any":                          {},
		"8MiB":                         {Rate: 8 << 20},
		"8MiB/s":                       {Rate: 8 << 20},
		"22:00-04:00":                  {Window: night},
		"1MB sat sun 08:00-18:00":      {Rate: 1e6, Window: weekend},
		" 2GiB   sat sun 08:00-18:00 ": {Rate: 2 << 30, Window: weekend},
	} {
		got, err := readTransfer(text)
		if err != nil || cmp.Diff(got, want) != "" {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "fast", "0", "8MiB fast", "22:00", "-3MiB", "8MiB 1MiB"} {
		if got, err := readTransfer(text); err == nil {
			t.Errorf("%q: got %+v, want it refused", text, got)
		}
	}
}

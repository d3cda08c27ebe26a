package main

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/bothy-edge/bothy/updater/release"
)

// readTransfer reads what --transfer says: a rate a second, a time of day, both, or "any".
func readTransfer(text string) (release.Transfer, error) {
	var t release.Transfer
	if text == "any" {
		return t, nil
	}
	rest := strings.TrimSpace(text)
	first, after, _ := strings.Cut(rest, " ")
	if n, err := humanize.ParseBytes(strings.TrimSuffix(first, "/s")); err == nil && n > 0 && n < 1<<50 {
		t.Rate, rest = int64(n), strings.TrimSpace(after)
	}
	if rest != "" {
		w, err := readWindow(rest)
		if err != nil {
			return t, usageError{fmt.Errorf("cannot read --transfer %q: write it as 8MiB, 22:00-04:00, \"8MiB sat sun 08:00-18:00\" or any", text)}
		}
		t.Window = &w
	}
	if t == (release.Transfer{}) {
		return t, usageError{fmt.Errorf("cannot read --transfer %q: write it as 8MiB, 22:00-04:00, \"8MiB sat sun 08:00-18:00\" or any", text)}
	}
	return t, nil
}

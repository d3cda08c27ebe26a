package main

import (
	"fmt"
	"strings"

	"github.com/bothy-edge/bothy/updater/release"
)

// readWindow reads a window as people write it: "22:00-04:00", with the days
// before it when it is not every day's: "mon tue 22:00-04:00".
func readWindow(text string) (release.Window, error) {
	var w release.Window
	words := strings.Fields(text)
	if len(words) > 0 {
		w.From, w.Until, _ = strings.Cut(words[len(words)-1], "-")
		w.Days = words[:len(words)-1]
	}
	if len(w.Days) == 0 {
		w.Days = nil
	}
	if err := w.Validate(); err != nil {
		return w, usageError{fmt.Errorf("cannot read --window %q: %w; write it as 22:00-04:00 or \"mon tue 22:00-04:00\"", text, err)}
	}
	return w, nil
}

// windowText is a window as readWindow takes it, and whether an operator passed it over.
func windowText(w release.Window, anytime bool) string {
	text := strings.Join(append(append([]string{}, w.Days...), w.From+"-"+w.Until), " ")
	if anytime {
		text += ", passed over by an operator"
	}
	return text
}

package main

import "testing"

func TestWindowIsReadAsItIsWritten(t *testing.T) {
	for _, text := range []string{"22:00-04:00", "mon tue 08:30-12:00"} {
		w, err := readWindow(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if got := windowText(w, false); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	for _, text := range []string{"", "22:00", "22-23", "monday 22:00-23:00", "22:00-22:00", "22:00-04:00 mon"} {
		if w, err := readWindow(text); err == nil {
			t.Errorf("got %+v for %q, want an error", w, text)
		}
	}
}

package release

import (
	"testing"
	"time"
	_ "time/tzdata" // the zones that the test needs, whatever the machine has
)

// openFor is how long a window is open between two instants, by the minute.
func openFor(w Window, from, until time.Time) time.Duration {
	var open time.Duration
	for at := from; at.Before(until); at = at.Add(time.Minute) {
		if w.Contains(at) {
			open += time.Minute
		}
	}
	return open
}

// In Berlin the clocks go forward on 29 March 2026 at 02:00 and back on 25 October at 03:00.
func TestWindowFollowsTheWallClockWhenTheClocksChange(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	noon := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 12, 0, 0, 0, berlin) }
	for name, c := range map[string]struct {
		window Window
		from   time.Time
		want   time.Duration
	}{
		"an ordinary night":                  {Window{From: "22:00", Until: "04:00"}, noon(3, 10), 6 * time.Hour},
		"forward, across the hour":           {Window{From: "22:00", Until: "04:00"}, noon(3, 28), 5 * time.Hour},
		"forward, wholly in the hour":        {Window{From: "02:10", Until: "02:50"}, noon(3, 28), 0},
		"forward, begins in the hour":        {Window{From: "02:30", Until: "05:00"}, noon(3, 28), 2 * time.Hour},
		"back, across the hour":              {Window{From: "22:00", Until: "04:00"}, noon(10, 24), 7 * time.Hour},
		"back, wholly in the hour":           {Window{From: "02:10", Until: "02:50"}, noon(10, 24), 80 * time.Minute},
		"back, of the day it begins on":      {Window{Days: []string{"sat"}, From: "23:00", Until: "03:00"}, noon(10, 24), 5 * time.Hour},
		"back, not of the day it ends on":    {Window{Days: []string{"sun"}, From: "23:00", Until: "03:00"}, noon(10, 24), 0},
		"forward, of the day it begins on":   {Window{Days: []string{"sat"}, From: "23:00", Until: "03:00"}, noon(3, 28), 3 * time.Hour},
		"forward, not of the day it ends on": {Window{Days: []string{"sun"}, From: "23:00", Until: "03:00"}, noon(3, 28), 0},
	} {
		if got := openFor(c.window, c.from, c.from.AddDate(0, 0, 1)); got != c.want {
			t.Errorf("%s: got %v open for %s, want %s", name, c.window, got, c.want)
		}
	}
}

// One instant is in the window of a box in one zone and outside for another.
func TestWindowIsJudgedInTheZoneOfTheBox(t *testing.T) {
	at := time.Date(2026, 7, 1, 20, 30, 0, 0, time.UTC)
	w := Window{Days: []string{"wed"}, From: "22:00", Until: "23:00"}
	for zone, want := range map[string]bool{"UTC": false, "Europe/Berlin": true, "Asia/Kolkata": false, "Pacific/Auckland": false} {
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Contains(at.In(location)); got != want {
			t.Errorf("%s: got %v, want %v", zone, got, want)
		}
	}
}

// A system that knows no zone gives the window a place to be wrong: it must only delay.
func TestWindowThatIsNotValidIsNeverOpen(t *testing.T) {
	day := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	for _, w := range []Window{{}, {From: "25:00", Until: "26:00"}, {From: "1:00", Until: "2:00"}, {Days: []string{"someday"}, From: "00:00", Until: "23:59"}} {
		if got := openFor(w, day, day.AddDate(0, 0, 7)); got != 0 {
			t.Errorf("%+v: got open for %s, want never", w, got)
		}
	}
}

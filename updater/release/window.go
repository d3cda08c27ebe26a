package release

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is when a device may switch, in its local time. A window whose end is
// not after its start runs past midnight and belongs to the day it starts on.
type Window struct {
	Days  []string `json:"days,omitempty"` // "mon" ... "sun"; none means every day
	From  string   `json:"from"`           // "22:00"
	Until string   `json:"until"`          // "04:30", excluded
}

// Transfer bounds how a device fetches what it is assigned; what its own
// configuration says holds beside it.
type Transfer struct {
	Rate   int64   `json:"rate,omitempty"`   // bytes a second; 0: as fast as it can
	Window *Window `json:"window,omitempty"` // when to fetch, in the device's local time; none: at any time
}

// Validate reports the first thing that is wrong with it.
func (t Transfer) Validate() error {
	if t.Rate < 0 || t.Rate > 1<<50 {
		return fmt.Errorf("a transfer rate of %d bytes a second makes no sense", t.Rate)
	}
	if t.Window != nil {
		return t.Window.Validate()
	}
	return nil
}

var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// Validate reports the first thing that is wrong with the window.
func (w Window) Validate() error {
	for _, d := range w.Days {
		if !slices.Contains(days, d) {
			return fmt.Errorf("day %.20q is not one of %s", d, strings.Join(days, " "))
		}
	}
	for _, t := range []string{w.From, w.Until} {
		if _, err := minutes(t); err != nil {
			return err
		}
	}
	if w.From == w.Until {
		return errors.New("the window starts and ends at the same minute; leave it out to allow any time")
	}
	return nil
}

// Contains says whether t, in t's own location, lies in the window. A window
// that is not valid contains nothing.
func (w Window) Contains(t time.Time) bool {
	from, err1 := minutes(w.From)
	until, err2 := minutes(w.Until)
	if err1 != nil || err2 != nil {
		return false
	}
	now := t.Hour()*60 + t.Minute()
	if from < until {
		return w.onDay(t.Weekday()) && from <= now && now < until
	}
	if now >= from {
		return w.onDay(t.Weekday())
	}
	return now < until && w.onDay((t.Weekday()+6)%7)
}

func (w Window) onDay(d time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, days[d])
}

func minutes(clock string) (int, error) {
	t, err := time.Parse("15:04", clock)
	if err != nil || len(clock) != 5 {
		return 0, fmt.Errorf("time of day %.20q is not HH:MM", clock)
	}
	return t.Hour()*60 + t.Minute(), nil
}

package updater

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones that the test needs, whatever the machine has
)

// In the night in which the clocks go forward a window in the hour that is left
// out does not open; the change waits for the next night and is not lost.
func TestChangeWaitsThroughTheNightOfTheClocks(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ noon, want string }{
		"forward": {"2026-03-28 12:00", "2026-03-30 02:10 +0200"},
		"back":    {"2026-10-24 12:00", "2026-10-25 02:10 +0200"},
		"neither": {"2026-05-04 12:00", "2026-05-05 02:10 +0200"},
	} {
		noon, err := time.ParseInLocation("2006-01-02 15:04", c.noon, berlin)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when every bubble's clock begins
		inBubble(t, func(w *world, a *agent) {
			w.assign(1, before+" window=02:10-02:50")
			a.Offer()
			a.reaches(Waiting)
			<-time.After(24 * time.Hour)
			end := a.ended(1)
			for _, h := range end.History {
				if at := h.At.Format("2006-01-02 15:04 -0700"); h.State == Switching && !strings.HasPrefix(at, c.want) {
					t.Errorf("%s: got the switch at %s, want %s", name, at, c.want)
				}
			}
			expect(t, name, end.State, Committed)
		}, func(c *Config) { c.Now = func() time.Time { return noon.Add(time.Since(start)) } })
	}
}

func TestOperatorPassesTheWindowOver(t *testing.T) {
	noon := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	inBubble(t, func(w *world, a *agent) {
		w.assign(1, before+" window=22:00-04:00")
		a.Offer()
		c := a.reaches(Waiting)
		if err := a.Resume(w.t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), "bothy change start 1") {
			t.Errorf("got %v, want it told what to type", err)
		}
		if err := a.Start(w.t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		c = a.ended(c.ID)
		expect(t, "end", c.State, Committed)
		expect(t, "hour", c.Updated.Hour(), 12)
		w.assign(2, after+" window=22:00-04:00")
		a.Offer()
		expect(t, "the next change waits again", a.reaches(Waiting).Reason, reasonWindow)
	}, func(c *Config) { c.Now = func() time.Time { return noon.Add(time.Since(start)) } })
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/inventory"
	"github.com/bothy-edge/bothy/updater/report"
)

func watchedAt() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// device is one that runs want 4 and is well.
func deviceSeen(name string, change func(*inventory.View)) inventory.View {
	v := inventory.View{
		Device: name, Record: fleet.DeviceApproved, Verified: true, Online: true, Seen: watchedAt().Add(-12 * time.Second), Health: "ok", Wanted: 4,
		State: &report.State{
			Device: name, Running: 4, Models: map[string]report.Model{"assistant": {Release: "assistant@2"}}, Policy: "site@1",
			Change: &report.Change{ID: 9, State: "committed"},
		},
		Findings: []inventory.Finding{},
	}
	if change != nil {
		change(&v)
	}
	return v
}

func fetching(share int64) func(*inventory.View) {
	return func(v *inventory.View) {
		v.Wanted = 5
		v.State.Change = &report.Change{ID: 10, State: "fetching", Done: share, Total: 100}
	}
}

func ailingFleet() []inventory.View {
	return []inventory.View{
		deviceSeen("press-1", func(v *inventory.View) {
			v.Health, v.Online = report.Critical, false
			v.Findings = []inventory.Finding{{ID: "offline", Severity: report.Warning}, {ID: "silent", Severity: report.Critical}}
		}),
		{Device: "press-2", Health: report.Warning, Wanted: 1, Findings: []inventory.Finding{{ID: "never-seen", Severity: report.Warning}}},
		deviceSeen("press-3", fetching(43)),
		deviceSeen("press-4", nil),
		deviceSeen("press-5", nil),
	}
}

func TestFleetTableIsAsDrawn(t *testing.T) {
	want := `5 devices: 3 run what they shall, 4 online, 1 critical, 1 with warnings
DEVICE   HEALTH    ONLINE  SIGNED  WANT    RUNS                                 CHANGE                      SEEN   TROUBLE
press-1  critical  no      yes     4       assistant=assistant@2 policy=site@1  committed                   12s    silent, and 1 more
press-2  warning   no      no      0 -> 1  -                                    -                           never  never-seen
press-3  ok        yes     yes     4 -> 5  assistant=assistant@2 policy=site@1  fetching [####......] 43 %  12s
press-4  ok        yes     yes     4       assistant=assistant@2 policy=site@1  committed                   12s
press-5  ok        yes     yes     4       assistant=assistant@2 policy=site@1  committed                   12s`
	got := strings.Join(deviceTable(ailingFleet(), watchedAt(), 0, 0), "\n")
	want = strings.Replace(want, "4 online", "3 online", 1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the table differs (-want +got):\n%s", diff)
	}
}

func TestFleetTableFitsTheTerminal(t *testing.T) {
	for _, size := range []struct{ width, height int }{{80, 24}, {40, 5}, {20, 4}, {10, 3}, {1, 1}} {
		lines := deviceTable(ailingFleet(), watchedAt(), size.width, size.height)
		if len(lines) > max(size.height, 3) {
			t.Errorf("%+v: got %d lines, want them to fit", size, len(lines))
		}
		for _, l := range lines {
			if n := len([]rune(l)); n > max(size.width, 12) {
				t.Errorf("%+v: got a line of %d columns: %s", size, n, l)
			}
		}
	}
	lines := deviceTable(ailingFleet(), watchedAt(), 80, 5)
	if got := lines[len(lines)-1]; len(lines) != 5 || got != "and 3 more" || !strings.HasPrefix(lines[2], "press-1") {
		t.Errorf("got %q, want the worst two and a count of the rest", lines)
	}
	if got := deviceTable(nil, watchedAt(), 80, 24); len(got) != 1 {
		t.Errorf("no device: got %q, want one line", got)
	}
}

// watching runs a watcher on fleets that follow each other once a second.
func watching(t *testing.T, w *watcher, fleets ...[]inventory.View) (string, error) {
	t.Helper()
	var out bytes.Buffer
	var err error
	synctest.Test(t, func(t *testing.T) {
		w.out, w.last = &out, map[string]string{}
		n := 0
		w.look = func() ([]inventory.View, error) {
			n++
			return fleets[min(n, len(fleets))-1], nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = w.run(ctx)
	})
	return out.String(), err
}

func TestWatchDrawsOverTheLastFrameAndGivesTheScreenBack(t *testing.T) {
	w := &watcher{size: func() (int, int) { return 100, 10 }}
	out, err := watching(t, w, ailingFleet(), ailingFleet()[2:])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out, screenOther+cursorHome) || !strings.HasSuffix(out, screenBack+"3 devices: 2 run what they shall, 3 online, 0 critical, 0 with warnings\n") {
		t.Errorf("got %q, want another screen while it runs, and a line afterwards", out)
	}
	frames := strings.Split(strings.TrimSuffix(out, screenBack), clearBelow)
	for i, lines := range map[int]int{0: 7, 1: 5} {
		if got := strings.Count(frames[i], clearLine); got != lines || strings.HasSuffix(frames[i], "\r\n") {
			t.Errorf("frame %d has %d lines, want %d and no line end after the last", i, got, lines)
		}
	}
}

func TestWatchWritesALineForEachDeviceThatChanged(t *testing.T) {
	one := func(change func(*inventory.View)) []inventory.View {
		return []inventory.View{deviceSeen("a", change), deviceSeen("b", nil)}
	}
	later := func(v *inventory.View) { fetching(60)(v); v.Seen = v.Seen.Add(time.Hour) }
	out, err := watching(t, &watcher{}, one(nil), one(fetching(10)), one(fetching(50)), one(later), one(nil))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		got = append(got, line[len(time.DateTime)+1:])
	}
	const rest = "ok, online yes, signed yes, want %s, runs assistant=assistant@2 policy=site@1, change %s"
	want := []string{
		"a: " + fmt.Sprintf(rest, "4", "committed"), "b: " + fmt.Sprintf(rest, "4", "committed"),
		"a: " + fmt.Sprintf(rest, "4 -> 5", "fetching [#.........] 10 %"), "a: " + fmt.Sprintf(rest, "4", "committed"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s", diff)
	}
}

func TestWatchEndsAsTheScriptSays(t *testing.T) {
	under, done := []inventory.View{deviceSeen("a", fetching(1))}, []inventory.View{deviceSeen("a", nil)}
	unsigned := []inventory.View{deviceSeen("a", func(v *inventory.View) { v.Verified = false })}
	for _, c := range []struct {
		name   string
		until  []string
		fleets [][]inventory.View
		status int
	}{
		{"done", []string{"done"}, [][]inventory.View{under, under, done}, 0},
		{"done before the time", []string{"done", "30s"}, [][]inventory.View{under, done}, 0},
		{"the time came first", []string{"done", "30s"}, [][]inventory.View{under}, 1},
		{"what nobody signed is not done", []string{"done", "30s"}, [][]inventory.View{unsigned}, 1},
		{"a time only", []string{"30s"}, [][]inventory.View{under}, 0},
		{"interrupted", nil, [][]inventory.View{under}, 0},
	} {
		w := &watcher{}
		if err := w.until(c.until); err != nil {
			t.Fatal(err)
		}
		_, err := watching(t, w, c.fleets...)
		var status exitError
		if errors.As(err, &status); int(status) != c.status || err != nil && c.status == 0 {
			t.Errorf("%s: got %v, want exit status %d", c.name, err, c.status)
		}
	}
	for _, bad := range []string{"", "later", "-5m", "0s"} {
		if err := new(watcher).until([]string{bad}); err == nil {
			t.Errorf("--until %q is accepted", bad)
		}
	}
}

func TestOneDeviceIsToldInFull(t *testing.T) {
	v := deviceSeen("press-7", func(v *inventory.View) {
		v.State.Agent, v.State.Audit, v.State.Certificate = "1.4.0", report.Head{Seq: 3, Hash: "ab"}, watchedAt()
		v.State.Capacity = report.Capacity{Cores: 4, GPUs: 1, GPU: "L4", GPUTotal: 24 << 30}
		v.State.Change = &report.Change{ID: 9, State: "undone", Summary: "assistant=assistant@3", Error: "too slow"}
		v.Findings = []inventory.Finding{{ID: "audit-rewound", Severity: report.Critical, What: "records are missing", Since: watchedAt()}}
	})
	var out bytes.Buffer
	events := []inventory.Event{{Device: "press-7", Kind: "change", Came: watchedAt(), Body: []byte(`{"change":9}`)}}
	if err := printDevice(&out, v, events, watchedAt()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"press-7", "health ok, approved, online yes, signed by its key: yes", "9 undone: assistant=assistant@3: too slow", "3:ab", "until 2026-03-01",
		"1 L4 with 0 B used of 24 GiB", `change {"change":9}`, "critical: audit-rewound, since ", "  records are missing",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, out.String())
		}
	}
}

package report

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func full() State {
	at := time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
	return State{
		Schema: Schema, Device: "press-7", Epoch: 1772420400, Seq: 3, Time: at, Heartbeat: 600, Agent: "1.4.0", Health: Warning,
		Running: 4, Counter: 5,
		Models: map[string]Model{"assistant": {Release: "assistant@2", Engine: "llama-server", Program: "llama@1", Generation: 9, Phase: "ready"}},
		Policy: "site@3", Engine: "llama@1",
		Change:   &Change{ID: 12, State: "paused", Reason: "window", Summary: "assistant=assistant@3", Done: 1 << 20, Total: 4 << 20},
		Catalog:  Repository{Root: 1, Timestamp: 9, Snapshot: 8, Targets: 2, Expires: at.Add(time.Hour)},
		Director: Repository{Root: 1, Timestamp: 6, Snapshot: 5, Targets: 5, Expires: at.Add(time.Hour)}, Order: 7,
		Alarms: []Alarm{{"disk-low", Warning, "1.5 GiB are free on the disk of the state folder"}},
		Audit:  Head{Seq: 41, Hash: strings.Repeat("ab", 32)}, Certificate: at.AddDate(0, 3, 0),
		Capacity: Capacity{Cores: 16, MemoryTotal: 64 << 30, MemoryAvailable: 32 << 30, DiskTotal: 1 << 40, DiskFree: 1 << 39, GPUs: 2, GPU: "NVIDIA L4", GPUTotal: 46 << 30, GPUUsed: 20 << 30},
	}
}

func TestStateOnTheWireIsAsInTheGoldenFile(t *testing.T) {
	raw, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	const path = "testdata/state.golden.json"
	if *update {
		if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), string(raw)); diff != "" {
		t.Errorf("the state differs from %s (-want +got):\n%s", path, diff)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), got); diff != "" {
		t.Errorf("what was read differs from what was written (-want +got):\n%s", diff)
	}
}

func TestStateThatIsTooLargeIsCutAndTheWorstAlarmsStay(t *testing.T) {
	s := full()
	long := strings.Repeat("\"<é", 3000)
	for i := range 100 {
		s.Models[fmt.Sprintf("m%03d", i)] = Model{Release: long, Engine: long, Phase: long}
		s.Alarms = append(s.Alarms, Alarm{long, Warning, long})
	}
	s.Alarms = append(s.Alarms, Alarm{"worst", Critical, long})
	s.Change.Error, s.Change.Summary, s.Policy = long, long, long
	raw, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Models) != maxModels || len(got.Alarms) != maxAlarms || got.Alarms[0].ID != "worst" {
		t.Errorf("got %d models, %d alarms, the first %q; want %d, %d, \"worst\"", len(got.Models), len(got.Alarms), got.Alarms[0].ID, maxModels, maxAlarms)
	}
}

func TestStatesThatAreRefused(t *testing.T) {
	for name, raw := range map[string]string{
		"empty":         "",
		"no object":     "[]",
		"other schema":  `{"schema":2,"device":"a","seq":1}`,
		"no number":     `{"schema":1,"device":"a"}`,
		"no device":     `{"schema":1,"seq":1}`,
		"a bulk device": `{"schema":1,"device":"a-bulk","seq":1}`,
		"too large":     `{"schema":1,"device":"a","seq":1,"agent":"` + strings.Repeat("a", MaxState) + `"}`,
	} {
		if s, err := Parse([]byte(raw)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, s)
		}
	}
}

func TestTextsOfADeviceCannotMoveACursor(t *testing.T) {
	raw := `{"schema":1,"device":"a","seq":1,"health":"ok","models":{"x\u001b[2J":{"release":"\u001b]0;t\u0007","phase":"a\nb"}},"alarms":[{"id":"\r","severity":"\u009b","what":"\u202e"}]}`
	s, err := Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s); strings.ContainsAny(got, "\x1b\r\n\x07\u009b\u202e") {
		t.Errorf("got %q, want no control characters", got)
	}
}

func TestStatesAreOrderedByStartAndNumber(t *testing.T) {
	for _, c := range []struct {
		a, b State
		want bool
	}{
		{State{Epoch: 2, Seq: 1}, State{Epoch: 1, Seq: 9}, true},
		{State{Epoch: 1, Seq: 9}, State{Epoch: 2, Seq: 1}, false},
		{State{Epoch: 1, Seq: 2}, State{Epoch: 1, Seq: 1}, true},
		{State{Epoch: 1, Seq: 1}, State{Epoch: 1, Seq: 1}, false},
	} {
		if got := c.a.After(c.b); got != c.want {
			t.Errorf("%d.%d after %d.%d: got %v, want %v", c.a.Epoch, c.a.Seq, c.b.Epoch, c.b.Seq, got, c.want)
		}
	}
	if got := []string{Worst("ok", "ok"), Worst("ok", Warning), Worst(Critical, Warning), Worst("", "odd")}; strings.Join(got, " ") != "ok warning critical ok" {
		t.Errorf("the worst are %q", got)
	}
}

func FuzzParse(f *testing.F) {
	raw, err := full().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"schema":1,"device":"a","seq":1,"change":null,"models":null,"heartbeat_s":-5}`))
	f.Add([]byte(`{"schema":1,"device":"a","seq":18446744073709551615,"time":"0000-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse(raw)
		if err != nil {
			return
		}
		// What was accepted once is accepted as it is kept.
		kept, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(kept); err != nil || len(again.Models) != len(s.Models) || len(again.Alarms) != len(s.Alarms) {
			t.Errorf("%s became %+v, %v", kept, again, err)
		}
	})
}

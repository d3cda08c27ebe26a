package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/runtime/gpu"
	"github.com/bothy-edge/bothy/updater/report"
)

func TestStateIsReportedWhenItIsNewsAndAtEveryHeartbeat(t *testing.T) {
	running := func(counter uint64) report.State { return report.State{Running: counter} }
	fetching := func(done int64) report.State {
		return report.State{Change: &report.Change{ID: 1, State: "fetching", Done: done, Total: 100}}
	}
	alarm := func(id, what string) report.State { return report.State{Alarms: []report.Alarm{{ID: id, What: what}}} }
	for _, c := range []struct {
		name       string
		said, next report.State
		since      time.Duration
		want       bool
	}{
		{"nothing new", running(1), running(1), time.Minute, false},
		{"nothing new, but a heartbeat", running(1), running(1), 10 * time.Minute, true},
		{"the clock was set back", running(1), running(1), -time.Hour, true},
		{"another want", running(1), running(2), 2 * time.Second, true},
		{"another want, too soon", running(1), running(2), time.Second, false},
		{"another alarm", alarm("a", ""), alarm("b", ""), time.Minute, true},
		{"an alarm with another number in it", alarm("disk-low", "1 GiB"), alarm("disk-low", "2 GiB"), time.Minute, false},
		{"less space and a longer audit log", running(1), report.State{Running: 1, Audit: report.Head{Seq: 9}, Capacity: report.Capacity{DiskFree: 5}}, time.Minute, false},
		{"a transfer went on", fetching(1), fetching(2), 15 * time.Second, true},
		{"a transfer went on, too soon", fetching(1), fetching(2), 14 * time.Second, false},
	} {
		cadence := cadence{heartbeat: 10 * time.Minute, said: c.said, at: hour}
		if got := cadence.due(c.next, hour.Add(c.since)); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if first := (&cadence{heartbeat: time.Minute}); !first.due(report.State{}, hour) {
		t.Error("the first state is not due")
	}
}

func TestStateSaysWhatRuns(t *testing.T) {
	got := stateOf(Status{
		Version: "1.2.3", Health: HealthWarning, Policy: PolicyStatus{Release: "site@3"},
		Update: UpdateStatus{Change: 7, State: "paused", Reason: "window", Subject: "a=m@2", Done: 1, Total: 2, Running: 4, Counter: 5},
		Models: []runtime.AliasStatus{
			{Alias: "a", Phase: runtime.PhaseReady, Spec: &runtime.Spec{Release: "m@2", Engine: "embedded"}, Current: &runtime.GenerationStatus{Generation: 3, Release: "m@1", Program: "llama@4"}},
			{Alias: "b", Phase: runtime.PhaseFailed, Spec: &runtime.Spec{Release: "n@1", Engine: "command"}},
		},
		Host:     HostStatus{Cores: 2, MemoryTotal: 8, MemoryAvailable: 4, DiskTotal: 16, DiskFree: 1},
		GPU:      GPUStatus{Devices: []gpu.Device{{Name: "L4", MemoryTotal: 24, MemoryUsed: 3}, {Name: "L4", MemoryTotal: 24, MemoryUsed: 1}}},
		Findings: []Finding{{"disk-low", HealthCritical, "1 B is free", "why", "hint"}},
	})
	want := report.State{
		Agent: "1.2.3", Health: "warning", Running: 4, Counter: 5, Policy: "site@3",
		Models:   map[string]report.Model{"a": {Release: "m@1", Engine: "embedded", Program: "llama@4", Generation: 3, Phase: "ready"}, "b": {Release: "n@1", Engine: "command", Phase: "failed"}},
		Change:   &report.Change{ID: 7, State: "paused", Reason: "window", Summary: "a=m@2", Done: 1, Total: 2},
		Alarms:   []report.Alarm{{ID: "disk-low", Severity: "critical", What: "1 B is free"}},
		Capacity: report.Capacity{Cores: 2, MemoryTotal: 8, MemoryAvailable: 4, DiskTotal: 16, DiskFree: 1, GPUs: 2, GPU: "L4", GPUTotal: 48, GPUUsed: 4},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the state differs (-want +got):\n%s", diff)
	}
}

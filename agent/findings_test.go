package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/runtime/gpu"
)

var hour = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)

func TestFindingsSayWhatIsWrong(t *testing.T) {
	healthy := HostStatus{DiskTotal: 100 << 30, DiskFree: 50 << 30, MemoryTotal: 16 << 30, MemoryAvailable: 8 << 30}
	for _, c := range []struct {
		name, id string
		severity Health
		change   func(*Status)
	}{
		{"all is well", "", HealthOK, func(*Status) {}},
		{"failed model", "model-failed", HealthCritical, func(s *Status) {
			s.Models = []runtime.AliasStatus{{Alias: "m", Phase: runtime.PhaseFailed, Error: "boom"}}
		}},
		{"restarting model", "model-restarting", HealthWarning, func(s *Status) {
			s.Models = []runtime.AliasStatus{{Alias: "m", Phase: runtime.PhaseBackoff}}
		}},
		{"broken policy", "policy-broken", HealthCritical, func(s *Status) { s.Policy.Broken = "gone" }},
		{"refused update", "update-refused", HealthWarning, func(s *Status) { s.Update = UpdateStatus{Change: 3, State: "refused"} }},
		{"undone update", "update-undone", HealthWarning, func(s *Status) { s.Update = UpdateStatus{Change: 3, State: "undone"} }},
		{"update to approve", "update-approval", HealthWarning, func(s *Status) { s.Update = UpdateStatus{Change: 3, State: "waiting", Reason: "approval"} }},
		{"paused update", "update-paused", HealthWarning, func(s *Status) { s.Update = UpdateStatus{Change: 3, State: "paused"} }},
		{"policy below its mark", "policy-older", HealthWarning, func(s *Status) { s.Policy.Older = "plant@1" }},
		{"store put back at an earlier start", "store-unconfirmed", HealthWarning, func(s *Status) { s.Update.PutBack = true }},
		{"update that waits for its window", "", HealthOK, func(s *Status) { s.Update = UpdateStatus{Change: 3, State: "waiting", Reason: "window"} }},
		{"expired metadata", "metadata-expired", HealthWarning, func(s *Status) { s.Update.Expired = true }},
		{"broker away", "broker-away", HealthWarning, func(s *Status) { s.Broker = BrokerStatus{URL: "tcp://b", Since: hour.Add(-time.Hour)} }},
		{"broker away for a moment", "", HealthOK, func(s *Status) { s.Broker = BrokerStatus{URL: "tcp://b", Since: hour.Add(-time.Second)} }},
		{"restored store", "store-restored", HealthWarning, func(s *Status) { s.Store.Restored = "snap" }},
		{"lost store", "store-lost", HealthWarning, func(s *Status) { s.Store.Lost = true }},
		{"disk low", "disk-low", HealthWarning, func(s *Status) { s.Host.DiskFree = 1 << 30 }},
		{"disk full", "disk-low", HealthCritical, func(s *Status) { s.Host.DiskFree = 1 << 20 }},
		{"memory low", "memory-low", HealthWarning, func(s *Status) { s.Host.MemoryAvailable = 1 << 20 }},
		{"gpu", "gpu-unreadable", HealthWarning, func(s *Status) { s.GPU.Error = "version mismatch" }},
		{"gpu right after the start", "", HealthOK, func(s *Status) { s.GPU.Error, s.Started = "not answered yet", hour.Add(-time.Second) }},
		{"upstream", "upstream-down", HealthWarning, func(s *Status) {
			s.Traffic.Upstreams = []cloud.Status{{Name: "u", Breaker: cloud.Open, LastError: "502"}}
		}},
		{"upstream that cannot be used", "upstream-unusable", HealthWarning, func(s *Status) {
			s.Traffic.Upstreams = []cloud.Status{{Name: "u", LastError: "no credential"}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Status{Host: healthy}
			c.change(&s)
			all := statusFindings(s, hour)
			if got := worst(all); got != c.severity {
				t.Errorf("got health %s from %+v, want %s", got, all, c.severity)
			}
			if c.id == "" && len(all) != 0 || c.id != "" && (len(all) != 1 || all[0].ID != c.id || all[0].What == "") {
				t.Errorf("got findings %+v, want %q alone", all, c.id)
			}
		})
	}
}

func TestExpiryIsShownBesideAnUndoneUpdate(t *testing.T) {
	all := updateFindings(Status{Update: UpdateStatus{Change: 3, State: "undone", Expired: true}}, hour)
	if len(all) != 2 || all[1].ID != "metadata-expired" {
		t.Errorf("got %+v, want both", all)
	}
}

func TestStatusBecomesMetrics(t *testing.T) {
	s := Status{
		Models:   []runtime.AliasStatus{{Alias: "m", Phase: runtime.PhaseReady, Current: &runtime.GenerationStatus{Release: "m@1"}}},
		Update:   UpdateStatus{Running: 7},
		Broker:   BrokerStatus{Connected: true, Outbox: 2},
		Traffic:  gateway.Stats{},
		GPU:      GPUStatus{Devices: []gpu.Device{{UUID: "GPU-1", Name: "H", MemoryTotal: 8, MemoryUsed: 3}}},
		Findings: []Finding{{Severity: HealthWarning}},
	}
	r := prometheus.NewRegistry()
	r.MustRegister(boxCollector{func() Status { return s }})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += "," + l.GetValue()
			}
			got[name] = m.Gauge.GetValue()
		}
	}
	for name, want := range map[string]float64{
		"bothy_model_ready,m,m@1": 1, "bothy_running_want": 7, "bothy_broker_connected": 1, "bothy_outbox_reports": 2,
		"bothy_findings,warning": 1, "bothy_findings,critical": 0, "bothy_gpu_memory_used_bytes,H,GPU-1": 3,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s: got %v (there: %v), want %v", name, v, ok, want)
		}
	}
}

func TestDoctorWorksWithTheAgentDown(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	t.Setenv("RUNTIME_DIRECTORY", t.TempDir())
	c, err := LoadConfig("/nonexistent", false)
	if err != nil {
		t.Fatal(err)
	}
	c.Upstreams = map[string]UpstreamConfig{"cloud": {KeyFile: "/nonexistent/key"}}
	c.Engines.LlamaServer = "/nonexistent/llama-server"
	byName := map[string]Examined{}
	for _, e := range Examine(t.Context(), c) {
		byName[e.Name] = e
	}
	for name, want := range map[string]Health{
		"api socket": HealthCritical, "admin socket": HealthCritical, "kernel": HealthOK, "engine": HealthCritical,
		"enrolment": HealthWarning, "upstream cloud": HealthWarning,
	} {
		e := byName[name]
		if e.Severity != want {
			t.Errorf("%s: got %+v, want %s", name, e, want)
		}
		if want != HealthOK && (e.Hint == "" || strings.TrimSpace(e.What) == "") {
			t.Errorf("%s: got %+v, want what is wrong and what to type", name, e)
		}
	}
}

package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bothy-edge/bothy/runtime"
)

// Metrics of the appliance itself; those of requests are the gateway's.
var (
	descModelUp  = prometheus.NewDesc("bothy_model_ready", "1 when the model answers.", []string{"model", "release"}, nil)
	descCrashes  = prometheus.NewDesc("bothy_model_recent_crashes", "Crashes of the model's engine within the crash window.", []string{"model"}, nil)
	descWant     = prometheus.NewDesc("bothy_running_want", "Counter of the fleet's want that runs.", nil, nil)
	descBroker   = prometheus.NewDesc("bothy_broker_connected", "1 when the broker is connected.", nil, nil)
	descOutbox   = prometheus.NewDesc("bothy_outbox_reports", "Reports that wait for the broker.", nil, nil)
	descFindings = prometheus.NewDesc("bothy_findings", "Health findings by severity.", []string{"severity"}, nil)
	descDisk     = prometheus.NewDesc("bothy_state_disk_free_bytes", "Free bytes on the disk of the state folder.", nil, nil)
	descStore    = prometheus.NewDesc("bothy_store_bytes", "Size of the store's file.", nil, nil)
	descGPUUsed  = prometheus.NewDesc("bothy_gpu_memory_used_bytes", "Memory in use on a GPU.", []string{"uuid", "name"}, nil)
	descGPUTotal = prometheus.NewDesc("bothy_gpu_memory_bytes", "Memory of a GPU.", []string{"uuid", "name"}, nil)
)

// boxCollector turns a status into metrics.
type boxCollector struct{ status func() Status }

// Describe implements prometheus.Collector.
func (boxCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descModelUp, descCrashes, descWant, descBroker, descOutbox, descFindings, descDisk, descStore, descGPUUsed, descGPUTotal} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c boxCollector) Collect(out chan<- prometheus.Metric) {
	s := c.status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, m := range s.Models {
		release := ""
		if m.Current != nil {
			release = m.Current.Release
		}
		gauge(descModelUp, truth(m.Phase == runtime.PhaseReady), m.Alias, release)
		gauge(descCrashes, float64(m.Crashes), m.Alias)
	}
	gauge(descWant, float64(s.Update.Running))
	gauge(descBroker, truth(s.Broker.Connected))
	gauge(descOutbox, float64(s.Broker.Outbox))
	gauge(descDisk, float64(s.Host.DiskFree))
	gauge(descStore, float64(s.Store.Bytes))
	count := map[Health]int{HealthWarning: 0, HealthCritical: 0}
	for _, f := range s.Findings {
		count[f.Severity]++
	}
	for severity, n := range count {
		gauge(descFindings, float64(n), string(severity))
	}
	for _, g := range s.GPU.Devices {
		gauge(descGPUUsed, float64(g.MemoryUsed), g.UUID, g.Name)
		gauge(descGPUTotal, float64(g.MemoryTotal), g.UUID, g.Name)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

package serve

import "github.com/prometheus/client_golang/prometheus"

// metrics are the engine's counters, in a registry of their own. Names are part of the API.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	prompt    prometheus.Counter
	reused    prometheus.Counter
	generated prometheus.Counter
	cancelled prometheus.Counter
	busy      prometheus.Gauge
	waiting   prometheus.Gauge
	step      prometheus.Histogram
}

func newMetrics(slots int) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "bothy_engine_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "bothy_engine_" + name, Help: help})
	}
	m := &metrics{
		registry:  prometheus.NewRegistry(),
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bothy_engine_requests_total", Help: "Requests answered, by endpoint and outcome."}, []string{"endpoint", "outcome"}),
		prompt:    counter("prompt_tokens_total", "Prompt tokens computed."),
		reused:    counter("reused_tokens_total", "Prompt tokens that a slot held already."),
		generated: counter("generated_tokens_total", "Tokens generated."),
		cancelled: counter("cancelled_total", "Requests whose client hung up while they were computed."),
		busy:      gauge("slots_busy", "Slots in use."),
		waiting:   gauge("queue_length", "Requests waiting for a slot."),
		step: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "bothy_engine_step_seconds", Help: "Time of one step over all slots.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	all := gauge("slots", "Slots there are.")
	all.Set(float64(slots))
	m.registry.MustRegister(m.requests, m.prompt, m.reused, m.generated, m.cancelled, m.busy, m.waiting, m.step, all)
	return m
}

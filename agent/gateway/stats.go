package gateway

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/router"
)

const (
	window  = 15 // minutes that Stats looks back
	buckets = 40 // of a latency histogram: each a quarter larger than the one before in powers of two
)

// stats counts what happened: per minute for the operator's screen, for ever for Prometheus.
type stats struct {
	now     func() time.Time
	metrics metrics

	mu      sync.Mutex
	minutes [window]minute
	total   uint64
	flying  map[*router.Request]InFlight
}

// minute is what finished in one minute.
type minute struct {
	at      int64 // minutes since the epoch
	choices map[router.Choice]uint64
	errors  map[string]uint64
	first   histogram
	whole   histogram
}

// histogram counts durations by half powers of two of a millisecond.
type histogram [buckets]uint32

func (h *histogram) add(d time.Duration) {
	ms := max(float64(d)/float64(time.Millisecond), 0.01)
	h[min(max(int(2*math.Log2(ms)+8), 0), buckets-1)]++
}

// quantile gives the upper bound of the bucket in which the share q lies, in seconds.
func (h *histogram) quantile(q float64) float64 {
	var all uint64
	for _, n := range h {
		all += uint64(n)
	}
	want, seen := uint64(math.Ceil(q*float64(all))), uint64(0)
	for i, n := range h {
		if seen += uint64(n); n > 0 && seen >= want {
			return math.Exp2(float64(i-7)/2) / 1000
		}
	}
	return 0
}

// InFlight is a request that is queued or running.
type InFlight struct {
	Request string        `json:"request"`
	Caller  policy.Caller `json:"caller"`
	Model   string        `json:"model"`
	Stream  bool          `json:"stream"`
	Began   time.Time     `json:"began"`
}

func newStats(now func() time.Time) *stats {
	return &stats{now: now, metrics: newMetrics(), flying: map[*router.Request]InFlight{}}
}

// current is the present minute, emptied if it last stood for an older one. Call with mu held.
func (s *stats) current() *minute {
	at := s.now().Unix() / 60
	m := &s.minutes[at%window]
	if m.at != at {
		*m = minute{at: at, choices: map[router.Choice]uint64{}, errors: map[string]uint64{}}
	}
	return m
}

// enter notes a request; the function it gives notes its end.
func (s *stats) enter(req *router.Request, began time.Time) func(*exchange) {
	s.mu.Lock()
	s.flying[req] = InFlight{req.ID, req.Caller, req.Ask.Model, req.Stream, began}
	s.mu.Unlock()
	return func(x *exchange) { s.leave(req, x) }
}

func (s *stats) leave(req *router.Request, x *exchange) {
	took := s.now().Sub(x.began)
	s.mu.Lock()
	delete(s.flying, req)
	s.total++
	m := s.current()
	if x.code != "" {
		m.errors[x.code]++
	}
	if x.answer != nil {
		m.choices[x.answer.Choice]++
		m.first.add(x.answer.First)
		m.whole.add(took)
	}
	s.mu.Unlock()
	s.metrics.observe(x, took)
}

// refused notes a request that did not get as far as the router.
func (s *stats) refused(code string) {
	s.mu.Lock()
	s.total++
	s.current().errors[code]++
	s.mu.Unlock()
	s.metrics.errors.WithLabelValues(code).Inc()
}

// Stats is what `bothy status` shows of requests.
type Stats struct {
	Requests  uint64                        `json:"requests"` // since the start
	InFlight  []InFlight                    `json:"in_flight"`
	Queues    map[string]router.QueueStatus `json:"queues"`
	Upstreams []cloud.Status                `json:"upstreams"`
	Recent    Recent                        `json:"recent"`
}

// Recent sums up the last minutes.
type Recent struct {
	Minutes int               `json:"minutes"`
	Choices []ChoiceCount     `json:"choices"` // the most frequent first
	Errors  map[string]uint64 `json:"errors"`  // by code
	First   Quantiles         `json:"first_content_s"`
	Whole   Quantiles         `json:"whole_answer_s"`
}

// ChoiceCount is how often a place was taken for a reason.
type ChoiceCount struct {
	Place  string `json:"place"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Quantiles of a duration in seconds, each up to half a power of two too large.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

func quantiles(h *histogram) Quantiles {
	return Quantiles{h.quantile(0.5), h.quantile(0.95), h.quantile(0.99)}
}

// Stats describes what is under way and what happened in the last fifteen minutes.
func (g *Gateway) Stats() Stats {
	s := g.stats.snapshot()
	s.Queues, s.Upstreams = g.config.Router.Queues(), g.config.Router.Upstreams()
	return s
}

func (s *stats) snapshot() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Stats{Requests: s.total, InFlight: []InFlight{}, Recent: Recent{Minutes: window, Choices: []ChoiceCount{}, Errors: map[string]uint64{}}}
	for _, f := range s.flying {
		out.InFlight = append(out.InFlight, f)
	}
	slices.SortFunc(out.InFlight, func(a, b InFlight) int { return a.Began.Compare(b.Began) })
	choices, now := map[router.Choice]uint64{}, s.now().Unix()/60
	var first, whole histogram
	for i := range s.minutes {
		m := &s.minutes[i]
		if m.at <= now-window || m.at > now {
			continue
		}
		for c, n := range m.choices {
			choices[c] += n
		}
		for c, n := range m.errors {
			out.Recent.Errors[c] += n
		}
		for b := range first {
			first[b] += m.first[b]
			whole[b] += m.whole[b]
		}
	}
	for c, n := range choices {
		out.Recent.Choices = append(out.Recent.Choices, ChoiceCount{string(c.Place), string(c.Reason), n})
	}
	slices.SortFunc(out.Recent.Choices, func(a, b ChoiceCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Place+a.Reason, b.Place+b.Reason))
	})
	out.Recent.First, out.Recent.Whole = quantiles(&first), quantiles(&whole)
	return out
}

// metrics are the counters that only grow.
type metrics struct {
	requests *prometheus.CounterVec
	errors   *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	first    *prometheus.HistogramVec
	whole    *prometheus.HistogramVec
}

func newMetrics() metrics {
	seconds := prometheus.ExponentialBuckets(0.005, 2, 16)
	return metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bothy_requests_total", Help: "Requests answered, by place, reason and rule."}, []string{"place", "reason", "rule"}),
		errors:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bothy_request_errors_total", Help: "Requests refused or broken off, by error code."}, []string{"code"}),
		tokens:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bothy_tokens_total", Help: "Tokens read and written, by place."}, []string{"place", "direction"}),
		first:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "bothy_first_content_seconds", Help: "Time until the first content byte.", Buckets: seconds}, []string{"place"}),
		whole:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "bothy_request_seconds", Help: "Time until the end of the answer.", Buckets: seconds}, []string{"place"}),
	}
}

func (m *metrics) observe(x *exchange, took time.Duration) {
	if x.code != "" {
		m.errors.WithLabelValues(x.code).Inc()
	}
	a := x.answer
	if a == nil {
		return
	}
	place := string(a.Choice.Place)
	m.requests.WithLabelValues(place, string(a.Choice.Reason), a.Rule).Inc()
	m.first.WithLabelValues(place).Observe(a.First.Seconds())
	m.whole.WithLabelValues(place).Observe(took.Seconds())
	if u := a.Usage(); u != (router.Usage{}) {
		m.tokens.WithLabelValues(place, "in").Add(float64(u.In))
		m.tokens.WithLabelValues(place, "out").Add(float64(u.Out))
	}
}

var (
	waitingDesc  = prometheus.NewDesc("bothy_queue_waiting", "Requests that wait for an engine.", []string{"model"}, nil)
	runningDesc  = prometheus.NewDesc("bothy_queue_running", "Requests that an engine works on.", []string{"model"}, nil)
	waitDesc     = prometheus.NewDesc("bothy_queue_predicted_wait_seconds", "Predicted wait of a request that came now.", []string{"model"}, nil)
	flyingDesc   = prometheus.NewDesc("bothy_requests_in_flight", "Requests queued or running.", nil, nil)
	upstreamDesc = prometheus.NewDesc("bothy_upstream_up", "1 when the upstream's breaker lets requests through.", []string{"place"}, nil)
)

func (g *Gateway) vectors() []prometheus.Collector {
	m := &g.stats.metrics
	return []prometheus.Collector{m.requests, m.errors, m.tokens, m.first, m.whole}
}

// Describe implements prometheus.Collector.
func (g *Gateway) Describe(out chan<- *prometheus.Desc) {
	for _, v := range g.vectors() {
		v.Describe(out)
	}
	for _, d := range []*prometheus.Desc{waitingDesc, runningDesc, waitDesc, flyingDesc, upstreamDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector. It reads state only and never wakes a model.
func (g *Gateway) Collect(out chan<- prometheus.Metric) {
	for _, v := range g.vectors() {
		v.Collect(out)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := g.Stats()
	gauge(flyingDesc, float64(len(s.InFlight)))
	for alias, q := range s.Queues {
		gauge(waitingDesc, float64(q.Waiting), alias)
		gauge(runningDesc, float64(q.Running), alias)
		gauge(waitDesc, q.Wait, alias)
	}
	for _, u := range s.Upstreams {
		up := 0.0
		if u.Breaker == cloud.Closed {
			up = 1
		}
		gauge(upstreamDesc, up, u.Name)
	}
}

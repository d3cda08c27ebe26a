package router

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// Config is what a Router works with. Local and Policy are required.
type Config struct {
	Local Local
	// Policy gives the policy in force: a pointer that is another one after every change.
	Policy func() policy.Decider
	// Connect makes the client of an upstream, with its key and its roots. Nil: no upstream can be used.
	Connect func(policy.Upstream) (*cloud.Client, error)
	// Audit makes departures durable. Nil: nothing may depart.
	Audit interface {
		Depart(context.Context, audit.Record) error
	}
	MaxQueue int           // requests that may wait for one alias; 0: 256
	MaxWait  time.Duration // how long one may wait for an engine; 0: two minutes
	Deadline time.Duration // until the first content byte, over all places; 0: ten minutes
	Stall    time.Duration // silence after which a committed answer counts as broken; 0: two minutes
	Log      *slog.Logger
	Now      func() time.Time
}

// Router takes requests to places. See the package comment.
type Router struct {
	config    Config
	upstreams *upstreams

	mu     sync.RWMutex
	queues map[string]*queue // by alias that exists on this box
}

// Body is a request's body, which only the gateway can read.
type Body interface {
	// Local is what an engine here gets; maxTokens > 0 bounds the answer.
	Local(maxTokens int) ([]byte, error)
	// Cloud is what the upstream gets: encoded anew, with the model's name there, and
	// what the detectors find in those very bytes.
	Cloud(model string, maxTokens int) (body []byte, kinds []detect.Kind, err error)
}

// Request is one request on its way. The router does not modify it.
type Request struct {
	ID     string
	Caller policy.Caller
	Key    string     // callers with equal keys share a turn in the queue
	Ask    policy.Ask // Time is filled at every decision
	Path   string     // for example /v1/chat/completions
	Header http.Header
	Body   Body
	Stream bool // answered as server-sent events
	Cost   float64
}

// New makes a router.
func New(c Config) *Router {
	if c.MaxQueue <= 0 {
		c.MaxQueue = 256
	}
	if c.MaxWait <= 0 {
		c.MaxWait = 2 * time.Minute
	}
	if c.Deadline <= 0 {
		c.Deadline = 10 * time.Minute
	}
	if c.Stall <= 0 {
		c.Stall = 2 * time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Connect == nil {
		c.Connect = func(policy.Upstream) (*cloud.Client, error) {
			return nil, errors.New("no connection to the cloud is configured")
		}
	}
	return &Router{config: c, queues: map[string]*queue{},
		upstreams: &upstreams{policy: c.Policy, connect: c.Connect, log: c.Log}}
}

// Do takes the request to a place and returns once the answer has begun, or with
// an *Error. The answer must be closed. ctx ends the work wherever it stands.
func (r *Router) Do(ctx context.Context, req *Request) (*Answer, error) {
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	t := &trip{Router: r, req: req, ask: req.Ask, parent: parent, ctx: ctx, cancel: cancel, began: r.config.Now()}
	limit := time.AfterFunc(r.config.Deadline, func() { cancel(errDeadline) })
	answer, err := t.run()
	limit.Stop()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return answer, nil
}

var (
	errDeadline = errors.New("no content within the deadline")
	errStalled  = errors.New("the answer stopped coming")
	errTimeout  = errors.New("the upstream took longer than its policy allows")
)

// queue gives the alias's queue. Only aliases of this box have one, so a client
// cannot make the map grow.
func (r *Router) queue(alias string) *queue {
	r.mu.RLock()
	q := r.queues[alias]
	r.mu.RUnlock()
	if q != nil {
		return q
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q = r.queues[alias]; q == nil {
		q = newQueue(r.config.MaxQueue, r.config.Now)
		r.queues[alias] = q
	}
	return q
}

// QueueStatus is an alias's queue in the status.
type QueueStatus struct {
	Waiting int     `json:"waiting"`
	Running int     `json:"running"`
	Slots   int     `json:"slots"`
	Wait    float64 `json:"predicted_wait_s"` // of a request that came now
	Busy    bool    `json:"busy"`             // what may leave does
}

// Queues describes every queue that was used so far, by alias.
func (r *Router) Queues() map[string]QueueStatus {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make(map[string]QueueStatus, len(r.queues))
	for alias, q := range r.queues {
		out[alias] = q.status()
	}
	return out
}

// Upstreams describes the clients of the policy in force; one without a breaker
// cannot be used, and its error says why.
func (r *Router) Upstreams() []cloud.Status {
	s := r.upstreams.current()
	out := []cloud.Status{}
	for _, def := range s.decider.Upstreams() {
		if c := s.clients[policy.Place(def.Name)]; c != nil {
			out = append(out, c.Status())
		} else if err := s.failed[policy.Place(def.Name)]; err != nil {
			out = append(out, cloud.Status{Name: def.Name, LastError: err.Error()})
		}
	}
	return out
}

// Serves tells whether anybody could serve the alias: an engine here, or an
// upstream that the policy in force maps it to by name.
func (r *Router) Serves(alias string) bool {
	return r.config.Local.State(alias).Phase != Unknown || r.upstreams.current().names(alias)
}

// Explain decides without running: what the policy in force says about a request.
func (r *Router) Explain(c policy.Caller, a policy.Ask) policy.Verdict {
	if a.Time.IsZero() {
		a.Time = r.config.Now()
	}
	return r.upstreams.current().decider.Decide(c, a)
}

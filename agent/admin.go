package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bothy-edge/bothy/agent/caller"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/detect"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/trust"
)

// maxOrder bounds the body of an order on the admin socket, in bytes.
const maxOrder = 1 << 20

// maxLines bounds the log lines of one answer.
const maxLines = 10000

// answer computes the JSON answer of a route.
type answer func(r *http.Request) (any, error)

// adminHandler is the operator's API. Who may connect to the socket may do everything on it.
func (b *box) adminHandler() http.Handler {
	mux := http.NewServeMux()
	for pattern, a := range map[string]answer{
		"GET /health":                      b.getHealth,
		"GET /v1/status":                   func(*http.Request) (any, error) { return b.status(time.Now()), nil },
		"GET /v1/models":                   func(*http.Request) (any, error) { return b.supervisor.Status(), nil },
		"GET /v1/models/{alias...}":        b.getModel,
		"GET /v1/logs/{alias...}":          b.getLogs,
		"GET /v1/policy":                   b.getPolicy,
		"POST /v1/policy/explain":          b.explain,
		"GET /v1/changes":                  b.getChanges,
		"GET /v1/changes/{id}":             b.getChange,
		"GET /v1/changes/{id}/explain":     b.explainChange,
		"GET /v1/changes/{id}/wait":        b.waitChange,
		"GET /v1/wait":                     b.waitNext,
		"POST /v1/changes/{id}/cancel":     b.order(b.updater.Cancel),
		"POST /v1/changes/{id}/pause":      b.order(b.updater.Pause),
		"POST /v1/changes/{id}/resume":     b.order(b.updater.Resume),
		"POST /v1/changes/{id}/approve":    b.order(b.updater.Approve),
		"POST /v1/changes/{id}/start":      b.order(b.updater.Start),
		"GET /v1/artifacts":                b.getArtifacts,
		"POST /v1/artifacts/pin":           b.pinOrder(true),
		"POST /v1/artifacts/unpin":         b.pinOrder(false),
		"POST /v1/artifacts/drop-previous": b.dropPrevious,
		"POST /v1/update/check":            b.check,
		"POST /v1/update/import":           b.importFolder,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxOrder)
			v, err := a(r)
			if errors.Is(err, context.Canceled) { // the client has left and reads nothing, or we are about to
				err = problem{http.StatusServiceUnavailable, errors.New("the agent is stopping"), "ask again when it is back"}
			}
			if err != nil {
				writeProblem(w, err)
				return
			}
			writeJSON(w, http.StatusOK, v)
		})
	}
	mux.Handle("GET /metrics", b.metrics())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem{http.StatusNotFound, fmt.Errorf("there is no %s %s on the admin socket", r.Method, r.URL.Path), "docs/json.md lists what there is"})
	})
	return mux
}

func (b *box) getHealth(*http.Request) (any, error) {
	return map[string]Health{"health": b.status(time.Now()).Health}, nil
}

func (b *box) getModel(r *http.Request) (any, error) {
	return b.model(r.PathValue("alias"))
}

func (b *box) model(alias string) (runtime.AliasStatus, error) {
	for _, m := range b.supervisor.Status() {
		if m.Alias == alias {
			return m, nil
		}
	}
	return runtime.AliasStatus{}, problem{http.StatusNotFound, fmt.Errorf("no model is installed under the alias %q", alias), "bothy model list"}
}

func (b *box) getLogs(r *http.Request) (any, error) {
	alias := r.PathValue("alias")
	if _, err := b.model(alias); err != nil {
		return nil, err
	}
	n := 100
	if q := r.URL.Query().Get("n"); q != "" {
		var err error
		if n, err = strconv.Atoi(q); err != nil || n < 1 || n > maxLines {
			return nil, problem{http.StatusBadRequest, fmt.Errorf("cannot show %q lines: want 1 to %d", q, maxLines), ""}
		}
	}
	return b.supervisor.Lines(alias, n), nil
}

// PolicyShown is GET /v1/policy: what is in force, with its document.
type PolicyShown struct {
	PolicyStatus
	Document json.RawMessage `json:"document"`
}

func (b *box) getPolicy(*http.Request) (any, error) {
	return PolicyShown{b.policyStatus(), b.policies.current.Load().first.Document()}, nil
}

// ExplainRequest asks which rule would decide a request, without running it.
type ExplainRequest struct {
	PID    int32          `json:"pid,omitempty"`    // a running process; its identity is looked up
	Caller *policy.Caller `json:"caller,omitempty"` // or a caller as described
	Ask    policy.Ask     `json:"ask"`
	Text   string         `json:"text,omitempty"` // scanned by the detectors, not kept
}

// ExplainAnswer says how the policy in force decides, and from what.
type ExplainAnswer struct {
	Policy   string           `json:"policy"`
	Release  string           `json:"release,omitempty"`
	Narrowed string           `json:"narrowed,omitempty"`
	Caller   policy.Caller    `json:"caller"`
	Identity *caller.Identity `json:"identity,omitempty"` // of the process that was looked up
	Ask      policy.Ask       `json:"ask"`                // with what the detectors found
	Verdict  policy.Verdict   `json:"verdict"`
	// Policies explains each policy in force by itself; the verdict is their intersection.
	Policies []policy.Explanation `json:"policies"`
}

func (b *box) explain(r *http.Request) (any, error) {
	var q ExplainRequest
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		return nil, problem{http.StatusBadRequest, fmt.Errorf("cannot read the question: %w", err), ""}
	}
	now := b.policies.current.Load()
	out, err := q.described()
	if err != nil {
		return nil, err
	}
	out.Policy, out.Release, out.Narrowed = now.first.Name(), now.release, b.policies.status().Narrowed
	out.Verdict = now.decider.Decide(out.Caller, out.Ask)
	for _, p := range now.all {
		out.Policies = append(out.Policies, p.Explain(out.Caller, out.Ask))
	}
	return out, nil
}

// Answer explains how p by itself would decide.
func (q ExplainRequest) Answer(p *policy.Policy) (ExplainAnswer, error) {
	out, err := q.described()
	if err != nil {
		return out, err
	}
	e := p.Explain(out.Caller, out.Ask)
	out.Policy, out.Verdict, out.Policies = p.Name(), e.Verdict, []policy.Explanation{e}
	return out, nil
}

// described is the request as Decide sees it: who calls, and what the detectors find.
func (q ExplainRequest) described() (ExplainAnswer, error) {
	out := ExplainAnswer{Ask: q.Ask}
	switch {
	case q.PID != 0:
		id, err := caller.OfPID(q.PID)
		if err != nil {
			return out, problem{http.StatusNotFound, err, ""}
		}
		out.Identity, out.Caller = &id, asCaller(id)
	case q.Caller != nil:
		out.Caller = *q.Caller
	}
	out.Ask.Kinds = append(out.Ask.Kinds, detect.Kinds(detect.Scan(q.Text))...)
	if out.Ask.Time.IsZero() {
		out.Ask.Time = time.Now()
	}
	return out, nil
}

func asCaller(id caller.Identity) policy.Caller {
	return policy.Caller{UID: id.UID, GID: id.GID, Unit: id.Unit, Exe: id.Exe, Container: id.Container, Unattested: !id.Trusted}
}

func (b *box) getChanges(*http.Request) (any, error) {
	all, err := b.updater.List()
	if all == nil {
		all = []updater.Change{}
	}
	return all, err
}

func (b *box) getChange(r *http.Request) (any, error) {
	id, err := number(r, "id")
	if err != nil {
		return nil, err
	}
	c, ok, err := b.updater.Show(id)
	if err == nil && !ok {
		err = problem{http.StatusNotFound, fmt.Errorf("there is no change %d", id), "bothy change list"}
	}
	return c, err
}

func (b *box) waitChange(r *http.Request) (any, error) {
	id, err := number(r, "id")
	if err != nil {
		return nil, err
	}
	return b.updater.Wait(r.Context(), id)
}

// waitNext waits for a change to end: one with a number above ?after=, or the
// one that carries the want ?counter= or a newer one. A refused offer may have no
// verified counter; one that is refused while we wait is the answer too.
func (b *box) waitNext(r *http.Request) (any, error) {
	q := r.URL.Query()
	after, err1 := strconv.ParseUint(q.Get("after"), 10, 64)
	counter, err2 := strconv.ParseUint(q.Get("counter"), 10, 64)
	if err1 != nil && err2 != nil {
		return nil, problem{http.StatusBadRequest, errors.New("cannot wait: want after=CHANGE or counter=WANT, a number"), ""}
	}
	began := time.Now()
	for {
		changed := b.updater.Changed()
		all, err := b.updater.List()
		if err != nil {
			return nil, err
		}
		for _, c := range all {
			byNumber := err1 == nil && c.ID > after
			byWant := err2 == nil && (c.Want.Counter >= counter || c.State == updater.Refused && c.Created.After(began))
			if c.State.Ended() && (byNumber || byWant) {
				return c, nil
			}
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func number(r *http.Request, name string) (uint64, error) {
	n, err := strconv.ParseUint(r.PathValue(name), 10, 64)
	if err != nil {
		return 0, problem{http.StatusBadRequest, fmt.Errorf("cannot read %q: want a number", r.PathValue(name)), ""}
	}
	return n, nil
}

// order is a route that tells the updater to do something with one change.
func (b *box) order(do func(context.Context, uint64) error) answer {
	return func(r *http.Request) (any, error) {
		id, err := number(r, "id")
		if err == nil {
			err = do(r.Context(), id)
		}
		return map[string]uint64{"id": id}, conflict(err)
	}
}

// conflict marks an order that cannot be followed as the client's, not ours.
func conflict(err error) error {
	if err == nil || errors.As(err, new(problem)) {
		return err
	}
	return problem{status: http.StatusConflict, error: err}
}

func (b *box) check(r *http.Request) (any, error) {
	if err := b.updater.Check(r.Context()); err != nil {
		return nil, conflict(err)
	}
	return b.updateStatus(), nil
}

// ImportRequest names a folder on this box: a fleet's, or a copy of its catalog, director and blobs.
type ImportRequest struct {
	Path string `json:"path"`
}

// ImportAnswer tells the change that carries the folder's want: one that the import began, or
// the one that brought what runs already; 0 when none is known.
type ImportAnswer struct {
	Change uint64 `json:"change"`
}

func (b *box) importFolder(r *http.Request) (any, error) {
	var q ImportRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return nil, problem{http.StatusBadRequest, fmt.Errorf("cannot read the order: %w", err), ""}
	}
	if b.trust == nil {
		return nil, conflict(notEnrolled())
	}
	if info, err := os.Stat(q.Path); !filepath.IsAbs(q.Path) || err != nil || !info.IsDir() {
		return nil, problem{http.StatusBadRequest, fmt.Errorf("cannot import from %q: the agent sees no folder there", q.Path), "name the fleet's folder, or a copy of its catalog, director and blobs"}
	}
	if _, err := os.Stat(filepath.Join(q.Path, "director")); err != nil {
		return nil, problem{http.StatusBadRequest, fmt.Errorf("cannot import from %q: it holds no fleet: there is no folder director in it", q.Path), "name the fleet's folder, or what bothy fleet mirror wrote"}
	}
	from := refresher{b.trust, trust.Directory{Dir: q.Path, Device: b.identity.Device}}
	files := fetcher{b.artifacts, b.views, []content.Source{content.Directory{Dir: q.Path}}, b.dropDamaged}
	id, err := b.updater.Import(r.Context(), q.Path, from, files)
	return ImportAnswer{id}, conflict(err)
}

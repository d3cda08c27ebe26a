// Package policy decides where a request may run.
//
// A policy is a signed document: upstreams (named places in the cloud), classes
// (what a request may hold, or who sends it) and rules, of which the first that
// matches wins. Without a match the place is the box itself. Decide is pure and
// total: no I/O, no clock, no error; load, health and cost are none of its
// business and can only choose inside the set it yields.
//
// What is not known never widens the set. A scan that did not finish gets the
// intersection over every class that might apply, a caller that could not be
// attested the intersection over every caller it might be, a header can only
// narrow, an opaque body stays on the box unless a rule names it, and the kill
// switch leaves nothing but the box.
//
// Parse is strict: a field it does not know, or knows and does not honour in
// this version, is an error with line and column, never ignored. A Policy is
// immutable; everything here is safe for concurrent use. Slices and maps that
// come out of a Policy are shared and must not be modified.
package policy

import (
	"encoding/json"
	"time"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// Place is where a request may run: Local, or the name of an upstream.
type Place string

// Local is this box.
const Local Place = "local"

// Opaque is the built-in class of requests whose content cannot be read by the
// detectors: images, audio, files, remote URLs, stored-response ids, token ids.
const Opaque = "opaque"

// DefaultRule is the rule name of a verdict that no rule of the document gave.
const DefaultRule = "default"

// The priorities a rule can give.
const (
	Interactive = "interactive"
	Batch       = "batch"
)

// Caller is who asks, as the kernel attests it.
type Caller struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	// Unit is the systemd unit and Container the container's id; "" when there is none.
	// Exe is the executable's path; "" when it is not known, and it may then be any.
	Unit      string `json:"unit,omitempty"`
	Exe       string `json:"exe,omitempty"`
	Container string `json:"container,omitempty"`
	// Unattested says that unit, exe and container could not be established:
	// the verdict is then the intersection over everything they might be.
	Unattested bool `json:"unattested,omitempty"`
}

// Ask is what is asked, as far as the policy cares.
type Ask struct {
	// Model is the alias in the request, API one of "chat", "completions", "embeddings".
	Model string `json:"model"`
	API   string `json:"api,omitempty"`
	// Kinds is what the detectors found.
	Kinds []detect.Kind `json:"kinds,omitempty"`
	// Labels are the classes that the request claims for itself (x-bothy-class).
	Labels []string `json:"labels,omitempty"`
	// OnlyLocal is the request's own wish to stay (x-bothy-place: local).
	OnlyLocal bool `json:"only_local,omitempty"`
	// Opaque marks content that no detector can read; Incomplete a scan that did not finish.
	Opaque     bool `json:"opaque,omitempty"`
	Incomplete bool `json:"incomplete,omitempty"`
	// Bytes is the size of the body.
	Bytes int `json:"bytes,omitempty"`
	// Time is the box's local time, for rules that hold at some hours or days only.
	Time time.Time `json:"time,omitzero"`
}

// Verdict is the set of places and the terms. Its slices are shared: do not modify them.
type Verdict struct {
	// Places is where the request may run, the preferred one first. Empty exactly when Deny is set.
	Places []Place `json:"places"`
	// Priority is Interactive or Batch.
	Priority string `json:"priority"`
	// MaxTokens bounds the answer; 0 is no bound.
	MaxTokens int `json:"max_tokens,omitempty"`
	// Deny is why the request may run nowhere, in words for the caller.
	Deny string `json:"deny,omitempty"`
	// Rule is the rule that decided, or several joined by "+" where verdicts were intersected.
	Rule string `json:"rule"`
	// Classes are those the request certainly is in.
	Classes []string `json:"classes,omitempty"`
}

// Allows says whether the request may run at the place.
func (v Verdict) Allows(place Place) bool {
	for _, p := range v.Places {
		if p == place {
			return true
		}
	}
	return false
}

// Decider is what a router needs of the policy in force: a *Policy, or a *Set of two.
type Decider interface {
	// Decide yields the places where the request may run.
	Decide(Caller, Ask) Verdict
	// Upstreams are the cloud places that verdicts may name.
	Upstreams() []Upstream
	// Spill is what counts as too busy.
	Spill() Spill
}

// Upstream is a cloud place. The key itself is never part of a policy.
type Upstream struct {
	// Name is the place. API is the wire format: "openai".
	Name string `json:"name"`
	API  string `json:"api"`
	// BaseURL is https (or http on a loopback address), up to and including the version: "https://api.example.com/v1".
	BaseURL string `json:"base_url"`
	// Credential names the file or systemd credential that holds the key; "" sends none.
	Credential string `json:"credential,omitempty"`
	// Models maps aliases of this box to the upstream's names. When it is set, an
	// alias without an entry cannot run there; when it is empty, aliases are sent as they are.
	Models map[string]string `json:"models,omitempty"`
	// Timeout bounds one attempt from dial to the last byte; DefaultTimeout when the document gives none.
	Timeout time.Duration `json:"-"`
}

// Serves says whether the upstream has the alias, and under which name.
func (u Upstream) Serves(alias string) (name string, ok bool) {
	if len(u.Models) == 0 {
		return alias, true
	}
	name, ok = u.Models[alias]
	return name, ok
}

// DefaultTimeout bounds an attempt at an upstream whose document gives no timeout.
const DefaultTimeout = 10 * time.Minute

// DefaultMaxWait is the spill threshold of a document that gives none.
const DefaultMaxWait = 10 * time.Second

// Spill is what counts as too busy here: a request that may leave does so when
// either threshold is passed, or the engine is down or switching.
type Spill struct {
	// MaxWait is the predicted local wait above which a request leaves.
	MaxWait time.Duration
	// MaxQueue is the number of waiting requests above which a request leaves; 0 sets no threshold.
	MaxQueue int
}

// Policy is one parsed and validated document, ready to decide. Immutable.
type Policy struct {
	doc      document
	source   json.RawMessage // canonical JSON of doc
	compiled program
}

// Name is the document's name; "default" for Default.
func (p *Policy) Name() string { return p.doc.Name }

// Document is the policy as canonical JSON, which Parse accepts again. Shared: do not modify it.
func (p *Policy) Document() json.RawMessage { return p.source }

// Upstreams are the document's upstreams, in its order. Shared: do not modify them.
func (p *Policy) Upstreams() []Upstream { return p.doc.Upstreams }

// Spill is the document's thresholds, with defaults filled in.
func (p *Policy) Spill() Spill { return p.doc.Spill.spill() }

// KillSwitch says whether the document forbids every cloud place.
func (p *Policy) KillSwitch() bool { return p.doc.KillSwitch }

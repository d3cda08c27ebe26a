package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// probe is an example request with the verdict it must get.
type probe struct {
	Name string    `json:"name"`
	Ask  probeAsk  `json:"ask"`
	Want probeWant `json:"want"`
	pos  position
}

// probeAsk is the request of a probe. Its text is what the detectors look at.
type probeAsk struct {
	Model      string   `json:"model"`
	API        string   `json:"api,omitempty"`
	Text       string   `json:"text,omitempty"`
	Caller     Caller   `json:"caller,omitzero"`
	Labels     []string `json:"labels,omitempty"`
	OnlyLocal  bool     `json:"only_local,omitempty"`
	Opaque     bool     `json:"opaque,omitempty"`
	Incomplete bool     `json:"incomplete,omitempty"`
	Bytes      int      `json:"bytes,omitempty"`
	Time       string   `json:"time,omitempty"`
}

// probeTime is how a probe writes local time.
const probeTime = "2006-01-02 15:04"

func (a probeAsk) ask() Ask {
	when, _ := time.Parse(probeTime, a.Time) // Parse has refused anything else; without a time the zero one stands.
	return Ask{
		Model: a.Model, API: a.API, Kinds: detect.Kinds(detect.Scan(a.Text)), Labels: a.Labels,
		OnlyLocal: a.OnlyLocal, Opaque: a.Opaque, Incomplete: a.Incomplete,
		Bytes: max(a.Bytes, len(a.Text)), Time: when,
	}
}

// probeWant is the verdict expected; fields that are not given are not compared.
type probeWant struct {
	Places    []Place  `json:"places,omitempty"`
	Denied    *bool    `json:"denied,omitempty"`
	Rule      string   `json:"rule,omitempty"`
	Priority  string   `json:"priority,omitempty"`
	MaxTokens *int     `json:"max_tokens,omitempty"`
	Classes   []string `json:"classes,omitempty"`
}

// differs says in words where a verdict is not the expected one; "" when it is.
func (w probeWant) differs(v Verdict) string {
	switch {
	case w.Denied != nil && *w.Denied != (v.Deny != ""):
		return fmt.Sprintf("denied is %t, want %t", v.Deny != "", *w.Denied)
	case len(w.Places) > 0 && !slices.Equal(w.Places, v.Places):
		return fmt.Sprintf("places are %v, want %v", v.Places, w.Places)
	case w.Rule != "" && w.Rule != v.Rule:
		return fmt.Sprintf("the rule is not %q", w.Rule)
	case w.Priority != "" && w.Priority != v.Priority:
		return fmt.Sprintf("priority is %q, want %q", v.Priority, w.Priority)
	case w.MaxTokens != nil && *w.MaxTokens != v.MaxTokens:
		return fmt.Sprintf("max_tokens is %d, want %d", v.MaxTokens, *w.MaxTokens)
	case len(w.Classes) > 0 && !sameSet(w.Classes, v.Classes):
		return fmt.Sprintf("classes are %v, want %v", v.Classes, w.Classes)
	}
	return ""
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// ProbeResult is one probe with what it got.
type ProbeResult struct {
	Name    string  `json:"name"`
	Passed  bool    `json:"passed"`
	Verdict Verdict `json:"verdict"`
	// Problem says where the verdict differs; "" when the probe passed.
	Problem string `json:"problem,omitempty"`
}

// Probes runs every probe of the document and returns the results in its order.
func (p *Policy) Probes() []ProbeResult {
	out := make([]ProbeResult, 0, len(p.doc.Probes))
	for _, pr := range p.doc.Probes {
		v := p.Decide(pr.Ask.Caller, pr.Ask.ask())
		problem := pr.Want.differs(v)
		out = append(out, ProbeResult{Name: pr.Name, Passed: problem == "", Verdict: v, Problem: problem})
	}
	return out
}

// Probe fails when a probe of the document does not get its verdict; a policy
// whose probes fail must not be activated. The error names every failing probe.
func (p *Policy) Probe() error {
	var errs []error
	for i, res := range p.Probes() {
		if !res.Passed {
			at := p.doc.Probes[i].pos
			errs = append(errs, fmt.Errorf("policy %q refused: probe %q (line %d) failed: %s; decided by rule %q",
				p.doc.Name, res.Name, at.line, res.Problem, res.Verdict.Rule))
		}
	}
	return errors.Join(errs...)
}

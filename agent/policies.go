package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/updater"
)

// policies holds the policy in force. Readers take one immutable snapshot a request.
type policies struct {
	log     *slog.Logger
	current atomic.Pointer[inForce]
	// activated is closed once Activate was called: until then nobody may be served.
	activated chan struct{}
	once      sync.Once
}

// inForce is what Activate made.
type inForce struct {
	decider   policy.Decider
	first     *policy.Policy // the one that status shows
	all       []*policy.Policy
	release   string   // of first; empty for the built-in policy
	narrowing []string // releases whose narrowing is kept after an undo
	kill      bool
	broken    string // why the built-in policy stands for one of them
}

func newPolicies(log *slog.Logger) *policies {
	p := &policies{log: log, activated: make(chan struct{})}
	d := policy.Default()
	p.current.Store(&inForce{decider: d, first: d, all: []*policy.Policy{d}})
	return p
}

// decider is the policy in force now.
func (p *policies) decider() policy.Decider { return p.current.Load().decider }

// Stage tells whether a document could be activated: it parses and its probes pass.
func (p *policies) Stage(document []byte) error {
	_, err := stage(document)
	return err
}

func stage(document []byte) (*policy.Policy, error) {
	parsed, err := policy.Parse(document)
	if err != nil {
		return nil, err
	}
	return parsed, parsed.Probe()
}

// Activate puts the first policy in force, narrowed by all others: a place must
// be allowed by every one of them. An empty list is the built-in policy, local
// only; a document that cannot be used counts as that too, and is the error.
func (p *policies) Activate(list []updater.Policy) error {
	next := &inForce{first: policy.Default()}
	all := []*policy.Policy{}
	var failed error
	for i, item := range list {
		parsed, id, err := read(item)
		failed = errors.Join(failed, err)
		next.note(item, err)
		all = append(all, parsed)
		if item.LocalOnly {
			all = append(all, policy.Default())
		}
		if i == 0 {
			next.first, next.release = parsed, id
		} else if id != "" {
			next.narrowing = append(next.narrowing, id)
		}
		next.kill = next.kill || parsed.KillSwitch()
	}
	next.all, next.decider = all, policy.All(all...)
	p.current.Store(next)
	p.once.Do(func() { close(p.activated) })
	p.log.Info("policy in force", "policy", next.first.Name(), "release", next.release, "narrowed_by", next.narrowing)
	return failed
}

// note remembers a policy that could not be used. One that has a version but no
// document was lost, which its owner knows and we are told by that.
func (f *inForce) note(item updater.Policy, err error) {
	switch {
	case err != nil:
		f.broken = err.Error()
	case item.Document == nil && item.Version > 0:
		f.broken = fmt.Sprintf("cannot find the file of policy %s@%d, local only instead", item.Name, item.Version)
	}
}

// read gives the policy of an item; the built-in one where it has no document, or none that can be used.
func read(item updater.Policy) (parsed *policy.Policy, id string, err error) {
	if item.Document == nil {
		return policy.Default(), "", nil
	}
	id = fmt.Sprintf("%s@%d", item.Name, item.Version)
	if parsed, err = stage(item.Document); err != nil {
		return policy.Default(), id, fmt.Errorf("cannot activate policy %s, local only instead: %w", id, err)
	}
	return parsed, id, nil
}

// status is what `bothy status` shows of the policy in force.
func (p *policies) status() PolicyStatus {
	now := p.current.Load()
	s := PolicyStatus{Name: now.first.Name(), Release: now.release, KillSwitch: now.kill, Upstreams: []string{}, Narrowed: strings.Join(now.narrowing, ", "), Broken: now.broken}
	for _, u := range now.decider.Upstreams() {
		s.Upstreams = append(s.Upstreams, u.Name)
	}
	return s
}

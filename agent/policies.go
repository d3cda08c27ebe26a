package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater"
)

// policies holds the policy in force. Readers take one immutable snapshot a request.
type policies struct {
	log     *slog.Logger
	current atomic.Pointer[inForce]
	// activated is closed once Activate was called: until then nobody may be served.
	activated chan struct{}
	once      sync.Once
	// db keeps copies of the documents in force. Set before use; nil keeps none.
	db *store.DB
}

// inForce is what Activate made.
type inForce struct {
	decider   policy.Decider
	first     *policy.Policy // the one that status shows
	all       []*policy.Policy
	release   string   // of first; empty for the built-in policy
	narrowing []string // releases whose narrowing is kept after an undo
	older     string   // release below its anti-rollback mark, for which nothing leaves the box
	kill      bool
	broken    string // why a copy or the built-in policy stands for one of them
}

// policyCopies keep the documents that were in force: should an artifact be lost,
// the policy's refusals must not be lost with it.
func policyCopies() store.Table[[]byte] { return store.Table[[]byte]{Name: "policy_copies"} }

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
		parsed, id, err := p.read(item)
		failed = errors.Join(failed, err)
		if err != nil {
			next.broken = err.Error()
		}
		all = append(all, parsed)
		if item.LocalOnly {
			all = append(all, policy.Default())
			next.older = id
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
	p.keep(list)
	p.once.Do(func() { close(p.activated) })
	p.log.Info("policy in force", "policy", next.first.Name(), "release", next.release, "narrowed_by", next.narrowing)
	return failed
}

// read gives the policy of an item: its document, or the copy kept of it, or the
// built-in one. Every stand-in is an error that says so.
func (p *policies) read(item updater.Policy) (parsed *policy.Policy, id string, err error) {
	if item.Document == nil && item.Version == 0 {
		return policy.Default(), "", nil
	}
	id = fmt.Sprintf("%s@%d", item.Name, item.Version)
	err = errors.New("its file is lost")
	if item.Document != nil {
		if parsed, err = stage(item.Document); err == nil {
			return parsed, id, nil
		}
	}
	if parsed, ok := p.copyOf(id); ok {
		return parsed, id, fmt.Errorf("cannot use policy %s, its stored copy instead: %w", id, err)
	}
	return policy.Default(), id, fmt.Errorf("cannot use policy %s, local only instead: %w", id, err)
}

func (p *policies) copyOf(id string) (*policy.Policy, bool) {
	if p.db == nil {
		return nil, false
	}
	var document []byte
	err := p.db.View(func(tx *store.Tx) (err error) {
		document, _, err = policyCopies().Get(tx, id)
		return err
	})
	if err != nil || document == nil {
		return nil, false
	}
	parsed, err := stage(document)
	return parsed, err == nil
}

// keep replaces the copies by the documents in force. A copy that cannot be
// written costs nothing as long as the artifact is there.
func (p *policies) keep(list []updater.Policy) {
	if p.db == nil {
		return
	}
	if err := p.db.Update(func(tx *store.Tx) error { return replaceCopies(tx, list) }); err != nil {
		p.log.Error("policy not copied", "error", err)
	}
}

func replaceCopies(tx *store.Tx, list []updater.Policy) error {
	held := map[string]bool{}
	for _, item := range list {
		id := fmt.Sprintf("%s@%d", item.Name, item.Version)
		held[id] = true
		if _, err := stage(item.Document); err != nil {
			continue // the copy that stands in for it stays
		}
		if err := policyCopies().Put(tx, id, item.Document); err != nil {
			return err
		}
	}
	var old []string
	err := policyCopies().Each(tx, "", func(id string, _ []byte) error {
		if !held[id] {
			old = append(old, id)
		}
		return nil
	})
	for _, id := range old {
		err = errors.Join(err, policyCopies().Delete(tx, id))
	}
	return err
}

// status is what `bothy status` shows of the policy in force.
func (p *policies) status() PolicyStatus {
	now := p.current.Load()
	s := PolicyStatus{Name: now.first.Name(), Release: now.release, KillSwitch: now.kill, Older: now.older, Upstreams: []string{}, Narrowed: strings.Join(now.narrowing, ", "), Broken: now.broken}
	for _, u := range now.decider.Upstreams() {
		s.Upstreams = append(s.Upstreams, u.Name)
	}
	return s
}

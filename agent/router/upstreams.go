package router

import (
	"log/slog"
	"maps"
	"sync"

	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/policy"
)

// snapshot is a policy together with the clients of its upstreams, so that a place
// allowed by one policy is never dialled as another one defines it.
type snapshot struct {
	decider policy.Decider
	clients map[policy.Place]*cloud.Client
	defs    map[policy.Place]policy.Upstream
	failed  map[policy.Place]error // why there is no client
}

// upstreams keeps a client, and with it its breaker, for as long as a policy in
// force defines the upstream in the same way.
type upstreams struct {
	policy  func() policy.Decider
	connect func(policy.Upstream) (*cloud.Client, error)
	log     *slog.Logger

	mu  sync.Mutex
	now *snapshot
}

// current is the snapshot of the policy that is in force at this moment.
func (u *upstreams) current() *snapshot {
	d := u.policy()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.now == nil || u.now.decider != d {
		u.now = u.build(d, u.now)
	}
	return u.now
}

func (u *upstreams) build(d policy.Decider, old *snapshot) *snapshot {
	s := &snapshot{decider: d, clients: map[policy.Place]*cloud.Client{}, defs: map[policy.Place]policy.Upstream{}, failed: map[policy.Place]error{}}
	for _, def := range d.Upstreams() {
		place := policy.Place(def.Name)
		s.defs[place] = def
		if old != nil && same(old.defs[place], def) && old.clients[place] != nil {
			s.clients[place] = old.clients[place]
			continue
		}
		client, err := u.connect(def)
		if err != nil {
			u.log.Error("upstream cannot be used", "place", def.Name, "error", err)
			s.failed[place] = err
			continue
		}
		s.clients[place] = client
	}
	if old != nil {
		for place, client := range old.clients {
			if s.clients[place] != client {
				client.Close()
			}
		}
	}
	return s
}

func same(a, b policy.Upstream) bool {
	return a.Name == b.Name && a.API == b.API && a.BaseURL == b.BaseURL && a.Credential == b.Credential &&
		a.Timeout == b.Timeout && maps.Equal(a.Models, b.Models)
}

// usable tells whether the place is an upstream that would take a request for the alias now.
func (s *snapshot) usable(place policy.Place, alias string) bool {
	client := s.clients[place]
	if client == nil || !client.Ready() {
		return false
	}
	_, ok := client.Model(alias)
	return ok
}

// names tells whether any upstream maps the alias by name.
func (s *snapshot) names(alias string) bool {
	for _, def := range s.defs {
		if _, ok := def.Models[alias]; ok {
			return true
		}
	}
	return false
}

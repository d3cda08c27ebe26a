package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/router"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/systemd"
)

// local shows the runtime to the router.
type local struct {
	supervisor *runtime.Supervisor
	now        func() time.Time
	// wanted says that this box shall run an alias, whether or not it does yet.
	wanted func(alias string) bool
}

// Acquire gives the alias's current engine.
func (l local) Acquire(ctx context.Context, alias string) (router.Engine, error) {
	lease, err := l.supervisor.Acquire(ctx, alias)
	if err != nil {
		return router.Engine{}, err
	}
	return router.Engine{
		Release: lease.Release, Generation: lease.Generation, Transport: lease.Client.Transport, URL: lease.URL, Done: lease.Done,
	}, nil
}

// State translates the runtime's phases into what a choice depends on.
func (l local) State(alias string) router.LocalState {
	s := l.supervisor.State(alias)
	out := router.LocalState{Slots: s.Slots, Release: s.Release}
	start := time.Duration(s.ReadyIn * float64(time.Second))
	switch s.Phase {
	case runtime.PhaseAbsent:
		out.Phase = router.Unknown
		if l.wanted(alias) {
			// Just after a start, or while its file comes again: a 404 would tell clients not to ask again.
			out.Phase = router.Loading
		}
	case runtime.PhaseReady:
		out.Phase = router.Ready
	case runtime.PhaseStarting:
		out.Phase, out.ReadyIn = router.Loading, start
	default:
		out.Phase, out.ReadyIn = router.Down, start+max(0, s.RetryAt.Sub(l.now()))
	}
	return out
}

// connect makes the client of an upstream that a policy names; the key and the
// certificate authority come from this box's own configuration.
func connect(configured map[string]UpstreamConfig) func(policy.Upstream) (*cloud.Client, error) {
	return func(u policy.Upstream) (*cloud.Client, error) {
		c := cloud.Config{Name: u.Name, API: u.API, BaseURL: u.BaseURL, Models: u.Models, Timeout: u.Timeout}
		if u.Credential != "" {
			secret, ok := configured[u.Credential]
			if !ok {
				return nil, fmt.Errorf("cannot use the upstream %q: the policy asks for the credential %q; add upstreams.%s with key_file or credential to the configuration", u.Name, u.Credential, u.Credential)
			}
			c.Key = secret.key
			if secret.CA != "" {
				pool, err := readPool(secret.CA)
				if err != nil {
					return nil, err
				}
				c.RootCAs = pool
			}
		}
		return cloud.New(c)
	}
}

// key reads the API key each time, so that a new one needs no restart.
func (u UpstreamConfig) key() (string, error) {
	if u.Credential != "" {
		return systemd.Credential(u.Credential)
	}
	return KeyFileSecret(u.KeyFile)
}

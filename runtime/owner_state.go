package runtime

import "errors"

// phase is what the alias as a whole does. Runs in the owner's loop.
func (o *owner) phase() Phase {
	switch {
	case o.failed != nil:
		return PhaseFailed
	case o.current != nil:
		return o.current.phase
	case o.restart != nil:
		return PhaseBackoff
	}
	return PhaseAbsent
}

// state is the router's view. Runs in the owner's loop.
func (o *owner) state() State {
	st := State{
		Alias: o.alias, Phase: o.phase(), Preparing: o.candidate != nil,
		RetryAt: o.retryAt, ReadyIn: o.startTook.Seconds(), Error: o.problem(),
	}
	if o.spec != nil {
		st.Release, st.Slots = o.spec.Release, o.spec.slots()
	}
	if g := o.current; g != nil {
		st.Generation, st.Leases, st.Since = g.number, int(g.leases.Load()), g.ready
	}
	st.Restarting = st.Phase == PhaseStarting || st.Phase == PhaseBackoff
	return st
}

// status is the operator's view. Runs in the owner's loop.
func (o *owner) status() AliasStatus {
	st := AliasStatus{
		Alias: o.alias, Phase: o.phase(), Error: o.problem(), RetryAt: o.retryAt, Spec: o.spec,
		Crashes: o.crashes.count(o.cfg.Now()),
		Current: o.current.status(), Candidate: o.candidate.status(), Draining: o.draining.status(),
	}
	if o.failed != nil {
		st.LastLines = o.failed.Lines
	}
	return st
}

// problem is why the alias does not answer, or "".
func (o *owner) problem() string {
	if o.failed != nil {
		return o.failed.Cause.Error()
	}
	if o.lastErr != nil && !errors.Is(o.lastErr, errEnded) {
		return o.lastErr.Error()
	}
	return ""
}

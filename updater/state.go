package updater

import "slices"

// State is where a change stands. The values are stored and shown.
type State string

// The states of a change. docs/changes.md shows these sentences.
const (
	Planned    State = "planned"    // a verified want that differs from what runs
	Preflight  State = "preflight"  // looking whether it fits this box
	Fetching   State = "fetching"   // artifacts are on their way
	Paused     State = "paused"     // waiting for what the reason says, then preflight again
	Verified   State = "verified"   // every artifact lies here and matches its digest
	Staged     State = "staged"     // the policy parses and its probes pass
	Waiting    State = "waiting"    // ready, waiting for the window or for an approval
	Switching  State = "switching"  // candidates are prepared, probed and made current
	Watch      State = "watch"      // everything is switched, on probation
	Committed  State = "committed"  // what runs now; the end
	Undoing    State = "undoing"    // going back to what ran before
	Undone     State = "undone"     // what ran before runs again; the end
	Refused    State = "refused"    // must not be installed; the end
	Cancelled  State = "cancelled"  // an operator ended it before it switched; the end
	Superseded State = "superseded" // a newer want came before it switched; the end
	Failed     State = "failed"     // could not be carried out; the end
)

// states lists every state in the order in which a change meets them.
func states() []State {
	return []State{Planned, Preflight, Fetching, Paused, Verified, Staged, Waiting, Switching, Watch, Committed, Undoing, Undone, Refused, Cancelled, Superseded, Failed}
}

// transitions is every arrow there is. A change begins as planned or refused.
// The diagram in docs/changes.md is made from it.
func transitions() map[State][]State {
	return map[State][]State{
		"":        {Planned, Refused},
		Planned:   {Preflight, Paused, Superseded, Cancelled, Failed},
		Preflight: {Fetching, Paused, Superseded, Cancelled, Failed},
		Fetching:  {Verified, Paused, Superseded, Cancelled, Failed},
		Paused:    {Preflight, Paused, Superseded, Cancelled, Failed},
		Verified:  {Staged, Paused, Refused, Superseded, Cancelled, Failed},
		Staged:    {Waiting, Switching, Paused, Superseded, Cancelled, Failed},
		Waiting:   {Switching, Waiting, Paused, Superseded, Cancelled, Failed},
		Switching: {Watch, Undoing},
		Watch:     {Committed, Undoing},
		Undoing:   {Undone, Failed},
	}
}

func allowed(from, to State) bool { return slices.Contains(transitions()[from], to) }

// Ended says that nothing follows this state.
func (s State) Ended() bool { return len(transitions()[s]) == 0 }

// givesWay says that a change in this state has touched nothing that serves
// yet: it can be paused, cancelled, or superseded by a newer want.
func (s State) givesWay() bool { return allowed(s, Superseded) }

// The reasons of a pause or a wait.
const (
	reasonOperator = "operator"
	reasonNoSpace  = "nospace"
	reasonNetwork  = "network"
	reasonFit      = "fit"
	reasonSource   = "source"
	reasonWindow   = "window"
	reasonApproval = "approval"
)

// The codes of a change that ended badly. A refused offer carries the code of package trust.
const (
	codePreflight   = "preflight"
	codeMismatch    = "mismatch"
	codePolicy      = "policy"
	codeProvenance  = "provenance"
	codeUnsupported = "unsupported"
	codeSwitch      = "switch"
	codeAcceptance  = "acceptance"
	codeWatch       = "watch"
	codeCrash       = "crash"
	codeUndo        = "undo"
	codeLoop        = "loop"
	codeCancelled   = "cancelled"
	codeNoSpace     = "nospace"
)

package runtime

import (
	"fmt"
	"strings"
	"time"
)

// Phase is where an alias or a generation stands. The words are part of the JSON of `bothy status`.
type Phase string

// The phases. Absent, backoff and failed are of an alias only; draining and ended of a generation only.
const (
	PhaseAbsent   Phase = "absent"   // nothing shall run
	PhaseStarting Phase = "starting" // launched, no real answer yet
	PhaseReady    Phase = "ready"    // answers
	PhaseDraining Phase = "draining" // finishes its requests, takes no new ones
	PhaseStopping Phase = "stopping" // is being ended
	PhaseEnded    Phase = "ended"    // its process is gone
	PhaseBackoff  Phase = "backoff"  // crashed, waits for its restart
	PhaseFailed   Phase = "failed"   // crash budget spent
)

// State is what a router needs to know of an alias. It may be stale when read; it informs a choice, never gates one.
type State struct {
	Alias      string    `json:"alias"`
	Phase      Phase     `json:"phase"`
	Generation uint64    `json:"generation,omitempty"` // of the current one
	Release    string    `json:"release,omitempty"`
	Slots      int       `json:"slots,omitempty"`
	Leases     int       `json:"leases"`            // requests that hold the current generation
	Preparing  bool      `json:"preparing"`         // a candidate is being prepared
	RetryAt    time.Time `json:"retry_at,omitzero"` // backoff: the restart; failed: end of the cool-down
	ReadyIn    float64   `json:"start_s,omitempty"` // seconds that the last start took, 0 before the first
	Error      string    `json:"error,omitempty"`   // why it is in backoff or failed
	Since      time.Time `json:"since,omitzero"`    // when the current generation became ready
	Restarting bool      `json:"restarting"`        // not ready, but being brought back
}

// AliasStatus is one model in `bothy status` and `bothy model show`.
type AliasStatus struct {
	Alias     string            `json:"alias"`
	Phase     Phase             `json:"phase"`
	Error     string            `json:"error,omitempty"`
	RetryAt   time.Time         `json:"retry_at,omitzero"`
	Crashes   int               `json:"crashes"`              // within the crash window
	LastLines []string          `json:"last_lines,omitempty"` // of the engine that failed
	Spec      *Spec             `json:"spec,omitempty"`
	Current   *GenerationStatus `json:"current,omitempty"`
	Candidate *GenerationStatus `json:"candidate,omitempty"`
	Draining  *GenerationStatus `json:"draining,omitempty"`
}

// GenerationStatus is one started engine.
type GenerationStatus struct {
	Generation uint64    `json:"generation"`
	Release    string    `json:"release,omitempty"`
	Engine     string    `json:"engine"`
	Program    string    `json:"program,omitempty"` // the engine release; empty: the box's own engine
	Phase      Phase     `json:"phase"`
	PID        int       `json:"pid,omitempty"`
	Leases     int       `json:"leases"`
	Started    time.Time `json:"started"`
	Ready      time.Time `json:"ready,omitzero"`
}

// Failed says that an alias has spent its crash budget. It is not tried again before Until.
type Failed struct {
	Cause error
	Lines []string // the last that the engine wrote
	Until time.Time
}

// Error names the cause and the last lines of the engine.
func (f *Failed) Error() string {
	return fmt.Sprintf("the engine failed too often: %v%s", f.Cause, quoteLines(f.Lines))
}

// Unwrap returns the cause.
func (f *Failed) Unwrap() error { return f.Cause }

// quoteLines renders an engine's last words for the end of an error text.
func quoteLines(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return "; it last wrote: " + strings.Join(lines, " | ")
}

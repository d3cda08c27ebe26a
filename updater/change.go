package updater

import (
	"slices"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// Change is one journaled intention and how far it came. It is stored after
// every step and shown by `bothy change show`.
type Change struct {
	ID    uint64 `json:"id"`
	State State  `json:"state"`
	// Summary is the want in a line, or what was refused.
	Summary string `json:"summary"`
	// Reason says what a paused or waiting change waits for.
	Reason string `json:"reason,omitempty"`
	// Code and Error say why a change went back, failed or was refused.
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
	// Want is empty for a refused offer: what was not verified is not kept.
	Want release.Want `json:"want,omitzero"`
	// From is the folder that an import named; empty for the fleet's own sources.
	From string `json:"from,omitempty"`
	// Approved is when an operator agreed, where the want asks for that.
	Approved time.Time `json:"approved,omitzero"`
	// Anytime: an operator said that it does not wait for its window.
	Anytime bool `json:"anytime,omitempty"`
	// Lost are the aliases that ran and whose files did not all lie here when they
	// were fetched: they are served anew, also by the same release.
	Lost []string `json:"lost,omitempty"`
	// Attempts counts the starts of switching, written before each.
	Attempts int `json:"attempts,omitempty"`
	// UndoAttempts counts the failed acts of undoing the task that is being undone.
	UndoAttempts int              `json:"undo_attempts,omitempty"`
	Tasks        []Task           `json:"tasks,omitempty"`
	Progress     content.Progress `json:"progress,omitzero"`
	Created      time.Time        `json:"created"`
	Updated      time.Time        `json:"updated"`
	History      []Transition     `json:"history"`
	// Steps counts transitions, pauses left out; a cap on it ends loops.
	Steps int `json:"steps"`
	// Seen counts how often a refused offer came.
	Seen int `json:"seen,omitempty"`
}

// Transition is one entry of a change's history.
type Transition struct {
	State  State     `json:"state"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// TaskState is where one task of a change stands.
type TaskState string

// The states of a task.
const (
	Pending TaskState = "pending" // not begun
	Doing   TaskState = "doing"   // begun; after a crash it may have happened or not
	Done    TaskState = "done"    // happened
	Reverse TaskState = "reverse" // its undo has begun
	Back    TaskState = "back"    // undone, or never begun when the change went back
)

// Task is one step of switching, with its do and its undo.
type Task struct {
	Name  string    `json:"name"`            // prepare, probe, narrow, switch, remove, activate
	Alias string    `json:"alias,omitempty"` // of the model it is about
	State TaskState `json:"state"`
	// Generation is the candidate engine's, valid in the process that prepared it.
	Generation uint64    `json:"generation,omitempty"`
	Error      string    `json:"error,omitempty"`
	Updated    time.Time `json:"updated,omitzero"`
}

// Running is what this box runs, as of the last commit or undo.
type Running struct {
	// Change is the one that brought it; 0 when nothing was ever committed.
	Change uint64       `json:"change"`
	Want   release.Want `json:"want"`
	// Narrowing are the policies of undone changes that still narrow, until the next want.
	Narrowing []release.Document `json:"narrowing,omitempty"`
	// PutBack: the store was restored from an older copy, and what it says may be
	// wider than what held. This box only, until a verified want is what runs.
	PutBack bool `json:"put_back,omitempty"`
	// Previous is what ran before; its artifacts are kept.
	Previous *release.Want `json:"previous,omitempty"`
	Since    time.Time     `json:"since"`
}

// repairedBy says that a want is what runs already: its files were lost, and it
// was approved. The end of a narrowing is something new.
func (r Running) repairedBy(want release.Want) bool {
	return r.Want.Digest() == want.Digest() && len(r.Narrowing) == 0
}

// maxHistory bounds the history kept of one change: its beginning and its newest end.
const maxHistory = 60

// maxSteps bounds the transitions of one change; a well-behaved one needs fewer than twenty.
const maxSteps = 100

// step appends the state just entered to the history. A change that is long
// offline pauses often: those entries drop out in the middle.
func (c *Change) step(now time.Time) {
	if c.State != Paused && !c.resumes() {
		c.Steps++
	}
	c.remember(Transition{State: c.State, At: now, Reason: c.Reason, Error: c.Error})
}

func (c *Change) remember(t Transition) {
	c.Updated = t.At
	c.History = append(c.History, t)
	if len(c.History) > maxHistory {
		c.History = slices.Delete(c.History, maxHistory/2, maxHistory/2+1)
	}
}

// resumes says that the change left a pause a transition or two ago.
func (c *Change) resumes() bool {
	for _, t := range c.History[max(0, len(c.History)-2):] {
		if t.State == Paused {
			return true
		}
	}
	return false
}

func (c Change) clone() Change {
	c.Tasks = slices.Clone(c.Tasks)
	c.History = slices.Clone(c.History)
	return c
}

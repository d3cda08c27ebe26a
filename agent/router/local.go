package router

import (
	"context"
	"net/http"
	"time"
)

// Local is what the router needs of the engines on this box.
type Local interface {
	// Acquire gives the alias's current engine and keeps it from being ended until
	// Done is called. While one starts it may wait, at most until ctx ends.
	Acquire(ctx context.Context, alias string) (Engine, error)
	// State is cheap and may be stale: it informs the choice and gates nothing.
	State(alias string) LocalState
}

// Engine is the right to send one request to an engine.
type Engine struct {
	Release    string            // for example "mote@2"
	Generation uint64            // of the engine
	Transport  http.RoundTripper // dials the engine whatever the URL's host
	URL        string            // "http://engine", no trailing slash
	Done       func()            // gives the engine back; the response is closed before
}

// Phase is what an alias's engine is doing.
type Phase string

// The phases, as far as a choice depends on them.
const (
	Unknown   Phase = ""          // no such alias on this box
	Ready     Phase = "ready"     // answers
	Loading   Phase = "loading"   // starts, answers soon
	Switching Phase = "switching" // changes to another release, answers soon
	Down      Phase = "down"      // crashed or held back
)

// LocalState describes an alias.
type LocalState struct {
	Phase   Phase
	Slots   int           // requests that the engine runs at once; 0 counts as 1
	Release string        // of the engine that answers
	ReadyIn time.Duration // estimate until it answers, while it does not; 0: not known
}

package serve

import (
	"context"
	"sync"

	"github.com/bothy-edge/bothy/runtime/embedded/sample"
	"github.com/bothy-edge/bothy/runtime/embedded/token"
)

// event is a piece of an answer, or its end.
type event struct {
	text  string
	probs []tokenProb

	finish string // "stop" or "length"; with err, what ends the answer
	err    error
	prompt int // with the end: tokens of the prompt, of them reused, and tokens made
	reused int
	made   int
}

func (e event) last() bool { return e.finish != "" || e.err != nil }

// tokenProb is a made token with the probabilities that it was chosen from.
type tokenProb struct {
	id      int32
	token   string // its text, with U+FFFD where it is not whole characters
	bytes   []byte
	logprob float64
	top     []tokenProb
	start   int // where its text begins in the answer, in bytes
}

func probOf(c sample.Choice, logits []float32, top int, tokens *token.Tokenizer, start int) tokenProb {
	p := describe(c.Token, c.LogProb, tokens)
	p.start = start
	for _, t := range sample.Top(logits, top) {
		p.top = append(p.top, describe(t.Token, t.LogProb, tokens))
	}
	return p
}

func describe(id int32, logprob float64, tokens *token.Tokenizer) tokenProb {
	piece := tokens.Piece(id)
	return tokenProb{id: id, token: validText(piece), bytes: piece, logprob: logprob}
}

// answer carries events from the loop to a handler. It never makes the loop
// wait: a slow client's events pile up here, bounded by the context's length.
type answer struct {
	mu     sync.Mutex
	events []event
	done   bool
	wake   chan struct{} // capacity 1: one wake-up stands for any number of events
}

func newAnswer() *answer { return &answer{wake: make(chan struct{}, 1)} }

func (a *answer) put(e event) {
	a.mu.Lock()
	if !a.done {
		a.events = append(a.events, e)
		a.done = e.last()
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *answer) end(e event) { a.put(e) }

// take waits for events and returns all there are, or ctx's error.
func (a *answer) take(ctx context.Context) ([]event, error) {
	for {
		a.mu.Lock()
		got := a.events
		a.events = nil
		a.mu.Unlock()
		if len(got) > 0 {
			return got, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-a.wake:
		}
	}
}

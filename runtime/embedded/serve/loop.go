package serve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/runtime/embedded/model"
	"github.com/bothy-edge/bothy/runtime/embedded/token"
)

// Tokens of prompts that one step computes: few while answers are running, so
// that their tokens keep coming, more when nobody waits for the step.
const (
	chunkBeside = 64
	chunkAlone  = 256
)

var errBusy = errors.New("the engine's queue is full")

// forwarder is the part of model.Model that the loop uses.
type forwarder interface {
	Forward(ctx context.Context, in []model.Input) ([][]float32, error)
	Truncate(seq, pos int)
}

// loop owns the model and decides what each step computes.
type loop struct {
	model   forwarder
	tokens  *token.Tokenizer
	context int // tokens a sequence may hold
	metrics *metrics
	now     func() time.Time

	// Requests that have no slot yet, first come first served. Its capacity is the queue's bound.
	waiting chan *job

	// Owned by run.
	slots []*slot
	turns uint64
	in    []model.Input
	plan  []planned
}

// planned is what one step computes for a slot: the next n of its pending tokens.
type planned struct {
	slot   *slot
	n      int
	logits bool
}

func newLoop(m forwarder, tokens *token.Tokenizer, slots, context, queue int, met *metrics, now func() time.Time) *loop {
	l := &loop{model: m, tokens: tokens, context: context, metrics: met, now: now, waiting: make(chan *job, queue)}
	for i := range slots {
		l.slots = append(l.slots, &slot{seq: i})
	}
	return l
}

// submit queues the job or answers errBusy. The job's context cancels it.
func (l *loop) submit(j *job) error {
	select {
	case l.waiting <- j:
		l.metrics.waiting.Set(float64(len(l.waiting)))
		return nil
	default:
		return errBusy
	}
}

// run computes until ctx ends. Jobs that are not answered by then end with its error.
func (l *loop) run(ctx context.Context) error {
	defer l.abandon(ctx)
	for {
		if !l.admit(ctx) {
			return ctx.Err()
		}
		l.release()
		l.choose()
		if len(l.plan) == 0 {
			continue // everyone hung up
		}
		begun := l.now()
		logits, err := l.model.Forward(ctx, l.in)
		l.metrics.step.Observe(l.now().Sub(begun).Seconds())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			l.fail(fmt.Errorf("cannot compute: %w", err))
			continue
		}
		l.took(logits)
	}
}

// admit gives waiting jobs to free slots. With nothing to compute it waits for a
// job; it is false when ctx ends.
func (l *loop) admit(ctx context.Context) bool {
	for {
		free, busy := l.count()
		l.metrics.busy.Set(float64(busy))
		if free == 0 {
			return ctx.Err() == nil
		}
		var j *job
		if busy == 0 {
			select {
			case <-ctx.Done():
				return false
			case j = <-l.waiting:
			}
		} else {
			select {
			case j = <-l.waiting:
			default:
				return ctx.Err() == nil
			}
		}
		l.metrics.waiting.Set(float64(len(l.waiting)))
		if err := j.ctx.Err(); err != nil {
			j.answer.end(event{err: err})
			continue
		}
		l.seat(j)
	}
}

func (l *loop) count() (free, busy int) {
	for _, s := range l.slots {
		if s.job == nil {
			free++
		} else {
			busy++
		}
	}
	return free, busy
}

// seat puts the job into the free slot that already holds the most of its
// prompt; among equals the one that has been free the longest.
func (l *loop) seat(j *job) {
	var best *slot
	keep := 0
	for _, s := range l.slots {
		if s.job != nil {
			continue
		}
		n := s.common(j.prompt)
		if best == nil || n > keep || n == keep && s.used < best.used {
			best, keep = s, n
		}
	}
	l.turns++
	best.used = l.turns
	l.model.Truncate(best.seq, keep)
	best.begin(j, keep, l.tokens)
	l.metrics.prompt.Add(float64(len(j.prompt) - keep))
	l.metrics.reused.Add(float64(keep))
}

// release frees the slots of jobs whose client has gone.
func (l *loop) release() {
	for _, s := range l.slots {
		if s.job != nil && s.job.ctx.Err() != nil {
			s.end(event{err: s.job.ctx.Err()})
			l.metrics.cancelled.Inc()
		}
	}
}

// choose lays out the next step: a token of each running answer, then prompts in
// the order of their slots' turns up to the chunk.
func (l *loop) choose() {
	l.in, l.plan = l.in[:0], l.plan[:0]
	budget := chunkAlone
	for _, s := range l.slots {
		if s.job != nil && s.made > 0 {
			l.take(s, 1)
			budget = chunkBeside
		}
	}
	for budget > 0 {
		s := l.nextPrompt()
		if s == nil {
			return
		}
		n := min(budget, len(s.pending))
		l.take(s, n)
		budget -= n
	}
}

// nextPrompt is the longest seated slot whose prompt is neither computed nor in the plan.
func (l *loop) nextPrompt() *slot {
	var first *slot
	for _, s := range l.slots {
		if s.job != nil && s.made == 0 && !l.planned(s) && (first == nil || s.used < first.used) {
			first = s
		}
	}
	return first
}

func (l *loop) planned(s *slot) bool {
	for _, p := range l.plan {
		if p.slot == s {
			return true
		}
	}
	return false
}

func (l *loop) take(s *slot, n int) {
	last := n == len(s.pending)
	for i, t := range s.pending[:n] {
		l.in = append(l.in, model.Input{Seq: s.seq, Pos: len(s.held) + i, Token: t, Logits: last && i == n-1})
	}
	l.plan = append(l.plan, planned{s, n, last})
}

// took records what the step has computed and goes on with each answer.
func (l *loop) took(logits [][]float32) {
	for _, p := range l.plan {
		s := p.slot
		s.held = append(s.held, s.pending[:p.n]...)
		s.pending = s.pending[p.n:]
		if p.logits {
			s.next(logits[0], l.tokens, l.context)
			logits = logits[1:]
			l.metrics.generated.Inc()
		}
	}
}

// fail ends the jobs of a step that could not be computed, and forgets their
// sequences, whose state is unknown.
func (l *loop) fail(err error) {
	for _, p := range l.plan {
		p.slot.end(event{err: err})
		p.slot.held = nil
		l.model.Truncate(p.slot.seq, 0)
	}
}

// abandon answers everyone when the loop ends.
func (l *loop) abandon(ctx context.Context) {
	gone := event{err: ctx.Err()}
	for _, s := range l.slots {
		if s.job != nil {
			s.end(gone)
		}
	}
	for {
		select {
		case j := <-l.waiting:
			j.answer.end(gone)
		default:
			return
		}
	}
}

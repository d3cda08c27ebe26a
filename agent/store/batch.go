package store

import (
	"errors"
	"sync"
)

// group gathers the writes that arrive while a commit is on its way to the
// disk into the next one. Unlike bbolt's own batch nobody waits for a timer: a
// lone writer commits at once, a crowd shares a sync.
type group struct {
	mu      sync.Mutex
	leading bool
	waiting []*entry
}

// entry is one caller of Batch. wake receives once: to lead the next round, or because it is done.
type entry struct {
	fn   func(*Tx) error
	wake chan bool
	err  error
}

// Batch is Update for many concurrent callers: those that arrive together
// share one transaction and one sync. fn may run more than once and must only
// act through tx; its own error undoes only its own call.
func (db *DB) Batch(fn func(*Tx) error) error {
	e := &entry{fn: fn, wake: make(chan bool, 1)}
	if !db.group.join(e) {
		if lead := <-e.wake; !lead {
			return e.err
		}
	}
	round := db.group.take()
	defer db.group.handOver(round, e)
	db.commitRound(round)
	return e.err
}

// join queues e and says whether its caller leads.
func (g *group) join(e *entry) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, e)
	if g.leading {
		return false
	}
	g.leading = true
	return true
}

func (g *group) take() []*entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	round := g.waiting
	g.waiting = nil
	return round
}

// handOver wakes the round and lets the first of those that came meanwhile lead.
func (g *group) handOver(round []*entry, leader *entry) {
	for _, e := range round {
		if e != leader {
			e.wake <- false
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.leading = false
		return
	}
	g.waiting[0].wake <- true
}

// commitRound writes the round in one transaction; a call that fails is left
// out and the rest run again.
func (db *DB) commitRound(round []*entry) {
	left := append([]*entry(nil), round...)
	for len(left) > 0 {
		failed := -1
		err := db.Update(func(tx *Tx) error {
			for i, e := range left {
				if err := e.fn(tx); err != nil {
					failed = i
					return err
				}
			}
			return nil
		})
		if err == nil {
			return
		}
		if failed < 0 || errors.Is(err, ErrDamaged) {
			for _, e := range left {
				e.err = err
			}
			return
		}
		left[failed].err = err
		left = append(left[:failed], left[failed+1:]...)
	}
}

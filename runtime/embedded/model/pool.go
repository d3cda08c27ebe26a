package model

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// spins is how often a worker looks for the next job before it parks: about ten
// microseconds, the pause between two regions of one forward pass.
const spins = 4000

// pool shares loops among a fixed number of goroutines, the caller being one.
// Pieces are taken as workers come free, and the caller takes what nobody else
// does: on a busy machine a late worker costs nothing, because a region waits
// for pieces that were begun, never for workers. Idle workers are parked.
type pool struct {
	workers int // besides the caller
	current atomic.Pointer[job]
	parked  atomic.Int64
	wake    chan struct{} // one place per worker: a wake-up is never lost and never blocks
	quit    chan struct{}
	ended   sync.WaitGroup
}

type job struct {
	body     func(lo, hi int)
	n, piece int
	next     atomic.Int64 // first index nobody took
	done     atomic.Int64 // indices finished
	finished chan struct{}
}

// newPool starts threads-1 goroutines. The caller must close it.
func newPool(threads int) *pool {
	p := &pool{workers: threads - 1, wake: make(chan struct{}, threads), quit: make(chan struct{})}
	for range p.workers {
		p.ended.Go(p.run)
	}
	return p
}

func (p *pool) run() {
	var last *job
	for {
		j := p.await(last)
		if j == nil {
			return
		}
		j.work()
		last = j
	}
}

// await returns a job other than last, or nil when the pool closes.
func (p *pool) await(last *job) *job {
	for i := range spins {
		if j := p.current.Load(); j != last {
			return j
		}
		if i%64 == 63 {
			runtime.Gosched()
		}
	}
	for {
		// Announced first, looked again after: each sees the other's or is seen.
		p.parked.Add(1)
		if j := p.current.Load(); j != last {
			p.parked.Add(-1)
			return j
		}
		select {
		case <-p.wake:
			p.parked.Add(-1)
		case <-p.quit:
			return nil
		}
	}
}

// work takes pieces until none is left.
func (j *job) work() {
	for {
		hi := int(j.next.Add(int64(j.piece)))
		lo := hi - j.piece
		if lo >= j.n {
			return
		}
		hi = min(hi, j.n)
		j.body(lo, hi)
		if j.done.Add(int64(hi-lo)) == int64(j.n) {
			close(j.finished)
		}
	}
}

// each calls body for pieces that cover [0, n), at most piece indices each, and
// returns when all are done. Only one goroutine may call it at a time.
func (p *pool) each(n, piece int, body func(lo, hi int)) {
	piece = max(piece, 1)
	if p.workers == 0 || n <= piece {
		if n > 0 {
			body(0, n)
		}
		return
	}
	j := &job{body: body, n: n, piece: piece, finished: make(chan struct{})}
	p.current.Store(j)
	for range min(p.parked.Load(), int64((n+piece-1)/piece-1)) {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	j.work()
	for range spins {
		if j.done.Load() == int64(n) {
			return
		}
	}
	<-j.finished
}

func (p *pool) close() {
	close(p.quit)
	// A worker that spins sees this job, finds nothing in it, and parks.
	p.ended.Wait()
}

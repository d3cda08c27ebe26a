package model

import (
	"sync/atomic"
	"testing"
)

func TestPoolCoversEveryIndexOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		p := newPool(threads)
		for round := range 300 {
			n := round % 97
			counts := make([]atomic.Int32, n)
			p.each(n, round%7, func(lo, hi int) {
				for i := lo; i < hi; i++ {
					counts[i].Add(1)
				}
			})
			for i := range counts {
				if got := counts[i].Load(); got != 1 {
					t.Fatalf("%d threads, round %d: index %d ran %d times", threads, round, i, got)
				}
			}
		}
		p.close()
	}
}

// TestPoolGoesOnWithoutItsWorkers holds every worker in an old job: the caller
// must not wait for them in the next one.
func TestPoolGoesOnWithoutItsWorkers(t *testing.T) {
	p := newPool(3)
	defer p.close()
	hold := make(chan struct{})
	var held atomic.Int32
	started := make(chan struct{}, 2)
	caught := make(chan struct{})
	go func() {
		defer close(caught)
		p.each(3, 1, func(lo, _ int) {
			held.Add(1)
			select {
			case started <- struct{}{}:
				<-hold
			default: // the third index: two are held already
			}
		})
	}()
	<-started
	<-started
	close(hold)
	<-caught
	var sum atomic.Int64
	p.each(1000, 1, func(lo, hi int) { sum.Add(int64(lo)) })
	if got := sum.Load(); got != 499500 || held.Load() != 3 {
		t.Errorf("the sum is %d with %d held", got, held.Load())
	}
}

package runtime

import "time"

// budget counts crashes within a sliding window.
type budget struct {
	limit  int
	window time.Duration
	times  []time.Time
}

// add counts a crash and returns how many lie within the window now.
func (b *budget) add(now time.Time) int {
	b.times = append(b.times, now)
	return b.count(now)
}

func (b *budget) count(now time.Time) int {
	kept := b.times[:0]
	for _, t := range b.times {
		if now.Sub(t) < b.window {
			kept = append(kept, t)
		}
	}
	b.times = kept
	return len(kept)
}

func (b *budget) clear() { b.times = nil }

// backoff is the pause before the n-th restart: doubled each time up to limit, of which the upper half is jittered.
func backoff(first, limit time.Duration, n int, jitter float64) time.Duration {
	d := first
	for range n - 1 {
		if d *= 2; d >= limit {
			break
		}
	}
	d = min(d, limit)
	return d/2 + time.Duration(jitter*float64(d)/2)
}

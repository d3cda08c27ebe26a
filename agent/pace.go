package agent

import (
	"context"
	"time"
)

// pace bounds how often something is done on behalf of somebody who need not
// mean well: burst times at once, then once every so often. Owned by one goroutine.
type pace struct {
	burst int
	every time.Duration

	spent int       // not yet given back
	since time.Time // the time of the last that was given back
}

// take answers 0 and counts, or how long to wait.
func (p *pace) take(now time.Time) time.Duration {
	if back := int(now.Sub(p.since) / p.every); p.spent == 0 || back >= p.spent || now.Before(p.since) {
		p.spent, p.since = 0, now
	} else {
		p.spent -= back
		p.since = p.since.Add(time.Duration(back) * p.every)
	}
	if p.spent >= p.burst {
		return p.since.Add(p.every).Sub(now)
	}
	p.spent++
	return 0
}

// relay calls do when something comes, within the pace, until ctx ends. What
// comes too early is done as one as soon as it may be: the last is never lost.
func relay(ctx context.Context, in <-chan struct{}, p pace, do func()) {
	var later *time.Timer
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			if later != nil {
				later.Stop()
			}
			return
		case <-in:
			if due != nil {
				continue // it waits already
			}
		case <-due:
			due = nil
		}
		if wait := p.take(time.Now()); wait > 0 {
			later = time.NewTimer(wait)
			due = later.C
			continue
		}
		do()
	}
}

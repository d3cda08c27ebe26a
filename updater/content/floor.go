package content

import (
	"context"
	"fmt"
	"time"
)

// A source that brings less than this is left while there is another to ask: one
// that drips would otherwise hold a change up for as long as it likes. The last
// one may be as slow as it is.
const (
	floorBytes = 4 << 20
	floorSpan  = 2 * time.Minute
	floorLook  = 10 * time.Second
)

// withFloor is drain, ended with ErrStalled where the source is slower than the
// floor and it is not us who ask for less.
func (r *fetch) withFloor(ctx context.Context, src Source, w *writer) error {
	within, leave := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	w.group.Go(func() {
		defer close(ended)
		w.watchFloor(within, leave)
	})
	err := r.drain(within, src, w)
	if cause := context.Cause(within); cause != nil && ctx.Err() == nil && w.failure() == nil {
		err = cause
	}
	leave(nil)
	<-ended
	return err
}

func (w *writer) watchFloor(ctx context.Context, leave context.CancelCauseFunc) {
	tick := time.NewTicker(floorLook)
	defer tick.Stop()
	since, base := time.Now(), w.came.Load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, came := time.Now(), w.came.Load()
		switch {
		case came-base >= floorBytes || w.reason() != "":
			since, base = now, came
		case now.Sub(since) >= floorSpan:
			leave(fmt.Errorf("less than %d MiB in %s: %w", floorBytes>>20, floorSpan, ErrStalled))
			return
		}
	}
}

// reason is why the present source asks for less than it could.
func (w *writer) reason() string {
	w.turn.Lock()
	f := w.slowed
	w.turn.Unlock()
	if f == nil {
		return ""
	}
	return f()
}

package mqtt

import (
	"context"
	"fmt"
)

// Recall makes the broker send again what it keeps on these topics, to the
// handlers of the subscriptions that match them. It returns when all of it was
// written to the connection. A broker bounds what may wait for one client, and
// drops what a wide filter finds beyond that; in small portions all of it comes.
func (s *Session) Recall(ctx context.Context, topics ...string) error {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return fmt.Errorf("cannot recall %d topics: %w", len(topics), ErrNotConnected)
	}
	filters := make(map[string]byte, len(topics))
	for _, t := range topics {
		filters[t] = 0
	}
	err := await(ctx, l, l.client.SubscribeMultiple(filters, nil), s.cfg.Timeout*3/2)
	if err == nil {
		// Its acknowledgement comes behind what was kept.
		err = await(ctx, l, l.client.Unsubscribe(topics...), s.cfg.Timeout*3/2)
	}
	if err != nil {
		return fmt.Errorf("cannot recall %d topics: %w", len(topics), err)
	}
	return nil
}

package mqtt

import (
	"context"
	"maps"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// joined is a subscription made while the session lives.
type joined struct {
	sub     Subscription
	serial  uint64 // the connection on which the broker answered
	refused bool
	parting bool
}

// Join subscribes to one more topic (no wildcards), on this connection and every later one,
// until Part. It returns at once; Joined says how it went, and Changed when that
// changes. Another Join of the same filter replaces its handler.
func (s *Session) Join(sub Subscription) {
	s.mu.Lock()
	s.joined[sub.Filter] = &joined{sub: sub}
	s.mu.Unlock()
	s.nudge()
}

// Part ends what Join began.
func (s *Session) Part(filter string) {
	s.mu.Lock()
	if j := s.joined[filter]; j != nil {
		j.parting = true
	}
	s.mu.Unlock()
	s.nudge()
}

// Joined says whether the broker has accepted a filter of Join on the present
// connection, or refuses it. Neither is so until it has answered.
func (s *Session) Joined(filter string) (granted, refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.joined[filter]
	if j == nil || j.parting || s.link == nil || j.serial != s.status.Serial {
		return false, false
	}
	return !j.refused, j.refused
}

func (s *Session) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// settle makes the broker's subscriptions those that were joined. Only the run
// loop calls it. A refusal is an answer; other errors end the connection.
func (s *Session) settle(ctx context.Context, l *link) error {
	s.mu.Lock()
	serial, todo := s.status.Serial, maps.Clone(s.joined)
	s.mu.Unlock()
	for filter, j := range todo {
		s.mu.Lock()
		parting, done := j.parting, j.serial == serial
		s.mu.Unlock()
		switch {
		case parting:
			if err := await(ctx, l, l.client.Unsubscribe(filter), s.cfg.Timeout*3/2); err != nil {
				return err
			}
			s.mu.Lock()
			if s.joined[filter] == j {
				delete(s.joined, filter)
			} else {
				s.joined[filter].serial = 0 // joined anew meanwhile
				s.nudge()
			}
			s.mu.Unlock()
		case !done:
			t := l.client.Subscribe(filter, j.sub.QoS, nil)
			err := await(ctx, l, t, s.cfg.Timeout*3/2)
			code, answered := t.(*paho.SubscribeToken).Result()[filter]
			if err != nil && !answered {
				return err
			}
			s.mu.Lock()
			j.serial, j.refused = serial, code == 0x80
			s.notify()
			s.mu.Unlock()
		}
	}
	return nil
}

// joinedTo is the handler of a filter of Join that is this topic itself, or nil.
func (s *Session) joinedTo(topic string) func(Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.joined[topic]; j != nil && !j.parting {
		return j.sub.Handle
	}
	return nil
}

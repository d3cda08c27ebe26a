package depot

import (
	"context"
	"strings"
	"sync"

	"github.com/bothy-edge/bothy/updater/mqtt"
)

// Bounds of what waits for the reader of reports.
const (
	inboxBytes   = 64 << 20
	inboxMessage = 512 // bytes counted for a message beside topic and payload
	knownEpochs  = 1 << 17
)

// inbox holds reports until they are read. Of a device's state and presence only
// the newest counts, so a fleet that comes back at once takes the room of one
// report a device, and a slow reader loses none that matters. Safe for concurrent use.
type inbox struct {
	wake chan struct{} // capacity 1: it is not empty any more

	mu     sync.Mutex
	latest map[string]mqtt.Message // by topic
	events []mqtt.Message
	bytes  int
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), latest: map[string]mqtt.Message{}}
}

// put takes a message and answers false where it has no room. It does not block.
func (b *inbox) put(m mqtt.Message) bool {
	if len(m.Payload) > mqtt.MaxControl {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(m.Payload) + len(m.Topic) + inboxMessage
	event := strings.HasSuffix(m.Topic, "/event")
	if last, ok := b.latest[m.Topic]; ok && !event {
		b.bytes -= len(last.Payload) + len(last.Topic) + inboxMessage
	}
	if b.bytes+n > inboxBytes {
		delete(b.latest, m.Topic)
		return false
	}
	b.bytes += n
	if event {
		b.events = append(b.events, m)
	} else {
		b.latest[m.Topic] = m
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// take empties the inbox.
func (b *inbox) take() []mqtt.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]mqtt.Message, 0, len(b.latest)+len(b.events))
	for _, m := range b.latest {
		all = append(all, m)
	}
	all = append(all, b.events...)
	b.latest, b.events, b.bytes = map[string]mqtt.Message{}, nil, 0
	return all
}

// hear hands reports over until ctx ends. It has a goroutine of its own: what a
// fleet's bookkeeping costs must not hold up blocks.
func (s *server) hear(ctx context.Context) {
	for {
		for _, m := range s.inbox.take() {
			if ctx.Err() != nil {
				return
			}
			s.report(m)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.inbox.wake:
		}
	}
}

func (s *server) report(m mqtt.Message) {
	device, ok := s.topics.DeviceOf(m.Topic)
	if m.Topic == s.topics.For(device).Online() {
		s.resender.heard(device)
	}
	if !ok || s.cfg.Reports == nil || len(m.Payload) == 0 {
		return
	}
	kind := ""
	switch m.Topic {
	case s.topics.For(device).State():
		kind = "state"
		s.clearAgain(device, m.Topic)
	case s.topics.For(device).Event():
		kind = "event"
	case s.topics.For(device).Online():
		kind = "online"
		s.clearAgain(device, m.Topic)
		if !s.newer(device, m.Payload) {
			return
		}
	default:
		return
	}
	s.cfg.Reports(Report{Device: device, Kind: kind, Payload: m.Payload, Time: m.At, Retained: m.Retain})
}

// newer drops the last will of an earlier start, which a broker may publish
// long after the device is back.
func (s *server) newer(device string, payload []byte) bool {
	p, err := mqtt.ParsePresence(payload)
	if err != nil || p.Epoch < s.epochs[device] {
		return false
	}
	if len(s.epochs) >= knownEpochs {
		clear(s.epochs) // names come from the broker: they must not fill the memory
	}
	s.epochs[device] = p.Epoch
	return true
}

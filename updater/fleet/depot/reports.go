package depot

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
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

// recallDevices is how many devices' states and presences are asked for at once:
// the embedded broker lets 256 messages wait for a client, Mosquitto 1,000.
const recallDevices = 50

// recall asks for the state and the presence of every known device anew on each
// connection: of what the broker keeps of a large fleet, it drops the most when
// it is to send all of it at once.
func (s *server) recall(ctx context.Context) {
	var done uint64
	for ctx.Err() == nil {
		changed := s.control.Changed()
		if st := s.control.Status(); st.Connected && st.Serial != done {
			if err := s.recallAll(ctx); err == nil {
				done = st.Serial
				continue
			} else if ctx.Err() == nil {
				s.cfg.Log.Warn("what devices said last is not all here", "error", err)
				done = st.Serial // each says it again with its next heartbeat
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

func (s *server) recallAll(ctx context.Context) error {
	devices, err := s.cfg.Fleet.Devices()
	if err != nil || s.cfg.Reports == nil {
		return err
	}
	// Behind what the wide subscriptions began to bring.
	if err := s.recallSome(ctx, []string{s.topics.Info(s.cfg.Depot)}); err != nil {
		return err
	}
	for some := range slices.Chunk(devices, recallDevices) {
		var topics []string
		for _, d := range some {
			if wire.CheckID(d) == nil {
				topics = append(topics, s.topics.For(d).State(), s.topics.For(d).Online())
			}
		}
		if len(topics) == 0 {
			continue
		}
		if err := s.recallSome(ctx, topics); err != nil {
			return err
		}
	}
	return nil
}

// How long the broker may take for a portion, and how often it is asked: while
// its queue for us is full Mosquitto drops its own acknowledgements too.
const (
	recallPatience = 3 * time.Second
	recallTries    = 5
)

func (s *server) recallSome(ctx context.Context, topics []string) (err error) {
	for range recallTries {
		bounded, cancel := context.WithTimeout(ctx, recallPatience)
		err = s.control.Recall(bounded, topics...)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return err
}

package depot

import (
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// forgetRetired clears what the broker keeps of retired devices: their state and
// presence, and of those that are wiped the want too. One that is not may still
// come by, and should find the empty set. It answers whom nothing is offered.
func (s *server) forgetRetired() (wiped map[string]bool, err error) {
	if s.cfg.Retired == nil {
		return nil, nil
	}
	retired, err := s.cfg.Retired()
	if err != nil {
		return nil, err
	}
	for device, wiped := range retired {
		if wire.CheckID(device) != nil {
			continue
		}
		t := s.topics.For(device)
		topics := []string{t.State(), t.Online()}
		if wiped {
			topics = append(topics, t.Want())
		}
		for _, topic := range topics {
			if last, ok := s.sent[topic]; !ok || last != "" {
				s.sent[topic] = ""
				s.control.Retain(topic, nil)
			}
		}
	}
	s.retired.Store(&retired)
	return retired, nil
}

// clearAgain takes back what a retired device published after it was forgotten:
// its last word when it goes.
func (s *server) clearAgain(device, topic string) {
	if retired := s.retired.Load(); retired != nil {
		if _, ok := (*retired)[device]; ok {
			s.control.Retain(topic, nil)
		}
	}
}

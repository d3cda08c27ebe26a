package depot

import (
	"context"
	"time"

	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/mqtt"
)

// Enroller decides on boxes that want to be devices, and renews certificates;
// fleet.Fleet is one. It must be safe for concurrent use, and must write nothing
// for a request that no token's secret made.
type Enroller interface {
	// Enrol takes a request and gives the sealed answer that is due now.
	Enrol(request []byte) ([]byte, error)
	// Answer is the sealed decision on a token, nil while there is none.
	Answer(token string) ([]byte, error)
	// RenewDevice answers a device's request for its next certificate, in PEM.
	RenewDevice(device string, request []byte) ([]byte, error)
}

const (
	// enrollDepth is how many requests may wait. What is over it is dropped; boxes ask again.
	enrollDepth = 64
	// maxAwaited bounds the tokens whose decision is told at once rather than when they ask again.
	maxAwaited = 1024
	// awaitedFor is how long a box that has not asked again is remembered.
	awaitedFor = 5 * time.Minute
)

// enrollLoop answers enrolments and renewals until ctx ends. It has a goroutine of
// its own, since a decision waits for the lock of the fleet's folder.
func (s *server) enrollLoop(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Poll)
	defer tick.Stop()
	awaited := map[string]time.Time{} // pending tokens, by when they last asked
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-s.enrolling:
			if device, ok := s.topics.DeviceOf(m.Topic); ok {
				s.renew(ctx, device, m)
			} else if token, ok := s.topics.EnrollTokenOf(m.Topic); ok && s.enroll(ctx, token, m) && len(awaited) < maxAwaited {
				awaited[token] = m.At
			}
		case <-tick.C:
			s.decided(ctx, awaited)
		}
	}
}

// enroll answers a request, and says whether the decision is to be told when it is there.
func (s *server) enroll(ctx context.Context, token string, m mqtt.Message) bool {
	// The topic is where the answer goes, so it must be the token's own.
	if id, err := enrolment.TokenOf(m.Payload); err != nil || id != token {
		s.cfg.Log.Debug("enrolment refused", "topic", m.Topic, "error", err)
		return false
	}
	answer, err := s.cfg.Enroll.Enrol(m.Payload)
	if err != nil {
		s.cfg.Log.Info("enrolment refused", "token", token, "error", err)
		return false
	}
	s.tell(ctx, token, answer)
	return true
}

// decided tells boxes that wait what was decided meanwhile.
func (s *server) decided(ctx context.Context, awaited map[string]time.Time) {
	for token, asked := range awaited {
		answer, err := s.cfg.Enroll.Answer(token)
		if err == nil && answer != nil {
			s.tell(ctx, token, answer)
		}
		if err != nil || answer != nil || s.cfg.Session.Now().Sub(asked) > awaitedFor {
			delete(awaited, token)
		}
	}
}

func (s *server) tell(ctx context.Context, token string, answer []byte) {
	if err := s.control.Publish(ctx, s.topics.EnrollAnswer(token), 1, false, answer); err != nil {
		s.cfg.Log.Warn("enrolment not answered; the box asks again", "token", token, "error", err)
	}
}

func (s *server) renew(ctx context.Context, device string, m mqtt.Message) {
	text, err := s.cfg.Enroll.RenewDevice(device, m.Payload)
	if err != nil {
		s.cfg.Log.Warn("certificate not renewed", "device", device, "error", err)
		return
	}
	answer, err := enrolment.EncodeRenewal(text)
	if err == nil {
		err = s.control.Publish(ctx, s.topics.For(device).Certificate(), 1, false, answer)
	}
	if err != nil {
		s.cfg.Log.Warn("certificate not sent; the device asks again", "device", device, "error", err)
	}
}

// enrollSubscriptions are those of the enrolling channel.
func (s *server) enrollSubscriptions() []mqtt.Subscription {
	handle := func(m mqtt.Message) bool {
		return len(m.Payload) <= enrolment.MaxRequest && mqtt.Into(s.enrolling)(m)
	}
	return []mqtt.Subscription{
		{Filter: s.topics.EnrollRequest("+"), QoS: 1, Handle: handle},
		{Filter: s.topics.AnyDevice("csr"), QoS: 1, Handle: handle},
	}
}

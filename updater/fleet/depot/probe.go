package depot

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
)

const probeWait = 3 * time.Second

// probe finds the largest frame that comes back from the broker, from the top
// of the ladder down. There is no asking it: Mosquitto's message_size_limit
// drops in silence even at QoS 1, max_packet_size disconnects the publisher,
// EMQX counts the header, AWS allows 128 KiB. A throw-away client bears that.
func (s *server) probe(ctx context.Context) (int, error) {
	topic := s.topics.Probe(s.cfg.Depot)
	back := make(chan mqtt.Message, 1)
	sub := mqtt.Subscription{Filter: topic, Handle: mqtt.Into(back)}
	session, err := mqtt.New(s.session(s.cfg.Depot+"-probe", mqtt.MaxFrame+4<<10, sub))
	if err != nil {
		return 0, err
	}
	run, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { session.Run(run) })
	defer group.Wait()
	defer stop()
	for _, kib := range []int{960, 480, 240, 120, 60, 8} {
		if err := session.Wait(ctx); err != nil {
			return 0, err
		}
		if echo(ctx, session, topic, back, kib<<10) {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("not even 8 KiB come back on %s; check the broker's access list", topic)
}

// echo says whether one frame comes back before the connection is lost or time is up.
func echo(ctx context.Context, session *mqtt.Session, topic string, back <-chan mqtt.Message, size int) bool {
	changed := session.Changed()
	frame := mqtt.Frame{Kind: mqtt.KindBlob, Total: uint64(size), Payload: make([]byte, size)}.Encode()
	if err := session.Publish(ctx, topic, 0, false, frame); err != nil {
		return false
	}
	timer := time.NewTimer(probeWait)
	defer timer.Stop()
	for {
		select {
		case m := <-back:
			if bytes.Equal(m.Payload, frame) {
				return true
			}
		case <-changed:
			return false
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

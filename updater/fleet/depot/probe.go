package depot

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
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
	session, err := mqtt.New(s.session(s.cfg.Depot+"-probe", sub))
	if err != nil {
		return 0, err
	}
	run, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { _ = session.Run(run) }) // nil: it ends with run
	defer group.Wait()
	defer stop()
	for _, kib := range []int{960, 480, 240, 120, 60, 8} {
		if err := session.Wait(ctx); err != nil {
			return 0, err
		}
		serial := session.Status().Serial
		came, lost := echo(ctx, session, topic, back, kib<<10)
		if came {
			return kib << 10, nil
		}
		if lost {
			if err := reconnected(ctx, session, serial); err != nil {
				return 0, err
			}
		}
	}
	return 0, fmt.Errorf("not even 8 KiB come back on %s; check the broker's access list", topic)
}

// reconnected waits for a connection after the one numbered serial: that one is
// lost, though the session may not have noticed yet.
func reconnected(ctx context.Context, session *mqtt.Session, serial uint64) error {
	for {
		changed := session.Changed()
		if st := session.Status(); st.Connected && st.Serial > serial {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// echo says whether one frame comes back before time is up, or the connection was lost over it.
func echo(ctx context.Context, session *mqtt.Session, topic string, arrivals <-chan mqtt.Message, size int) (back, lost bool) {
	changed := session.Changed()
	frame := wire.Frame{Kind: wire.KindBlob, Total: uint64(size), Payload: make([]byte, size)}.Encode()
	if err := session.Publish(ctx, topic, 0, false, frame); err != nil {
		return false, true
	}
	timer := time.NewTimer(probeWait)
	defer timer.Stop()
	for {
		select {
		case m := <-arrivals:
			if bytes.Equal(m.Payload, frame) {
				return true, false
			}
		case <-changed:
			return false, true
		case <-timer.C:
			return false, false
		case <-ctx.Done():
			return false, false
		}
	}
}

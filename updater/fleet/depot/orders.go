package depot

import (
	"context"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
)

// The least and the longest pause before the same orders are sent again. A
// device that is heard gets them after the least.
const (
	resendLeast = 5 * time.Second
	resendMost  = 5 * time.Minute
)

// resender remembers when a device's orders were sent. MQTT keeps nothing for
// a device that is away, and a broker may lose what it acknowledged, so orders
// are repeated until the fleet's folder says that the device has them. Safe for
// concurrent use.
type resender struct {
	wake chan struct{} // capacity 1: somebody with orders was heard

	mu   sync.Mutex
	sent map[string]sending
}

type sending struct {
	newest uint64 // number of the newest order that was sent
	tries  int
	last   time.Time
}

func newResender() *resender {
	return &resender{wake: make(chan struct{}, 1), sent: map[string]sending{}}
}

// heard says that the device is there: what waits for it is sent soon.
func (r *resender) heard(device string) {
	r.mu.Lock()
	s, ok := r.sent[device]
	if ok {
		s.tries = 0
		r.sent[device] = s
	}
	r.mu.Unlock()
	if ok {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// due says whether the orders are to be sent now.
func (r *resender) due(device string, orders []release.SealedOrder, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sent[device]
	return !ok || orders[len(orders)-1].Number > s.newest || !now.Before(s.last.Add(min(resendLeast<<s.tries, resendMost)))
}

func (r *resender) done(device string, orders []release.SealedOrder, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sent[device]
	r.sent[device] = sending{orders[len(orders)-1].Number, min(s.tries+1, 8), now}
}

// forget drops the devices that have no orders any more.
func (r *resender) forget(open map[string][]release.SealedOrder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for device := range r.sent {
		if len(open[device]) == 0 {
			delete(r.sent, device)
		}
	}
}

// orderLoop sends orders until ctx ends.
func (s *server) orderLoop(ctx context.Context) {
	if s.cfg.Orders == nil {
		return
	}
	tick := time.NewTicker(s.cfg.Poll)
	defer tick.Stop()
	for {
		if s.control.Connected() {
			s.sendOrders(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.resender.wake:
		}
	}
}

// sendOrders sends what is due: all that a device has outstanding, in the order
// of the numbers, since it takes none that is lower than the last.
func (s *server) sendOrders(ctx context.Context) {
	open, err := s.cfg.Orders()
	if err != nil {
		s.cfg.Log.Warn("cannot read orders", "error", err)
	}
	s.resender.forget(open)
	for device, orders := range open {
		now := s.cfg.Session.Now()
		if len(orders) == 0 || !s.resender.due(device, orders, now) {
			continue
		}
		topic := s.topics.For(device).Command()
		for _, o := range orders {
			if err := s.control.Publish(ctx, topic, 1, false, o.Envelope); err != nil {
				return // all of it again on the next connection
			}
		}
		s.resender.done(device, orders, now)
		s.cfg.Log.Debug("orders sent", "device", device, "orders", len(orders))
	}
}

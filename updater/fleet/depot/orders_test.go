package depot

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

func sealed(numbers ...uint64) (all []release.SealedOrder) {
	for _, n := range numbers {
		all = append(all, release.SealedOrder{Number: n, Expires: time.Now().Add(time.Hour), Envelope: fmt.Append(nil, n)})
	}
	return all
}

func TestOrdersAreRepeatedEverMoreSeldomUntilTheDeviceIsHeard(t *testing.T) {
	r, now := newResender(), time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	orders := sealed(5)
	count := func(span time.Duration) (n int) {
		for end := now.Add(span); now.Before(end); now = now.Add(time.Second) {
			if r.due("a", orders, now) {
				r.done("a", orders, now)
				n++
			}
		}
		return n
	}
	if n := count(time.Minute); n < 3 || n > 5 {
		t.Errorf("sent %d times in the first minute, want 3 to 5", n)
	}
	if n := count(24 * time.Hour); n < 280 || n > 300 {
		t.Errorf("sent %d times in a day, want every 5 minutes", n)
	}
	r.heard("a")
	if n := count(4 * resendLeast); n < 2 {
		t.Errorf("sent %d times after the device was heard, want soon and again", n)
	}
	flaps := 0
	for range 100 {
		r.heard("a")
		now = now.Add(resendLeast / 50)
		if r.due("a", orders, now) {
			r.done("a", orders, now)
			flaps++
		}
	}
	if flaps > 3 {
		t.Errorf("a device that flaps for %s was sent its orders %d times", 2*resendLeast, flaps)
	}
	orders = append(orders, sealed(6)...)
	if !r.due("a", orders, now) {
		t.Error("a new order waits for the pause of the old ones")
	}
	r.forget(map[string][]release.SealedOrder{"b": orders})
	if len(r.sent) != 0 {
		t.Errorf("remembers %v, which has no orders", r.sent)
	}
	r.heard("z")
	if len(r.sent) != 0 {
		t.Error("remembers a device that has no orders: the broker names devices without end")
	}
}

// A device that was away gets its orders when it comes: MQTT keeps nothing for it.
func TestOrdersReachADeviceThatComesLater(t *testing.T) {
	b := parts.Mosquitto(t)
	var mu sync.Mutex
	open := map[string][]release.SealedOrder{"box1": sealed(5, 6), "box2": sealed(9)}
	serve(t, b.URL, newFolder(t), func(c *Config) {
		c.Orders = func() (map[string][]release.SealedOrder, error) {
			mu.Lock()
			defer mu.Unlock()
			return open, nil
		}
	})
	hear := func(device string, epoch uint64) (<-chan mqtt.Message, func()) {
		d, err := mqtt.NewDevice(mqtt.Config{Broker: b.URL, Jitter: func() float64 { return 0.05 }}, wire.Topics{Tenant: "acme", Device: device}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		return d.Commands(), func() { cancel(); <-done }
	}
	want := func(in <-chan mqtt.Message, text string) {
		t.Helper()
		select {
		case m := <-in:
			if string(m.Payload) != text || m.Retain {
				t.Fatalf("got %q, retained %v; want %q", m.Payload, m.Retain, text)
			}
		case <-time.After(60 * time.Second):
			t.Fatalf("order %s does not come", text)
		}
	}
	in, stop := hear("box1", 1)
	want(in, "5")
	want(in, "6")
	stop()
	in, stop = hear("box1", 2) // nothing said that it has them
	want(in, "5")
	want(in, "6")
	mu.Lock()
	open = map[string][]release.SealedOrder{"box1": sealed(7)}
	mu.Unlock()
	for m := range in {
		if string(m.Payload) == "7" {
			break
		}
	}
	stop()
	other, stop := hear("box2", 1)
	defer stop()
	select {
	case m := <-other:
		t.Errorf("an order that is settled was sent again: %q", m.Payload)
	case <-time.After(200 * time.Millisecond):
	}
}

package depot

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/delaylink"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// BenchmarkLink is a whole fetch over links of 100 Mbit/s, as root: the share of
// the link that the file's own bytes take, and how long packets wait for it after
// the first two seconds.
func BenchmarkLink(b *testing.B) {
	for _, trip := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond} {
		b.Run(trip.String(), func(b *testing.B) { benchLink(b, trip) })
	}
}

func benchLink(b *testing.B, trip time.Duration) {
	const rate, size = 100e6 / 8, 128 << 20
	link, err := delaylink.New(rate, trip)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { link.Close() })
	var broker *parts.Broker
	link.Near.Do(func() {
		broker = parts.Mosquitto(b, "listener 1883 "+delaylink.Near, "allow_anonymous true")
	})
	if broker == nil {
		b.Fatal("no broker")
	}
	dial := func(e *delaylink.End, to string) func(context.Context, string) (net.Conn, error) {
		return func(ctx context.Context, _ string) (net.Conn, error) { return e.Dial(ctx, to) }
	}
	fleet := newFolder(b)
	f := fleet.add(b, noise(1, size), "box1")
	serve(b, broker.URL, fleet, func(c *Config) { c.Session.Dial = dial(link.Near, broker.Addr) })
	bulk, err := mqtt.NewBulk(mqtt.Config{Broker: broker.URL, Dial: dial(link.Far, delaylink.Near+":1883")}, wire.Topics{Tenant: "acme", Device: "box1"}, "depot1")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(bulk.Close)
	src := content.NewDepot(bulk)
	time.AfterFunc(2*time.Second, link.Watch)
	b.SetBytes(size)
	for b.Loop() {
		s := openStore(b, b.TempDir())
		began := time.Now()
		var last time.Duration // of the last block: the file's own checks need no link
		if _, err := s.Fetch(b.Context(), f, []content.Source{src}, func(p content.Progress) {
			if p.State == content.StateFetching {
				last = time.Since(began)
			}
		}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(size/last.Seconds()/rate*100, "%link")
		b.ReportMetric(float64(link.Queued().Milliseconds()), "ms-queue")
		os.Remove(s.Path(f.SHA256))
	}
}

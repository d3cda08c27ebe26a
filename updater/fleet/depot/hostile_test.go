package depot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/trust"
)

// intruder is another client of a broker without access lists: it hears every
// request to the depot and may answer it.
func intruder(t *testing.T, url string, answer func(s *mqtt.Session, q wire.Request)) *mqtt.Session {
	t.Helper()
	asked := make(chan mqtt.Message, 256)
	topics := wire.Topics{Tenant: "acme"}
	s, err := mqtt.New(mqtt.Config{Broker: url, ClientID: "intruder", Subscriptions: []mqtt.Subscription{
		{Filter: topics.Requests("depot1"), Handle: mqtt.Into(asked)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { s.Run(ctx) })
	group.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-asked:
				if q, err := wire.ParseRequest(m.Payload); err == nil && answer != nil {
					answer(s, q)
				}
			}
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	if err := s.Wait(timeout(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

// Frames with a right header and a wrong payload, mixed with the depot's own:
// the fetch may fail, it may not come out wrong.
func TestForgedFramesNeverReachTheFile(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	want := noise(8, 10<<20)
	f := fleet.add(t, want, "box1")
	serve(t, b.URL, fleet, nil)
	reply := wire.Topics{Tenant: "acme", Device: "box1"}.Reply()
	intruder(t, b.URL, func(s *mqtt.Session, q wire.Request) {
		for _, r := range q.Ranges {
			forged := wire.Frame{Kind: q.Kind, Transfer: q.Transfer, Offset: r.Offset, Total: uint64(f.Size), Clock: q.Clock, Payload: make([]byte, r.Length)}
			if r.Offset+uint64(r.Length) <= uint64(f.Size) {
				s.Publish(context.Background(), reply, 0, false, forged.Encode()) // a lost one is as good
			}
		}
	})
	s := openStore(t, t.TempDir())
	path, err := s.Fetch(timeout(t), f, []content.Source{source(t, b.URL, "box1")}, nil)
	if err != nil {
		if s.Has(f.SHA256) {
			t.Error("a failed fetch left a file")
		}
		if !errors.Is(err, content.ErrCorrupt) || errors.Is(err, content.ErrMismatch) {
			t.Errorf("got %v, want wrong blocks as the cause", err)
		}
		return
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("forged bytes in the file (%v)", err)
	}
}

func TestFetchSurvivesOversizedPackets(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	serve(t, b.URL, fleet, nil)
	s := intruder(t, b.URL, nil)
	during(t, b.URL, fleet, func() {
		huge := make([]byte, 8<<20)
		if err := s.Publish(context.Background(), wire.Topics{Tenant: "acme", Device: "box1"}.Reply(), 0, false, huge); err != nil {
			t.Error(err)
		}
	})
}

func TestFetchGoesOnAfterTheAgentWasStopped(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	want := noise(5, 24<<20)
	f := fleet.add(t, want, "box1")
	serve(t, b.URL, fleet, nil)
	dir := t.TempDir()
	s, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(timeout(t))
	_, err = s.Fetch(ctx, f, []content.Source{source(t, b.URL, "box1")}, func(p content.Progress) {
		if p.Done > f.Size/2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	s.Close()
	var last content.Progress
	mustFetch(t, openStore(t, dir), f, want, source(t, b.URL, "box1"), func(p content.Progress) { last = p })
	if again := last.BySource["mqtt"]; last.BySource["resumed"] < f.Size/2 || again > f.Size/2 {
		t.Errorf("got %v, want more than half resumed", last.BySource)
	}
}

func TestDevicesShareADepotFairly(t *testing.T) {
	q := newQueue(1 << 20)
	for i := range 8 {
		q.put(job{device: "greedy", at: wire.Range{Offset: uint64(i), Length: 100}})
	}
	q.put(job{device: "modest", at: wire.Range{Length: 100}})
	var order []string
	for j, ok := q.take(); ok; j, ok = q.take() {
		order = append(order, j.device)
	}
	if len(order) != 9 || order[1] != "modest" {
		t.Errorf("got the order %v, want modest second", order)
	}
	q.put(job{device: "greedy", at: wire.Range{Length: 900 << 10}})
	q.put(job{device: "greedy", at: wire.Range{Length: 900 << 10}})
	if got := q.stats().Dropped; got != 1 {
		t.Errorf("got %d dropped over the window, want 1", got)
	}
}

// One device, within its access list, must not cut the depot off from the
// others: a retained message would do so on every connection.
func TestLargePacketsOfADeviceDoNotCutTheDepotOff(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	want := noise(4, 1<<20)
	f := fleet.add(t, want, "box1")
	fleet.devices = []string{"box1"}
	fleet.set(trust.Director, "box1", timestamp, "want 1")
	fleet.set(trust.Catalog, "", timestamp, "catalog 1")
	topics := wire.Topics{Tenant: "acme", Device: "box9"}
	ctx, stop := context.WithCancel(timeout(t))
	var group sync.WaitGroup
	defer func() { stop(); group.Wait() }()
	s, err := mqtt.New(mqtt.Config{Broker: b.URL, ClientID: "box9"})
	if err != nil {
		t.Fatal(err)
	}
	group.Go(func() { s.Run(ctx) })
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 4*mqtt.MaxControl)
	for _, topic := range []string{topics.State(), topics.Request("depot1")} {
		if err := s.Publish(timeout(t), topic, 1, true, large); err != nil {
			t.Fatal(err)
		}
	}
	reports := make(chan Report, 64)
	serve(t, b.URL, fleet, func(c *Config) { c.Reports = func(r Report) { reports <- r } })
	if err := s.Publish(timeout(t), topics.Event(), 1, false, large); err != nil {
		t.Fatal(err)
	}
	mustFetch(t, openStore(t, t.TempDir()), f, want, source(t, b.URL, "box1"), nil)
	d, err := mqtt.NewDevice(mqtt.Config{Broker: b.URL}, wire.Topics{Tenant: "acme", Device: "box1"}, 5)
	if err != nil {
		t.Fatal(err)
	}
	group.Go(func() { d.Run(ctx) })
	awaitOffer(t, d, "want 1", "catalog 1")
	d.Report([]byte("small"))
	awaitReport(t, reports, "state", "small")
}

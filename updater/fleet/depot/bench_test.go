package depot

import (
	"context"
	"crypto/sha256"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
)

const benchSize = 256 << 20

// BenchmarkPull is a whole fetch over Mosquitto: window, checks, journal, file, whole hash.
func BenchmarkPull(b *testing.B) {
	broker, fleet := parts.Mosquitto(b), newFolder(b)
	f := fleet.add(b, noise(1, benchSize), "box1")
	serve(b, broker.URL, fleet, nil)
	src := source(b, broker.URL, "box1")
	src.GC = &content.Collector{}
	b.SetBytes(benchSize)
	for b.Loop() {
		s := openStore(b, b.TempDir())
		if _, err := s.Fetch(b.Context(), f, []content.Source{src}, nil); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.Remove(s.Path(f.SHA256)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkRawPaho is what the same broker and library do with frames of the
// same size and nothing else: no checks, no file, at most 64 outstanding.
func BenchmarkRawPaho(b *testing.B) {
	broker := parts.Mosquitto(b)
	const frame = content.DefaultFrame
	credit := make(chan struct{}, 64)
	var got atomic.Int64
	done := make(chan struct{}, 1)
	connect := func(id string) paho.Client {
		c := paho.NewClient(paho.NewClientOptions().AddBroker(broker.URL).SetClientID(id).SetOrderMatters(true))
		if t := c.Connect(); t.Wait() && t.Error() != nil {
			b.Fatal(t.Error())
		}
		b.Cleanup(func() { c.Disconnect(100) })
		return c
	}
	in, out := connect("in"), connect("out")
	if t := in.Subscribe("x", 0, func(_ paho.Client, m paho.Message) {
		<-credit
		if got.Add(int64(len(m.Payload()))) >= benchSize {
			got.Store(0)
			done <- struct{}{}
		}
	}); t.Wait() && t.Error() != nil {
		b.Fatal(t.Error())
	}
	payload := noise(1, frame)
	b.SetBytes(benchSize)
	for b.Loop() {
		for sent := 0; sent < benchSize; sent += frame {
			credit <- struct{}{}
			if t := out.Publish("x", 0, false, payload); t.Wait() && t.Error() != nil {
				b.Fatal(t.Error())
			}
		}
		<-done
	}
}

// sink checks blocks and keeps none of them: fifty disks are not what is looked at.
type sink struct {
	t    testing.TB
	left map[int]bool
	free []byte
}

func (s *sink) Buffer(n int) []byte {
	b := s.free
	s.free = nil
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

func (s *sink) Deliver(k content.Block, data []byte) error {
	if sha256.Sum256(data) != k.SHA256 {
		s.t.Errorf("block %d is wrong", k.N)
	}
	delete(s.left, k.N)
	s.free = data
	return nil
}

// fiftyDevices lets as many devices pull one blob at once, and answers how often
// the depot sent it.
func fiftyDevices(t testing.TB, size int) (cost float64) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(50)
	f := fleet.add(t, noise(31, size), devices...)
	s := start(t, b.URL, fleet, nil)
	raw, err := fleet.Index(f.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	x, err := content.ParseIndex(raw)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // a gigabyte and a half passes the broker
	defer cancel()
	var group sync.WaitGroup
	for _, device := range devices {
		src, sink := source(t, b.URL, device), &sink{t: t, left: map[int]bool{}}
		for _, k := range x.Blocks {
			sink.left[k.N] = true
		}
		group.Go(func() {
			if err := src.Blocks(ctx, f, x.Blocks, sink); err != nil || len(sink.left) > 0 {
				t.Errorf("%s: %v, %d blocks missing", device, err, len(sink.left))
			}
		})
	}
	group.Wait()
	return float64(s.stats().Bytes) / float64(f.Size)
}

// BenchmarkFiftyDevicesOfOneBlob prints how often the depot sent the blob.
func BenchmarkFiftyDevicesOfOneBlob(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(fiftyDevices(b, 64<<20), "x-blob")
	}
}

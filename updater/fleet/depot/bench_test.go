package depot

import (
	"os"
	"sync/atomic"
	"testing"

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

package depot

import (
	"context"
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
)

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

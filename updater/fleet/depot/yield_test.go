package depot

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
)

// A fetch over a real broker slows down while inference is busy, says so, and
// goes on at full speed when it no longer is.
func TestFetchYieldsOverMosquitto(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	want := noise(51, 24<<20)
	f := fleet.add(t, want, "box1")
	serve(t, b.URL, fleet, nil)
	var busy atomic.Bool
	busy.Store(true)
	src := source(t, b.URL, "box1")
	// At this rate the file would take an hour and more: it ends because the rate does.
	src.Flow = &content.Flow{BusyRate: 6 << 10, Busy: busy.Load}
	var reasons []string
	mustFetch(t, openStore(t, t.TempDir()), f, want, src, func(p content.Progress) {
		if p.Slowed != "" && !slices.Contains(reasons, p.Slowed) {
			reasons = append(reasons, p.Slowed)
			if p.Done > f.Size/2 {
				t.Errorf("%d bytes had come before anything was slowed", p.Done)
			}
			busy.Store(false)
		}
	})
	if !slices.Equal(reasons, []string{content.SlowedByBusy}) {
		t.Errorf("got reasons %q, want busy", reasons)
	}
}

package content

import (
	"runtime/debug"
	"testing"
)

func TestCollectorIsRelaxedOnlyWhileSomethingIsPulled(t *testing.T) {
	limit := debug.SetMemoryLimit(-1)
	percent := debug.SetGCPercent(100)
	defer debug.SetGCPercent(percent)
	now := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	c := &Collector{}
	end1, end2 := c.begin(), c.begin()
	if got := now(); got != relaxedPercent || debug.SetMemoryLimit(-1) >= limit {
		t.Errorf("during: got %d %% and a limit of %d", got, debug.SetMemoryLimit(-1))
	}
	end1()
	end1()
	if got := now(); got != relaxedPercent {
		t.Errorf("one of two ended: got %d %%", got)
	}
	end2()
	if got := now(); got != 100 || debug.SetMemoryLimit(-1) != limit {
		t.Errorf("after: got %d %% and a limit of %d, want 100 and %d", got, debug.SetMemoryLimit(-1), limit)
	}
	var none *Collector
	none.begin()()
}

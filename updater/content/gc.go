package content

import (
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	relaxedPercent = 800
	relaxedRoom    = 64 << 20 // bytes over what is in use when a pull begins
)

// Collector lets garbage collection run less often while something is pulled:
// paho allocates every frame anew, and with the default setting collecting
// them is half of the cost of a transfer (208 against 310 MB/s). A memory limit
// bounds what that may take. The setting is the process's, so there must be
// only one Collector in it. Safe for concurrent use.
type Collector struct {
	mu      sync.Mutex
	users   int
	percent int
	limit   int64
}

// begin relaxes the collector until the last of the calls has called its end.
func (c *Collector) begin() (end func()) {
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users++; c.users == 1 {
		c.limit = debug.SetMemoryLimit(-1)
		debug.SetMemoryLimit(min(c.limit, inUse()+relaxedRoom))
		c.percent = debug.SetGCPercent(relaxedPercent)
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.users--; c.users == 0 {
			debug.SetGCPercent(c.percent)
			debug.SetMemoryLimit(c.limit)
		}
	})
}

// inUse is the memory that the limit would count: mapped and not given back.
func inUse() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}

package peer

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/trust"
)

var (
	errUnknown = errors.New("no proof shows that it may have this")
	errMany    = errors.New("too many transfers at once")
)

// callers remembers what each device has proved. Safe for concurrent use.
type callers struct {
	now func() time.Time

	mu sync.Mutex
	of map[string]*standing
}

// standing is one device's.
type standing struct {
	version int64 // of the newest timestamp that it has shown
	until   time.Time
	files   map[string]bool
	active  int // transfers under way
}

func newCallers(now func() time.Time) *callers {
	return &callers{now: now, of: map[string]*standing{}}
}

// admit takes note of a proof, unless it goes back behind an earlier one.
func (c *callers) admit(p trust.Shown) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.of[p.Device]
	if s == nil {
		if len(c.of) >= maxCallers {
			c.forget()
		}
		s = &standing{}
		c.of[p.Device] = s
	}
	if p.Version < s.version {
		return fmt.Errorf("timestamp %d is older than %d, which the device has shown before", p.Version, s.version)
	}
	s.version, s.until, s.files = p.Version, c.now().Add(proofLife), map[string]bool{}
	if p.Expires.Before(s.until) {
		s.until = p.Expires
	}
	for _, f := range p.Files {
		s.files[f.SHA256] = true
	}
	return nil
}

// forget makes room: one that has run out, else any that is idle. What is
// forgotten can show an older proof again, until that expires.
func (c *callers) forget() {
	idle := ""
	for device, s := range c.of {
		if s.active > 0 {
			continue
		}
		if idle = device; c.now().After(s.until) {
			break
		}
	}
	delete(c.of, idle)
}

// begin counts a transfer that the device may have, until done is called.
func (c *callers) begin(device, digest string) (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.of[device]
	if s == nil || !s.files[digest] || !c.now().Before(s.until) {
		return nil, errUnknown
	}
	if s.active >= maxOfOne {
		return nil, errMany
	}
	s.active++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		s.active--
		c.mu.Unlock()
	}), nil
}

package depot

import (
	"encoding/hex"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

const (
	castLeast    = 3                // devices that ask for a blob at once
	castAtOnce   = 10 * time.Second // what "at once" means
	castSmallest = 8 << 20          // bytes of a blob; a smaller one is asked for faster than a cast begins
	castsAtOnce  = 8
	castRest     = time.Minute // after a cast that nobody joined: the broker may not let them
	blobsWatched = 64
	askersKept   = 4096 // devices of one blob
	castTick     = 5 * time.Millisecond
	gatherFor    = 2 * time.Second  // without another device that joins
	gatherLimit  = 10 * time.Second // in all: who cannot listen waits so long for an answer
)

// caster decides what is cast: it watches who asks for which blob, and runs the
// casts. Owned by the listen loop.
type caster struct {
	frame   int
	may     func(device, digest string) uint16
	index   func(digest string) (content.Index, error)
	send    func(c *cast, r wire.Range, pos uint64)
	drop    func(digest [32]byte) // what waits to be answered by itself
	never   bool                  // nothing is cast
	tell    func([]mqtt.Cast)     // the casts that run have changed
	now     func() time.Time
	next    uint64 // number of the next stream
	askers  map[[32]byte]map[string]time.Time
	running map[[16]byte]*cast
	resting map[[32]byte]time.Time
	count   atomic.Uint64
}

func newCaster(epoch uint64, now func() time.Time) *caster {
	return &caster{
		now: now, next: epoch, askers: map[[32]byte]map[string]time.Time{},
		running: map[[16]byte]*cast{}, resting: map[[32]byte]time.Time{},
	}
}

// asked notes a request for a blob, and says whether to answer it. What is asked
// for while the devices gather for a cast is not: they will have it from there,
// and whoever cannot listen asks again.
func (r *caster) asked(device string, digest [32]byte) (answer bool) {
	now := r.now()
	if r.never {
		return true
	}
	if c := r.running[[16]byte(digest[:16])]; c != nil {
		if c.started || c.digest != digest {
			return true
		}
		if _, joined := c.members[device]; !joined && len(c.expected) < castMembers {
			c.expected[device] = true
		}
		return false
	}
	askers := r.note(device, digest, now)
	if len(askers) < castLeast || len(r.running) >= castsAtOnce || now.Before(r.resting[digest]) {
		return true
	}
	return !r.begin(digest, askers, now)
}

// note remembers who asked for a blob lately, and answers them.
func (r *caster) note(device string, digest [32]byte, now time.Time) map[string]time.Time {
	askers := r.askers[digest]
	if askers == nil {
		if len(r.askers) >= blobsWatched {
			clear(r.askers) // no matter: who still wants something asks again
		}
		askers = map[string]time.Time{}
		r.askers[digest] = askers
	}
	if len(askers) < askersKept {
		askers[device] = now
	}
	if len(askers) >= castLeast {
		for d, at := range askers {
			if now.Sub(at) > castAtOnce {
				delete(askers, d)
			}
		}
	}
	return askers
}

// begin starts a cast for those of the askers that may have the blob, if they are enough.
func (r *caster) begin(digest [32]byte, askers map[string]time.Time, now time.Time) bool {
	name := hex.EncodeToString(digest[:])
	for device := range askers {
		if r.may(device, name) != wire.CodeOK {
			delete(askers, device)
		}
	}
	if len(askers) < castLeast {
		return false
	}
	x, err := r.index(name)
	if err != nil || x.Size < castSmallest {
		r.rest(digest, now)
		return false
	}
	r.next++
	r.count.Add(1)
	c := newCast(digest, r.next, x, r.frame, now)
	for device := range askers {
		c.expected[device] = true
	}
	delete(r.askers, digest)
	r.running[c.id] = c
	r.drop(digest)
	r.announce()
	return true
}

func (r *caster) rest(digest [32]byte, now time.Time) {
	if len(r.resting) >= blobsWatched {
		clear(r.resting)
	}
	r.resting[digest] = now.Add(castRest)
}

func (r *caster) announce() {
	all := []mqtt.Cast{}
	for id, c := range r.running {
		all = append(all, mqtt.Cast{ID: hex.EncodeToString(id[:]), Stream: c.stream, Frame: c.frame})
	}
	r.tell(all)
}

// feedback takes what a device says of a cast. Only one that may have the blob counts.
func (r *caster) feedback(device string, f wire.Feedback) {
	c := r.running[f.ID]
	if c == nil || r.may(device, hex.EncodeToString(c.digest[:])) != wire.CodeOK {
		return
	}
	c.feedback(device, f, r.now())
}

// step moves every cast on.
func (r *caster) step() {
	now := r.now()
	for id, c := range r.running {
		pos := c.pos
		frames, over := c.step(now)
		for _, at := range frames {
			r.send(c, at, pos)
			pos += uint64(at.Length)
		}
		if !over {
			continue
		}
		delete(r.running, id)
		if !c.lively || !c.started {
			r.rest(c.digest, now)
		}
		r.announce()
	}
}

package depot

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

const (
	castPasses  = 3                // over the blob; what is missing then is asked for
	castSilent  = 15 * time.Second // without feedback a device is gone
	castTail    = 2500 * time.Millisecond
	castRound   = time.Second // between two looks at the pace
	castFirst   = 4 << 20     // bytes a second, the first pace
	castSlowest = 64 << 10    // bytes a second, the lowest
	castBacklog = 8           // frames that wait in the depot's own queue
	castMembers = 1 << 14     // devices that one cast hears
	castAgain   = 8 << 20     // bytes that enough devices must miss for another pass
)

// cast is one blob streamed once for every device that wants it. It begins with
// a moment in which the devices subscribe, then sends frame after frame at the
// pace that the slowest of the best nine tenths keeps up with, and ends when
// they have had time to say what they miss. Owned by the listen loop, but for sent.
type cast struct {
	digest [32]byte
	id     [16]byte
	stream uint64
	size   int64
	frame  int
	blocks []content.Block

	began    time.Time
	joined   time.Time       // the last device came
	expected map[string]bool // asked for the blob, did not say yet that they listen
	members  map[string]*member
	started  bool // frames go out
	lively   bool // somebody listened

	block   int    // the next frame is of this block
	within  int    // and begins so far in it
	end     int64  // of this pass, in the blob
	pos     uint64 // bytes of the stream that were queued
	pass    int
	tail    time.Time // the pass is over and feedback awaited; zero before
	rate    float64   // bytes a second
	tokens  float64
	ticked  time.Time
	round   time.Time
	probing bool // still doubling

	sent atomic.Uint64 // bytes of the stream that were written to the broker
}

// member is a device that listens.
type member struct {
	heard time.Time // its last feedback
	last  wire.Feedback
	ahead uint64 // bytes that were sent and had not come, when that was said

	at   time.Time // the feedback that the present round counts from
	base wire.Feedback
}

func newCast(digest [32]byte, stream uint64, x content.Index, frame int, now time.Time) *cast {
	return &cast{
		digest: digest, id: [16]byte(digest[:16]), stream: stream, size: x.Size, frame: frame, blocks: x.Blocks,
		began: now, joined: now, expected: map[string]bool{}, members: map[string]*member{}, end: x.Size, pass: 1,
		rate: castFirst, ticked: now, round: now, probing: true,
	}
}

// feedback takes what a device says; false: it is not of this cast.
func (c *cast) feedback(device string, f wire.Feedback, now time.Time) bool {
	if f.Stream != c.stream || f.ID != c.id || f.Pos > c.pos || f.Got > c.pos || f.Lost > c.pos || f.Missing > uint64(c.size) {
		return false
	}
	delete(c.expected, device)
	if f.Leaving {
		delete(c.members, device)
		return true
	}
	m := c.members[device]
	if m == nil {
		if len(c.members) >= castMembers {
			return false
		}
		m = &member{at: now, base: f}
		c.members[device], c.lively, c.joined = m, true, now
	}
	if f.Pos < m.last.Pos || f.Got < m.last.Got || f.Lost < m.last.Lost {
		m.at, m.base = now, f // it began anew
	}
	m.heard, m.last, m.ahead = now, f, c.sent.Load()-min(f.Pos, c.sent.Load())
	if f.Pos == 0 {
		m.ahead = 0 // nothing was sent since it came
	}
	return true
}

// step moves the cast on: it answers the ranges to send now, and whether it is over.
func (c *cast) step(now time.Time) (frames []wire.Range, over bool) {
	for device, m := range c.members {
		if now.Sub(m.heard) >= castSilent {
			delete(c.members, device)
		}
	}
	if !c.started {
		if len(c.expected) > 0 && now.Sub(c.joined) < gatherFor && now.Sub(c.began) < gatherLimit {
			return nil, false
		}
		if len(c.members) < 2 {
			return nil, true
		}
		c.started, c.ticked, c.round = true, now, now
	}
	if len(c.members) == 0 {
		return nil, true
	}
	if now.Sub(c.round) >= castRound {
		c.judge(now)
	}
	if c.passed() {
		return nil, c.ending(now)
	}
	return c.due(now), false
}

// passed says that the present pass is all sent off.
func (c *cast) passed() bool {
	return c.block >= len(c.blocks) || c.blocks[c.block].Offset >= c.end
}

// ending waits for what the devices say at the end of a pass, then begins
// another where enough of them miss much, as those do that came late.
func (c *cast) ending(now time.Time) (over bool) {
	if c.tail.IsZero() {
		c.tail = now
	}
	told := true
	for _, m := range c.members {
		told = told && m.last.Pos >= c.pos
	}
	if !told && now.Sub(c.tail) < castTail {
		return false
	}
	first, last, many := c.size, int64(0), 0
	for _, m := range c.members {
		if m.last.Missing >= uint64(max(castAgain, c.size/16)) {
			many++
			first, last = min(first, int64(m.last.First)), max(last, int64(min(m.last.Last, uint64(c.size))))
		}
	}
	if many < castLeast || c.pass >= castPasses || first >= last {
		return true
	}
	c.pass++
	c.tail, c.end, c.within = time.Time{}, last, 0
	c.block, _ = slices.BinarySearchFunc(c.blocks, first, func(k content.Block, o int64) int { return cmp.Compare(k.Offset, o) })
	c.block = min(c.block, len(c.blocks))
	return c.passed()
}

// due is the ranges that the pace allows now.
func (c *cast) due(now time.Time) []wire.Range {
	c.tokens = min(c.tokens+c.rate*now.Sub(c.ticked).Seconds(), max(c.rate/50, 4*float64(c.frame)))
	c.ticked = now
	// Feedback comes once a second; whoever is further behind than that has stopped.
	if c.started && c.pos-min(c.pos, c.slowestPos()) > uint64(max(3*c.rate, castBacklog*float64(c.frame))) {
		return nil
	}
	var out []wire.Range
	for c.tokens > 0 && !c.passed() && c.pos-c.sent.Load() < uint64(castBacklog*c.frame) {
		k := c.blocks[c.block]
		n := min(c.frame, k.Length-c.within)
		out = append(out, wire.Range{Offset: uint64(k.Offset) + uint64(c.within), Length: uint32(n)})
		c.pos += uint64(n)
		c.tokens -= float64(n)
		if c.within += n; c.within >= k.Length {
			c.block, c.within = c.block+1, 0
		}
	}
	return out
}

// best is the members that the pace is made for, the slowest last: one in ten
// may fall behind, and leaves by itself.
func (c *cast) best(by func(*member) float64) []*member {
	all := make([]*member, 0, len(c.members))
	for _, m := range c.members {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *member) int { return cmp.Compare(by(b), by(a)) })
	return all[:len(all)-len(all)/10]
}

// slowestPos is how far the slowest of the best has come. Whoever has not seen a
// frame yet, since it has only just come, holds nobody up for a moment.
func (c *cast) slowestPos() uint64 {
	pos := c.pos
	for _, m := range c.best(func(m *member) float64 { return float64(m.last.Pos) }) {
		if m.last.Pos > 0 || c.ticked.Sub(m.at) > castTail {
			pos = min(pos, m.last.Pos)
		}
	}
	return pos
}

// judge sets the pace from what the devices said in the last round.
func (c *cast) judge(now time.Time) {
	speed := func(m *member) float64 {
		if !m.heard.After(m.at) {
			return c.rate // nothing new of it
		}
		return float64(m.last.Got-m.base.Got) / m.heard.Sub(m.at).Seconds()
	}
	best := c.best(speed)
	slowest := best[len(best)-1]
	if !slowest.heard.After(slowest.at) {
		return // nobody has said anything new
	}
	got := float64(slowest.last.Got - slowest.base.Got)
	lost := float64(slowest.last.Lost - slowest.base.Lost)
	behind := float64(slowest.ahead)
	switch {
	case lost > got/50 || behind > max(c.rate/4, castBacklog*float64(c.frame)):
		c.probing = false
		c.rate = max(min(c.rate, speed(slowest))*0.85, castSlowest)
	case speed(slowest) < c.rate/2: // the pace was not the bottleneck: nothing to learn
	case c.probing:
		c.rate *= 2
	default:
		c.rate *= 1.1
	}
	for _, m := range c.members {
		if m.heard.After(m.at) {
			m.at, m.base = m.heard, m.last
		}
	}
	c.round = now
}

package content

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

const (
	castName    = "cast"           // what progress counts its blocks under
	castLeast   = 4 << 20          // bytes missing below which a cast is not worth joining
	castOpen    = 16               // blocks that a cast may have open at once
	castJoin    = 15 * time.Second // for the broker to answer the subscription
	castTell    = time.Second      // between two feedbacks
	castSilence = 15 * time.Second // without a frame of the cast: it is over
	castLossy   = 3                // feedbacks in a row with a fifth lost: it is too fast for us
)

// ear is a puller's part in a cast: the depot streams the blob once for all, and
// the puller takes what it lacks and asks for nothing meanwhile. When the cast
// ends, or goes badly, what is missing is asked for in the window as ever.
// The zero value listens to nothing.
type ear struct {
	cast    mqtt.Cast
	id      [16]byte
	on      bool
	hears   bool      // the broker has let us in
	since   time.Time // Listen was called
	heard   time.Time // the last frame, or the broker's consent
	told    time.Time // the last feedback
	said    wire.Feedback
	began   bool // a frame has come
	say     wire.Feedback
	lossy   int
	avoid   uint64 // a stream that went badly
	retired bool   // this pull is done with casts: one brought a wrong block, or the broker keeps us out
}

// waits says that a cast brings what is missing, or is about to.
func (e *ear) waits() bool { return e.on }

// due is when the ear has something to do: 0 never.
func (e *ear) due(now time.Time) time.Duration {
	switch {
	case !e.on:
		return 0
	case !e.hears:
		return max(e.since.Add(castJoin).Sub(now), time.Millisecond)
	}
	return max(min(e.told.Add(castTell).Sub(now), e.heard.Add(castSilence).Sub(now)), time.Millisecond)
}

// castSink is a Sink that knows how many blocks of a cast were wrong.
type castSink interface{ castWrong() int }

// listen joins a cast of our blob that is announced, tells the depot how it
// goes, and leaves it when it is over or goes badly.
func (p *puller) listen(ctx context.Context, st mqtt.LaneState) {
	e, now := &p.ear, p.depot.now()
	if s, ok := p.plan.sink.(castSink); ok && s.castWrong() > 0 {
		e.retired = true
	}
	c, running := castOf(st.Depot.Cast, p.digest)
	if !e.on {
		if running && c.Stream != e.avoid && p.mayListen() && p.plan.left >= castLeast {
			p.join(c, now)
		}
		return
	}
	switch {
	case !running || c.Stream != e.cast.Stream: // it is over
		p.leave(ctx)
	case e.retired || p.depot.Flow.limited():
		p.leave(ctx)
	case st.Deaf || !e.hears && !st.Hears && now.Sub(e.since) >= castJoin:
		e.retired = true
		p.leave(ctx)
	case !e.hears && st.Hears:
		e.hears, e.heard = true, now
		p.tell(ctx, now)
	case !e.hears:
	case now.Sub(e.heard) >= castSilence || e.lossy >= castLossy:
		e.avoid = e.cast.Stream
		p.leave(ctx)
	case now.Sub(e.told) >= castTell:
		p.tell(ctx, now)
	}
	if e.on {
		p.progress = now // it is the ear that gives up, not the asker
	}
}

func (p *puller) mayListen() bool {
	return !p.depot.Alone && !p.ear.retired && !p.depot.Flow.limited()
}

// castOf finds the cast of a blob among those announced.
func castOf(all []mqtt.Cast, digest [32]byte) (mqtt.Cast, bool) {
	id := hex.EncodeToString(digest[:16])
	for _, c := range all {
		if c.ID == id && c.Stream != 0 && c.Frame >= 1<<10 && c.Frame <= wire.MaxFrame {
			return c, true
		}
	}
	return mqtt.Cast{}, false
}

func (p *puller) join(c mqtt.Cast, now time.Time) {
	avoid, retired := p.ear.avoid, p.ear.retired
	p.ear = ear{cast: c, id: [16]byte(p.digest[:16]), on: true, since: now, avoid: avoid, retired: retired}
	if c.Frame != p.plan.frame {
		p.resize(c.Frame)
	}
	p.lane.Listen(p.ear.id)
}

// leave ends the listening; from here on what is missing is asked for.
func (p *puller) leave(ctx context.Context) {
	e := &p.ear
	if !e.on {
		return
	}
	if e.hears {
		e.say.Leaving = true
		p.send(ctx)
	}
	p.lane.Mute()
	e.on, e.hears = false, false
	now := p.depot.now()
	frame := min(p.plan.frame, p.depot.frame())
	p.win.restart(frame, p.win.limit, now)
	p.progress = now
	if frame != p.plan.frame {
		p.resize(frame)
		return
	}
	p.plan.requeue(func(s *slice) bool { return p.flying[s.offset] != nil })
}

// tell sends the feedback that is due and judges how the cast goes.
func (p *puller) tell(ctx context.Context, now time.Time) {
	e := &p.ear
	if got, lost := e.say.Got-e.said.Got, e.say.Lost-e.said.Lost; lost*4 > got && lost > 0 {
		e.lossy++
	} else {
		e.lossy = 0
	}
	e.told = now
	p.send(ctx)
	e.said = e.say
}

func (p *puller) send(ctx context.Context) {
	e := &p.ear
	e.say.Stream, e.say.ID = e.cast.Stream, e.id
	e.say.Missing, e.say.First, e.say.Last = p.plan.missing()
	// One that is lost is followed by another.
	_ = p.lane.Feedback(ctx, e.say)
}

// heard takes a frame of the cast. What does not fit is dropped: anybody may
// have sent it, and the blocks are checked against the signed index anyway.
func (p *puller) heard(f wire.Frame) error {
	e := &p.ear
	if !e.hears || f.Kind != wire.KindBlob || f.Code != wire.CodeOK || f.Transfer != e.cast.Stream || f.ID != e.id {
		return nil
	}
	n, at := uint64(len(f.Payload)), uint64(f.Clock)
	if !e.began {
		e.began, e.say.Pos = true, at
	}
	if at >= e.say.Pos {
		e.say.Lost += at - e.say.Pos
		e.say.Pos = at + n
		e.say.Got += n
	}
	now := p.depot.now()
	e.heard = now
	s := p.plan.find(f.Offset, len(f.Payload), castOpen)
	if s == nil {
		return nil
	}
	if a := p.flying[s.offset]; a != nil && a.slice == s {
		p.landed(a)
	}
	Attribute(p.plan.sink, castName, "")
	err := p.plan.land(s, f.Payload)
	Attribute(p.plan.sink, p.depot.Name(), "")
	return err
}

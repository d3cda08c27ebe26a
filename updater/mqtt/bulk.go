package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// laneDepth is how many frames may wait for the reader of a lane: four times
// the largest window, so that only a reader that has stopped loses any.
const laneDepth = 4 * wire.MaxRanges

// Info is what a depot says of itself on its info topic.
type Info struct {
	V         int    `json:"v"`          // 1
	FrameMax  int    `json:"frame_max"`  // bytes of payload that the broker lets through
	WindowMax int    `json:"window_max"` // bytes that one device may have outstanding
	Epoch     uint64 `json:"epoch"`      // of this start of the depot; what was asked of another is lost
	Cast      []Cast `json:"cast"`       // streams that can be joined
}

// Cast is one stream of a blob for every device that wants it.
type Cast struct {
	ID     string `json:"id"`     // 32 hexadecimal digits: the first half of the blob's SHA-256
	Stream uint64 `json:"stream"` // the stream's number, carried by its frames as their transfer
	Frame  int    `json:"frame"`  // bytes of payload of its frames
}

// maxCasts is how many streams a device looks at; a depot runs fewer.
const maxCasts = 64

// ParseInfo reads a depot's info message.
func ParseInfo(b []byte) (Info, error) {
	var i Info
	if err := json.Unmarshal(b, &i); err != nil {
		return Info{}, fmt.Errorf("depot info refused: %w", err)
	}
	if i.V != 1 || i.FrameMax < 1<<10 || i.WindowMax < i.FrameMax {
		return Info{}, fmt.Errorf("depot info refused: version %d, frames of %d, window of %d bytes", i.V, i.FrameMax, i.WindowMax)
	}
	if len(i.Cast) > maxCasts {
		return Info{}, fmt.Errorf("depot info refused: %d casts", len(i.Cast))
	}
	i.FrameMax = min(i.FrameMax, wire.MaxFrame)
	return i, nil
}

// linger is how long the connection outlives its last lane: metadata comes as a
// handful of objects one after another, and a connection for each would cost a
// handshake each. (An embedded mochi v2.7.9 also cleans a closed connection up by
// its client id, which can take the subscriptions of the next one along.)
const linger = 3 * time.Second

// Bulk is a device's second connection: it exists while at least one Lane is
// open, and a little longer. Close ends it at once.
type Bulk struct {
	cfg   Config
	t     wire.Topics
	depot string
	start time.Time // of the request clock
	next  atomic.Uint64

	mu   sync.Mutex
	run  *bulkRun
	idle *time.Timer // ends run when no lane was opened meanwhile
}

// bulkRun is one life of the connection.
type bulkRun struct {
	session *Session
	stop    context.CancelFunc
	done    chan struct{}

	mu    sync.Mutex
	lanes map[uint64]*Lane
	ears  map[string]map[*Lane]bool // by cast topic
	info  Info
	known bool
}

// NewBulk prepares the connection of one device to one depot. cfg's client id,
// subscriptions, packet limit and will are set here.
func NewBulk(cfg Config, t wire.Topics, depot string) (*Bulk, error) {
	if err := errors.Join(wire.CheckID(t.Tenant), wire.CheckID(t.Device), wire.CheckID(depot)); err != nil {
		return nil, err
	}
	cfg.ClientID = t.Device + wire.BulkSuffix
	cfg.MaxPacket = wire.MaxFrame + 4<<10
	cfg.Will, cfg.Farewell, cfg.Bulk = nil, nil, true
	if _, err := New(cfg); err != nil {
		return nil, err
	}
	b := &Bulk{cfg: cfg, t: t, depot: depot, start: time.Now()}
	// A number that no earlier run of this device used: its late frames must not match.
	b.next.Store(uint64(time.Now().UnixNano()))
	return b, nil
}

// Join opens a lane, and with the first one the connection. It does not wait for the broker.
func (b *Bulk) Join() (*Lane, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle != nil {
		b.idle.Stop()
	}
	if b.run == nil {
		if err := b.open(); err != nil {
			return nil, err
		}
	}
	l := &Lane{bulk: b, run: b.run, id: b.next.Add(1), frames: make(chan Arrival, laneDepth)}
	b.run.mu.Lock()
	b.run.lanes[l.id] = l
	b.run.mu.Unlock()
	return l, nil
}

// open starts the session. The caller holds mu.
func (b *Bulk) open() error {
	r := &bulkRun{done: make(chan struct{}), lanes: map[uint64]*Lane{}, ears: map[string]map[*Lane]bool{}}
	cfg := b.cfg
	cfg.Subscriptions = []Subscription{
		{Filter: b.t.Reply(), QoS: 0, Handle: r.frame},
		{Filter: b.t.Info(b.depot), QoS: 1, Handle: r.learn},
	}
	s, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background()) // ended by the last Lane.Close
	r.session, r.stop = s, stop
	go func() {
		defer close(r.done)
		_ = s.Run(ctx) // nil: it ends with ctx
	}()
	b.run = r
	return nil
}

// frame routes by the transfer number; what nobody waits for any more is dropped.
func (r *bulkRun) frame(m Message) bool {
	id, ok := wire.TransferOf(m.Payload)
	if !ok {
		return true
	}
	r.mu.Lock()
	l := r.lanes[id]
	r.mu.Unlock()
	if l == nil {
		return true
	}
	select {
	case l.frames <- Arrival{Payload: m.Payload, At: m.At, message: m}:
		return true
	default:
		return false
	}
}

// cast hands a cast's frame to every lane that listens to it. They share the
// payload and only read it.
func (r *bulkRun) cast(m Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ok := true
	for l := range r.ears[m.Topic] {
		select {
		case l.frames <- Arrival{Payload: m.Payload, At: m.At, Cast: true}:
		default:
			ok = false
		}
	}
	return ok
}

func (r *bulkRun) learn(m Message) bool {
	info, err := ParseInfo(m.Payload)
	r.mu.Lock()
	r.info, r.known = info, err == nil
	r.mu.Unlock()
	r.session.mu.Lock()
	r.session.notify()
	r.session.mu.Unlock()
	return true
}

// Arrival is a frame as it came, unchecked, with the time it came.
type Arrival struct {
	Payload []byte
	At      time.Time
	Cast    bool // it came by the cast that the lane listens to

	message Message // set where the payload is this lane's alone
}

// Release lets the payload's memory be used again: it must not be read any more.
func (a Arrival) Release() { a.message.Release() }

// Lane is one asker's share of the connection: the frames of its own transfer.
// Used by one goroutine; Close must be called.
type Lane struct {
	bulk   *Bulk
	run    *bulkRun
	id     uint64
	frames chan Arrival
	ear    atomic.Pointer[[16]byte] // the cast that it listens to
}

// LaneState is the connection as the asker must know it.
type LaneState struct {
	Connected bool
	Serial    uint64 // another number: a new connection, what was asked on the old one is lost
	Known     bool   // the depot has said what it can do
	Depot     Info
	Hears     bool // the broker lets it listen to the cast that it asked for
	Deaf      bool // the broker does not
}

// Frames carries what arrives for this lane.
func (l *Lane) Frames() <-chan Arrival { return l.frames }

// State is a snapshot; Changed tells when it is out of date.
func (l *Lane) State() LaneState {
	st := l.run.session.Status()
	hears, deaf := false, false
	if id := l.ear.Load(); id != nil {
		hears, deaf = l.run.session.Joined(l.bulk.t.Cast(*id))
	}
	l.run.mu.Lock()
	defer l.run.mu.Unlock()
	return LaneState{Connected: st.Connected, Serial: st.Serial, Known: l.run.known, Depot: l.run.info, Hears: hears, Deaf: deaf}
}

// Listen subscribes to the cast of a blob, in the background: State tells how
// that went. A lane listens to one cast at a time.
func (l *Lane) Listen(id [16]byte) {
	l.Mute()
	topic := l.bulk.t.Cast(id)
	l.ear.Store(&id)
	l.run.mu.Lock()
	if l.run.ears[topic] == nil {
		l.run.ears[topic] = map[*Lane]bool{}
	}
	l.run.ears[topic][l] = true
	l.run.mu.Unlock()
	l.run.session.Join(Subscription{Filter: topic, Handle: l.run.cast})
}

// Mute ends what Listen began.
func (l *Lane) Mute() {
	id := l.ear.Swap(nil)
	if id == nil {
		return
	}
	topic := l.bulk.t.Cast(*id)
	l.run.mu.Lock()
	delete(l.run.ears[topic], l)
	last := len(l.run.ears[topic]) == 0
	if last {
		delete(l.run.ears, topic)
	}
	l.run.mu.Unlock()
	if last {
		l.run.session.Part(topic)
	}
}

// Feedback tells the depot how well this lane hears a cast.
func (l *Lane) Feedback(ctx context.Context, f wire.Feedback) error {
	return l.run.session.Publish(ctx, l.bulk.t.Feedback(f.ID), 0, false, f.Encode())
}

// Changed returns a channel that is closed at the next change of State. Take it before State.
func (l *Lane) Changed() <-chan struct{} { return l.run.session.Changed() }

// Transfer is the number that this lane's frames carry.
func (l *Lane) Transfer() uint64 { return l.id }

// Clock is the request clock: it only goes forward, and means nothing to anyone else.
func (l *Lane) Clock() time.Duration { return time.Since(l.bulk.start) }

// Ask sends a request as this lane's. It does not wait for answers, and loses
// the request if the connection is lost: the asker must have a timer.
func (l *Lane) Ask(ctx context.Context, q wire.Request) error {
	q.Transfer = l.id
	b, err := q.Encode()
	if err != nil {
		return err
	}
	return l.run.session.Publish(ctx, l.bulk.t.Request(l.bulk.depot), 0, false, b)
}

// Redial ends the connection under all lanes and makes another, for an asker that hears nothing.
func (l *Lane) Redial() { l.run.session.Redial() }

// Close ends the lane. The connection ends a little after the last one.
func (l *Lane) Close() {
	l.Mute()
	b := l.bulk
	b.mu.Lock()
	defer b.mu.Unlock()
	l.run.mu.Lock()
	delete(l.run.lanes, l.id)
	last := len(l.run.lanes) == 0
	l.run.mu.Unlock()
	if last && b.run == l.run {
		b.idle = time.AfterFunc(linger, b.closeIdle)
	}
}

func (b *Bulk) closeIdle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.run == nil {
		return
	}
	b.run.mu.Lock()
	used := len(b.run.lanes) > 0
	b.run.mu.Unlock()
	if !used {
		b.end()
	}
}

// Close ends the connection and waits for that. Lanes that are open hear nothing more.
func (b *Bulk) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle != nil {
		b.idle.Stop()
	}
	if b.run != nil {
		b.end()
	}
}

// end ends the connection. The caller holds mu.
func (b *Bulk) end() {
	b.run.stop()
	<-b.run.done
	b.run = nil
}

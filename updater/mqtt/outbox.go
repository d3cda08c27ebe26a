package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// OutboxTable is the store table of events that wait for the broker.
const OutboxTable = "outbox"

const (
	outboxKeep  = 10_000           // records; the oldest are given up first, and the gap in the numbers shows it
	outboxRetry = 15 * time.Second // while connected
)

// Event is one report of a device, as it is sealed and sent. The receiver
// deduplicates by Device, Origin and Seq, and sees by a gap what was given up.
type Event struct {
	V      int             `json:"v"` // 1
	Device string          `json:"device"`
	Origin uint64          `json:"origin"` // of the numbering: a device that lost or restored its store begins another
	Seq    uint64          `json:"seq"`    // from 1, never used twice by one origin
	Time   time.Time       `json:"time"`
	Kind   string          `json:"kind"` // for example "change"
	Body   json.RawMessage `json:"body"`
}

// maxKind bounds the name of a kind of event, in bytes.
const maxKind = 64

// ParseEvent reads an event that device is said to have sent. Its signature is
// the caller's to check before.
func ParseEvent(device string, b []byte) (Event, error) {
	var e Event
	if len(b) > MaxControl {
		return e, fmt.Errorf("cannot read event: %d bytes, at most %d are accepted", len(b), MaxControl)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return Event{}, fmt.Errorf("cannot read event: %w", err)
	}
	if e.V != 1 || e.Device != device || e.Seq == 0 || e.Kind == "" || len(e.Kind) > maxKind {
		return Event{}, fmt.Errorf("cannot read event: version %d of device %.80q, number %d, kind %.80q", e.V, e.Device, e.Seq, e.Kind)
	}
	return e, nil
}

// record is an event as it waits in the store.
type record struct {
	Time time.Time       `json:"time"`
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

// Outbox keeps events in the store until the broker has acknowledged them. An
// event may arrive twice (a crash between acknowledgement and deletion), never
// out of order from one run. Safe for concurrent use.
type Outbox struct {
	// Origin numbers the store's life. Set before use.
	Origin uint64

	db      *store.DB
	table   store.Table[record]
	session *Session
	topics  wire.Topics
	seal    func(body []byte) ([]byte, error)
	now     func() time.Time
	wake    chan struct{} // capacity 1: there is something to send
}

// NewOutbox is the outbox of one device. seal wraps an event in the device's signature.
func NewOutbox(db *store.DB, s *Session, t wire.Topics, seal func(body []byte) ([]byte, error), now func() time.Time) *Outbox {
	return &Outbox{db: db, table: store.Table[record]{Name: OutboxTable}, session: s, topics: t, seal: seal, now: now, wake: make(chan struct{}, 1)}
}

// Put adds an event within the caller's transaction, so that what happened and
// the report of it are stored together. Call Poke after the commit.
func (o *Outbox) Put(tx *store.Tx, kind string, body any) (uint64, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, fmt.Errorf("cannot report %s: %w", kind, err)
	}
	seq, err := o.table.Append(tx, record{Time: o.now().UTC(), Kind: kind, Body: b})
	if err != nil {
		return 0, err
	}
	return seq, o.table.Trim(tx, outboxKeep)
}

// Add is Put in a transaction of its own, and Poke.
func (o *Outbox) Add(kind string, body any) (seq uint64, err error) {
	err = o.db.Batch(func(tx *store.Tx) error {
		seq, err = o.Put(tx, kind, body)
		return err
	})
	o.Poke()
	return seq, err
}

// Poke says that there may be something to send.
func (o *Outbox) Poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Waiting is how many events have not been acknowledged.
func (o *Outbox) Waiting() (n int, err error) {
	err = o.db.View(func(tx *store.Tx) error {
		return o.table.Each(tx, "", func(string, record) error { n++; return nil })
	})
	return n, err
}

// Run sends what waits, oldest first, whenever there is a connection, until ctx
// ends, and returns nil then. A store that cannot be read or written now is
// tried again: a full disk must not cost the link to the fleet.
func (o *Outbox) Run(ctx context.Context) error {
	for {
		changed := o.session.Changed()
		if o.session.Connected() {
			err := o.drain(ctx)
			var lost *sendError // the session tells of those
			if err != nil && ctx.Err() == nil && !errors.As(err, &lost) {
				o.session.cfg.Log.Error("events wait: the store fails", "error", err)
			}
		}
		t := time.NewTimer(outboxRetry)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-changed:
		case <-o.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// sendError is a failure of the connection, which mends itself.
type sendError struct{ error }

func (o *Outbox) drain(ctx context.Context) error {
	for {
		key, r, ok, err := o.first()
		if err != nil || !ok {
			return err
		}
		b, err := o.encode(key, r)
		if err != nil {
			return err
		}
		// The broker's acknowledgement on this very connection: paho would report
		// success for one that it only meant to send again.
		if err := o.session.Publish(ctx, o.topics.Event(), 1, false, b); err != nil {
			return &sendError{err}
		}
		if err := o.db.Batch(func(tx *store.Tx) error { return o.table.Delete(tx, key) }); err != nil {
			return err
		}
	}
}

func (o *Outbox) first() (key string, r record, ok bool, err error) {
	err = o.db.View(func(tx *store.Tx) error {
		return o.table.Each(tx, "", func(k string, v record) error {
			key, r, ok = k, v, true
			return store.ErrStop
		})
	})
	return key, r, ok, err
}

func (o *Outbox) encode(key string, r record) ([]byte, error) {
	seq, err := strconv.ParseUint(key, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("cannot report %s: its key %q is no number", r.Kind, key)
	}
	b, err := json.Marshal(Event{V: 1, Device: o.topics.Device, Origin: o.Origin, Seq: seq, Time: r.Time, Kind: r.Kind, Body: r.Body})
	if err != nil {
		return nil, fmt.Errorf("cannot report %s: %w", r.Kind, err)
	}
	if o.seal == nil {
		return b, nil
	}
	return o.seal(b)
}

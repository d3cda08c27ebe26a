package content

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

var (
	// ErrForbidden is the cause when the depot says that the device's set does not name the file.
	ErrForbidden = errors.New("the depot refuses it: this device's set does not name it")
	// ErrStalled is the cause when nothing came for too long; trying again later helps.
	ErrStalled = errors.New("no answer")
)

// DefaultFrame is the frame size that is asked for where broker and depot allow it, in bytes.
const DefaultFrame = 240 << 10

// frameLadder is what a path that swallows frames is tried with, in bytes.
func frameLadder() []int { return []int{60 << 10, 120 << 10, 240 << 10, 480 << 10, 960 << 10} }

// Lane is how a Depot talks to the depot; mqtt.Lane is one.
type Lane interface {
	Frames() <-chan mqtt.Arrival
	State() mqtt.LaneState
	Changed() <-chan struct{}
	Clock() time.Duration
	Ask(ctx context.Context, q wire.Request) error
	// Listen subscribes to the cast of a blob, in the background; State says how
	// that went. Mute ends it.
	Listen(id [16]byte)
	Mute()
	Feedback(ctx context.Context, f wire.Feedback) error
	// Redial makes another connection, for an asker that hears nothing on this one.
	Redial()
	Close()
}

// Depot is the source that asks a depot over MQTT. It also fetches metadata.
// The exported fields are set before use; the zero value of each is a default.
type Depot struct {
	Frame int           // largest frame, bytes; DefaultFrame
	Stall time.Duration // without progress before giving up; 60 s
	Flow  *Flow         // bounds what is asked for; nil does not
	GC    *Collector    // relaxed during a pull; nil leaves it alone
	Now   func() time.Time
	// Alone keeps it from listening to casts.
	Alone bool

	join func() (Lane, error)
}

// NewDepot is a source over a device's bulk connection, which is open only while something is fetched.
func NewDepot(b *mqtt.Bulk) *Depot {
	return &Depot{join: func() (Lane, error) { return b.Join() }}
}

// Name implements Source.
func (*Depot) Name() string { return "mqtt" }

func (d *Depot) stall() time.Duration {
	if d.Stall > 0 {
		return d.Stall
	}
	return time.Minute
}

func (d *Depot) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

func (d *Depot) frame() int {
	if d.Frame > 0 {
		return min(d.Frame, wire.MaxFrame)
	}
	return DefaultFrame
}

// Index implements Source.
func (d *Depot) Index(ctx context.Context, f release.File) ([]byte, error) {
	digest, err := digestOf(f.SHA256)
	if err != nil {
		return nil, err
	}
	return d.object(ctx, wire.Request{Kind: wire.KindIndex, Digest: digest}, MaxIndex)
}

// Metadata fetches a file of a repository ("catalog" or "director"), at most max
// bytes of it. The error is ErrNotFound if the depot says that there is none.
func (d *Depot) Metadata(ctx context.Context, repo, name string, max int64) ([]byte, error) {
	b, err := d.object(ctx, wire.Request{Kind: wire.KindMetadata, Name: repo + "/" + name}, max)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s/%s: %w", repo, name, err)
	}
	return b, nil
}

// Blocks implements Source.
func (d *Depot) Blocks(ctx context.Context, f release.File, want []Block, sink Sink) error {
	digest, err := digestOf(f.SHA256)
	if err != nil || len(want) == 0 {
		return err
	}
	// Before there is a connection: it is not to be held for hours.
	if err := d.Flow.Wait(ctx, 0); err != nil {
		return err
	}
	lane, err := d.join()
	if err != nil {
		return err
	}
	defer lane.Close()
	defer d.GC.begin()()
	return newPuller(d, lane, digest, want, sink).run(ctx)
}

// Slowed says why less is asked for than the line could bring, "" if it is not so.
func (d *Depot) Slowed() string { return d.Flow.Slowed() }

func digestOf(s string) ([32]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		return [32]byte{}, fmt.Errorf("cannot ask for %q: it is no digest", s)
	}
	return [32]byte(b), nil
}

// ready waits until there is a connection and the depot has said what it can do.
func (d *Depot) ready(ctx context.Context, lane Lane, limit time.Duration) (mqtt.LaneState, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		changed := lane.Changed()
		st := lane.State()
		if st.Connected && st.Known {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-changed:
		case <-timer.C:
			if !st.Connected {
				return st, fmt.Errorf("no broker for %s: %w", limit, ErrStalled)
			}
			return st, fmt.Errorf("the broker is there, the depot has not announced itself: %w", ErrStalled)
		}
	}
}

// answered is the error that a frame's code stands for.
func answered(code uint16) error {
	switch code {
	case wire.CodeOK:
		return nil
	case wire.CodeNotFound:
		return ErrNotFound
	case wire.CodeForbidden:
		return ErrForbidden
	case wire.CodeRange:
		return fmt.Errorf("the depot refuses the range: %w", ErrCorrupt)
	}
	return fmt.Errorf("the depot could not read it (code %d)", code)
}

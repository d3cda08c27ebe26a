package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// order signs an order as the simulated director would; edit may spoil it first.
func (s *sim) order(number uint64, edit func(*release.Order), keys ...ed25519.PrivateKey) []byte {
	s.t.Helper()
	o := release.Order{V: 1, Device: box, Number: number, Expires: s.now.Add(time.Hour), Kind: release.OrderPause}
	if edit != nil {
		edit(&o)
	}
	if keys == nil {
		keys = s.director.keys[metadata.TARGETS]
	}
	signers := make([]crypto.Signer, len(keys))
	for i, k := range keys {
		signers[i] = k
	}
	raw, err := release.SignOrder(o, signers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// takes must accept the order; takesNot must refuse it with code.
func (d *device) takes(raw []byte, number uint64) {
	d.t.Helper()
	o, err := d.AcceptOrder(raw)
	if err != nil || o.Number != number || d.OrderMark() != number {
		d.t.Fatalf("got order %d, mark %d, %v; want %d accepted", o.Number, d.OrderMark(), err, number)
	}
}

func (d *device) takesNot(raw []byte, code Code) {
	d.t.Helper()
	before := d.OrderMark()
	if _, err := d.AcceptOrder(raw); CodeOf(err) != code || d.OrderMark() != before {
		d.t.Fatalf("got %v with mark %d, want a refusal %q and mark %d", err, d.OrderMark(), code, before)
	}
}

func TestOrderIsTakenOnce(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	first, second := s.order(7, nil), s.order(8, nil)
	d.takes(first, 7)
	d.takesNot(first, Rollback)
	d.takes(second, 8)
	d.reopen()
	for _, raw := range [][]byte{first, second} {
		d.takesNot(raw, Rollback)
	}
	if o, err := d.AcceptOrder(first); err == nil || o.Number != 7 {
		t.Errorf("got order %d, %v; want the replayed order named", o.Number, err)
	}
}

func TestWipeNeedsTheOfflineKeysToo(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	wipe := func(o *release.Order) { o.Kind = release.OrderWipe }
	online, offline := s.director.keys[metadata.TARGETS], s.director.keys[metadata.ROOT]
	d.takesNot(s.order(7, wipe), BadSignature)
	d.takesNot(s.order(7, wipe, append(slices.Clone(online), offline[0])...), BadSignature)
	d.takesNot(s.order(7, wipe, offline...), BadSignature)
	d.takes(s.order(7, wipe, append(slices.Clone(online), offline[:2]...)...), 7)
}

func TestOrderAttacksAreRefused(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	d.takes(s.order(100, nil), 100)
	good := s.order(101, nil)
	for _, c := range []struct {
		name string
		raw  []byte
		code Code
	}{
		{"lower number", s.order(99, nil), Rollback},
		{"same number, another order", s.order(100, func(o *release.Order) { o.Kind = release.OrderCancel }), Rollback},
		{"other device", s.order(101, func(o *release.Order) { o.Device = "box-2" }), WrongDevice},
		{"expired", s.order(101, func(o *release.Order) { o.Expires = s.now.Add(-time.Second) }), Expired},
		{"expires now", s.order(101, func(o *release.Order) { o.Expires = s.now }), Expired},
		{"wrong key", s.order(101, nil, simKey("stranger")), BadSignature},
		{"the director's timestamp key", s.order(101, nil, s.director.keys[metadata.TIMESTAMP]...), BadSignature},
		{"the catalog's keys", s.order(101, nil, s.catalog.keys[metadata.TARGETS]...), BadSignature},
		{"tampered", bytes.Replace(good, []byte(`"payload":"e`), []byte(`"payload":"f`), 1), BadSignature},
		{"huge", append(bytes.Clone(good), bytes.Repeat([]byte{' '}, release.MaxOrder)...), TooLarge},
		{"truncated", good[:len(good)/2], Malformed},
		{"a timestamp", s.served["director/timestamp.json"], Malformed},
		{"nothing", nil, Malformed},
	} {
		t.Run(c.name, func(t *testing.T) { d.takesNot(c.raw, c.code) })
	}
	d.takes(good, 101)
}

func TestReplayedOrderIsRefusedAfterTheDatabaseWasLost(t *testing.T) {
	for _, lost := range []string{"bothy.db*", "slots/*"} {
		t.Run(lost, func(t *testing.T) {
			s := newSim(t)
			d := newDevice(t, s)
			d.refresh()
			old := s.order(5, nil)
			d.takes(old, 5)
			d.remove(lost)
			d.refresh()
			d.takesNot(old, Rollback)
			d.takes(s.order(6, nil), 6)
		})
	}
}

// A clock set back must not revive what had expired.
func TestOrderExpiresByTheReferenceTime(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	raw := s.order(1, nil)
	d.now = s.now.Add(2 * time.Hour)
	d.refresh() // raises the mark
	d.now = s.now
	d.takesNot(raw, Expired)
}

func TestRevokedKeyGivesNoOrders(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("database lost %v", lost), func(t *testing.T) {
			s := newSim(t)
			d := newDevice(t, s)
			d.refresh()
			stolen := s.director.keys[metadata.TARGETS]
			// The thief uses up the numbers; new keys in a new root end it.
			d.takes(s.order(1<<53, nil), 1<<53)
			s.rotate(s.director, func() { s.director.setKeys(t, metadata.TARGETS, simKeys("fresh", 1), 1) })
			next(s, 4)
			d.refresh()
			d.takesNot(s.order(2, nil, stolen...), BadSignature)
			d.takes(s.order(2, nil), 2)
			if !lost {
				return
			}
			d.remove("bothy.db*")
			// Before the chain of roots is here again the stolen key would count.
			if _, err := d.AcceptOrder(s.order(3, nil, stolen...)); !errors.Is(err, ErrNotCurrent) || CodeOf(err) != "" {
				t.Fatalf("got %v, want %v", err, ErrNotCurrent)
			}
			d.refresh()
			d.takesNot(s.order(3, nil, stolen...), BadSignature)
			d.takes(s.order(3, nil), 3)
		})
	}
}

func TestOrdersNeedADirectorThatIsCurrent(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	raw := s.order(1, func(o *release.Order) { o.Expires = s.now.AddDate(0, 1, 0) })
	notCurrent := func() {
		t.Helper()
		if _, err := d.AcceptOrder(raw); !errors.Is(err, ErrNotCurrent) {
			t.Fatalf("got %v, want %v", err, ErrNotCurrent)
		}
	}
	notCurrent() // nothing was verified yet
	d.refresh()
	d.now = s.now.AddDate(0, 0, 8)
	notCurrent() // frozen out: a root that revokes the key may be withheld
	d.reopen()
	notCurrent()
	s.now = d.now
	s.publish()
	d.refresh()
	d.takes(raw, 1)
}

// A look that is cut off must not cost the device its orders.
func TestInterruptedRefreshLeavesTheDirectorCurrent(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	s.override["director/2.root.json"] = func(int64) ([]byte, error) { return nil, errors.New("no answer") }
	if _, err := d.Refresh(t.Context(), s); err == nil {
		t.Fatal("refreshed without an answer")
	}
	d.takes(s.order(1, nil), 1)
}

func TestOneNumberIsTakenOnceByManyAtOnce(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	raw := s.order(3, nil)
	var group sync.WaitGroup
	taken := make(chan bool, 20)
	for range cap(taken) {
		group.Go(func() {
			if _, err := d.AcceptOrder(raw); err == nil {
				taken <- true
			}
		})
	}
	group.Wait()
	if len(taken) != 1 {
		t.Errorf("taken %d times, want once", len(taken))
	}
}

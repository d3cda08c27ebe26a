package trust

import (
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// ErrNotCurrent is wrapped when orders cannot be judged, because what is known
// of the director is not current: nothing is verified yet, its timestamp has
// expired, or newer roots were seen before the database was lost. A refresh helps.
var ErrNotCurrent = errors.New("the director's metadata on this device is not current")

// signers is who may sign orders: the director's targets role, and for what
// cannot be taken back its root role too, as the newest verified root has them.
// Replaced, never changed.
type signers struct {
	root    int64
	targets quorum
	offline quorum // the root role
	// expires is when the director stops being current: a thief of keys that a
	// withheld root revokes can give orders no longer than that.
	expires time.Time
}

// quorum is the keys of a role, and how many must sign.
type quorum struct {
	keys      []crypto.PublicKey
	threshold int
}

func quorumOf(root metadata.RootType, name string) (q quorum) {
	role := root.Roles[name]
	if role == nil {
		return q
	}
	q.threshold = role.Threshold
	for _, id := range role.KeyIDs {
		// A key that cannot be read signs nothing; go-tuf has refused worse.
		if key := root.Keys[id]; key != nil {
			if public, err := key.ToPublicKey(); err == nil {
				q.keys = append(q.keys, public)
			}
		}
	}
	return q
}

// noteSigners takes over what a walk over the director verified.
func (c *Client) noteSigners(r *repository) {
	c.seen.Lock()
	defer c.seen.Unlock()
	if r.trusted == nil || r.rootVersion() < c.signers.root {
		return
	}
	root := r.trusted.Root.Signed
	next := signers{root: root.Version}
	if c.signers.root == next.root {
		next.expires = c.signers.expires // of an earlier walk; this one may not have come so far
	}
	if t := r.trusted.Timestamp; t != nil {
		next.expires = t.Signed.Expires
	}
	if root.Expires.Before(next.expires) {
		next.expires = root.Expires
	}
	next.targets, next.offline = quorumOf(root, metadata.TARGETS), quorumOf(root, metadata.ROOT)
	c.signers = next
}

// AcceptOrder verifies an order to this device and stores its number, so that
// neither it nor an older one is ever accepted again, also after the database
// was lost. The order must be carried out or given up by who called. An order
// that must not be carried out is a *Refusal; ErrNotCurrent and failures of the
// store are worth another try. The order is answered beside an error once its
// signatures were verified.
func (c *Client) AcceptOrder(raw []byte) (release.Order, error) {
	c.ordering.Lock()
	defer c.ordering.Unlock()
	c.seen.Lock()
	by := c.signers
	c.seen.Unlock()
	now, seen := c.reference(), c.keeper.marks()
	if by.root < seen.Roots[Director] || !now.Before(by.expires) {
		return release.Order{}, fmt.Errorf("cannot judge an order: %w: root %d of %d, valid until %s",
			ErrNotCurrent, by.root, seen.Roots[Director], by.expires.Format(time.RFC3339))
	}
	if len(raw) > release.MaxOrder {
		return release.Order{}, refuse(TooLarge, "order", "%d bytes, at most %d are accepted", len(raw), release.MaxOrder)
	}
	var o release.Order
	err := guard("order", func() (err error) {
		o, err = release.OpenOrder(raw, by.targets.keys, by.targets.threshold)
		if err == nil && o.Kind == release.OrderWipe {
			// It destroys: a thief of the online keys must not be able to.
			_, err = release.OpenOrder(raw, by.offline.keys, by.offline.threshold)
		}
		return err
	})
	if errors.Is(err, release.ErrUnsigned) {
		err = &Refusal{Code: BadSignature, Subject: "order", Err: err}
	}
	if err != nil {
		return release.Order{}, err
	}
	subject := fmt.Sprintf("order %d", o.Number)
	switch {
	case o.Device != c.config.Device:
		return o, refuse(WrongDevice, subject, "it is for device %q, this is %q", o.Device, c.config.Device)
	case o.Number <= seen.Order:
		return o, refuse(Rollback, subject, "this device has taken order %d", seen.Order)
	case !now.Before(o.Expires):
		return o, refuse(Expired, subject, "it expired on %s, the reference time is %s", o.Expires.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return o, c.keeper.save(func(m *marks) { m.Order = o.Number })
}

// OrderMark is the number of the newest order that was accepted.
func (c *Client) OrderMark() uint64 { return c.keeper.marks().Order }

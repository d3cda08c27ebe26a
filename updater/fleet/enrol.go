package fleet

import (
	"crypto/ed25519"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/trust"
)

// approvals bounds automatic approvals: what is over the bound waits and comes again.
type approvals struct {
	mu    sync.Mutex
	since time.Time // guarded by mu
	given int       // since then; guarded by mu
}

// approvalsAMinute is enough to set up a hall, and few enough to notice a thief of tokens.
const approvalsAMinute = 60

func (a *approvals) take(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.since) >= time.Minute || now.Before(a.since) {
		a.since, a.given = now, 0
	}
	a.given++
	return a.given <= approvalsAMinute
}

func equalText(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// Enrol takes a box's request and gives the answer that is due now. What nobody
// with a token's secret made is an error and leaves no trace: a flood of it costs
// no disk. A token takes one key; the same key gets the same answer again.
func (f *Fleet) Enrol(raw []byte) (answer []byte, err error) {
	id, err := enrolment.TokenOf(raw)
	if err != nil {
		return nil, err
	}
	r, err := f.token(id)
	if err != nil {
		return nil, fmt.Errorf("enrolment request refused: %w", err)
	}
	public, err := enrolment.OpenRequest(r.Token, raw)
	if err != nil {
		return nil, err
	}
	if r.State == "" || r.State == DevicePending {
		if r, err = f.receive(id, public); err != nil {
			return nil, fmt.Errorf("cannot enrol with token %s: %w", id, err)
		}
	}
	if r.PublicKey.Equal(public) {
		return f.answer(r)
	}
	denied := enrolment.Answer{State: enrolment.Denied, Key: public, Reason: r.Reason}
	switch {
	case len(r.PublicKey) > 0:
		denied.Reason = "the token was used by another key, " + enrolment.Fingerprint(r.PublicKey)
	case r.State == "":
		denied.Reason = "the token has expired"
	}
	return enrolment.SealAnswer(r.Token, denied)
}

// receive pins the key to the token and approves it where that was agreed on beforehand.
func (f *Fleet) receive(id string, public []byte) (tokenRecord, error) {
	unlock, err := lock(f.dir)
	if err != nil {
		return tokenRecord{}, err
	}
	defer unlock()
	r, err := f.token(id)
	if err != nil {
		return r, err
	}
	if r.State == "" {
		if r.Token.Expired(f.Now()) {
			return r, nil
		}
		r.State, r.PublicKey, r.Received = DevicePending, public, f.Now().UTC()
		if err := f.saveToken(r); err != nil {
			return r, err
		}
	}
	auto := r.Token.Device != "" && (r.Approve || f.AutoApproval())
	if r.State != DevicePending || !r.PublicKey.Equal(ed25519.PublicKey(public)) || !auto || !f.approvals.take(f.Now()) {
		return r, nil
	}
	approved, err := f.approve(r, r.Token.Device, false)
	if errors.Is(err, ErrTaken) {
		// A person must decide; until then it waits, with the reason.
		if r.Reason != err.Error() {
			r.Reason = err.Error()
			err = f.saveToken(r)
			return r, err
		}
		return r, nil
	}
	return approved, err
}

func (f *Fleet) answer(r tokenRecord) ([]byte, error) {
	a := enrolment.Answer{State: enrolment.Pending, Key: r.PublicKey, Reason: r.Reason}
	switch r.State {
	case DeviceDenied:
		a.State = enrolment.Denied
	case DeviceApproved:
		ca, err := os.ReadFile(f.caPath("ca.crt"))
		if err != nil {
			return nil, err
		}
		t, err := f.Ticket()
		if err != nil {
			return nil, err
		}
		a = enrolment.Answer{
			State: enrolment.Approved, Key: r.PublicKey, Device: r.Device, Certificate: r.Certificate, Authority: string(ca),
			CatalogRoot: t.CatalogRoot, DirectorRoot: t.DirectorRoot,
		}
	}
	return enrolment.SealAnswer(r.Token, a)
}

// Answer is what the fleet has decided on a token, sealed; nil while it waits.
func (f *Fleet) Answer(id string) ([]byte, error) {
	r, err := f.token(id)
	if err != nil || r.State != DeviceApproved && r.State != DeviceDenied {
		return nil, err
	}
	return f.answer(r)
}

// ErrTaken is what is wrapped when a name is another device's, or a retired one's.
var ErrTaken = errors.New("the name is taken")

// ErrInUse is the ErrTaken that goes away with replace: another key has the name.
var ErrInUse = fmt.Errorf("another box has it: %w", ErrTaken)

// Approve makes the holder of a token's key a device. An empty name takes the
// token's. With replace, a device that has the name loses its certificates: the
// box was made anew. It may be repeated.
func (f *Fleet) Approve(id, device string, replace bool) (DeviceRecord, error) {
	unlock, err := lock(f.dir)
	if err != nil {
		return DeviceRecord{}, err
	}
	defer unlock()
	r, err := f.token(id)
	if err == nil {
		if device == "" {
			device = r.Token.Device
		}
		switch {
		case r.State == DeviceApproved && r.Device == device:
		case r.State == DeviceApproved:
			err = fmt.Errorf("it is device %q already", r.Device)
		case r.State != DevicePending:
			err = errors.New("no box waits with it")
		default:
			r, err = f.approve(r, device, replace)
		}
	}
	if err != nil {
		return DeviceRecord{}, fmt.Errorf("cannot approve token %s: %w", id, err)
	}
	return f.Device(r.Device)
}

// approve issues the certificate. The device's record comes first and the token's
// last, so that a crash between issues another certificate to the same key. The caller holds the lock.
func (f *Fleet) approve(r tokenRecord, device string, replace bool) (tokenRecord, error) {
	if device == "" {
		return r, errors.New("the token names no device; give the name")
	}
	if r.Token.Device != "" && r.Token.Device != device {
		return r, fmt.Errorf("the token is for device %q", r.Token.Device)
	}
	if err := enrolment.CheckDevice(device, f.config.Depot); err != nil {
		return r, err
	}
	// It is signed, and whoever watched the broker has it: it would empty the new box too.
	if o, found, err := f.wipeOrder(device); err != nil {
		return r, err
	} else if found && f.Now().Before(o.Expires) {
		return r, fmt.Errorf("device %q is ordered to remove what it holds, and the order is good until %s: %w", device, o.Expires.Format(time.RFC3339), ErrTaken)
	}
	d, err := f.Device(device)
	switch {
	case errors.Is(err, trust.ErrNotFound):
		d = DeviceRecord{Schema: 1, Device: device}
	case err != nil:
		return r, err
	case d.State == DeviceRetired:
		return r, fmt.Errorf("device %q is retired: %w", device, ErrTaken)
	case !d.PublicKey.Equal(r.PublicKey) && !replace:
		return r, fmt.Errorf("device %q has another key, %s: %w", device, enrolment.Fingerprint(d.PublicKey), ErrInUse)
	case !d.PublicKey.Equal(r.PublicKey):
		f.revokeIssued(&d)
	}
	a, err := f.authority()
	if err != nil {
		return r, err
	}
	d.PublicKey, d.Token, d.EnrolledAt = r.PublicKey, r.Token.ID, f.Now().UTC().Truncate(time.Second)
	text, err := f.issueDevice(a, &d)
	if err != nil {
		return r, err
	}
	r.State, r.Device, r.Certificate, r.Reason, r.Decided = DeviceApproved, device, string(text), "", f.Now().UTC()
	return r, errors.Join(f.writeRevocations(a), f.saveToken(r))
}

// issueDevice gives a device a certificate for its key and writes its record. The caller holds the lock.
func (f *Fleet) issueDevice(a authority, d *DeviceRecord) ([]byte, error) {
	text, issued, err := f.issueClient(a, d.Device, d.PublicKey)
	if err != nil {
		return nil, err
	}
	var kept []IssuedCertificate
	for _, c := range d.Issued {
		if f.Now().Before(c.NotAfter) {
			kept = append(kept, c)
		}
	}
	d.State, d.Serial, d.NotAfter, d.Issued = DeviceApproved, issued.Serial, issued.NotAfter, append(kept, issued)
	if err := f.saveDevice(*d); err != nil {
		return nil, err
	}
	return text, writeFile(f.certificatePath(d.Device), text, 0o644)
}

func (f *Fleet) certificatePath(device string) string {
	return filepath.Join(f.dir, "devices", device+".crt")
}

// Deny uses a token up without making a device.
func (f *Fleet) Deny(id, reason string) error {
	unlock, err := lock(f.dir)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := f.token(id)
	if err == nil && r.State == DeviceApproved {
		err = fmt.Errorf("it is device %q; retire that", r.Device)
	}
	if err != nil {
		return fmt.Errorf("cannot deny token %s: %w", id, err)
	}
	r.State, r.Reason, r.Decided = DeviceDenied, reason, f.Now().UTC()
	return f.saveToken(r)
}

// renewPause keeps a device from having certificates made one after another:
// within it, the answer is the certificate that it has.
const renewPause = certificateLife / 20

// RenewDevice answers a device's request for its next certificate, in PEM. The
// request is signed by the key that the device enrolled with, which it keeps.
func (f *Fleet) RenewDevice(device string, raw []byte) ([]byte, error) {
	text, err := f.renewDevice(device, raw)
	if err != nil {
		return nil, fmt.Errorf("cannot renew the certificate of %q: %w", device, err)
	}
	return text, nil
}

func (f *Fleet) renewDevice(device string, raw []byte) ([]byte, error) {
	d, err := f.Device(device)
	if err != nil {
		return nil, err
	}
	if d.State != DeviceApproved {
		return nil, fmt.Errorf("it is %s", d.State)
	}
	if err := enrolment.OpenRenewal(d.PublicKey, raw); err != nil {
		return nil, err
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if d, err = f.Device(device); err != nil || d.State != DeviceApproved {
		return nil, errors.Join(err, fmt.Errorf("it is %s", d.State))
	}
	have, err := os.ReadFile(f.certificatePath(device))
	if err == nil {
		c, err := enrolment.ParseCertificate(have)
		if err == nil && serialText(c.SerialNumber) == d.Serial && f.Now().Before(c.NotBefore.Add(renewPause)) {
			return have, nil
		}
	}
	a, err := f.authority()
	if err != nil {
		return nil, err
	}
	return f.issueDevice(a, &d)
}

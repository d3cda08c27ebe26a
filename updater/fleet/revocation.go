package fleet

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"

	"github.com/bothy-edge/bothy/updater/trust"
)

// Retire revokes every certificate of a device, empties its set and keeps its
// name from ever being given again. It may be repeated. A broker other than the
// embedded one must read the new ca/crl.pem before it refuses the device.
func (f *Fleet) Retire(device string) (DeviceRecord, error) {
	r, err := f.retire(device)
	if err != nil {
		return r, fmt.Errorf("cannot retire device %q: %w", device, err)
	}
	// Its set is emptied after the revocation: a director key that is elsewhere must not keep a stolen box connected.
	_, err = f.Assignment(device)
	if err == nil {
		_, err = f.AssignChange(device, Change{Replace: true})
	} else if errors.Is(err, ErrUnassigned) {
		err = nil
	}
	if err != nil {
		return r, fmt.Errorf("device %q is revoked, but cannot empty its set: %w", device, err)
	}
	return r, nil
}

func (f *Fleet) retire(device string) (DeviceRecord, error) {
	unlock, err := lock(f.dir)
	if err != nil {
		return DeviceRecord{}, err
	}
	defer unlock()
	r, err := f.Device(device)
	if err != nil {
		return r, err
	}
	f.revokeIssued(&r)
	r.State = DeviceRetired
	if err := f.saveDevice(r); err != nil {
		return r, err
	}
	a, err := f.authority()
	if err != nil {
		return r, err
	}
	return r, f.writeRevocations(a)
}

func (f *Fleet) revokeIssued(r *DeviceRecord) {
	for i := range r.Issued {
		if r.Issued[i].RevokedAt.IsZero() {
			r.Issued[i].RevokedAt = f.Now().UTC().Truncate(time.Second)
		}
	}
}

// writeRevocations writes ca/crl.pem from the records. The list stays valid as
// long as the authority: a broker that has an expired list refuses everybody,
// and its freshness is a matter of this file, not of a date in it. The caller holds the lock.
func (f *Fleet) writeRevocations(a authority) error {
	records, err := f.DeviceRecords()
	if err != nil {
		return err
	}
	list := &x509.RevocationList{Number: big.NewInt(f.Now().UnixNano()), ThisUpdate: f.Now().UTC().Add(-clockSlack), NextUpdate: a.cert.NotAfter}
	for _, r := range records {
		for _, c := range r.Issued {
			n, ok := new(big.Int).SetString(c.Serial, 16)
			if c.RevokedAt.IsZero() || !ok {
				continue
			}
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: c.RevokedAt})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		return fmt.Errorf("cannot sign the revocation list: %w", err)
	}
	return writeFile(f.caPath("crl.pem"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644)
}

// MendRevocations writes ca/crl.pem anew from the records, for a crash between the two.
func (f *Fleet) MendRevocations() error {
	if _, err := os.Stat(f.caPath("ca.crt")); errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was ever issued
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return err
	}
	defer unlock()
	a, err := f.authority()
	if err != nil {
		return err
	}
	return f.writeRevocations(a)
}

// Admits says whether the broker shall let a device in: by its name and, where
// it showed one, the serial number of its certificate. A device that never
// enrolled with a token has no record; only its transport can tell who it is.
func (f *Fleet) Admits(device string, serial *big.Int) error {
	r, err := f.Device(device)
	if errors.Is(err, trust.ErrNotFound) {
		if serial != nil && device != f.config.Depot {
			return fmt.Errorf("device %q has a certificate and no record", device)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if r.State != DeviceApproved {
		return fmt.Errorf("device %q is %s", device, r.State)
	}
	if serial == nil {
		return nil
	}
	for _, c := range r.Issued {
		if c.Serial == serialText(serial) && c.RevokedAt.IsZero() {
			return nil
		}
	}
	return fmt.Errorf("certificate %s of device %q is revoked or unknown", serialText(serial), device)
}

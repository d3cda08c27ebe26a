package enrolment

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/updater/trust"
)

// State of an enrolment, as an answer tells it.
type State string

// The states of an answer.
const (
	Pending  State = "pending"  // the key arrived; a person decides
	Approved State = "approved" // the certificate is in the answer
	Denied   State = "denied"   // the token is used up
)

// Answer is what the fleet says to a request.
type Answer struct {
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`
	Key    []byte `json:"key"` // the public key that the request was for
	// The rest is there when approved.
	Device       string `json:"device,omitempty"`
	Certificate  string `json:"certificate,omitempty"` // PEM; its common name is the device
	Authority    string `json:"authority,omitempty"`   // PEM; the fleet's device authority
	CatalogRoot  []byte `json:"catalog_root,omitempty"`
	DirectorRoot []byte `json:"director_root,omitempty"`
}

// ErrOtherKey is what is wrapped when an answer is for another holder of the same token.
var ErrOtherKey = errors.New("it is for another key than this box's")

// SealAnswer makes an answer that only this token's fleet can make.
func SealAnswer(t Token, a Answer) ([]byte, error) { return t.seal(forAnswer, a) }

// OpenAnswer proves an answer and checks all that it brings: it is of the token's
// fleet, for this key, and the roots are those that the token names.
func OpenAnswer(t Token, public ed25519.PublicKey, raw []byte) (Answer, error) {
	var a Answer
	if err := t.open(forAnswer, raw, MaxAnswer, &a); err != nil {
		return Answer{}, fmt.Errorf("enrolment answer refused: %w", err)
	}
	if err := a.check(t, public); err != nil {
		return Answer{}, fmt.Errorf("enrolment answer refused: %w", err)
	}
	return a, nil
}

func (a Answer) check(t Token, public ed25519.PublicKey) error {
	if !bytes.Equal(a.Key, public) {
		return ErrOtherKey
	}
	switch a.State {
	case Pending, Denied:
		return nil
	case Approved:
	default:
		return fmt.Errorf("its state is %.80q", a.State)
	}
	if err := CheckDevice(a.Device, t.Depot); err != nil {
		return err
	}
	if t.Device != "" && t.Device != a.Device {
		return fmt.Errorf("it makes this box device %q, the token is for %q", a.Device, t.Device)
	}
	for name, brings := range map[string]struct {
		have []byte
		want string
	}{"catalog root": {a.CatalogRoot, t.CatalogRoot}, "director root": {a.DirectorRoot, t.DirectorRoot}, "device authority": {[]byte(a.Authority), t.Authority}} {
		if sumOf(brings.have) != brings.want {
			return fmt.Errorf("its %s is not the one that the token names", name)
		}
	}
	return CheckCertificate([]byte(a.Certificate), []byte(a.Authority), a.Device, public, time.Time{})
}

// Ticket is what the box then trusts.
func (a Answer) Ticket(t Token) trust.Ticket {
	return trust.Ticket{Tenant: t.Tenant, Broker: t.Broker, Depot: t.Depot, CatalogRoot: a.CatalogRoot, DirectorRoot: a.DirectorRoot}
}

// CheckCertificate says whether a certificate in PEM is the authority's for this
// device and this key. It is checked at the time given, or, without one, at its
// own beginning: the box's clock may not be set yet.
func CheckCertificate(certificate, authority []byte, device string, public ed25519.PublicKey, at time.Time) error {
	cert, err := ParseCertificate(certificate)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return errors.New("the device authority is no PEM certificate")
	}
	if at.IsZero() {
		at = cert.NotBefore
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("the certificate is not the device authority's: %w", err)
	}
	if cert.Subject.CommonName != device {
		return fmt.Errorf("the certificate is of %q, want device %q", cert.Subject.CommonName, device)
	}
	if key, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !key.Equal(public) {
		return errors.New("the certificate is for another key than this device's")
	}
	return nil
}

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it is no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

package enrolment

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

// Token lets one box enrol, once, until it expires. It holds a secret: whoever
// has the file can enrol in the box's place, and the box then finds it used up.
type Token struct {
	Schema int       `json:"schema"` // 1
	ID     string    `json:"id"`
	Secret []byte    `json:"secret"` // 32 random bytes
	Expiry time.Time `json:"expires"`
	Tenant string    `json:"tenant"`
	// Broker is where the device will live; EnrollBroker where it enrols, if that is
	// another listener; BrokerCA the authority of both, in PEM. All empty: by file.
	Broker       string `json:"broker,omitempty"`
	EnrollBroker string `json:"enroll_broker,omitempty"`
	BrokerCA     string `json:"broker_ca,omitempty"`
	Depot        string `json:"depot"`
	Device       string `json:"device,omitempty"` // empty: chosen at the approval
	// Digests of the first roots, hexadecimal SHA-256.
	CatalogRoot  string `json:"catalog_root_sha256"`
	DirectorRoot string `json:"director_root_sha256"`
	// Authority is the digest of the fleet's device authority: whoever stole the
	// token can seal an answer, and still not issue the certificate in it.
	Authority string `json:"authority_sha256"` // of its certificate in PEM
}

const (
	secretSize = 32
	// maxToken bounds a token file: a chain of authorities and a few names.
	maxToken = 64 << 10
	// TokenUser begins the client id under which a box enrols; the rest is the token's id.
	TokenUser = "enroll-"
)

// Fresh gives the token an id and a secret of its own.
func (t Token) Fresh() Token {
	id, secret := make([]byte, 10), make([]byte, secretSize)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	_, _ = rand.Read(secret)
	t.Schema, t.ID, t.Secret = 1, "t"+hex.EncodeToString(id), secret
	return t
}

// ParseToken reads and checks a token.
func ParseToken(raw []byte) (Token, error) {
	var t Token
	if len(raw) > maxToken {
		return t, fmt.Errorf("cannot read token: %d bytes, at most %d are accepted", len(raw), maxToken)
	}
	if err := strict(raw, &t); err != nil {
		return Token{}, fmt.Errorf("cannot read token: %w", err)
	}
	return t, t.Validate()
}

// strict decodes one JSON value with known fields and nothing after it.
func strict(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("there is more after the end")
	}
	return nil
}

// Encode is the token as a file.
func (t Token) Encode() ([]byte, error) {
	raw, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot encode token: %w", err)
	}
	return append(raw, '\n'), nil
}

// CheckTokenID says whether id can be a token's: t and 20 hexadecimal digits.
func CheckTokenID(id string) error {
	if raw, err := hex.DecodeString(id[min(1, len(id)):]); err != nil || len(raw) != 10 || id[0] != 't' || id[1:] != hex.EncodeToString(raw) {
		return fmt.Errorf("%.80q is no token id", id)
	}
	return nil
}

// Validate reports the first thing that is wrong with the token, but for its expiry.
func (t Token) Validate() error {
	if t.Schema != 1 {
		return fmt.Errorf("cannot use token: schema is %d, this bothy reads 1", t.Schema)
	}
	if err := CheckTokenID(t.ID); err != nil {
		return fmt.Errorf("cannot use token: %w", err)
	}
	if len(t.Secret) != secretSize {
		return fmt.Errorf("cannot use token: its secret has %d bytes, want %d", len(t.Secret), secretSize)
	}
	if err := errors.Join(release.CheckName(t.Tenant), release.CheckName(t.Depot), release.CheckDigest(t.CatalogRoot), release.CheckDigest(t.DirectorRoot), release.CheckDigest(t.Authority)); err != nil {
		return fmt.Errorf("cannot use token: %w", err)
	}
	if t.Device != "" {
		if err := CheckDevice(t.Device, t.Depot); err != nil {
			return fmt.Errorf("cannot use token: %w", err)
		}
	}
	for _, broker := range []string{t.Broker, t.EnrollBroker} {
		if u, err := url.Parse(broker); broker != "" && (err != nil || u.Port() == "" || u.Scheme != "tcp" && u.Scheme != "tls") {
			return fmt.Errorf("cannot use token: broker %.80q; want tcp://host:port or tls://host:port", broker)
		}
	}
	if t.BrokerCA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(t.BrokerCA)) {
		return errors.New("cannot use token: the broker's authority is no PEM certificate")
	}
	return nil
}

// CheckDevice says whether a device may be called so in a fleet with this depot:
// under the depot's name it would pass for the depot at the broker.
func CheckDevice(device, depot string) error {
	if err := errors.Join(release.CheckDevice(device), wire.CheckID(device)); err != nil {
		return err
	}
	if device == depot {
		return fmt.Errorf("name %q is the depot's", device)
	}
	return nil
}

// SameRoots says whether these are the first roots of the token's fleet.
func (t Token) SameRoots(catalog, director []byte) bool {
	return sumOf(catalog) == t.CatalogRoot && sumOf(director) == t.DirectorRoot
}

func sumOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// Expired says that the token's time is over.
func (t Token) Expired(now time.Time) bool { return !now.Before(t.Expiry) }

// Login is the broker that the box enrols at.
func (t Token) Login() string {
	if t.EnrollBroker != "" {
		return t.EnrollBroker
	}
	return t.Broker
}

// Purposes of the keys that are derived from the secret.
const (
	forPassword = "bothy enrolment 1: password"
	forRequest  = "bothy enrolment 1: request"
	forAnswer   = "bothy enrolment 1: answer"
)

func (t Token) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, t.Secret, []byte(t.Tenant+"/"+t.ID), purpose, 32)
	if err != nil {
		return make([]byte, 0) // only for lengths that this is not; an empty key opens nothing, see opened
	}
	return key
}

// Password is what the token's holder shows the broker. It proves nothing to the fleet.
func (t Token) Password() string { return hex.EncodeToString(t.derive(forPassword)) }

package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

// Ticket is what an operator carries to a device out of band. It is the only
// thing a device believes without a signature, so it must travel as safely as
// the device itself. The fleet writes it; it holds no secret.
type Ticket struct {
	Tenant       string `json:"tenant"`
	Broker       string `json:"broker"` // "tcp://host:1883" or "tls://host:8883"; empty: import only
	Depot        string `json:"depot"`
	CatalogRoot  []byte `json:"catalog_root"` // the first root, as signed
	DirectorRoot []byte `json:"director_root"`
}

// Identity is an enrolled device. Key is secret.
type Identity struct {
	Device       string
	Tenant       string
	Broker       string
	Depot        string
	CatalogRoot  []byte
	DirectorRoot []byte
	Key          ed25519.PrivateKey
	Credentials
}

// Credentials are how a broker, and peers on the same network, know the device;
// all in PEM, and empty where it enrolled without a token.
type Credentials struct {
	Certificate []byte // the device's
	Authority   []byte // the fleet's device authority
	BrokerCA    []byte // who signs the broker's certificate; empty: the system's authorities
}

// ErrNotEnrolled is what LoadIdentity wraps when the folder holds no identity.
var ErrNotEnrolled = errors.New("this device is not enrolled")

// Files of an identity that others read too: what the broker, and peers on the
// same network, know the device by. A device without a certificate lacks them.
const (
	DeviceKeyFile   = "device.pem" // private key, PKCS#8 in PEM, 0600
	CertificateFile = "device.crt" // issued by the fleet's device authority; its common name is the device
	AuthorityFile   = "ca.crt"     // that authority
	BrokerCAFile    = "broker-ca.crt"
)

// Files of an identity. identity.json is written last and makes it whole.
const (
	identityFile     = "identity.json"
	catalogRootFile  = "catalog-root.json"
	directorRootFile = "director-root.json"
)

// maxTicket bounds the ticket file: two roots in base64 and a few names.
const maxTicket = 4 * maxRoot

// identityRecord is identity.json.
type identityRecord struct {
	Device string `json:"device"`
	Tenant string `json:"tenant"`
	Broker string `json:"broker"`
	Depot  string `json:"depot"`
}

// ParseTicket reads and checks a ticket.
func ParseTicket(raw []byte) (Ticket, error) {
	var t Ticket
	if len(raw) > maxTicket {
		return t, fmt.Errorf("cannot read ticket: %d bytes, at most %d are accepted", len(raw), maxTicket)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&t); err != nil {
		return Ticket{}, fmt.Errorf("cannot read ticket: %w", err)
	}
	return t, t.Validate()
}

// Validate reports the first thing that is wrong with the ticket. Both roots
// must be whole: signed by the threshold of their own keys.
func (t Ticket) Validate() error {
	if err := release.CheckName(t.Tenant); err != nil {
		return fmt.Errorf("cannot use ticket: tenant: %w", err)
	}
	if err := release.CheckName(t.Depot); err != nil {
		return fmt.Errorf("cannot use ticket: depot: %w", err)
	}
	for repo, root := range map[Repo][]byte{Catalog: t.CatalogRoot, Director: t.DirectorRoot} {
		err := guard(string(repo)+" root", func() error {
			_, err := trustedmetadata.New(root)
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot use ticket: %w", err)
		}
	}
	return nil
}

// Enroll makes a device's identity in dir from a ticket. It may be repeated:
// with the same ticket and device it returns what is there, and an enrolment
// that was interrupted is finished. Another device name or other roots are
// refused. The device key is made here and never leaves.
func Enroll(dir string, ticket Ticket, device string) (Identity, error) {
	return EnrollWith(dir, ticket, device, Credentials{})
}

// EnrollWith is Enroll with the credentials that the fleet gave for a token; the
// caller has checked them. On a device of the same fleet it replaces those that
// are there, and follows where the broker moved to.
func EnrollWith(dir string, ticket Ticket, device string, given Credentials) (Identity, error) {
	if err := release.CheckDevice(device); err != nil {
		return Identity{}, fmt.Errorf("cannot enrol device: %w", err)
	}
	if err := ticket.Validate(); err != nil {
		return Identity{}, err
	}
	have, err := LoadIdentity(dir)
	switch {
	case err == nil && have.Device == device && have.matches(ticket) && given.Certificate == nil:
		return have, nil
	case err == nil && have.Device == device && have.sameFleet(ticket) && given.Certificate != nil:
	case err == nil:
		return Identity{}, fmt.Errorf("cannot enrol device %q: %s holds the identity of device %q of tenant %q; remove that folder to enrol anew",
			device, dir, have.Device, have.Tenant)
	case !errors.Is(err, ErrNotEnrolled):
		return Identity{}, err
	}
	return writeIdentity(dir, ticket, device, given)
}

// writeIdentity writes every file; identity.json comes last.
func writeIdentity(dir string, ticket Ticket, device string, given Credentials) (Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Identity{}, fmt.Errorf("cannot enrol device %q: %w", device, err)
	}
	if _, err := deviceKey(dir); err != nil {
		return Identity{}, fmt.Errorf("cannot enrol device %q: %w", device, err)
	}
	record, err := json.MarshalIndent(identityRecord{device, ticket.Tenant, ticket.Broker, ticket.Depot}, "", "  ")
	if err != nil {
		return Identity{}, fmt.Errorf("internal error: cannot encode identity: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{BrokerCAFile, given.BrokerCA}, {AuthorityFile, given.Authority}, {CertificateFile, given.Certificate},
		{catalogRootFile, ticket.CatalogRoot}, {directorRootFile, ticket.DirectorRoot}, {identityFile, append(record, '\n')}} {
		if len(f.data) == 0 {
			continue
		}
		if err := store.WriteFile(filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return Identity{}, fmt.Errorf("cannot enrol device %q: %w", device, err)
		}
	}
	return LoadIdentity(dir)
}

func (id Identity) matches(t Ticket) bool {
	return id.Broker == t.Broker && id.sameFleet(t)
}

func (id Identity) sameFleet(t Ticket) bool {
	return id.Tenant == t.Tenant && id.Depot == t.Depot && bytes.Equal(id.CatalogRoot, t.CatalogRoot) && bytes.Equal(id.DirectorRoot, t.DirectorRoot)
}

// LoadIdentity reads what Enroll wrote. The error wraps ErrNotEnrolled when
// there is nothing, or only an interrupted enrolment.
func LoadIdentity(dir string) (Identity, error) {
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("cannot load identity from %s: %w; run: bothy enroll", dir, ErrNotEnrolled)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("cannot load identity: %w", err)
	}
	var record identityRecord
	if err := json.Unmarshal(raw, &record); err != nil {
		return Identity{}, fmt.Errorf("cannot load identity from %s: %w", filepath.Join(dir, identityFile), err)
	}
	id := Identity{Device: record.Device, Tenant: record.Tenant, Broker: record.Broker, Depot: record.Depot}
	if id.CatalogRoot, err = os.ReadFile(filepath.Join(dir, catalogRootFile)); err != nil {
		return Identity{}, fmt.Errorf("cannot load identity: %w", err)
	}
	if id.DirectorRoot, err = os.ReadFile(filepath.Join(dir, directorRootFile)); err != nil {
		return Identity{}, fmt.Errorf("cannot load identity: %w", err)
	}
	for name, into := range map[string]*[]byte{CertificateFile: &id.Certificate, AuthorityFile: &id.Authority, BrokerCAFile: &id.BrokerCA} {
		if *into, err = os.ReadFile(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Identity{}, fmt.Errorf("cannot load identity: %w", err)
		}
	}
	id.Key, err = loadDeviceKey(dir)
	return id, err
}

// DeviceKey loads the key of the device in dir, or makes one there.
func DeviceKey(dir string) (ed25519.PrivateKey, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	return deviceKey(dir)
}

// deviceKey loads the key in dir or makes one. A key that is there is never
// replaced: the fleet may know it already.
func deviceKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, DeviceKeyFile)
	key, err := loadDeviceKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, key, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	return key, WriteKey(path, key)
}

// WriteKey stores a private key as PKCS#8 in PEM, readable by its owner only.
func WriteKey(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("cannot encode key %s: %w", path, err)
	}
	return store.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// ReadKey loads what WriteKey stored. A file that others can read is refused.
func ReadKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot load key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("cannot load key %s: its mode is %04o, others can read it; run: chmod 600 %s", path, mode, path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot load key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("cannot load key %s: it is not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot load key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("cannot load key %s: it is a %T, want ed25519", path, parsed)
	}
	return key, nil
}

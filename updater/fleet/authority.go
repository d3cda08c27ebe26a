package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Lives of certificates. A device asks for the next one at two thirds of its
// life, so one that was off for four months still finds its way back.
const (
	authorityLife   = 20 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// brokerLife is longer: when nobody writes a broker's files again, its end would lock everybody out.
	brokerLife = 5 * certificateLife
	// clockSlack is how far behind the fleet's a clock may be that checks a new certificate.
	clockSlack = time.Hour
)

// Certificate is a certificate and its private key as files.
type Certificate struct {
	CertFile, KeyFile string
	NotAfter          time.Time
}

// authority is the fleet's device authority: it signs the certificates by which
// the broker knows who is who, and nothing that a device installs.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
	pem  []byte
}

func (f *Fleet) caPath(name string) string { return filepath.Join(f.dir, "ca", name) }

// Authority is the device authority's certificate in PEM. It is made at first use.
func (f *Fleet) Authority() ([]byte, error) {
	raw, err := os.ReadFile(f.caPath("ca.crt"))
	if !errors.Is(err, fs.ErrNotExist) {
		return raw, err
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	a, err := f.authority()
	if err != nil {
		return nil, err
	}
	return a.pem, nil
}

// BrokerAuthority is what devices and the depot check the broker's certificate
// with, in PEM: the site's own if Init was given one, else the device authority.
func (f *Fleet) BrokerAuthority() ([]byte, error) {
	raw, err := os.ReadFile(f.caPath("broker-ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return f.Authority()
	}
	return raw, err
}

// authority loads the device authority or makes it. The caller holds the lock.
func (f *Fleet) authority() (authority, error) {
	raw, err := os.ReadFile(f.caPath("ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return f.makeAuthority()
	}
	if err != nil {
		return authority{}, fmt.Errorf("cannot open the device authority: %w", err)
	}
	a := authority{pem: raw}
	if a.cert, err = enrolment.ParseCertificate(raw); err != nil {
		return a, fmt.Errorf("cannot open the device authority %s: %w", f.caPath("ca.crt"), err)
	}
	if a.key, err = trust.ReadKey(f.caPath("ca.pem")); err != nil {
		return a, fmt.Errorf("cannot open the device authority: %w", err)
	}
	return a, nil
}

// makeAuthority writes the key first: the certificate makes the authority.
func (f *Fleet) makeAuthority() (authority, error) {
	key, err := f.caKey("ca.pem")
	if err != nil {
		return authority{}, err
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: f.config.Tenant + " devices", Organization: []string{"bothy"}},
		IsCA:    true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	text, err := f.signCertificate(c, c, key.Public(), key, authorityLife)
	if err != nil {
		return authority{}, err
	}
	a := authority{key: key, pem: text}
	if a.cert, err = enrolment.ParseCertificate(text); err != nil {
		return a, fmt.Errorf("internal error: %w", err)
	}
	if err := writeFile(f.caPath("ca.crt"), text, 0o644); err != nil {
		return a, err
	}
	return a, f.writeRevocations(a)
}

// caKey loads a key of the ca folder or makes it.
func (f *Fleet) caKey(name string) (ed25519.PrivateKey, error) {
	key, err := trust.ReadKey(f.caPath(name))
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	if err := os.MkdirAll(f.caPath(""), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	return key, trust.WriteKey(f.caPath(name), key)
}

// signCertificate gives c a serial and a life, and returns it in PEM.
func (f *Fleet) signCertificate(c, parent *x509.Certificate, public any, by ed25519.PrivateKey, life time.Duration) ([]byte, error) {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails (crypto/rand)
	serial[0] = serial[0]&0x7f | 0x40
	c.SerialNumber = new(big.Int).SetBytes(serial)
	now := f.Now().UTC().Truncate(time.Second)
	c.NotBefore, c.NotAfter = now.Add(-clockSlack), now.Add(life)
	if c != parent && c.NotBefore.Before(parent.NotBefore) {
		c.NotBefore = parent.NotBefore // whoever checks it at its beginning must find its authority valid
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, by)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate of %q: %w", c.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// issueClient signs a certificate by which the broker knows a device or the
// depot. It cannot serve: a device must not pass for the broker.
func (f *Fleet) issueClient(a authority, name string, public ed25519.PublicKey) ([]byte, IssuedCertificate, error) {
	c := &x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	text, err := f.signCertificate(c, a.cert, public, a.key, certificateLife)
	return text, IssuedCertificate{Serial: serialText(c.SerialNumber), NotAfter: c.NotAfter}, err
}

func serialText(n *big.Int) string { return hex.EncodeToString(n.Bytes()) }

// DepotCertificate is what the depot shows the broker. It is made at first use
// and again at two thirds of its life.
func (f *Fleet) DepotCertificate() (Certificate, error) {
	return f.ownCertificate("depot", func(a authority, public ed25519.PublicKey) ([]byte, error) {
		text, _, err := f.issueClient(a, f.config.Depot, public)
		return text, err
	}, func(*x509.Certificate) bool { return true })
}

// BrokerCertificate is a certificate for a broker that answers at these hosts,
// names or addresses. It is made when there is none for them, and again at two
// thirds of its life.
func (f *Fleet) BrokerCertificate(hosts ...string) (Certificate, error) {
	if len(hosts) == 0 {
		return Certificate{}, errors.New("cannot make the broker's certificate: no host is named")
	}
	return f.ownCertificate("broker", func(a authority, public ed25519.PublicKey) ([]byte, error) {
		c := &x509.Certificate{
			Subject:  pkix.Name{CommonName: hosts[0]},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, h)
			}
		}
		return f.signCertificate(c, a.cert, public, a.key, brokerLife)
	}, func(c *x509.Certificate) bool {
		for _, h := range hosts {
			if c.VerifyHostname(h) != nil {
				return false
			}
		}
		return true
	})
}

// ownCertificate keeps ca/NAME.crt and ca/NAME.pem: fits says whether one that is there will do.
func (f *Fleet) ownCertificate(name string, issue func(authority, ed25519.PublicKey) ([]byte, error), fits func(*x509.Certificate) bool) (Certificate, error) {
	unlock, err := lock(f.dir)
	if err != nil {
		return Certificate{}, err
	}
	defer unlock()
	fail := func(err error) (Certificate, error) {
		return Certificate{}, fmt.Errorf("cannot make the %s's certificate: %w", name, err)
	}
	a, err := f.authority()
	if err != nil {
		return fail(err)
	}
	key, err := f.caKey(name + ".pem")
	if err != nil {
		return fail(err)
	}
	have := Certificate{CertFile: f.caPath(name + ".crt"), KeyFile: f.caPath(name + ".pem")}
	if _, err := tls.LoadX509KeyPair(have.CertFile, have.KeyFile); err == nil {
		raw, err := os.ReadFile(have.CertFile)
		if err != nil {
			return fail(err)
		}
		if c, err := enrolment.ParseCertificate(raw); err == nil && c.CheckSignatureFrom(a.cert) == nil && fits(c) && f.Now().Before(renewAt(c.NotBefore, c.NotAfter)) {
			have.NotAfter = c.NotAfter
			return have, nil
		}
	}
	text, err := issue(a, key.Public().(ed25519.PublicKey))
	if err != nil {
		return fail(err)
	}
	made, err := enrolment.ParseCertificate(text)
	if err != nil {
		return fail(err)
	}
	have.NotAfter = made.NotAfter
	return have, writeFile(have.CertFile, text, 0o644)
}

// renewAt is two thirds of a certificate's life.
func renewAt(from, to time.Time) time.Time { return from.Add(to.Sub(from) * 2 / 3) }

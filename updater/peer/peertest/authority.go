// Package peertest makes device certificates for tests, as a fleet's device
// authority issues them: ed25519, for clients, the common name is the device.
// Test code only.
package peertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Authority issues certificates that are valid for an hour.
type Authority struct {
	Pool *x509.CertPool
	PEM  []byte // its own certificate

	tb   testing.TB
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

// New makes an authority.
func New(tb testing.TB) *Authority {
	tb.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	a := &Authority{Pool: x509.NewCertPool(), tb: tb, key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "devices"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	der := a.sign(a.cert, public)
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	a.Pool.AddCert(a.cert)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func (a *Authority) sign(c *x509.Certificate, public ed25519.PublicKey) []byte {
	a.tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, public, a.key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return der
}

// Issue signs a device's certificate for its key and returns it in PEM.
func (a *Authority) Issue(device string, public ed25519.PublicKey) []byte {
	a.tb.Helper()
	der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: device},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, public)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Device makes a key and its certificate.
func (a *Authority) Device(name string) *tls.Certificate {
	a.tb.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	block, _ := pem.Decode(a.Issue(name, public))
	return &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

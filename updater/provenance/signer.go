package provenance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"slices"
	"time"

	// The hashes that go with the three curves.
	_ "crypto/sha512"
)

// maxPEM bounds what a signer is described with, in bytes.
const maxPEM = 64 << 10

// Spec describes a signer that is trusted, as people write it: by Key, or by
// Roots and perhaps Identity.
type Spec struct {
	Name     string // for messages
	Key      string // PEM, one public key: ECDSA on P-256, P-384 or P-521
	Roots    string // PEM, one or more certificates that are trusted
	Identity string // a DNS name, e-mail address, URI or common name of the signer's certificate
}

// Signer is somebody whose signature counts.
type Signer struct {
	name     string
	key      *ecdsa.PublicKey
	hint     string
	roots    *x509.CertPool
	identity string
}

// NewSigner reads what describes a signer.
func NewSigner(s Spec) (Signer, error) {
	out := Signer{name: s.Name, identity: s.Identity}
	var err error
	switch {
	case (s.Key == "") == (s.Roots == ""):
		return Signer{}, errors.New("a signer is known by either a key or roots")
	case len(s.Key)+len(s.Roots) > maxPEM:
		return Signer{}, fmt.Errorf("a signer is described in %d bytes, at most %d are accepted", len(s.Key)+len(s.Roots), maxPEM)
	case s.Key != "" && s.Identity != "":
		return Signer{}, errors.New("an identity is looked for in certificates; it goes with roots, not with a key")
	case s.Key != "":
		out.key, out.hint, err = readKey([]byte(s.Key))
	default:
		out.roots, err = readRoots([]byte(s.Roots))
	}
	return out, err
}

// readKey answers the hint too that the reference tool writes into its bundles:
// the SHA-256 of the key in PEM.
func readKey(text []byte) (*ecdsa.PublicKey, string, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, "", errors.New("a key is one PEM block that begins with -----BEGIN PUBLIC KEY-----")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, "", errors.New("a key is one PEM block, not several; name a signer for each")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the public key: %w", err)
	}
	key, err := supported(parsed)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	return key, hex.EncodeToString(sum[:]), nil
}

// supported are the keys of the specification's registry.
func supported(key crypto.PublicKey) (*ecdsa.PublicKey, error) {
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T; models are signed with ECDSA on P-256, P-384 or P-521", key)
	}
	if hashOf(ec) == 0 {
		return nil, fmt.Errorf("the key is on the curve %s; models are signed on P-256, P-384 or P-521", ec.Params().Name)
	}
	return ec, nil
}

// hashOf is the hash that goes with the curve, 0 for a curve that is not used.
func hashOf(key *ecdsa.PublicKey) crypto.Hash {
	switch key.Curve {
	case elliptic.P256():
		return crypto.SHA256
	case elliptic.P384():
		return crypto.SHA384
	case elliptic.P521():
		return crypto.SHA512
	}
	return 0
}

func signedBy(key *ecdsa.PublicKey, message, signature []byte) bool {
	var h hash.Hash = hashOf(key).New()
	h.Write(message)
	return ecdsa.VerifyASN1(key, h.Sum(nil), signature)
}

func readRoots(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	found := false
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("roots are PEM blocks of the type CERTIFICATE, one is %.40q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read a root certificate: %w", err)
		}
		pool.AddCert(c)
		found = true
	}
	if !found {
		return nil, errors.New("roots are one or more PEM blocks that begin with -----BEGIN CERTIFICATE-----")
	}
	return pool, nil
}

// accept says why a chain does not make its first certificate's owner the
// signer, at a time. The reference tool looks at the first moment of that
// certificate only; the specification asks that it be valid, so here it must be.
func (s Signer) accept(chain []*x509.Certificate, at time.Time) error {
	leaf := chain[0]
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("the certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	if !maySign(leaf) {
		return fmt.Errorf("the certificate of %q is not for signing code: it needs the key usage digitalSignature, and codeSigning where it lists extended usages", leaf.Subject.CommonName)
	}
	if s.identity != "" && !slices.Contains(names(leaf), s.identity) {
		return fmt.Errorf("the certificate is that of %q, not of %q", names(leaf), s.identity)
	}
	return nil
}

// maySign is narrower than the reference tool, which takes digitalSignature
// alone: every server of a company has a certificate with that.
func maySign(c *x509.Certificate) bool {
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return false
	}
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
		return c.KeyUsage != 0
	}
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// names are those that an identity may be.
func names(c *x509.Certificate) []string {
	all := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	if c.Subject.CommonName != "" {
		all = append(all, c.Subject.CommonName)
	}
	return all
}

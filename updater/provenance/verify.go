package provenance

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Verified is a signature that holds.
type Verified struct {
	Method Method
	Signer string // the name of the signer that was recognised
	Manifest
}

// Verify reads a signature and finds the one of the signers whose it is.
// Certificates are judged at the given time. What was signed is in the answer;
// whether the files are that is Match's to say.
func Verify(raw []byte, signers []Signer, at time.Time) (Verified, error) {
	b, err := parseBundle(raw)
	if err != nil {
		return Verified{}, fmt.Errorf("signature refused: %w", err)
	}
	signer, err := b.signer(signers, at)
	if err != nil {
		return Verified{}, fmt.Errorf("signature refused: %w", err)
	}
	m, err := parseManifest(b.payload)
	if err != nil {
		return Verified{}, fmt.Errorf("signature of %q refused: %w", signer, err)
	}
	return Verified{Method: b.method, Signer: signer, Manifest: m}, nil
}

// signer is the name of the first signer whose signature it is.
func (b bundle) signer(signers []Signer, at time.Time) (string, error) {
	message := dsse.PAE(payloadType, b.payload)
	if b.method == Key {
		return b.keyHolder(signers, message)
	}
	var chain []*x509.Certificate
	for _, der := range b.chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return "", fmt.Errorf("cannot read its certificates: %w", err)
		}
		// The time of a check grows with the square of the key, and whoever sent it chose the key.
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSA {
			return "", fmt.Errorf("a certificate of its chain has an RSA key of %d bits, at most %d are accepted", key.N.BitLen(), maxRSA)
		}
		chain = append(chain, c)
	}
	key, err := supported(chain[0].PublicKey)
	if err != nil {
		return "", err
	}
	if !signedBy(key, message, b.signature) {
		return "", errors.New("it does not verify with its own certificate; it was changed or belongs to something else")
	}
	var why error
	for _, s := range signers {
		if s.roots == nil {
			continue
		}
		err := s.accept(chain, at)
		if err == nil {
			return s.name, nil
		}
		why = errors.Join(why, fmt.Errorf("signer %q: %w", s.name, err))
	}
	if why == nil {
		return "", errors.New("it was made with a certificate, and no roots are known to look for its issuer in")
	}
	return "", why
}

func (b bundle) keyHolder(signers []Signer, message []byte) (string, error) {
	hinted, known := "", false
	for _, s := range signers {
		if s.key == nil {
			continue
		}
		known = true
		// The hint is not signed; the key alone decides.
		if signedBy(s.key, message, b.signature) {
			return s.name, nil
		}
		if s.hint == b.hint {
			hinted = s.name
		}
	}
	switch {
	case !known:
		return "", errors.New("it was made with a key, and no key is known to verify it with")
	case hinted != "":
		return "", fmt.Errorf("it does not verify with the key of %q that it names; it was changed", hinted)
	}
	return "", fmt.Errorf("it is by none of the keys that are known (it names %.16q...)", b.hint)
}

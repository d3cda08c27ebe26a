package enrolment

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/bothy-edge/bothy/updater/release"
)

// request is the body of a request.
type request struct {
	CSR []byte `json:"csr"` // PKCS#10, DER
}

// RequestType is the payload of a device's envelope that asks for its next certificate.
const RequestType = "application/vnd.bothy.csr"

// MakeRequest asks for a certificate for key. The same token and key make the same bytes.
func MakeRequest(t Token, key crypto.Signer) ([]byte, error) {
	der, err := makeCSR(t.Device, key)
	if err != nil {
		return nil, fmt.Errorf("cannot make enrolment request: %w", err)
	}
	return t.seal(forRequest, request{CSR: der})
}

// OpenRequest proves a request and gives the public key that it is for. Whatever
// else it asks for is ignored: names are the fleet's to give.
func OpenRequest(t Token, raw []byte) (ed25519.PublicKey, error) {
	var r request
	if err := t.open(forRequest, raw, MaxRequest, &r); err != nil {
		return nil, fmt.Errorf("enrolment request refused: %w", err)
	}
	return checkCSR(r.CSR)
}

// MakeRenewal asks for the next certificate of an enrolled device, by the key that it has and keeps.
func MakeRenewal(device string, key ed25519.PrivateKey) ([]byte, error) {
	der, err := makeCSR(device, key)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for a new certificate: %w", err)
	}
	return release.SignEnvelope(key, RequestType, der)
}

// OpenRenewal checks that a device with this key asks for a certificate for it.
func OpenRenewal(public ed25519.PublicKey, raw []byte) error {
	if len(raw) > MaxRequest {
		return fmt.Errorf("renewal refused: %d bytes, at most %d are accepted", len(raw), MaxRequest)
	}
	der, err := release.OpenEnvelope(public, RequestType, raw)
	if err != nil {
		return fmt.Errorf("renewal refused: %w", err)
	}
	asked, err := checkCSR(der)
	if err == nil && !asked.Equal(public) {
		err = errors.New("renewal refused: it is for another key; a device keeps its key until it enrols anew")
	}
	return err
}

// renewal is what a device finds on its certificate topic.
type renewal struct {
	V           int    `json:"v"`           // 1
	Certificate string `json:"certificate"` // PEM
}

// EncodeRenewal is the fleet's answer to a renewal: a certificate in PEM, which needs no other proof.
func EncodeRenewal(certificate []byte) ([]byte, error) {
	return json.Marshal(renewal{V: 1, Certificate: string(certificate)})
}

// DecodeRenewal reads the certificate, in PEM, from the answer to a renewal. The caller must check it.
func DecodeRenewal(raw []byte) ([]byte, error) {
	var r renewal
	if len(raw) > MaxRequest {
		return nil, fmt.Errorf("certificate refused: %d bytes, at most %d are accepted", len(raw), MaxRequest)
	}
	if err := strict(raw, &r); err != nil {
		return nil, fmt.Errorf("certificate refused: %w", err)
	}
	if r.V != 1 {
		return nil, fmt.Errorf("certificate refused: version is %d, this bothy reads 1", r.V)
	}
	return []byte(r.Certificate), nil
}

func makeCSR(device string, key crypto.Signer) ([]byte, error) {
	// No random source is used: ed25519 signs the same bytes the same way.
	return x509.CreateCertificateRequest(nil, &x509.CertificateRequest{Subject: pkix.Name{CommonName: device}}, key)
}

func checkCSR(der []byte) (ed25519.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("enrolment request refused: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("enrolment request refused: it is not signed by its own key: %w", err)
	}
	public, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("enrolment request refused: its key is a %T, want ed25519", csr.PublicKey)
	}
	return public, nil
}

// Fingerprint is what people compare a key by: SHA-256 in hexadecimal, in groups.
func Fingerprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	text := hex.EncodeToString(sum[:8])
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

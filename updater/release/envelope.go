package release

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Payload types of the envelopes that devices and the director exchange.
const (
	StateType = "application/vnd.bothy.state+json"
	EventType = "application/vnd.bothy.event+json"
)

// maxEnvelope is the largest envelope opened, in bytes.
const maxEnvelope = 1 << 20

// SignEnvelope signs body as a DSSE envelope and returns the envelope's JSON.
func SignEnvelope(key ed25519.PrivateKey, payloadType string, body []byte) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("cannot sign envelope: the key is not an ed25519 private key")
	}
	pub := key.Public().(ed25519.PublicKey)
	signer, err := dsse.NewEnvelopeSigner(envelopeKey{public: pub, private: key})
	if err != nil {
		return nil, fmt.Errorf("cannot sign envelope: %w", err)
	}
	env, err := signer.SignPayload(context.Background(), payloadType, body)
	if err != nil {
		return nil, fmt.Errorf("cannot sign envelope: %w", err)
	}
	return json.Marshal(env)
}

// OpenEnvelope verifies an envelope against one key and the payload type that
// the reader expects, and returns the body. The type is part of what is signed,
// so a state report cannot be passed off as an event.
func OpenEnvelope(pub ed25519.PublicKey, payloadType string, raw []byte) ([]byte, error) {
	if len(pub) != ed25519.PublicKeySize {
		return nil, errors.New("cannot open envelope: the key is not an ed25519 public key")
	}
	if len(raw) > maxEnvelope {
		return nil, fmt.Errorf("cannot open envelope: %d bytes, at most %d are accepted", len(raw), maxEnvelope)
	}
	var env dsse.Envelope
	if err := json.Unmarshal(raw, &env); err != nil {
		return nil, fmt.Errorf("cannot open envelope: %w", err)
	}
	if env.PayloadType != payloadType {
		return nil, fmt.Errorf("cannot open envelope: it holds %.80q, want %q", env.PayloadType, payloadType)
	}
	if len(env.Signatures) > 8 {
		return nil, fmt.Errorf("cannot open envelope: %d signatures, at most 8 are accepted", len(env.Signatures))
	}
	verifier, err := dsse.NewEnvelopeVerifier(envelopeKey{public: pub})
	if err != nil {
		return nil, fmt.Errorf("cannot open envelope: %w", err)
	}
	_, body, err := verifier.VerifyAndDecode(context.Background(), &env)
	if err != nil {
		return nil, fmt.Errorf("cannot open envelope: %w", err)
	}
	return body, nil
}

// KeyID names a public key: the first 16 hex digits of its SHA-256.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:8])
}

// envelopeKey is one ed25519 key as DSSE wants it; private is nil to verify.
type envelopeKey struct {
	public  ed25519.PublicKey
	private ed25519.PrivateKey
}

func (k envelopeKey) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(k.private, data), nil
}

func (k envelopeKey) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(k.public, data, sig) {
		return errors.New("the signature does not match")
	}
	return nil
}

func (k envelopeKey) KeyID() (string, error)   { return KeyID(k.public), nil }
func (k envelopeKey) Public() crypto.PublicKey { return k.public }

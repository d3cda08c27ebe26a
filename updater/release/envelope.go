package release

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
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
	signature := ed25519.Sign(key, dsse.PAE(payloadType, body))
	return json.Marshal(dsse.Envelope{
		PayloadType: payloadType,
		Payload:     base64.StdEncoding.EncodeToString(body),
		Signatures: []dsse.Signature{{
			KeyID: KeyID(key.Public().(ed25519.PublicKey)),
			Sig:   base64.StdEncoding.EncodeToString(signature),
		}},
	})
}

// OpenEnvelope verifies an envelope against one key and the payload type that
// the reader expects, and returns the body. The type is part of what is signed,
// so a state report cannot be passed off as an event.
func OpenEnvelope(pub ed25519.PublicKey, payloadType string, raw []byte) ([]byte, error) {
	if len(pub) != ed25519.PublicKeySize {
		return nil, errors.New("cannot open envelope: the key is not an ed25519 public key")
	}
	env, body, err := readEnvelope(raw, payloadType)
	if err != nil {
		return nil, err
	}
	signed := dsse.PAE(payloadType, body)
	for _, s := range env.Signatures {
		signature, err := base64.StdEncoding.DecodeString(s.Sig)
		// The key id is only a hint; the key itself decides.
		if err == nil && ed25519.Verify(pub, signed, signature) {
			return body, nil
		}
	}
	return nil, fmt.Errorf("cannot open envelope: no signature by key %s", KeyID(pub))
}

// readEnvelope takes an envelope apart without believing it.
func readEnvelope(raw []byte, payloadType string) (env dsse.Envelope, body []byte, err error) {
	if len(raw) > maxEnvelope {
		return env, nil, fmt.Errorf("cannot open envelope: %d bytes, at most %d are accepted", len(raw), maxEnvelope)
	}
	if err := json.Unmarshal(raw, &env); err != nil {
		return env, nil, fmt.Errorf("cannot open envelope: %w", err)
	}
	if env.PayloadType != payloadType {
		return env, nil, fmt.Errorf("cannot open envelope: it holds %.80q, want %q", env.PayloadType, payloadType)
	}
	if len(env.Signatures) > 8 {
		return env, nil, fmt.Errorf("cannot open envelope: %d signatures, at most 8 are accepted", len(env.Signatures))
	}
	if body, err = env.DecodeB64Payload(); err != nil {
		return env, nil, fmt.Errorf("cannot open envelope: %w", err)
	}
	return env, body, nil
}

// KeyID names a public key: the first 16 hex digits of its SHA-256.
func KeyID(pub []byte) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:8])
}

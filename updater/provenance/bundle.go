package provenance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// MaxBundle is the largest signature accepted, in bytes: 4,096 files with long
// names, twice in base64.
const MaxBundle = 4 << 20

// Limits on what one bundle may hold.
const (
	maxCertificates = 8
	maxCertificate  = 16 << 10 // bytes of DER
	maxSignature    = 1 << 10  // bytes; an ECDSA signature has at most 139
	maxDepth        = 16       // of nested JSON
	maxRSA          = 8192     // bits of a key that issued certificates
)

// payloadType is what the envelope must say that it holds.
const payloadType = "application/vnd.in-toto+json"

// Method is how a model was signed, as the specification calls it.
type Method string

// The methods that are verified. The values are written to release documents.
const (
	Key         Method = "key"
	Certificate Method = "certificate"
)

// bundle is a signature that was read and not yet verified.
type bundle struct {
	method    Method
	hint      string   // of the key; unsigned, for messages only
	chain     [][]byte // DER, the signer's certificate first
	payload   []byte
	signature []byte
}

// wireBundle is the Sigstore bundle as it is written. Members that it does not
// name decide nothing here and are ignored, as the specification asks for.
type wireBundle struct {
	MediaType    string `json:"mediaType"`
	Verification struct {
		PublicKey *struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
		Chain *struct {
			Certificates []struct {
				RawBytes []byte `json:"rawBytes"`
			} `json:"certificates"`
		} `json:"x509CertificateChain"`
		Keyless json.RawMessage `json:"certificate"`
	} `json:"verificationMaterial"`
	Envelope *dsse.Envelope  `json:"dsseEnvelope"`
	Message  json.RawMessage `json:"messageSignature"`
}

// parseBundle reads a signature. Both ways to write the version of the media
// type are in use; the fields are the same.
func parseBundle(raw []byte) (bundle, error) {
	var b bundle
	if len(raw) > MaxBundle {
		return b, fmt.Errorf("it has %d bytes, at most %d are accepted", len(raw), MaxBundle)
	}
	var wire wireBundle
	if err := decode(raw, &wire); err != nil {
		return b, err
	}
	switch wire.MediaType {
	case "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle+json;version=0.3":
	default:
		return b, fmt.Errorf("its media type is %.80q, want a Sigstore bundle of version 0.3", wire.MediaType)
	}
	if err := b.readMaterial(wire); err != nil {
		return bundle{}, err
	}
	return b, b.readEnvelope(wire)
}

// readMaterial takes the one thing that says what to verify with.
func (b *bundle) readMaterial(wire wireBundle) error {
	v := wire.Verification
	switch {
	case len(v.Keyless) > 0:
		return errors.New("it was made with the keyless method of Sigstore, which needs a transparency log; sign with a key or with a certificate of your own")
	case (v.PublicKey == nil) == (v.Chain == nil):
		return errors.New("it must name either a public key or a chain of certificates")
	case v.PublicKey != nil:
		b.method, b.hint = Key, v.PublicKey.Hint
		return nil
	}
	b.method = Certificate
	if n := len(v.Chain.Certificates); n == 0 || n > maxCertificates {
		return fmt.Errorf("its chain has %d certificates, want 1 to %d", n, maxCertificates)
	}
	for _, c := range v.Chain.Certificates {
		if len(c.RawBytes) == 0 || len(c.RawBytes) > maxCertificate {
			return fmt.Errorf("a certificate has %d bytes, want 1 to %d", len(c.RawBytes), maxCertificate)
		}
		b.chain = append(b.chain, c.RawBytes)
	}
	return nil
}

func (b *bundle) readEnvelope(wire wireBundle) error {
	if wire.Envelope == nil || len(wire.Message) > 0 {
		return errors.New("it holds no DSSE envelope, or more than that")
	}
	env := wire.Envelope
	if env.PayloadType != payloadType {
		return fmt.Errorf("its envelope holds %.80q, want %q", env.PayloadType, payloadType)
	}
	// One signature: with several, which of them counts would be the verifier's choice.
	if n := len(env.Signatures); n != 1 {
		return fmt.Errorf("it has %d signatures, want exactly one", n)
	}
	var err error
	if b.payload, err = env.DecodeB64Payload(); err != nil {
		return fmt.Errorf("its payload is not base64: %w", err)
	}
	b.signature, err = base64.StdEncoding.DecodeString(env.Signatures[0].Sig)
	if err != nil || len(b.signature) == 0 || len(b.signature) > maxSignature {
		return errors.New("its signature is not base64, or of no possible length")
	}
	return nil
}

// decode reads JSON that must have one meaning: no member twice in one object,
// also not in other case, since encoding/json takes the last of them.
func decode(raw []byte, into any) error {
	if err := unambiguous(raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	return nil
}

// level is one open object or array of a walk over JSON.
type level struct {
	members map[string]bool // nil in an array
	inValue bool            // the next token is the value of a member
}

func unambiguous(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var open []level
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is not JSON: %w", err)
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			open = open[:len(open)-1]
			continue
		}
		if n := len(open); n > 0 && open[n-1].members != nil {
			top := &open[n-1]
			if !top.inValue {
				name := folded(token.(string))
				if top.members[name] {
					return fmt.Errorf("it has the member %.80q twice", name)
				}
				top.members[name], top.inValue = true, true
				continue
			}
			top.inValue = false
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{members: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		}
		if len(open) > maxDepth {
			return fmt.Errorf("it is nested deeper than %d", maxDepth)
		}
	}
}

// folded is a member's name as encoding/json compares it: a long s is an s there,
// and the sign for Kelvin a k, which are lower case already or have no upper one.
func folded(name string) string { return strings.ToLower(strings.ToUpper(name)) }

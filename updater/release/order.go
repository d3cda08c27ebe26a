package release

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// OrderType is the payload type of an order's envelope.
const OrderType = "application/vnd.bothy.order+json"

// OrderKind is what an order tells a device to do.
type OrderKind string

// The kinds of order. The values are signed and shown. A device answers one that
// it does not know as unsupported, so that a newer fleet can tell.
const (
	OrderPause   OrderKind = "pause"        // stop the change that has not begun to switch, until resume
	OrderResume  OrderKind = "resume"       // let the paused change go on
	OrderCancel  OrderKind = "cancel"       // end the change that is under way
	OrderRecheck OrderKind = "recheck"      // look for a new want now
	OrderReport  OrderKind = "report"       // send the state anew
	OrderWipe    OrderKind = "wipe"         // remove what the box holds, its identity last; the argument audit=wipe: the audit log too
	OrderLogs    OrderKind = "collect-logs" // send the agent's own last log lines
)

// Limits on one order. It is read before it is believed.
const (
	// MaxOrder is the largest envelope of an order, in bytes.
	MaxOrder     = 16 << 10
	maxOrderArgs = 16
	maxOrderArg  = 1024 // bytes of one argument
)

// ErrUnsigned is wrapped when an envelope has too few signatures of the keys that count.
var ErrUnsigned = errors.New("too few valid signatures")

// Order is one instruction of the fleet to one device, beside what it shall run.
// It has exactly one encoding, like a Document.
type Order struct {
	V       int               `json:"v"` // 1
	Device  string            `json:"device"`
	Number  uint64            `json:"number"`  // greater than that of every earlier order to this device
	Expires time.Time         `json:"expires"` // whole seconds, UTC; not carried out afterwards
	Kind    OrderKind         `json:"kind"`
	Args    map[string]string `json:"args,omitempty"`
}

// SealedOrder is an order on its way: its envelope, and what a sender must know of it.
type SealedOrder struct {
	Number   uint64
	Expires  time.Time
	Envelope []byte
}

// Validate reports the first thing that is wrong with the order.
func (o Order) Validate() error {
	if o.V != 1 {
		return fmt.Errorf("order refused: version %d, this agent reads 1", o.V)
	}
	if err := CheckDevice(o.Device); err != nil {
		return fmt.Errorf("order refused: device: %w", err)
	}
	// JSON numbers pass through float64 in other readers; stay where they agree.
	if o.Number == 0 || o.Number > 1<<53 {
		return fmt.Errorf("order refused: number %d is not between 1 and 2^53", o.Number)
	}
	if !o.Expires.Equal(o.Expires.UTC().Truncate(time.Second)) || o.Expires.Year() < 2000 || o.Expires.Year() > 9999 {
		return fmt.Errorf("order %d refused: its expiry is not a time in whole seconds", o.Number)
	}
	if err := CheckName(string(o.Kind)); err != nil {
		return fmt.Errorf("order %d refused: kind: %w", o.Number, err)
	}
	if len(o.Args) > maxOrderArgs {
		return fmt.Errorf("order %d refused: %d arguments, at most %d are accepted", o.Number, len(o.Args), maxOrderArgs)
	}
	for name, value := range o.Args {
		if err := CheckName(name); err != nil {
			return fmt.Errorf("order %d refused: argument: %w", o.Number, err)
		}
		if len(value) > maxOrderArg || !utf8.ValidString(value) {
			return fmt.Errorf("order %d refused: argument %s is longer than %d bytes or not UTF-8", o.Number, name, maxOrderArg)
		}
	}
	return nil
}

// ParseOrder reads an order and validates it. Bytes that differ in any way from
// its one encoding are refused.
func ParseOrder(raw []byte) (Order, error) {
	if len(raw) > MaxOrder {
		return Order{}, fmt.Errorf("cannot read order: %d bytes, at most %d are accepted", len(raw), MaxOrder)
	}
	var o Order
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return Order{}, fmt.Errorf("cannot read order: %w", err)
	}
	if err := o.Validate(); err != nil {
		return Order{}, err
	}
	o.Expires = o.Expires.UTC() // its one zone
	again, err := encode(o)
	if err != nil || !bytes.Equal(again, raw) {
		return Order{}, fmt.Errorf("cannot read order %d: not in canonical form", o.Number)
	}
	return o, nil
}

// SignOrder seals an order in an envelope with the given keys: those of the
// director's targets role.
func SignOrder(o Order, keys ...crypto.Signer) ([]byte, error) {
	o.Expires = o.Expires.UTC()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	body, err := encode(o)
	if err != nil {
		return nil, fmt.Errorf("cannot sign order %d: %w", o.Number, err)
	}
	env := dsse.Envelope{PayloadType: OrderType, Payload: base64.StdEncoding.EncodeToString(body)}
	for _, key := range keys {
		signature, err := signWith(key, dsse.PAE(OrderType, body))
		if err != nil {
			return nil, fmt.Errorf("cannot sign order %d: %w", o.Number, err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, fmt.Errorf("cannot sign order %d: %w", o.Number, err)
		}
		env.Signatures = append(env.Signatures, dsse.Signature{KeyID: KeyID(der), Sig: base64.StdEncoding.EncodeToString(signature)})
	}
	raw, err := json.Marshal(env)
	if err == nil && len(raw) > MaxOrder {
		err = fmt.Errorf("it takes %d bytes, at most %d are accepted", len(raw), MaxOrder)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot sign order %d: %w", o.Number, err)
	}
	return raw, nil
}

func signWith(key crypto.Signer, message []byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// OpenOrder verifies an order's envelope: threshold different ones of keys must
// have signed it. Too few is ErrUnsigned, wrapped. Whose the order is and
// whether it still holds is for the caller to judge.
func OpenOrder(raw []byte, keys []crypto.PublicKey, threshold int) (Order, error) {
	if len(raw) > MaxOrder {
		return Order{}, fmt.Errorf("cannot open order: %d bytes, at most %d are accepted", len(raw), MaxOrder)
	}
	env, body, err := readEnvelope(raw, OrderType)
	if err != nil {
		return Order{}, err
	}
	signed, valid := dsse.PAE(OrderType, body), 0
	for _, key := range keys {
		for _, s := range env.Signatures {
			signature, err := base64.StdEncoding.DecodeString(s.Sig)
			if err == nil && verifyWith(key, signed, signature) {
				valid++ // each key counts once, however often it signed
				break
			}
		}
	}
	if threshold < 1 || valid < threshold {
		return Order{}, fmt.Errorf("cannot open order: %w: %d of the %d needed", ErrUnsigned, valid, max(threshold, 1))
	}
	return ParseOrder(body)
}

func verifyWith(key crypto.PublicKey, message, signature []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize && ed25519.Verify(k, message, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, sum[:], signature)
	}
	return false
}

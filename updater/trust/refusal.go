package trust

import (
	"errors"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Code says why an offer was refused.
type Code string

// The closed set of codes. They are stored, reported and documented.
const (
	BadSignature Code = "bad-signature" // too few valid signatures of the role's keys
	Rollback     Code = "rollback"      // a version or counter below what was seen
	Expired      Code = "expired"       // past its signed expiry
	WrongDevice  Code = "wrong-device"  // signed for another device
	Mismatch     Code = "mismatch"      // does not match what other signed metadata says of it
	Disagreement Code = "disagreement"  // director and catalog differ
	Malformed    Code = "malformed"     // cannot be understood
	TooLarge     Code = "too-large"     // over a size limit
)

// Refusal is the verdict on an offer that must not be installed.
type Refusal struct {
	Code    Code
	Subject string // what was refused: "director timestamp", "models/mote/2.json"
	// Offer identifies what the source offered in this refresh: the same bad
	// offer has the same Offer each time. Empty before any timestamp was read.
	Offer string
	Err   error
}

// Error tells subject, code and cause.
func (r *Refusal) Error() string {
	return fmt.Sprintf("%s refused (%s): %v", r.Subject, r.Code, r.Err)
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// CodeOf returns the code of the refusal in err's chain, or "" if there is none.
func CodeOf(err error) Code {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	return ""
}

func refuse(code Code, subject, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Subject: subject, Err: fmt.Errorf(format, args...)}
}

// guard runs a step over hostile bytes. A panic inside a parser becomes a
// refusal: go-tuf dereferences members that a valid document always has, and
// ed25519 panics on a key of the wrong length.
func guard(subject string, step func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = refuse(Malformed, subject, "the parser gave up: %v", p)
		}
	}()
	return classify(subject, step())
}

// classify gives an error of go-tuf its code. The order matters: go-tuf's
// errors answer errors.Is for their parents too.
func classify(subject string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Refusal](err); ok {
		return err
	}
	code := Malformed
	switch {
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		code = Expired
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		code = BadSignature
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		code = Rollback
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		code = Mismatch
	case errors.Is(err, &metadata.ErrRepository{}):
		code = Mismatch
	}
	return &Refusal{Code: code, Subject: subject, Err: err}
}

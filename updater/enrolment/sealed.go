package enrolment

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxRequest and MaxAnswer bound what is read, in bytes. An answer holds two roots.
const (
	MaxRequest = 8 << 10
	MaxAnswer  = 1 << 20
)

// ErrForged is what is wrapped when a request or an answer does not bear the proof of its token.
var ErrForged = errors.New("it was not made with this token's secret")

// sealed is what travels: a body, and the proof that the maker knows the secret.
type sealed struct {
	V     int    `json:"v"` // 1
	Token string `json:"token"`
	Body  []byte `json:"body"`
	MAC   []byte `json:"mac"` // HMAC-SHA256 over the body, by a key of this purpose
}

func (t Token) seal(purpose string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot encode for token %s: %w", t.ID, err)
	}
	return json.Marshal(sealed{V: 1, Token: t.ID, Body: raw, MAC: t.mac(purpose, raw)})
}

func (t Token) mac(purpose string, body []byte) []byte {
	h := hmac.New(sha256.New, t.derive(purpose))
	h.Write(body)
	return h.Sum(nil)
}

// open checks the proof before it looks at the body.
func (t Token) open(purpose string, raw []byte, limit int, body any) error {
	s, err := parseSealed(raw, limit)
	if err != nil {
		return err
	}
	if s.Token != t.ID || len(t.Secret) != secretSize || !hmac.Equal(s.MAC, t.mac(purpose, s.Body)) {
		return ErrForged
	}
	return strict(s.Body, body)
}

func parseSealed(raw []byte, limit int) (sealed, error) {
	var s sealed
	if len(raw) > limit {
		return s, fmt.Errorf("%d bytes, at most %d are accepted", len(raw), limit)
	}
	if err := strict(raw, &s); err != nil {
		return s, err
	}
	if s.V != 1 {
		return s, fmt.Errorf("version is %d, this bothy reads 1", s.V)
	}
	return s, CheckTokenID(s.Token)
}

// TokenOf reads which token a request names. Nothing is proved by that.
func TokenOf(request []byte) (string, error) {
	s, err := parseSealed(request, MaxRequest)
	if err != nil {
		return "", fmt.Errorf("cannot read enrolment request: %w", err)
	}
	return s.Token, nil
}

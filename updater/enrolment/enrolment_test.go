package enrolment

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

// site is a fleet's half of the documents, without a fleet.
type site struct {
	ca       *x509.Certificate
	key      ed25519.PrivateKey
	pem      string
	catalog  []byte
	director []byte
}

func newSite(t testing.TB, name string) *site {
	t.Helper()
	s := &site{key: newKey(t), catalog: []byte("catalog root of " + name), director: []byte("director root of " + name)}
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	s.ca = c
	s.pem = s.sign(t, c, s.key.Public())
	parsed, err := ParseCertificate([]byte(s.pem))
	if err != nil {
		t.Fatal(err)
	}
	s.ca = parsed
	return s
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *site) sign(t testing.TB, c *x509.Certificate, public any) string {
	t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(9), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, s.ca, public, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (s *site) client(t testing.TB, name string, public any) string {
	return s.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, public)
}

func (s *site) token(device string) Token {
	sum := func(b []byte) string { d := sha256.Sum256(b); return hex.EncodeToString(d[:]) }
	return Token{
		Tenant: "acme", Depot: "depot", Device: device, Broker: "tls://broker.example:8883", BrokerCA: s.pem, Expiry: time.Now().Add(time.Hour),
		CatalogRoot: sum(s.catalog), DirectorRoot: sum(s.director), Authority: sum([]byte(s.pem)),
	}.Fresh()
}

func (s *site) answer(t testing.TB, device string, public ed25519.PublicKey) Answer {
	return Answer{
		State: Approved, Key: public, Device: device, Certificate: s.client(t, device, public), Authority: s.pem,
		CatalogRoot: s.catalog, DirectorRoot: s.director,
	}
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func TestRequestCarriesTheKeyAndIsTheSameEachTime(t *testing.T) {
	token, key := newSite(t, "acme").token("press-7"), newKey(t)
	first, err := MakeRequest(token, key)
	if err != nil {
		t.Fatal(err)
	}
	again, err := MakeRequest(token, key)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("got another request the second time (%v), want the same", err)
	}
	if id, err := TokenOf(first); err != nil || id != token.ID {
		t.Errorf("got token %q, %v, want %q", id, err, token.ID)
	}
	got, err := OpenRequest(token, first)
	if err != nil || !got.Equal(public(key)) {
		t.Errorf("got key %x, %v, want %x", got, err, public(key))
	}
}

// A broker sees requests, answers and the password. None of it lets it make a request or an answer.
func TestBrokerCannotMakeAnythingOfATokenThatItSees(t *testing.T) {
	s := newSite(t, "acme")
	token, box, evil := s.token("press-7"), newKey(t), newKey(t)
	known := token
	known.Secret, _ = hex.DecodeString(token.Password()) // the best that it can take for the secret
	forged, err := MakeRequest(known, evil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRequest(token, forged); !errors.Is(err, ErrForged) {
		t.Errorf("got %v for a request with another key, want %v", err, ErrForged)
	}
	genuine, _ := MakeRequest(token, box)
	if _, err := OpenAnswer(token, public(box), genuine); !errors.Is(err, ErrForged) {
		t.Errorf("got %v for a request sent back as an answer, want %v", err, ErrForged)
	}
	other := newSite(t, "evil")
	raw, _ := SealAnswer(known, other.answer(t, "press-7", public(box)))
	if _, err := OpenAnswer(token, public(box), raw); !errors.Is(err, ErrForged) {
		t.Errorf("got %v for an answer of another fleet, want %v", err, ErrForged)
	}
	want := s.answer(t, "press-7", public(box))
	good, _ := SealAnswer(token, want)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		// JSON forgives the case of a field's name; what it says stays the same.
		if a, err := OpenAnswer(token, public(box), bad); err == nil && !reflect.DeepEqual(a, want) {
			t.Fatalf("byte %d changed: got %+v, want a refusal", i, a)
		}
	}
	if _, err := OpenAnswer(token, public(box), good); err != nil {
		t.Errorf("got %v for the genuine answer", err)
	}
}

func TestAnswerOfTheFleetItselfIsCheckedWhole(t *testing.T) {
	s, other := newSite(t, "acme"), newSite(t, "other")
	token, box := s.token("press-7"), newKey(t)
	for name, c := range map[string]struct {
		edit func(*Answer)
		want string
	}{
		"good":            {func(*Answer) {}, ""},
		"roots swapped":   {func(a *Answer) { a.CatalogRoot, a.DirectorRoot = a.DirectorRoot, a.CatalogRoot }, "root is not the one"},
		"another root":    {func(a *Answer) { a.DirectorRoot = other.director }, "director root is not the one"},
		"another name":    {func(a *Answer) { a.Device = "press-8"; a.Certificate = s.client(t, "press-8", public(box)) }, `the token is for "press-7"`},
		"name differs":    {func(a *Answer) { a.Certificate = s.client(t, "press-8", public(box)) }, `is of "press-8"`},
		"depot's name":    {func(a *Answer) { a.Device = "depot" }, "is the depot's"},
		"another key":     {func(a *Answer) { a.Certificate = s.client(t, "press-7", public(newKey(t))) }, "another key than this device's"},
		"for another key": {func(a *Answer) { a.Key = public(newKey(t)) }, "another key than this box's"},
		"other authority": {func(a *Answer) { a.Certificate = other.client(t, "press-7", public(box)) }, "not the device authority's"},
		"for servers only": {func(a *Answer) {
			a.Certificate = s.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "press-7"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, public(box))
		}, "not the device authority's"},
		"no certificate": {func(a *Answer) { a.Certificate = "" }, "no certificate in PEM"},
		"no authority":   {func(a *Answer) { a.Authority = "x" }, "device authority is not the one"},
		"a thief's authority": {func(a *Answer) {
			a.Certificate, a.Authority = other.client(t, "press-7", public(box)), other.pem
		}, "device authority is not the one"},
		"strange state": {func(a *Answer) { a.State = "installed" }, "state is"},
	} {
		a := s.answer(t, "press-7", public(box))
		c.edit(&a)
		raw, err := SealAnswer(token, a)
		if err != nil {
			t.Fatal(err)
		}
		_, err = OpenAnswer(token, public(box), raw)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestRequestOfAnotherTokenOrKindIsRefused(t *testing.T) {
	s := newSite(t, "acme")
	token, other := s.token(""), s.token("")
	raw, _ := MakeRequest(other, newKey(t))
	if _, err := OpenRequest(token, raw); !errors.Is(err, ErrForged) {
		t.Errorf("got %v for another token's request, want %v", err, ErrForged)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, elliptical)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ = token.seal(forRequest, request{CSR: der})
	if _, err := OpenRequest(token, raw); err == nil || !strings.Contains(err.Error(), "want ed25519") {
		t.Errorf("got %v for a key of another kind, want a refusal", err)
	}
	der, _ = makeCSR("", newKey(t))
	der[len(der)-1] ^= 1
	raw, _ = token.seal(forRequest, request{CSR: der})
	if _, err := OpenRequest(token, raw); err == nil || !strings.Contains(err.Error(), "not signed by its own key") {
		t.Errorf("got %v for a request that its key did not sign, want a refusal", err)
	}
	// A tenant's token is nothing in another tenant, also with the same id and secret.
	moved := token
	moved.Tenant = "evil"
	raw, _ = MakeRequest(moved, newKey(t))
	if _, err := OpenRequest(token, raw); !errors.Is(err, ErrForged) {
		t.Errorf("got %v for another tenant's request, want %v", err, ErrForged)
	}
}

func TestRenewalIsAskedForByTheKeyThatTheDeviceHas(t *testing.T) {
	key, evil := newKey(t), newKey(t)
	raw, err := MakeRenewal("press-7", key)
	if err != nil {
		t.Fatal(err)
	}
	if err := OpenRenewal(public(key), raw); err != nil {
		t.Errorf("got %v, want a renewal", err)
	}
	if err := OpenRenewal(public(evil), raw); err == nil {
		t.Error("a renewal by another key was accepted")
	}
	if err := OpenRenewal(public(key), make([]byte, MaxRequest+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v for too many bytes, want a refusal", err)
	}
}

func TestTokenFileIsReadStrictly(t *testing.T) {
	good := newSite(t, "acme").token("press-7")
	raw, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseToken(raw); err != nil || got.Password() != good.Password() || got.ID != good.ID {
		t.Fatalf("got %+v, %v, want what was written", got, err)
	}
	for name, c := range map[string]struct {
		edit func(*Token)
		want string
	}{
		"schema": {func(t *Token) { t.Schema = 2 }, "schema is 2"},
		"id":     {func(t *Token) { t.ID = "t../../keys" }, "no token id"},
		"empty":  {func(t *Token) { t.ID = "" }, "no token id"},
		"secret": {func(t *Token) { t.Secret = t.Secret[:8] }, "8 bytes"},
		"tenant": {func(t *Token) { t.Tenant = "a/+" }, "use a-z"},
		"root":   {func(t *Token) { t.CatalogRoot = "ff" }, "64 lower-case"},
		"broker": {func(t *Token) { t.Broker = "http://x" }, "want tcp://"},
		"ca":     {func(t *Token) { t.BrokerCA = "x" }, "no PEM"},
		"depot":  {func(t *Token) { t.Device = "depot" }, "is the depot's"},
		"bulk":   {func(t *Token) { t.Device = "depot-bulk" }, "reserved"},
	} {
		bad := good
		c.edit(&bad)
		raw, _ := json.Marshal(bad)
		if _, err := ParseToken(raw); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := ParseToken(append(raw, '{')); err == nil {
		t.Error("accepted more after the end")
	}
}

func FuzzParseToken(f *testing.F) {
	raw, _ := newSite(f, "acme").token("press-7").Encode()
	f.Add(raw)
	f.Add([]byte(`{"schema":1,"id":"t"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := ParseToken(b); err == nil && (CheckTokenID(got.ID) != nil || len(got.Secret) != secretSize) {
			t.Fatalf("accepted %+v", got)
		}
	})
}

func FuzzRequest(f *testing.F) {
	s := newSite(f, "acme")
	token, key := s.token(""), newKey(f)
	raw, _ := MakeRequest(token, key)
	f.Add(raw)
	der, _ := makeCSR("x", key)
	f.Add(der)
	f.Fuzz(func(t *testing.T, b []byte) {
		if public, err := OpenRequest(token, b); err == nil && !public.Equal(key.Public()) {
			t.Fatal("a request was forged")
		}
		if public, err := checkCSR(b); err == nil && len(public) != ed25519.PublicKeySize {
			t.Fatalf("accepted a key of %d bytes", len(public))
		}
		sealed, _ := token.seal(forRequest, request{CSR: b})
		if public, err := OpenRequest(token, sealed); err == nil && len(public) != ed25519.PublicKeySize {
			t.Fatalf("accepted a key of %d bytes", len(public))
		}
	})
}

func FuzzRenewal(f *testing.F) {
	s, key := newSite(f, "acme"), newKey(f)
	answer, _ := EncodeRenewal([]byte(s.client(f, "press-7", public(key))))
	asked, _ := MakeRenewal("press-7", key)
	f.Add(answer)
	f.Add(asked)
	f.Fuzz(func(t *testing.T, b []byte) {
		if text, err := DecodeRenewal(b); err == nil && len(text) > MaxRequest {
			t.Fatalf("accepted %d bytes", len(text))
		}
		if err := OpenRenewal(public(newKey(t)), b); err == nil {
			t.Fatal("a renewal was forged")
		}
		if cert, err := ParseCertificate(b); err == nil && cert == nil {
			t.Fatal("no certificate and no error")
		}
	})
}

func FuzzAnswer(f *testing.F) {
	s := newSite(f, "acme")
	token, key := s.token(""), newKey(f)
	body, _ := json.Marshal(s.answer(f, "press-7", public(key)))
	f.Add(body)
	f.Add([]byte(`{"state":"pending"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := OpenAnswer(token, public(key), b); err == nil {
			t.Fatal("an answer was forged")
		}
		// The parser behind the proof, too: a fleet may be broken without being hostile.
		raw, _ := json.Marshal(sealed{V: 1, Token: token.ID, Body: b, MAC: token.mac(forAnswer, b)})
		if a, err := OpenAnswer(token, public(key), raw); err == nil && a.State == Approved && !bytes.Equal(a.CatalogRoot, s.catalog) {
			t.Fatalf("accepted %+v", a)
		}
	})
}

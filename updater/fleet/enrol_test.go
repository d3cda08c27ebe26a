package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/enrolment"
)

// register is a fleet whose clock stands still, to enrol boxes in.
type register struct {
	*Fleet
	t   *testing.T
	now time.Time
}

func newRegister(t *testing.T) *register {
	t.Helper()
	r := &register{t: t, now: time.Now().Truncate(time.Second)}
	f, err := Init(Options{Dir: t.TempDir(), Tenant: "acme", Broker: "tls://broker.example:8883", Keys: 1, Threshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	f.Now = func() time.Time { return r.now }
	r.Fleet = f
	return r
}

func (r *register) token(o TokenOptions) enrolment.Token {
	r.t.Helper()
	token, err := r.NewToken(o)
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// ask sends what a box with this key would, and opens the answer as it would.
func (r *register) ask(token enrolment.Token, key ed25519.PrivateKey) (enrolment.Answer, error) {
	r.t.Helper()
	raw, err := enrolment.MakeRequest(token, key)
	if err != nil {
		r.t.Fatal(err)
	}
	answer, err := r.Enrol(raw)
	if err != nil {
		return enrolment.Answer{}, err
	}
	return enrolment.OpenAnswer(token, key.Public().(ed25519.PublicKey), answer)
}

func (r *register) want(token enrolment.Token, key ed25519.PrivateKey, state enrolment.State, reason string) enrolment.Answer {
	r.t.Helper()
	a, err := r.ask(token, key)
	if err != nil || a.State != state || !strings.Contains(a.Reason, reason) {
		r.t.Fatalf("got %q (%s), %v, want %q (%s)", a.State, a.Reason, err, state, reason)
	}
	return a
}

func (r *register) enrol(device string) (ed25519.PrivateKey, *x509.Certificate) {
	r.t.Helper()
	token, key := r.token(TokenOptions{Device: device, Approve: true}), newDeviceKey(r.t)
	cert, err := enrolment.ParseCertificate([]byte(r.want(token, key, enrolment.Approved, "").Certificate))
	if err != nil {
		r.t.Fatal(err)
	}
	return key, cert
}

func newDeviceKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTokenMakesOneBoxADevice(t *testing.T) {
	r := newRegister(t)
	token, key := r.token(TokenOptions{}), newDeviceKey(t)
	r.want(token, key, enrolment.Pending, "")
	if raw, err := r.Answer(token.ID); raw != nil || err != nil {
		t.Errorf("got an answer of %d bytes, %v before the decision, want none", len(raw), err)
	}
	list, err := r.Enrolments()
	if err != nil || len(list) != 1 || list[0].State != "pending" || list[0].Key != enrolment.Fingerprint(key.Public().(ed25519.PublicKey)) {
		t.Fatalf("got %+v, %v, want one that waits", list, err)
	}
	if _, err := r.Approve(token.ID, "", false); err == nil || !strings.Contains(err.Error(), "give the name") {
		t.Errorf("got %v, want the name asked for", err)
	}
	for range 2 { // approving may be repeated
		d, err := r.Approve(token.ID, "press-7", false)
		if err != nil || d.Device != "press-7" || d.State != DeviceApproved || !d.PublicKey.Equal(key.Public()) || len(d.Issued) != 1 {
			t.Fatalf("got %+v, %v, want the device", d, err)
		}
	}
	first := r.want(token, key, enrolment.Approved, "")
	if again := r.want(token, key, enrolment.Approved, ""); again.Certificate != first.Certificate || again.Device != "press-7" {
		t.Errorf("got another certificate the second time, want the same")
	}
	// The stolen token is used up, before and after the decision, and long after its time.
	r.want(token, newDeviceKey(t), enrolment.Denied, "used by another key")
	r.now = r.now.Add(48 * time.Hour)
	r.want(token, key, enrolment.Approved, "")
	if _, err := r.Approve(token.ID, "press-8", false); err == nil || !strings.Contains(err.Error(), `device "press-7" already`) {
		t.Errorf("got %v for a second name, want a refusal", err)
	}
}

func TestTokenOfAThiefIsSeenAndDenied(t *testing.T) {
	r := newRegister(t)
	token, thief, box := r.token(TokenOptions{Device: "press-7"}), newDeviceKey(t), newDeviceKey(t)
	r.want(token, thief, enrolment.Pending, "")
	r.want(token, box, enrolment.Denied, enrolment.Fingerprint(thief.Public().(ed25519.PublicKey)))
	if err := r.Deny(token.ID, "not our key"); err != nil {
		t.Fatal(err)
	}
	r.want(token, thief, enrolment.Denied, "not our key")
	if _, err := r.Approve(token.ID, "", false); err == nil {
		t.Error("a denied token was approved")
	}
	if _, err := r.Device("press-7"); err == nil {
		t.Error("a denied box has a record")
	}
}

func TestExpiredAndUnknownTokensLeaveNoTrace(t *testing.T) {
	r := newRegister(t)
	token, key := r.token(TokenOptions{Device: "press-7", Approve: true, Life: time.Hour}), newDeviceKey(t)
	r.now = r.now.Add(time.Hour)
	r.want(token, key, enrolment.Denied, "expired")
	if logins, err := r.TokenLogins(); err != nil || len(logins) != 0 || r.TokenLogin(token.ID, token.Password()) {
		t.Errorf("got %v, %v, want no login with an expired token", logins, err)
	}
	before := files(t, r.Dir())
	other := token.Fresh() // not of this fleet, though all else is
	if _, err := r.ask(other, key); !errors.Is(err, ErrNoToken) {
		t.Errorf("got %v for an unknown token, want %v", err, ErrNoToken)
	}
	tenant := token
	tenant.Tenant = "other"
	if _, err := r.ask(tenant, key); !errors.Is(err, enrolment.ErrForged) {
		t.Errorf("got %v for a token of another tenant, want %v", err, enrolment.ErrForged)
	}
	for i := range 500 { // a flood costs no disk, whatever it is
		raw := fmt.Appendf(nil, `{"v":1,"token":"t%020x","body":"e30=","mac":"AA=="}`, i)
		if _, err := r.Enrol(raw); err == nil {
			t.Fatal("a flood was taken in")
		}
		stolen := fmt.Appendf(nil, `{"v":1,"token":%q,"body":"e30=","mac":"AA=="}`, token.ID)
		if _, err := r.Enrol(stolen); !errors.Is(err, enrolment.ErrForged) {
			t.Fatalf("got %v, want %v", err, enrolment.ErrForged)
		}
	}
	if after := files(t, r.Dir()); after != before {
		t.Errorf("got %d files after the flood, want %d", after, before)
	}
}

func files(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNameOfAnotherDeviceIsNotGiven(t *testing.T) {
	r := newRegister(t)
	_, first := r.enrol("press-7")
	// By a token that is approved beforehand it waits for a person.
	token, key := r.token(TokenOptions{Device: "press-7", Approve: true}), newDeviceKey(t)
	r.want(token, key, enrolment.Pending, "has another key")
	r.want(token, key, enrolment.Pending, "has another key")
	if _, err := r.Approve(token.ID, "", false); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want %v", err, ErrInUse)
	}
	if _, err := r.Approve(token.ID, "press-8", false); err == nil || !strings.Contains(err.Error(), `the token is for device "press-7"`) {
		t.Errorf("got %v for another name than the token's, want a refusal", err)
	}
	if err := r.Admits("press-7", first.SerialNumber); err != nil {
		t.Errorf("got %v for the device that has the name, want it let in", err)
	}
	// A box that was made anew takes its place, and the old certificate is over.
	if _, err := r.Approve(token.ID, "", true); err != nil {
		t.Fatal(err)
	}
	r.want(token, key, enrolment.Approved, "")
	if err := r.Admits("press-7", first.SerialNumber); err == nil {
		t.Error("the replaced certificate is let in")
	}
	revoked(t, r, first.SerialNumber)
	// The depot's name would open every topic.
	if _, err := r.NewToken(TokenOptions{Device: "depot"}); err == nil {
		t.Error("a token for the depot's name was made")
	}
	open := r.token(TokenOptions{})
	r.want(open, newDeviceKey(t), enrolment.Pending, "")
	if _, err := r.Approve(open.ID, "depot", false); err == nil || !strings.Contains(err.Error(), "depot's") {
		t.Errorf("got %v, want the depot's name refused", err)
	}
}

// revoked fails unless the revocation list holds exactly these serials.
func revoked(t *testing.T, r *register, serials ...*big.Int) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.Dir(), "ca", "crl.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := r.Authority()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := enrolment.ParseCertificate(ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(authority); err != nil {
		t.Error(err)
	}
	if !list.NextUpdate.Equal(authority.NotAfter) {
		t.Errorf("the list expires at %s, want never before the authority (%s)", list.NextUpdate, authority.NotAfter)
	}
	got := map[string]bool{}
	for _, e := range list.RevokedCertificateEntries {
		got[e.SerialNumber.String()] = true
	}
	for _, s := range serials {
		if !got[s.String()] {
			t.Errorf("serial %x is not in the revocation list", s)
		}
	}
	if len(got) != len(serials) {
		t.Errorf("got %d revoked certificates, want %d", len(got), len(serials))
	}
}

func TestRetiredDeviceIsRevokedAndItsNameIsGone(t *testing.T) {
	r := newRegister(t)
	key, cert := r.enrol("press-7")
	if _, err := r.Assign("press-7", nil, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 { // retiring may be repeated
		if d, err := r.Retire("press-7"); err != nil || d.State != DeviceRetired {
			t.Fatalf("got %+v, %v, want it retired", d, err)
		}
	}
	revoked(t, r, cert.SerialNumber)
	if err := r.Admits("press-7", cert.SerialNumber); err == nil {
		t.Error("a retired device is let in by its certificate")
	}
	if err := r.Admits("press-7", nil); err == nil {
		t.Error("a retired device is let in by its name")
	}
	raw, _ := enrolment.MakeRenewal("press-7", key)
	if _, err := r.RenewDevice("press-7", raw); err == nil {
		t.Error("a retired device got a new certificate")
	}
	if _, err := r.NewToken(TokenOptions{Device: "press-7"}); err == nil || !strings.Contains(err.Error(), "retired") {
		t.Errorf("got %v for a token with a retired name, want a refusal", err)
	}
	open := r.token(TokenOptions{})
	r.want(open, key, enrolment.Pending, "")
	if _, err := r.Approve(open.ID, "press-7", true); !errors.Is(err, ErrTaken) || errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want %v, also with replace and its own key", err, ErrTaken)
	}
	// The list is mended after a crash between the record and it.
	if err := os.Remove(filepath.Join(r.Dir(), "ca", "crl.pem")); err != nil {
		t.Fatal(err)
	}
	if err := r.MendRevocations(); err != nil {
		t.Fatal(err)
	}
	revoked(t, r, cert.SerialNumber)
}

func TestCertificateIsRenewedForTheSameKeyOnly(t *testing.T) {
	r := newRegister(t)
	key, first := r.enrol("press-7")
	r.enrol("press-8")
	ask := func(by ed25519.PrivateKey, device string) (string, error) {
		raw, err := enrolment.MakeRenewal(device, by)
		if err != nil {
			t.Fatal(err)
		}
		text, err := r.RenewDevice(device, raw)
		return string(text), err
	}
	early, err := ask(key, "press-7")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := enrolment.ParseCertificate([]byte(early)); err != nil || c.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Errorf("got another certificate (%v) on the first day, want the one that is there", err)
	}
	r.now = first.NotBefore.Add(first.NotAfter.Sub(first.NotBefore) * 2 / 3)
	text, err := ask(key, "press-7")
	if err != nil {
		t.Fatal(err)
	}
	next, err := enrolment.ParseCertificate([]byte(text))
	if err != nil || next.SerialNumber.Cmp(first.SerialNumber) == 0 || !next.NotAfter.After(first.NotAfter) {
		t.Fatalf("got %v, want a certificate that lasts longer", err)
	}
	if again, err := ask(key, "press-7"); err != nil || again != text {
		t.Errorf("got another one when asked again (%v), want the same", err)
	}
	// Both hold until the device has the new one; of the device's own name only.
	for _, c := range []*x509.Certificate{first, next} {
		if err := r.Admits("press-7", c.SerialNumber); err != nil {
			t.Error(err)
		}
		if err := r.Admits("press-8", c.SerialNumber); err == nil {
			t.Error("the certificate of one device lets another in")
		}
	}
	if _, err := ask(key, "press-8"); err == nil {
		t.Error("the key of one device renewed another")
	}
	if _, err := ask(newDeviceKey(t), "press-7"); err == nil {
		t.Error("a strange key renewed a device")
	}
	if _, err := ask(key, "press-9"); err == nil {
		t.Error("a device without a record was renewed")
	}
}

func TestAutomaticApprovalIsForNamedTokensAndBounded(t *testing.T) {
	r := newRegister(t)
	if err := r.SetAutoApproval(true); err != nil || !r.AutoApproval() {
		t.Fatal(err)
	}
	r.want(r.token(TokenOptions{}), newDeviceKey(t), enrolment.Pending, "")
	for i := range approvalsAMinute {
		r.enrol(fmt.Sprintf("box-%d", i))
	}
	late, key := r.token(TokenOptions{Device: "late"}), newDeviceKey(t)
	r.want(late, key, enrolment.Pending, "")
	r.now = r.now.Add(time.Minute)
	r.want(late, key, enrolment.Approved, "")
	if err := r.SetAutoApproval(false); err != nil || r.AutoApproval() {
		t.Fatal(err)
	}
	r.want(r.token(TokenOptions{Device: "by-hand"}), newDeviceKey(t), enrolment.Pending, "")
}

func TestCertificatesOfDepotAndBrokerFitTheirUse(t *testing.T) {
	r := newRegister(t)
	ca, err := r.BrokerAuthority()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	verify := func(c Certificate, host string, use x509.ExtKeyUsage) error {
		raw, err := os.ReadFile(c.CertFile)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := enrolment.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		_, err = cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, KeyUsages: []x509.ExtKeyUsage{use}, CurrentTime: r.now})
		return err
	}
	broker, err := r.BrokerCertificate("broker.example", "192.0.2.7")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"broker.example", "192.0.2.7"} {
		if err := verify(broker, host, x509.ExtKeyUsageServerAuth); err != nil {
			t.Error(err)
		}
	}
	depot, err := r.DepotCertificate()
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(depot, "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if verify(depot, "", x509.ExtKeyUsageServerAuth) == nil || verify(broker, "", x509.ExtKeyUsageClientAuth) == nil {
		t.Error("a client's certificate can serve, or a server's can connect")
	}
	before := read(t, depot.CertFile)
	if _, err := r.DepotCertificate(); err != nil || read(t, depot.CertFile) != before {
		t.Errorf("the depot's certificate was made anew (%v), want it kept", err)
	}
	r.now = r.now.Add(certificateLife * 3 / 4)
	if _, err := r.DepotCertificate(); err != nil || read(t, depot.CertFile) == before {
		t.Errorf("the depot's certificate was kept past two thirds of its life (%v)", err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A crash between the device's record and the token's: the same key gets another certificate, and both are known.
func TestApprovalThatWasInterruptedIsFinished(t *testing.T) {
	r := newRegister(t)
	token, key := r.token(TokenOptions{Device: "press-7"}), newDeviceKey(t)
	r.want(token, key, enrolment.Pending, "")
	before, err := r.Fleet.token(token.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Approve(token.ID, "", false); err != nil {
		t.Fatal(err)
	}
	if err := r.saveToken(before); err != nil {
		t.Fatal(err)
	}
	r.want(token, key, enrolment.Pending, "")
	d, err := r.Approve(token.ID, "", false)
	if err != nil || len(d.Issued) != 2 || !d.PublicKey.Equal(key.Public()) {
		t.Fatalf("got %+v, %v, want the device with both certificates", d, err)
	}
	r.want(token, key, enrolment.Approved, "")
	if _, err := r.Retire("press-7"); err != nil {
		t.Fatal(err)
	}
	var serials []*big.Int
	for _, c := range d.Issued {
		n, _ := new(big.Int).SetString(c.Serial, 16)
		serials = append(serials, n)
	}
	revoked(t, r, serials...)
}

func TestTokenTakesOneKeyOfManyThatComeAtOnce(t *testing.T) {
	r := newRegister(t)
	token := r.token(TokenOptions{Device: "press-7", Approve: true})
	const many = 8
	states := make(chan enrolment.State, many)
	for range many {
		key := newDeviceKey(t)
		go func() {
			raw, err := enrolment.MakeRequest(token, key)
			if err == nil {
				raw, err = r.Enrol(raw)
			}
			var a enrolment.Answer
			if err == nil {
				a, err = enrolment.OpenAnswer(token, key.Public().(ed25519.PublicKey), raw)
			}
			if err != nil {
				t.Error(err)
			}
			states <- a.State
		}()
	}
	got := map[enrolment.State]int{}
	for range many {
		got[<-states]++
	}
	if got[enrolment.Approved] != 1 || got[enrolment.Denied] != many-1 {
		t.Errorf("got %v, want one approved and the others denied", got)
	}
}

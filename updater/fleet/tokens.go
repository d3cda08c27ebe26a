package fleet

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/trust"
)

// TokenOptions say what a token is for.
type TokenOptions struct {
	Device  string        // empty: the name is given at the approval
	Life    time.Duration // default 24 h
	Approve bool          // approve the first key that comes; needs Device
}

// Enrolment is a token and how far it got.
type Enrolment struct {
	Token     string            `json:"token"`
	State     string            `json:"state"` // open, pending, approved, denied or expired
	Device    string            `json:"device,omitempty"`
	PublicKey ed25519.PublicKey `json:"public_key,omitempty"`
	Key       string            `json:"key,omitempty"` // what the box shows of its key
	Approve   bool              `json:"approve,omitempty"`
	Reason    string            `json:"reason,omitempty"` // why it waits, or was denied
	Expires   time.Time         `json:"expires"`
	Received  time.Time         `json:"received,omitzero"`
}

// tokenRecord is enroll/<token>.json, 0600: it holds the secret.
type tokenRecord struct {
	Schema      int               `json:"schema"` // 1
	Token       enrolment.Token   `json:"token"`
	Approve     bool              `json:"approve,omitempty"`
	State       DeviceState       `json:"state,omitempty"` // empty: nothing came yet
	PublicKey   ed25519.PublicKey `json:"public_key,omitempty"`
	Device      string            `json:"device,omitempty"` // that it became
	Reason      string            `json:"reason,omitempty"`
	Certificate string            `json:"certificate,omitempty"`
	Received    time.Time         `json:"received,omitzero"`
	Decided     time.Time         `json:"decided,omitzero"`
}

const (
	defaultTokenLife = 24 * time.Hour
	maxTokenLife     = 365 * 24 * time.Hour
	// tokenMemory is how long an expired token that nobody decided on is remembered.
	tokenMemory = 30 * 24 * time.Hour
)

// ErrNoToken is what is wrapped when the fleet knows no such token.
var ErrNoToken = errors.New("the fleet has no such enrolment token")

func (f *Fleet) tokenPath(id string) string { return filepath.Join(f.dir, "enroll", id+".json") }

// NewToken makes a token and remembers it.
func (f *Fleet) NewToken(o TokenOptions) (enrolment.Token, error) {
	t, err := f.newToken(o)
	if err != nil {
		return enrolment.Token{}, fmt.Errorf("cannot make enrolment token: %w", err)
	}
	return t, nil
}

func (f *Fleet) newToken(o TokenOptions) (enrolment.Token, error) {
	if o.Life == 0 {
		o.Life = defaultTokenLife
	}
	if o.Life < time.Minute || o.Life > maxTokenLife {
		return enrolment.Token{}, fmt.Errorf("a life of %s; want 1m to %s", o.Life, maxTokenLife)
	}
	if o.Approve && o.Device == "" {
		return enrolment.Token{}, errors.New("only a token that names its device can be approved beforehand")
	}
	ca, err := f.BrokerAuthority()
	if err != nil {
		return enrolment.Token{}, err
	}
	devices, err := f.Authority()
	if err != nil {
		return enrolment.Token{}, err
	}
	ticket, err := f.Ticket()
	if err != nil {
		return enrolment.Token{}, err
	}
	t := enrolment.Token{
		Expiry: f.Now().Add(o.Life).UTC().Truncate(time.Second), Tenant: ticket.Tenant, Depot: ticket.Depot, Device: o.Device,
		Broker: ticket.Broker, EnrollBroker: f.config.EnrollBroker,
		CatalogRoot: digest(ticket.CatalogRoot), DirectorRoot: digest(ticket.DirectorRoot), Authority: digest(devices),
	}.Fresh()
	if t.Login() != "" {
		t.BrokerCA = string(ca)
	}
	if err := t.Validate(); err != nil {
		return t, err
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return t, err
	}
	defer unlock()
	if o.Device != "" {
		if r, err := f.Device(o.Device); err == nil && r.State == DeviceRetired {
			return t, fmt.Errorf("device %q is retired; its name is not given again", o.Device)
		}
	}
	f.forgetTokens()
	return t, f.saveToken(tokenRecord{Schema: 1, Token: t, Approve: o.Approve})
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// forgetTokens removes those that expired long ago undecided. The caller holds the lock.
func (f *Fleet) forgetTokens() {
	all, err := f.tokens()
	if err != nil {
		return // NewToken writes one file anyway; the next one tries again
	}
	for _, r := range all {
		if r.State != DeviceApproved && f.Now().After(r.Token.Expiry.Add(tokenMemory)) {
			_ = os.Remove(f.tokenPath(r.Token.ID)) // as above
		}
	}
}

func (f *Fleet) saveToken(r tokenRecord) error {
	dir := filepath.Dir(f.tokenPath(r.Token.ID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot write %s: %w", dir, err)
	}
	return writeRecord(f.tokenPath(r.Token.ID), r, 0o600)
}

func (f *Fleet) token(id string) (tokenRecord, error) {
	if err := enrolment.CheckTokenID(id); err != nil {
		return tokenRecord{}, fmt.Errorf("%w: %w", err, ErrNoToken)
	}
	var r tokenRecord
	err := readRecord(f.tokenPath(id), &r)
	if errors.Is(err, trust.ErrNotFound) {
		return r, fmt.Errorf("token %s: %w", id, ErrNoToken)
	}
	if err == nil && (r.Schema != 1 || r.Token.ID != id || r.Token.Validate() != nil) {
		err = fmt.Errorf("%s is no record of an enrolment token", f.tokenPath(id))
	}
	return r, err
}

func (f *Fleet) tokens() ([]tokenRecord, error) {
	names, err := recordNames(filepath.Join(f.dir, "enroll"))
	if err != nil {
		return nil, err
	}
	var all []tokenRecord
	for _, name := range names {
		r, err := f.token(name)
		if errors.Is(err, ErrNoToken) {
			continue // forgotten meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Enrolments lists every token that is remembered.
func (f *Fleet) Enrolments() ([]Enrolment, error) {
	all, err := f.tokens()
	if err != nil {
		return nil, fmt.Errorf("cannot list enrolments: %w", err)
	}
	list := []Enrolment{}
	for _, r := range all {
		list = append(list, r.public(f.Now()))
	}
	return list, nil
}

func (r tokenRecord) public(now time.Time) Enrolment {
	e := Enrolment{
		Token: r.Token.ID, State: string(r.State), Device: r.Device, PublicKey: r.PublicKey, Approve: r.Approve,
		Reason: r.Reason, Expires: r.Token.Expiry, Received: r.Received,
	}
	if e.Device == "" {
		e.Device = r.Token.Device
	}
	if len(r.PublicKey) > 0 {
		e.Key = enrolment.Fingerprint(r.PublicKey)
	}
	if r.State == "" {
		e.State = "open"
		if r.Token.Expired(now) {
			e.State = "expired"
		}
	}
	return e
}

// TokenLogins is the broker's password of every token that may still connect, by
// token: those that have not expired, and those that wait for a decision.
func (f *Fleet) TokenLogins() (map[string]string, error) {
	all, err := f.tokens()
	if err != nil {
		return nil, fmt.Errorf("cannot list enrolment tokens: %w", err)
	}
	logins := map[string]string{}
	for _, r := range all {
		if f.mayConnect(r) {
			logins[r.Token.ID] = r.Token.Password()
		}
	}
	return logins, nil
}

// A denied box may still fetch its denial, an approved one its certificate.
func (f *Fleet) mayConnect(r tokenRecord) bool {
	return r.State == DevicePending || !r.Token.Expired(f.Now())
}

// TokenLogin says whether a password opens the broker to a token.
func (f *Fleet) TokenLogin(id, password string) bool {
	r, err := f.token(id)
	return err == nil && f.mayConnect(r) && equalText(password, r.Token.Password())
}

// autoFile, when it is there, approves tokens that name their device by themselves.
const autoFile = "auto"

// SetAutoApproval makes the fleet approve tokens that name their device without being asked, or no longer.
func (f *Fleet) SetAutoApproval(on bool) error {
	path := filepath.Join(f.dir, "enroll", autoFile)
	if !on {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot end automatic approval: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot begin automatic approval: %w", err)
	}
	return writeFile(path, []byte("on\n"), 0o600)
}

// AutoApproval says whether it is on.
func (f *Fleet) AutoApproval() bool {
	_, err := os.Stat(filepath.Join(f.dir, "enroll", autoFile))
	return err == nil
}

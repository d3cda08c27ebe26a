package trust

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func simTicket(s *sim) Ticket {
	return Ticket{Tenant: "plant", Broker: "tcp://127.0.0.1:1883", Depot: "depot",
		CatalogRoot: s.served["catalog/1.root.json"], DirectorRoot: s.served["director/1.root.json"]}
}

func TestEnrolMakesAnIdentityOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := LoadIdentity(dir); !errors.Is(err, ErrNotEnrolled) || !strings.Contains(err.Error(), "bothy enroll") {
		t.Errorf("got %v before enrolment", err)
	}
	ticket := simTicket(newSim(t))
	raw, err := json.Marshal(ticket)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseTicket(raw)
	if err != nil {
		t.Fatal(err)
	}
	first, err := Enroll(dir, parsed, box)
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{Device: box, Tenant: "plant", Broker: ticket.Broker, Depot: "depot",
		CatalogRoot: ticket.CatalogRoot, DirectorRoot: ticket.DirectorRoot, Key: first.Key}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	again, err := Enroll(dir, ticket, box)
	if err != nil || !again.Key.Equal(first.Key) {
		t.Errorf("second enrolment: got another key or %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, DeviceKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: got %v, %v; want mode 0600", info.Mode(), err)
	}
	if _, err := Enroll(dir, ticket, "box-2"); err == nil || !strings.Contains(err.Error(), "remove that folder") {
		t.Errorf("enrolling another device in its place: got %v", err)
	}
}

func TestInterruptedEnrolmentIsFinishedWithTheSameKey(t *testing.T) {
	dir := t.TempDir()
	ticket := simTicket(newSim(t))
	first, err := Enroll(dir, ticket, box)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("got %v from half an identity", err)
	}
	again, err := Enroll(dir, ticket, box)
	if err != nil || !again.Key.Equal(first.Key) {
		t.Errorf("got another key or %v", err)
	}
}

func TestBadTicketsAndKeysAreRefused(t *testing.T) {
	s := newSim(t)
	for name, edit := range map[string]func(*Ticket){
		"no tenant":         func(k *Ticket) { k.Tenant = "" },
		"tenant with slash": func(k *Ticket) { k.Tenant = "a/b" },
		"wildcard depot":    func(k *Ticket) { k.Depot = "+" },
		"no root":           func(k *Ticket) { k.CatalogRoot = nil },
		"not a root":        func(k *Ticket) { k.DirectorRoot = s.served["director/timestamp.json"] },
		"unsigned root": func(k *Ticket) {
			k.CatalogRoot = []byte(strings.Replace(string(k.CatalogRoot), `"version":1`, `"version":2`, 1))
		},
	} {
		ticket := simTicket(s)
		edit(&ticket)
		dir := filepath.Join(t.TempDir(), "identity")
		if _, err := Enroll(dir, ticket, box); err == nil {
			t.Errorf("%s: enrolled", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: left a folder behind", name)
		}
	}
	for _, device := range []string{"", "Box", "a/b", "box-bulk", "+"} {
		if _, err := Enroll(t.TempDir(), simTicket(s), device); err == nil {
			t.Errorf("enrolled as %q", device)
		}
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := WriteKey(path, simKey("a")); err != nil {
		t.Fatal(err)
	}
	if key, err := ReadKey(path); err != nil || !key.Equal(simKey("a")) {
		t.Errorf("got another key or %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: got %v", err)
	}
}

func TestCredentialsAreReplacedOnADeviceOfTheSameFleetOnly(t *testing.T) {
	dir := t.TempDir()
	ticket := simTicket(newSim(t))
	first, err := Enroll(dir, ticket, box) // without a token, as boxes did before
	if err != nil {
		t.Fatal(err)
	}
	given := Credentials{Certificate: []byte("certificate"), Authority: []byte("authority"), BrokerCA: []byte("broker")}
	moved := ticket
	moved.Broker = "tls://broker.example:8883"
	got, err := EnrollWith(dir, moved, box, given)
	if err != nil || got.Broker != moved.Broker || !got.Key.Equal(first.Key) {
		t.Fatalf("got device %q at %q, %v, want the same key at the new broker", got.Device, got.Broker, err)
	}
	if diff := cmp.Diff(given, got.Credentials); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	other := moved
	other.CatalogRoot, other.DirectorRoot = moved.DirectorRoot, moved.CatalogRoot
	for name, c := range map[string]struct {
		ticket Ticket
		device string
	}{"another name": {moved, "box-2"}, "other roots": {other, box}} {
		if _, err := EnrollWith(dir, c.ticket, c.device, given); err == nil || !strings.Contains(err.Error(), "remove that folder") {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if after, err := LoadIdentity(dir); err != nil || after.Device != box || after.Broker != moved.Broker {
		t.Errorf("got device %q at %q, %v, want the identity as it was", after.Device, after.Broker, err)
	}
}

package fleet

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
)

func keyOf(name string) ed25519.PrivateKey {
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

// approve gives a device a record, as an approved enrolment does.
func approve(t *testing.T, f *Fleet, device string) ed25519.PrivateKey {
	t.Helper()
	key := keyOf(device)
	err := f.saveDevice(DeviceRecord{Schema: 1, Device: device, PublicKey: key.Public().(ed25519.PublicKey), State: DeviceApproved})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seal(t *testing.T, key ed25519.PrivateKey, kind string, body any) []byte {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := release.SignEnvelope(key, kind, raw)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// wipeAnswer is the device's word about an order, as its outbox sends it.
func wipeAnswer(t *testing.T, f *Fleet, device string, number uint64, outcome report.Outcome) error {
	t.Helper()
	body, err := json.Marshal(report.Answer{Number: number, Kind: release.OrderWipe, Outcome: outcome})
	if err != nil {
		t.Fatal(err)
	}
	e := mqtt.Event{V: 1, Device: device, Origin: 1, Seq: 1, Time: noon(), Kind: report.AnswerEvent, Body: body}
	return f.OrderReport(device, "event", seal(t, keyOf(device), release.EventType, e))
}

func TestDeviceIsRetiredWhenItSaysThatItIsWiped(t *testing.T) {
	f := newFleet(t)
	add(t, f, release.Model, "mote", "one")
	sign1(t, f)
	approve(t, f, "box-1")
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	o, err := f.OrderWipe("box-1", true)
	if err != nil || o.Kind != release.OrderWipe || o.Args["audit"] != "wipe" {
		t.Fatalf("got %+v, %v, want an order to wipe", o, err)
	}
	if again, err := f.OrderWipe("box-1", true); err != nil || again.Number != o.Number {
		t.Errorf("again: got %+v, %v, want order %d", again, err, o.Number)
	}
	if a, err := f.Assignment("box-1"); err != nil || len(a.Paths()) != 0 || a.Counter != 2 {
		t.Errorf("got %+v, %v, want the empty set", a, err)
	}
	// Until the answer it is a device like any other: it could not be reached else.
	if r, err := f.Device("box-1"); err != nil || r.State != DeviceApproved {
		t.Errorf("before the answer: got %+v, %v, want it approved", r, err)
	}
	if err := wipeAnswer(t, f, "box-1", o.Number+1, report.Done); err != nil {
		t.Fatal(err)
	}
	if done, err := f.FinishWipes(); err != nil || len(done) != 0 {
		t.Errorf("an answer to another order: got %q, %v, want nothing done", done, err)
	}
	if err := wipeAnswer(t, f, "box-1", o.Number, report.Done); err != nil {
		t.Fatal(err)
	}
	r, err := f.Device("box-1")
	if err != nil || r.State != DeviceRetired || r.Wiped.IsZero() || f.Admits("box-1", nil) == nil {
		t.Errorf("after the answer: got %+v, %v, want it retired, wiped and let in no more", r, err)
	}
	if all, err := f.Retired(); err != nil || !all["box-1"] {
		t.Errorf("got %v, %v, want it among the wiped", all, err)
	}
	if _, err := f.Assign("box-1", map[string]string{"chat": "mote@1"}, ""); err == nil || !strings.Contains(err.Error(), "not given again") {
		t.Errorf("assigning to it: got %v, want a refusal", err)
	}
	if _, err := f.OrderWipe("box-1", false); !errors.Is(err, errNotWiped) {
		t.Errorf("wiping it again: got %v, want %v", err, errNotWiped)
	}
	if known, err := f.Known(); err != nil || len(known) != 0 {
		t.Errorf("known are %q, %v, want none", known, err)
	}
	f.Now = func() time.Time { return noon().Add(60 * day) }
	if r, err := f.Renew(); err != nil || slices.Contains(r.Renewed, "box-1") {
		t.Errorf("got %+v, %v, want nothing renewed for it", r, err)
	}
}

func TestWipeThatWasInterruptedIsFinishedLater(t *testing.T) {
	f := newFleet(t)
	approve(t, f, "box-1")
	o, err := f.OrderWipe("box-1", false)
	if err != nil {
		t.Fatal(err)
	}
	// The answer is in the book, and the depot died before it did anything about it.
	err = f.settleOrders("box-1", func(s *sentOrder) bool {
		changed := s.Outcome == ""
		s.Outcome, s.Answered = report.Done, noon()
		return changed
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := f.FinishWipes(); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := f.Device("box-1"); err != nil || r.State != DeviceRetired || r.Wiped.IsZero() {
		t.Errorf("got %+v, %v, want it retired", r, err)
	}
	// One that stopped over the order, or could not, is ordered again.
	approve(t, f, "box-2")
	if o, err = f.OrderWipe("box-2", false); err != nil {
		t.Fatal(err)
	}
	if err := wipeAnswer(t, f, "box-2", o.Number, report.Interrupted); err != nil {
		t.Fatal(err)
	}
	if r, err := f.Device("box-2"); err != nil || r.State != DeviceApproved {
		t.Errorf("interrupted: got %+v, %v, want it approved", r, err)
	}
	if again, err := f.OrderWipe("box-2", false); err != nil || again.Number <= o.Number {
		t.Errorf("after an interruption: got %+v, %v, want a new order", again, err)
	}
	if _, err := f.OrderWipe("nobody", false); err == nil {
		t.Error("a device without a record: got no error; its answer could not be believed")
	}
}

// An order to wipe is signed for a name, and whoever watched the broker has it.
func TestNameWithAnOrderToWipeGoesToNoOtherBox(t *testing.T) {
	r := newRegister(t)
	_, _ = r.enrol("press-7")
	o, err := r.OrderWipe("press-7", false)
	if err != nil {
		t.Fatal(err)
	}
	anew := r.token(TokenOptions{Device: "press-7", Approve: true})
	key := newDeviceKey(t)
	r.want(anew, key, enrolment.Pending, "ordered to remove what it holds")
	r.now = o.Expires.Add(-time.Second)
	if _, err := r.Approve(anew.ID, "", true); !errors.Is(err, ErrTaken) || errors.Is(err, ErrInUse) {
		t.Errorf("while the order is good: got %v, want %v, also with replace", err, ErrTaken)
	}
	r.now = o.Expires
	if _, err := r.Approve(anew.ID, "", true); err != nil {
		t.Errorf("once it expired: %v", err)
	}
}

func TestRetiredDeviceIsGivenNoOrders(t *testing.T) {
	r := newRegister(t)
	_, _ = r.enrol("press-7")
	if _, err := r.Assign("press-7", nil, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Order(release.OrderReport, nil, time.Hour, "press-7"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Retire("press-7"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Order(release.OrderReport, nil, time.Hour, "press-7"); err == nil || !strings.Contains(err.Error(), "retired") {
		t.Errorf("got %v, want a refusal: nobody would ever answer", err)
	}
}

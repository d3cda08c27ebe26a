package fleet

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/updater/trust"
)

func TestDeviceRecordsComeBackAsWritten(t *testing.T) {
	f := &Fleet{Now: time.Now, dir: t.TempDir()}
	if all, err := f.DeviceRecords(); err != nil || len(all) != 0 {
		t.Fatalf("got %v, %v of a fleet without devices, want none", all, err)
	}
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	want := DeviceRecord{
		Schema: 1, Device: "press-7", PublicKey: ed25519.PublicKey(bytes.Repeat([]byte{7}, 32)), State: DeviceApproved, Serial: "0a", NotAfter: at,
		Token: "t-1", EnrolledAt: at, Issued: []IssuedCertificate{{Serial: "0a", NotAfter: at}},
	}
	if err := f.saveDevice(want); err != nil {
		t.Fatal(err)
	}
	got, err := f.DeviceRecords()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]DeviceRecord{want}, got); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

func TestOnlyARecordOfTheDeviceItselfIsRead(t *testing.T) {
	f := &Fleet{Now: time.Now, dir: t.TempDir()}
	for _, name := range []string{"absent", "../keys/x", ""} {
		if _, err := f.Device(name); !errors.Is(err, trust.ErrNotFound) {
			t.Errorf("%q: got %v, want not found", name, err)
		}
	}
	r := DeviceRecord{Schema: 1, Device: "press-7", PublicKey: ed25519.PublicKey(make([]byte, 32)), State: DeviceApproved}
	if err := f.saveDevice(r); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.recordPath("press-7"), f.recordPath("press-8")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Device("press-8"); err == nil || errors.Is(err, trust.ErrNotFound) {
		t.Errorf("got %v for the record of another device, want a refusal", err)
	}
}

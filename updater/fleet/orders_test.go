package fleet

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

// orderFleet is a fleet whose devices have a set and whose first one has a record.
func orderFleet(t *testing.T, devices ...string) (*Fleet, ed25519.PrivateKey) {
	t.Helper()
	f := newFleet(t)
	for _, d := range devices {
		assign(t, f, d, nil, "")
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.saveDevice(DeviceRecord{Schema: 1, Device: devices[0], PublicKey: public, State: DeviceApproved}); err != nil {
		t.Fatal(err)
	}
	return f, key
}

func give(t *testing.T, f *Fleet, kind release.OrderKind, devices ...string) []OrderRecord {
	t.Helper()
	given, err := f.Order(kind, nil, time.Hour, devices...)
	if err != nil {
		t.Fatal(err)
	}
	return given
}

func outstanding(t *testing.T, f *Fleet, device string) []release.SealedOrder {
	t.Helper()
	all, err := f.OutstandingOrders()
	if err != nil {
		t.Fatal(err)
	}
	return all[device]
}

// reported hands the fleet a report that key signed.
func reported(t *testing.T, f *Fleet, key ed25519.PrivateKey, device, kind string, body any) error {
	t.Helper()
	types := map[string]string{"state": release.StateType, "event": release.EventType}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := release.SignEnvelope(key, types[kind], raw)
	if err != nil {
		t.Fatal(err)
	}
	return f.OrderReport(device, kind, sealed)
}

func event(t *testing.T, device, kind string, body any) mqtt.Event {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return mqtt.Event{V: 1, Device: device, Origin: 1, Seq: 1, Time: noon(), Kind: kind, Body: raw}
}

func only(t *testing.T, f *Fleet, device string) OrderRecord {
	t.Helper()
	all, err := f.Orders(device)
	if err != nil || len(all) != 1 {
		t.Fatalf("got %+v, %v; want one order", all, err)
	}
	return all[0]
}

func TestDeviceTakesTheOrdersInTheirOrder(t *testing.T) {
	f, _ := orderFleet(t, "press-7", "press-8")
	d := client(t, f, "press-7", f.Now)
	if _, err := d.Refresh(t.Context(), from{f, "press-7"}); err != nil {
		t.Fatal(err)
	}
	give(t, f, release.OrderPause, "press-7", "press-8")
	give(t, f, release.OrderResume, "press-7")
	sent := outstanding(t, f, "press-7")
	if len(sent) != 2 || sent[0].Number >= sent[1].Number {
		t.Fatalf("got %+v, want two orders with rising numbers", sent)
	}
	for i, kind := range []release.OrderKind{release.OrderPause, release.OrderResume} {
		o, err := d.AcceptOrder(sent[i].Envelope)
		if err != nil || o.Kind != kind || o.Device != "press-7" || !o.Expires.Equal(noon().Add(time.Hour)) {
			t.Errorf("order %d: got %+v, %v", i, o, err)
		}
		if _, err := d.AcceptOrder(sent[i].Envelope); trust.CodeOf(err) != trust.Rollback {
			t.Errorf("order %d again: got %v", i, err)
		}
	}
	if _, err := d.AcceptOrder(outstanding(t, f, "press-8")[0].Envelope); trust.CodeOf(err) != trust.WrongDevice {
		t.Errorf("another device's order: got %v", err)
	}
}

// A folder that is put back from an older copy must not give numbers that the devices have seen.
func TestNumbersRiseAlsoInAnOldCopyOfTheFolder(t *testing.T) {
	f, _ := orderFleet(t, "press-7")
	first := give(t, f, release.OrderReport, "press-7")[0]
	if err := os.RemoveAll(filepath.Join(f.Dir(), "orders")); err != nil {
		t.Fatal(err)
	}
	f.Now = func() time.Time { return noon().Add(time.Second) }
	if second := give(t, f, release.OrderReport, "press-7")[0]; second.Number <= first.Number {
		t.Errorf("got number %d after %d", second.Number, first.Number)
	}
	// A clock that is set back does not lower it either.
	f.Now = func() time.Time { return noon().AddDate(-1, 0, 0) }
	if third := give(t, f, release.OrderReport, "press-7")[0]; third.Number <= first.Number+1 {
		t.Errorf("got number %d after %d", third.Number, first.Number+1)
	}
}

func TestOrderIsSentUntilTheDeviceAnswersOrItExpires(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(t *testing.T, f *Fleet, key ed25519.PrivateKey, number uint64) error
		open bool
	}{
		"expired": {func(_ *testing.T, f *Fleet, _ ed25519.PrivateKey, _ uint64) error {
			f.Now = func() time.Time { return noon().Add(time.Hour) }
			return nil
		}, false},
		"taken": {func(t *testing.T, f *Fleet, key ed25519.PrivateKey, number uint64) error {
			return reported(t, f, key, "press-7", "state", report.State{Schema: 1, Device: "press-7", Seq: 1, Order: number})
		}, true},
		"taken, long ago": {func(t *testing.T, f *Fleet, key ed25519.PrivateKey, number uint64) error {
			f.Now = func() time.Time { return noon().Add(time.Hour + askAgain) }
			return reported(t, f, key, "press-7", "state", report.State{Schema: 1, Device: "press-7", Seq: 1, Order: number})
		}, false},
		"taken, expired and not answered": {func(t *testing.T, f *Fleet, key ed25519.PrivateKey, number uint64) error {
			f.Now = func() time.Time { return noon().Add(time.Hour) }
			return reported(t, f, key, "press-7", "state", report.State{Schema: 1, Device: "press-7", Seq: 1, Order: number})
		}, true},
		"answered": {func(t *testing.T, f *Fleet, key ed25519.PrivateKey, number uint64) error {
			return reported(t, f, key, "press-7", "event", event(t, "press-7", report.AnswerEvent, report.Answer{Number: number, Outcome: report.Done}))
		}, false},
		"an older one taken": {func(t *testing.T, f *Fleet, key ed25519.PrivateKey, number uint64) error {
			return reported(t, f, key, "press-7", "state", report.State{Schema: 1, Device: "press-7", Seq: 1, Order: number - 1})
		}, true},
		"a newer one taken": {func(t *testing.T, f *Fleet, key ed25519.PrivateKey, number uint64) error {
			return reported(t, f, key, "press-7", "state", report.State{Schema: 1, Device: "press-7", Seq: 1, Order: number + 1})
		}, true},
		"nothing heard": {func(*testing.T, *Fleet, ed25519.PrivateKey, uint64) error { return nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			f, key := orderFleet(t, "press-7")
			number := give(t, f, release.OrderPause, "press-7")[0].Number
			if len(outstanding(t, f, "press-7")) != 1 {
				t.Fatal("a new order is not sent")
			}
			if err := c.end(t, f, key, number); err != nil {
				t.Fatal(err)
			}
			if got := len(outstanding(t, f, "press-7")); (got == 1) != c.open {
				t.Errorf("got %d to send, want one = %v", got, c.open)
			}
		})
	}
}

func TestOnlyTheDevicesOwnSignatureSettlesAnOrder(t *testing.T) {
	f, key := orderFleet(t, "press-7", "press-8")
	give(t, f, release.OrderPause, "press-7", "press-8")
	number := only(t, f, "press-7").Number
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := report.Answer{Number: number, Outcome: report.Done}
	for name, err := range map[string]error{
		"a stranger":                    reported(t, f, stranger, "press-7", "event", event(t, "press-7", report.AnswerEvent, answer)),
		"another's report on its topic": reported(t, f, key, "press-7", "event", event(t, "press-8", report.AnswerEvent, answer)),
		"an outcome that there is not":  reported(t, f, key, "press-7", "event", event(t, "press-7", report.AnswerEvent, report.Answer{Number: number, Outcome: "won"})),
		"garbage":                       f.OrderReport("press-7", "event", []byte("{")),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, err := range map[string]error{
		"a device without a record": reported(t, f, key, "press-8", "event", event(t, "press-8", report.AnswerEvent, answer)),
		"a path":                    f.OrderReport("../x", "event", nil),
		"another kind of report":    f.OrderReport("press-7", "online", nil),
		"no order of that number":   reported(t, f, key, "press-7", "event", event(t, "press-7", report.AnswerEvent, report.Answer{Number: 1, Outcome: report.Done})),
	} {
		if err != nil {
			t.Errorf("%s: got %v, want it passed over", name, err)
		}
	}
	for _, d := range []string{"press-7", "press-8"} {
		if r := only(t, f, d); r.Outcome != "" || r.Taken {
			t.Errorf("%s: got %+v, want it open", d, r)
		}
	}
}

func TestFirstAnswerStays(t *testing.T) {
	f, key := orderFleet(t, "press-7")
	number := give(t, f, release.OrderCancel, "press-7")[0].Number
	for _, a := range []report.Answer{
		{Number: number, Outcome: report.Failed, Detail: "no change is under way"},
		{Number: number, Outcome: report.Refused, Code: "rollback", Detail: "a replay"},
	} {
		if err := reported(t, f, key, "press-7", "event", event(t, "press-7", report.AnswerEvent, a)); err != nil {
			t.Fatal(err)
		}
	}
	if r := only(t, f, "press-7"); r.Outcome != report.Failed || r.Detail != "no change is under way" || !r.Answered.Equal(noon()) {
		t.Errorf("got %+v, want the first answer", r)
	}
}

func logParts(number uint64, whole []byte, size int) []report.LogPart {
	sum := sha256.Sum256(whole)
	var parts []report.LogPart
	n := (len(whole) + size - 1) / size
	for i := range n {
		parts = append(parts, report.LogPart{Number: number, Part: i, Parts: n, SHA256: hex.EncodeToString(sum[:]), Data: whole[i*size : min(len(whole), (i+1)*size)]})
	}
	return parts
}

func TestLogsThatWereAskedForAreJoined(t *testing.T) {
	f, key := orderFleet(t, "press-7")
	number := give(t, f, release.OrderLogs, "press-7")[0].Number
	other := give(t, f, release.OrderPause, "press-7")[0].Number
	whole := bytes.Repeat([]byte("log "), 10_000)
	send := func(p report.LogPart) error {
		return reported(t, f, key, "press-7", "event", event(t, "press-7", report.LogsEvent, p))
	}
	parts := logParts(number, whole, report.LogPartSize)
	for _, p := range append(logParts(other, whole, 20_000), logParts(12, whole, 20_000)...) {
		if err := send(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(f.Dir(), "logs")); err == nil {
		t.Fatal("what nobody asked for was kept")
	}
	bad := parts[0]
	bad.Data = bytes.Clone(bad.Data)
	bad.Data[0] ^= 1
	if err := send(parts[1]); err != nil {
		t.Fatal(err)
	}
	if err := send(bad); err == nil {
		t.Fatal("joined parts that are not the whole")
	}
	if err := send(parts[0]); err != nil { // the event comes again, as the outbox promises
		t.Fatal(err)
	}
	all, err := f.Orders("press-7")
	if err != nil || all[0].Logs == "" {
		t.Fatalf("got %+v, %v; want a file of logs", all, err)
	}
	path := filepath.Join(f.Dir(), all[0].Logs)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v; want mode 0600", info, err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(whole))
	}
	if left, _ := filepath.Glob(filepath.Join(f.Dir(), "logs", "press-7", "*.parts")); len(left) > 0 {
		t.Errorf("left behind %v", left)
	}
}

func TestOrdersThatCannotBeGivenAreNotKept(t *testing.T) {
	f, _ := orderFleet(t, "press-7")
	for name, c := range map[string]struct {
		kind   release.OrderKind
		args   map[string]string
		life   time.Duration
		device string
		want   string
	}{
		"no set":       {release.OrderPause, nil, time.Hour, "press-9", "bothy fleet assign"},
		"no device":    {release.OrderPause, nil, time.Hour, "../x", "name"},
		"too long":     {release.OrderPause, nil, 31 * day, "press-7", "expire"},
		"too short":    {release.OrderPause, nil, time.Second, "press-7", "expire"},
		"no kind":      {"", nil, time.Hour, "press-7", "kind"},
		"bad argument": {release.OrderLogs, map[string]string{"lines": strings.Repeat("9", 5000)}, time.Hour, "press-7", "argument"},
	} {
		if _, err := f.Order(c.kind, c.args, c.life, c.device); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to speak of %q", name, err, c.want)
		}
	}
	if all, err := f.Orders("press-7"); err != nil || len(all) != 0 {
		t.Errorf("got %v, %v", all, err)
	}
	for range ordersOpen {
		give(t, f, release.OrderReport, "press-7")
	}
	if _, err := f.Order(release.OrderReport, nil, time.Hour, "press-7"); err == nil {
		t.Error("a device that does not answer was given orders without end")
	}
}

func TestBooksOfOrdersAreBounded(t *testing.T) {
	f, _ := orderFleet(t, "press-7")
	now := noon()
	f.Now = func() time.Time { return now }
	for range ordersKept + 10 {
		give(t, f, release.OrderReport, "press-7")
		now = now.Add(2 * time.Hour) // the last one expires
	}
	all, err := f.Orders("press-7")
	if err != nil || len(all) != ordersKept {
		t.Errorf("got %d records, %v; want %d", len(all), err, ordersKept)
	}
}

func TestDamagedBookKeepsBackItsOwnDeviceOnly(t *testing.T) {
	f, _ := orderFleet(t, "press-7", "press-8")
	give(t, f, release.OrderReport, "press-7", "press-8")
	if err := os.WriteFile(f.orderPath("press-7"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := f.OutstandingOrders()
	if err == nil || len(all["press-8"]) != 1 {
		t.Errorf("got %v, %v; want an error and the order of press-8", all, err)
	}
}

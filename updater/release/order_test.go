package release

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sampleOrder() Order {
	return Order{
		V: 1, Device: "press-7", Number: 41, Expires: time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC),
		Kind: OrderLogs, Args: map[string]string{"lines": "500"},
	}
}

func newKeys(t testing.TB) (edwards, nist crypto.Signer) {
	t.Helper()
	_, a, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// goldenOrder is the one encoding of sampleOrder: what is signed.
const goldenOrder = `{
  "v": 1,
  "device": "press-7",
  "number": 41,
  "expires": "2030-05-01T12:00:00Z",
  "kind": "collect-logs",
  "args": {
    "lines": "500"
  }
}
`

func TestOrderHasOneEncoding(t *testing.T) {
	got, err := ParseOrder([]byte(goldenOrder))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sampleOrder(), got); d != "" {
		t.Error(d)
	}
	for name, text := range map[string]string{
		"other spaces":    strings.ReplaceAll(goldenOrder, "  ", " "),
		"other case":      strings.Replace(goldenOrder, `"kind"`, `"Kind"`, 1),
		"twice":           strings.Replace(goldenOrder, `"v": 1,`, `"v": 1, "number": 1,`, 1),
		"unknown field":   strings.Replace(goldenOrder, `"v": 1,`, `"v": 1, "x": 1,`, 1),
		"trailing":        goldenOrder + "{}",
		"other zone":      strings.Replace(goldenOrder, "12:00:00Z", "14:00:00+02:00", 1),
		"fraction":        strings.Replace(goldenOrder, "12:00:00Z", "12:00:00.5Z", 1),
		"other version":   strings.Replace(goldenOrder, `"v": 1`, `"v": 2`, 1),
		"number 0":        strings.Replace(goldenOrder, "41", "0", 1),
		"number over":     strings.Replace(goldenOrder, "41", "9007199254740993", 1),
		"negative":        strings.Replace(goldenOrder, "41", "-1", 1),
		"no device":       strings.Replace(goldenOrder, "press-7", "", 1),
		"bulk":            strings.Replace(goldenOrder, "press-7", "press-bulk", 1),
		"kind of a path":  strings.Replace(goldenOrder, "collect-logs", "../wipe", 1),
		"argument's name": strings.Replace(goldenOrder, `"lines"`, `"li nes"`, 1),
		"long argument":   strings.Replace(goldenOrder, "500", strings.Repeat("5", maxOrderArg+1), 1),
		"huge":            goldenOrder + strings.Repeat(" ", MaxOrder),
		"empty":           "",
	} {
		if got, err := ParseOrder([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func TestOrderNeedsItsKeys(t *testing.T) {
	a, b := newKeys(t)
	other, _ := newKeys(t)
	keys := []crypto.PublicKey{a.Public(), b.Public()}
	for _, c := range []struct {
		name      string
		by        []crypto.Signer
		threshold int
		good      bool
	}{
		{"ed25519", []crypto.Signer{a}, 1, true},
		{"ECDSA", []crypto.Signer{b}, 1, true},
		{"both", []crypto.Signer{a, b}, 2, true},
		{"a stranger", []crypto.Signer{other}, 1, false},
		{"a stranger beside", []crypto.Signer{other, a}, 1, true},
		{"one twice", []crypto.Signer{a, a}, 2, false},
		{"nobody", nil, 1, false},
		{"nobody where nobody is needed", nil, 0, false},
	} {
		raw, err := SignOrder(sampleOrder(), c.by...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := OpenOrder(raw, keys, c.threshold)
		if (err == nil) != c.good || err != nil && !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: got %v, want accepted = %v", c.name, err, c.good)
		}
		if c.good && cmp.Diff(sampleOrder(), got) != "" {
			t.Errorf("%s: %s", c.name, cmp.Diff(sampleOrder(), got))
		}
	}
}

func TestTamperedOrderIsRefused(t *testing.T) {
	key, _ := newKeys(t)
	raw, err := SignOrder(sampleOrder(), key)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.PublicKey{key.Public()}
	for i := range raw {
		bent := bytes.Clone(raw)
		bent[i] ^= 1
		got, err := OpenOrder(bent, keys, 1)
		// What is outside of the signature (the key's name, a field's case) may bend; the order may not.
		if err == nil && cmp.Diff(sampleOrder(), got) != "" {
			t.Errorf("byte %d flipped: accepted as %+v", i, got)
		}
	}
	for name, raw := range map[string][]byte{
		"huge":        append(bytes.Clone(raw), bytes.Repeat([]byte{' '}, MaxOrder)...),
		"other type":  bytes.Replace(raw, []byte("order+json"), []byte("state+json"), 1),
		"not JSON":    []byte("pause"),
		"nothing":     nil,
		"signatures":  []byte(`{"payloadType":"` + OrderType + `","payload":"e30=","signatures":[` + strings.Repeat(`{"sig":"AA=="},`, 8) + `{"sig":"AA=="}]}`),
		"bare object": []byte(goldenOrder),
	} {
		if _, err := OpenOrder(raw, keys, 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOrderThatNoDeviceWouldTakeIsNotSigned(t *testing.T) {
	key, _ := newKeys(t)
	for name, edit := range map[string]func(*Order){
		"no number": func(o *Order) { o.Number = 0 },
		"no expiry": func(o *Order) { o.Expires = time.Time{} },
		"no kind":   func(o *Order) { o.Kind = "" },
	} {
		o := sampleOrder()
		edit(&o)
		if _, err := SignOrder(o, key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func FuzzParseOrder(f *testing.F) {
	f.Add([]byte(goldenOrder))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := ParseOrder(raw)
		if err != nil {
			return
		}
		if again, err := encode(o); err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("an accepted order has a second encoding (%v)", err)
		}
	})
}

func FuzzOpenOrder(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	raw, err := SignOrder(sampleOrder(), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"payloadType":"` + OrderType + `","payload":"","signatures":[{"sig":""}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := OpenOrder(raw, []crypto.PublicKey{key.Public()}, 1)
		if err == nil && cmp.Diff(sampleOrder(), o) != "" {
			t.Fatalf("an order that nobody signed is accepted: %+v", o)
		}
	})
}

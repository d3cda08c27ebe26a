package fleettest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

const box = "box-1"

// device opens trust for an enrolled device.
func device(t *testing.T, f *fleet.Fleet) *trust.Client {
	t.Helper()
	dir := t.TempDir()
	id := Enrol(t, f, filepath.Join(dir, "identity"), box)
	db, _, err := store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "bothy.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	slots, err := store.OpenSlots(dir, "trust")
	if err != nil {
		t.Fatal(err)
	}
	c, err := trust.Open(trust.Config{DB: db, Slots: slots, Device: box, CatalogRoot: id.CatalogRoot, DirectorRoot: id.DirectorRoot})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSpoiledFleetsAreRefusedWithTheCodeTheyPromise(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, f *fleet.Fleet, doc release.Document, old func())
		code  trust.Code
	}{
		"signature":  {func(t *testing.T, f *fleet.Fleet, _ release.Document, _ func()) { SpoilSignature(t, f, box) }, trust.BadSignature},
		"device":     {func(t *testing.T, f *fleet.Fleet, _ release.Document, _ func()) { SpoilDevice(t, f, "box-2", box) }, trust.WrongDevice},
		"document":   {func(t *testing.T, f *fleet.Fleet, d release.Document, _ func()) { SpoilDocument(t, f, d) }, trust.Mismatch},
		"truncation": {func(t *testing.T, f *fleet.Fleet, _ release.Document, _ func()) { SpoilByTruncation(t, f, box) }, trust.Malformed},
		"rollback": {func(t *testing.T, f *fleet.Fleet, _ release.Document, old func()) {
			if _, err := device(t, f).Refresh(t.Context(), trust.Directory{Dir: f.Dir(), Device: box}); err != nil {
				t.Fatal(err)
			}
			old()
		}, trust.Rollback},
	} {
		t.Run(name, func(t *testing.T) {
			f := Make(t, "tcp://127.0.0.1:1883")
			source := trust.Directory{Dir: f.Dir(), Device: box}
			first := Publish(t, f, fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{Bytes(t, "mote.gguf", []byte("one"))}})
			Assign(t, f, box, map[string]string{"chat": first.ID()}, "")
			client := device(t, f)
			before, err := client.Refresh(t.Context(), source)
			if err != nil {
				t.Fatal(err)
			}
			old := Keep(t, f)
			second := Publish(t, f, fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{Bytes(t, "mote.gguf", []byte("two"))}})
			Assign(t, f, "box-2", map[string]string{"chat": second.ID()}, "")
			Assign(t, f, box, map[string]string{"chat": second.ID()}, "")
			restore := Keep(t, f)
			if c.code == trust.Rollback {
				if before, err = client.Refresh(t.Context(), source); err != nil {
					t.Fatal(err)
				}
			}
			c.spoil(t, f, second, old)
			if _, err := client.Refresh(t.Context(), source); trust.CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
			if now, ok := client.Current(); !ok || now.Digest() != before.Digest() {
				t.Errorf("got current %v, want %v", now, before)
			}
			restore()
			if want, err := client.Refresh(t.Context(), source); err != nil || want.Models["chat"].Version != 2 {
				t.Errorf("got %v, %v after the attack; want mote@2", want, err)
			}
		})
	}
}

func TestAddingAgainHealsASpoiledBlob(t *testing.T) {
	f := Make(t, "")
	o := fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{Bytes(t, "mote.gguf", []byte("weights"))}}
	doc := Publish(t, f, o)
	path, err := f.Blob(doc.Files[0].SHA256)
	if err != nil {
		t.Fatal(err)
	}
	SpoilBlob(t, f, doc.Files[0].SHA256)
	if raw, err := os.ReadFile(path); err != nil || string(raw) == "weights" || len(raw) != 7 {
		t.Errorf("got %q, %v from a spoiled blob", raw, err)
	}
	if again := Publish(t, f, o); again.ID() != doc.ID() {
		t.Errorf("got %s, want %s", again.ID(), doc.ID())
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "weights" {
		t.Errorf("got %q, %v after adding again", raw, err)
	}
}

func TestASpoiltReleaseKeepsNobodyFromTheOthers(t *testing.T) {
	f := Make(t, "tcp://127.0.0.1:1883")
	add := func(text string) release.Document {
		return Publish(t, f, fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{Bytes(t, "mote.gguf", []byte(text))}})
	}
	one, two := add("one"), add("two")
	Assign(t, f, box, map[string]string{"chat": two.ID()}, "")
	SpoilDocument(t, f, two)
	if _, err := f.Assign(box, map[string]string{"chat": two.ID()}, ""); err == nil || !strings.Contains(err.Error(), "assign another version") {
		t.Errorf("got %v for the spoilt release, want an error that says what to do", err)
	}
	if _, err := f.Assign(box, map[string]string{"chat": one.ID()}, ""); err != nil {
		t.Errorf("got %v for going back to the good one, want none", err)
	}
	if three := add("three"); three.Version != 3 {
		t.Errorf("got version %d for the next release, want 3", three.Version)
	}
}

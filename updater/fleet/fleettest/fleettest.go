// Package fleettest makes fleets for tests of other packages, and spoils them.
//
// Make gives a fleet in the test's temporary folder; Publish adds, signs and
// assigns in one step. The functions that begin with Spoil edit what is
// published, as a hostile depot or a bad disk would: they have no keys beyond
// what lies in the folder and do not use those. Every function fails the test
// when it cannot do what it says, so that no test passes on an attack that did
// not happen.
//
// Test code only. Nothing here is safe for concurrent use with itself.
package fleettest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Tenant is the tenant of every fleet made here.
const Tenant = "test"

// Make makes a fleet whose ticket names broker.
func Make(tb testing.TB, broker string) *fleet.Fleet {
	tb.Helper()
	f, err := fleet.Init(fleet.Options{Dir: filepath.Join(tb.TempDir(), "fleet"), Tenant: Tenant, Broker: broker})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// Publish adds a release, signs it and returns it.
func Publish(tb testing.TB, f *fleet.Fleet, o fleet.AddOptions) release.Document {
	tb.Helper()
	doc, err := f.Add(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := f.Sign(doc.ID()); err != nil {
		tb.Fatal(err)
	}
	return doc
}

// Bytes writes data to a file in the test's folder and returns its path, for
// AddOptions.Files.
func Bytes(tb testing.TB, name string, data []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Assign assigns and returns the counter of the want.
func Assign(tb testing.TB, f *fleet.Fleet, device string, models map[string]string, policy string) uint64 {
	tb.Helper()
	a, err := f.Assign(device, models, policy)
	if err != nil {
		tb.Fatal(err)
	}
	return a.Counter
}

// Enrol makes an identity for device in dir.
func Enrol(tb testing.TB, f *fleet.Fleet, dir, device string) trust.Identity {
	tb.Helper()
	ticket, err := f.Ticket()
	if err != nil {
		tb.Fatal(err)
	}
	id, err := trust.Enroll(dir, ticket, device)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// SpoilSignature changes the signatures of a device's newest want, so that the
// device refuses it as bad-signature.
func SpoilSignature(tb testing.TB, f *fleet.Fleet, device string) {
	tb.Helper()
	edit(tb, object(tb, f, trust.Director, device, "timestamp.json"), func(raw []byte) []byte {
		return regexp.MustCompile(`"sig": ?"[0-9a-f]{8}`).ReplaceAll(raw, []byte(`"sig": "00000000`))
	})
}

// SpoilDevice serves to one device what is signed for another one: wrong-device.
func SpoilDevice(tb testing.TB, f *fleet.Fleet, from, to string) {
	tb.Helper()
	dir := filepath.Dir(object(tb, f, trust.Director, from, "timestamp.json"))
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("device %q has no metadata: %v", from, err)
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		replace(tb, object(tb, f, trust.Director, to, filepath.Base(path)), raw)
	}
}

// SpoilDocument changes one byte of a signed release document: mismatch.
func SpoilDocument(tb testing.TB, f *fleet.Fleet, doc release.Document) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(f.Dir(), "catalog", "targets", "*."+doc.Name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	want, err := doc.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range files {
		if raw, err := os.ReadFile(path); err == nil && bytes.Equal(raw, want) {
			edit(tb, path, func(raw []byte) []byte { return flip(raw, len(raw)/2) })
			return
		}
	}
	tb.Fatalf("release %s has no signed document", doc.ID())
}

// SpoilBlob changes one byte in the middle of an artifact: its block fails.
func SpoilBlob(tb testing.TB, f *fleet.Fleet, digest string) {
	tb.Helper()
	path, err := f.Blob(digest)
	if err != nil {
		tb.Fatal(err)
	}
	edit(tb, path, func(raw []byte) []byte { return flip(raw, len(raw)/2) })
}

// SpoilByTruncation cuts a device's newest want in half: malformed.
func SpoilByTruncation(tb testing.TB, f *fleet.Fleet, device string) {
	tb.Helper()
	edit(tb, object(tb, f, trust.Director, device, "timestamp.json"), func(raw []byte) []byte { return raw[:len(raw)/2] })
}

// Keep remembers everything that is published and returns a function that puts
// it back: the end of an attack, or, after more was published, a rollback.
func Keep(tb testing.TB, f *fleet.Fleet) (restore func()) {
	tb.Helper()
	kept := filepath.Join(tb.TempDir(), "kept")
	folders := []string{"catalog", "director", "blobs"}
	for _, name := range folders {
		if err := os.CopyFS(filepath.Join(kept, name), os.DirFS(filepath.Join(f.Dir(), name))); err != nil {
			tb.Fatal(err)
		}
	}
	return func() {
		tb.Helper()
		for _, name := range folders {
			err := os.RemoveAll(filepath.Join(f.Dir(), name))
			if err == nil {
				err = os.CopyFS(filepath.Join(f.Dir(), name), os.DirFS(filepath.Join(kept, name)))
			}
			if err != nil {
				tb.Fatal(err)
			}
		}
	}
}

func object(tb testing.TB, f *fleet.Fleet, repo trust.Repo, device, name string) string {
	tb.Helper()
	path, ok := trust.ObjectPath(repo, device, name)
	if !ok {
		tb.Fatalf("there is no object %s %s of %q", repo, name, device)
	}
	return filepath.Join(f.Dir(), path)
}

func flip(raw []byte, at int) []byte {
	raw = bytes.Clone(raw)
	raw[at] ^= 1
	return raw
}

// edit replaces a file by what change makes of it, which must be different.
func edit(tb testing.TB, path string, change func([]byte) []byte) {
	tb.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	changed := change(raw)
	if bytes.Equal(changed, raw) {
		tb.Fatalf("nothing was changed in %s", path)
	}
	replace(tb, path, changed)
}

// replace renames, so that a reader sees the file before or after.
func replace(tb testing.TB, path string, raw []byte) {
	tb.Helper()
	tmp := fmt.Sprintf("%s.spoilt", path)
	if err := os.WriteFile(tmp, raw, 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		tb.Fatal(err)
	}
}

package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func newFleet(t *testing.T) *Fleet {
	t.Helper()
	f, err := Init(Options{Dir: t.TempDir(), Tenant: "plant", Broker: "tcp://127.0.0.1:1883", Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// add takes in a file with the given text as the next version of name.
func add(t *testing.T, f *Fleet, kind release.Kind, name, text string) release.Document {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".bin")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	doc, err := f.Add(t.Context(), AddOptions{Kind: kind, Name: name, Files: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func sign1(t *testing.T, f *Fleet, names ...string) []release.Document {
	t.Helper()
	docs, err := f.Sign(names...)
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

func assign(t *testing.T, f *Fleet, device string, models map[string]string, policy string) release.Assignment {
	t.Helper()
	a, err := f.Assign(device, models, policy)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// from serves a fleet to one device as the depot does.
type from struct {
	fleet  *Fleet
	device string
}

func (s from) Metadata(_ context.Context, repo trust.Repo, name string, _ int64) ([]byte, error) {
	return s.fleet.Metadata(repo, s.device, name)
}

// client is an enrolled device.
func client(t *testing.T, f *Fleet, device string, now func() time.Time) *trust.Client {
	t.Helper()
	dir := t.TempDir()
	raw, err := os.ReadFile(filepath.Join(f.Dir(), "enroll.json"))
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := trust.ParseTicket(raw)
	if err != nil {
		t.Fatal(err)
	}
	id, err := trust.Enroll(filepath.Join(dir, "identity"), ticket, device)
	if err != nil {
		t.Fatal(err)
	}
	db, _, err := store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "bothy.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	slots, err := store.OpenSlots(dir, "trust")
	if err != nil {
		t.Fatal(err)
	}
	c, err := trust.Open(trust.Config{DB: db, Slots: slots, Device: id.Device,
		CatalogRoot: id.CatalogRoot, DirectorRoot: id.DirectorRoot, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDeviceVerifiesWhatTheFleetAssigned(t *testing.T) {
	f := newFleet(t)
	model := add(t, f, release.Model, "mote", "weights")
	policy := add(t, f, release.Policy, "plant", "rules")
	if got := sign1(t, f); len(got) != 2 {
		t.Fatalf("got %d signed, want 2", len(got))
	}
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "plant")
	c := client(t, f, "box-1", noon)
	want, err := c.Refresh(t.Context(), from{f, "box-1"})
	if err != nil {
		t.Fatal(err)
	}
	expected := release.Want{Device: "box-1", Counter: 1, DirectorVersion: 1, CatalogVersion: want.CatalogVersion,
		Models: map[string]release.Document{"chat": model}, Policy: &policy}
	if diff := cmp.Diff(expected, want); diff != "" {
		t.Errorf("want differs (-expected +got):\n%s", diff)
	}
	// What another device is served is refused, whatever the broker does.
	assign(t, f, "box-2", map[string]string{"chat": "mote"}, "")
	assign(t, f, "box-2", map[string]string{"other": "mote"}, "")
	_, err = c.Refresh(t.Context(), from{f, "box-2"})
	if trust.CodeOf(err) != trust.WrongDevice {
		t.Errorf("got %v from another device's metadata, want %s", err, trust.WrongDevice)
	}
}

func TestOlderReleaseCanBeAssignedAndIsRefusedByTheDevice(t *testing.T) {
	f := newFleet(t)
	add(t, f, release.Model, "mote", "one")
	add(t, f, release.Model, "mote", "two")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote"}, "")
	c := client(t, f, "box-1", noon)
	want, err := c.Refresh(t.Context(), from{f, "box-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MarkInstalled(want.Documents()...); err != nil {
		t.Fatal(err)
	}
	if a := assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, ""); a.Counter != 2 {
		t.Errorf("got counter %d, want 2", a.Counter)
	}
	if _, err := c.Refresh(t.Context(), from{f, "box-1"}); trust.CodeOf(err) != trust.Rollback {
		t.Errorf("got %v, want %s", err, trust.Rollback)
	}
	assign(t, f, "box-1", map[string]string{"chat": "mote@2"}, "")
	if want, err = c.Refresh(t.Context(), from{f, "box-1"}); err != nil || want.Counter != 3 {
		t.Errorf("got counter %d, %v; want 3", want.Counter, err)
	}
}

func TestEveryCommandCanBeRepeated(t *testing.T) {
	f := newFleet(t)
	before := tree(t, f)
	again, err := Init(Options{Dir: f.Dir(), Tenant: "plant", Broker: "tcp://127.0.0.1:1883", Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, again)); diff != "" {
		t.Errorf("second init changed files:\n%s", diff)
	}
	first, second := add(t, f, release.Model, "mote", "weights"), add(t, f, release.Model, "mote", "weights")
	if first.ID() != "mote@1" || second.ID() != "mote@1" {
		t.Errorf("got %s and %s, want mote@1 twice", first.ID(), second.ID())
	}
	sign1(t, f, "mote@1")
	if third := add(t, f, release.Model, "mote", "weights"); third.ID() != "mote@1" {
		t.Errorf("got %s after signing, want mote@1", third.ID())
	}
	if got := sign1(t, f, "mote@1"); len(got) != 0 {
		t.Errorf("got %v signed the second time", got)
	}
	a := assign(t, f, "box-1", map[string]string{"chat": "mote"}, "")
	before = tree(t, f)
	if b := assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, ""); b.Counter != a.Counter {
		t.Errorf("got counter %d, want %d", b.Counter, a.Counter)
	}
	if diff := cmp.Diff(before, tree(t, f)); diff != "" {
		t.Errorf("second assign changed files:\n%s", diff)
	}
	if next := add(t, f, release.Model, "mote", "other weights"); next.ID() != "mote@2" {
		t.Errorf("got %s, want mote@2", next.ID())
	}
}

// tree maps every file of the fleet to its content.
func tree(t *testing.T, f *Fleet) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(f.Dir(), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		files[path] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestErrorsSayWhatToType(t *testing.T) {
	f := newFleet(t)
	add(t, f, release.Model, "mote", "weights")
	removed := newFleet(t)
	add(t, removed, release.Model, "mote", "weights")
	for _, key := range []string{"release-1", "release-2"} {
		if err := os.Remove(removed.Keys.path(key, ".pem")); err != nil {
			t.Fatal(err)
		}
	}
	_, unsigned := f.Assign("box-1", map[string]string{"chat": "mote"}, "")
	_, missing := f.Assign("box-1", map[string]string{"chat": "nothing"}, "")
	_, typing := f.Sign("mite")
	_, keys := removed.Sign()
	_, none := Open(t.TempDir())
	_, tenant := Init(Options{Dir: f.Dir(), Tenant: "other", Broker: "tcp://x:1"})
	_, unassigned := f.Assignment("box-9")
	_, bulk := f.Assign("box-bulk", nil, "")
	_, version := f.Add(t.Context(), AddOptions{Kind: release.Model, Name: "mote", Version: 1, Files: []string{filepath.Join(f.Dir(), "fleet.yaml")}})
	for _, c := range []struct {
		err  error
		want string
	}{
		{unsigned, "bothy fleet sign"},
		{missing, "bothy fleet add"},
		{typing, "bothy fleet add"},
		{keys, "1 of the 2 needed are here; bring release-N.pem"},
		{none, "bothy fleet init"},
		{tenant, "choose another folder"},
		{unassigned, "bothy fleet assign"},
		{bulk, "reserved"},
		{version, "leave out the version"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("got error %v, want it to say %q", c.err, c.want)
		}
	}
}

func TestThresholdOfKeysIsEnough(t *testing.T) {
	f := newFleet(t)
	add(t, f, release.Model, "mote", "weights")
	if err := os.Remove(f.Keys.path("release-2", ".pem")); err != nil {
		t.Fatal(err)
	}
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote"}, "")
	if _, err := client(t, f, "box-1", noon).Refresh(t.Context(), from{f, "box-1"}); err != nil {
		t.Error(err)
	}
}

func TestAssignMergesReplacesAndTakesOut(t *testing.T) {
	f := newFleet(t)
	add(t, f, release.Model, "mote", "weights")
	add(t, f, release.Policy, "plant", "rules")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote", "code": "mote"}, "plant")
	a := assign(t, f, "box-1", map[string]string{"code": None}, "")
	expected := release.Assignment{Device: "box-1", Counter: 2, Models: map[string]string{"chat": "models/mote/1.json"}, Policy: "policies/plant/1.json"}
	if diff := cmp.Diff(expected, a); diff != "" {
		t.Errorf("merged (-expected +got):\n%s", diff)
	}
	a, err := f.AssignChange("box-1", Change{Replace: true, Window: &release.Window{From: "22:00", Until: "04:00"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Models) != 0 || a.Policy != "" || a.Window == nil {
		t.Errorf("got %+v, want only a window", a)
	}
	want, err := client(t, f, "box-1", noon).Refresh(t.Context(), from{f, "box-1"})
	if err != nil || want.Device != "box-1" || !want.Empty() || want.Window == nil {
		t.Errorf("got %+v, %v; want an empty set for box-1 with a window", want, err)
	}
}

func TestApprovalAndWindowStayUntilTheyAreChanged(t *testing.T) {
	f := newFleet(t)
	yes, no := true, false
	window := &release.Window{Days: []string{"sat"}, From: "22:00", Until: "04:00"}
	for i, step := range []struct {
		change   Change
		approval bool
		window   bool
		counter  uint64
	}{
		{Change{Approval: &yes, Window: window}, true, true, 1},
		{Change{}, true, true, 1},
		{Change{AnyTime: true}, true, false, 2},
		{Change{Approval: &no}, false, false, 3},
	} {
		a, err := f.AssignChange("box-1", step.change)
		if err != nil {
			t.Fatal(err)
		}
		want, err := client(t, f, "box-1", noon).Refresh(t.Context(), from{f, "box-1"})
		if err != nil || want.Approval != step.approval || (want.Window != nil) != step.window || want.Counter != step.counter {
			t.Errorf("step %d: got %+v, verified %+v, %v; want approval %v, window %v, counter %d", i, a, want, err, step.approval, step.window, step.counter)
		}
	}
}

func TestBlobsAndIndexesAreServedToWhomTheyAreAssigned(t *testing.T) {
	f := newFleet(t)
	doc := add(t, f, release.Model, "mote", strings.Repeat("weights", 400_000))
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote"}, "")
	file := doc.Files[0]
	for device, want := range map[string]bool{"box-1": true, "box-2": false} {
		if ok, err := f.Allowed(device, file.SHA256); err != nil || ok != want {
			t.Errorf("%s: got allowed %v, %v; want %v", device, ok, err, want)
		}
	}
	path, err := f.Blob(file.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != file.Size {
		t.Errorf("got %v, %v; want a blob of %d bytes", info, err, file.Size)
	}
	raw, err := f.Index(file.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	index, err := content.ParseIndex(raw)
	if err != nil || index.Size != file.Size || len(index.Blocks) < 2 {
		t.Errorf("got index of %d bytes in %d blocks, %v; want %d bytes", index.Size, len(index.Blocks), err, file.Size)
	}
	for _, digest := range []string{"", "../../keys/release-1.pem", strings.Repeat("a", 64), strings.ToUpper(file.SHA256)} {
		if _, err := f.Blob(digest); !errors.Is(err, trust.ErrNotFound) {
			t.Errorf("blob %q: got %v, want not found", digest, err)
		}
	}
}

func TestMetadataServesOnlyWhatItKnows(t *testing.T) {
	f := newFleet(t)
	assign(t, f, "box-1", nil, "")
	for _, c := range []struct {
		repo         trust.Repo
		device, name string
	}{
		{trust.Catalog, "box-1", "2.root.json"},
		{trust.Catalog, "box-1", "../../keys/release-1.pem"},
		{trust.Catalog, "box-1", "targets/../metadata/timestamp.json"},
		{trust.Catalog, "box-1", "timestamp.json\n"},
		{trust.Director, "box-2", "timestamp.json"},
		{trust.Director, "../catalog/metadata", "timestamp.json"},
		{trust.Director, "_root", "timestamp.json"},
		{trust.Director, "", "timestamp.json"},
		{"keys", "box-1", "timestamp.json"},
	} {
		if raw, err := f.Metadata(c.repo, c.device, c.name); !errors.Is(err, trust.ErrNotFound) {
			t.Errorf("%s %q %q: got %d bytes, %v; want not found", c.repo, c.device, c.name, len(raw), err)
		}
	}
	for _, name := range []string{"timestamp.json", "1.root.json", "1.snapshot.json", "1.targets.json"} {
		if _, err := f.Metadata(trust.Director, "box-1", name); err != nil {
			t.Error(err)
		}
	}
}

func TestRenewMovesExpiryAtHalfLife(t *testing.T) {
	f := newFleet(t)
	assign(t, f, "box-1", nil, "")
	if r, err := f.Renew(); err != nil || len(r.Renewed)+len(r.Warnings) != 0 {
		t.Errorf("got %+v, %v for young metadata, want nothing", r, err)
	}
	now := noon()
	f.Now = func() time.Time { return now }
	c := client(t, f, "box-1", f.Now)
	if _, err := c.Refresh(t.Context(), from{f, "box-1"}); err != nil {
		t.Fatal(err)
	}
	// Sixty days in steps under half a timestamp's life: renewed all along.
	for range 20 {
		now = now.Add(3 * day)
		if _, err := f.Renew(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Refresh(t.Context(), from{f, "box-1"}); err != nil {
			t.Fatalf("after %s: %v", now.Sub(noon()), err)
		}
	}
	now = noon().Add(360 * day)
	r, err := f.Renew()
	if err != nil || !slices.Equal(r.Renewed, []string{"catalog", "box-1"}) || len(r.Warnings) != 4 {
		t.Errorf("got %+v, %v; want both renewed and four offline roles warned about", r, err)
	}
	if _, err := f.Sign(); err != nil {
		t.Fatal(err)
	}
	if r, err := f.Renew(); err != nil || len(r.Warnings) != 0 {
		t.Errorf("got %+v, %v after signing again, want no warning", r, err)
	}
}

func TestProcessesTakeTurns(t *testing.T) {
	f := newFleet(t)
	var wg sync.WaitGroup
	for i := range 8 {
		path := filepath.Join(t.TempDir(), "w.bin")
		if err := os.WriteFile(path, fmt.Appendf(nil, "weights %d", i), 0o644); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			// Each opens the folder for itself, as a command does.
			own, err := Open(f.Dir())
			if err != nil {
				t.Error(err)
				return
			}
			own.Now = noon
			name := fmt.Sprintf("model-%d", i)
			if _, err := own.Add(t.Context(), AddOptions{Kind: release.Model, Name: name, Files: []string{path}}); err != nil {
				t.Error(err)
			}
			if _, err := own.Sign(name); err != nil {
				t.Error(err)
			}
			if _, err := own.Assign("box-1", map[string]string{name: name}, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want, err := client(t, f, "box-1", noon).Refresh(t.Context(), from{f, "box-1"})
	if err != nil || len(want.Models) != 8 || want.Counter != 8 {
		t.Errorf("got %d models with counter %d, %v; want 8 with 8", len(want.Models), want.Counter, err)
	}
}

func TestInterruptedInitAndSignAreFinished(t *testing.T) {
	f := newFleet(t)
	key, err := os.ReadFile(f.Keys.path("release-1", ".pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(f.Dir(), configFile)); err != nil {
		t.Fatal(err)
	}
	f, err = Init(Options{Dir: f.Dir(), Tenant: "plant", Broker: "tcp://127.0.0.1:1883", Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(f.Keys.path("release-1", ".pem")); err != nil || !bytes.Equal(key, again) {
		t.Errorf("init made another key where there was one (%v)", err)
	}
	doc := add(t, f, release.Model, "mote", "weights")
	raw, err := os.ReadFile(f.pendingPath(doc.Target()))
	if err != nil {
		t.Fatal(err)
	}
	sign1(t, f)
	// As if the process had died before it removed the pending release, and
	// another before it wrote the timestamp of what it signed next.
	if err := writeFile(f.pendingPath(doc.Target()), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.catalogPath("3.models.json"), []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := sign1(t, f); len(got) != 0 {
		t.Errorf("got %v signed again", got)
	}
	add(t, f, release.Model, "mote", "more weights")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote"}, "")
	want, err := client(t, f, "box-1", noon).Refresh(t.Context(), from{f, "box-1"})
	if err != nil || want.Models["chat"].Version != 2 {
		t.Errorf("got %v, %v; want mote@2", want, err)
	}
}

func TestAddRefusesWhatCannotBeAReleaseAndStops(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]AddOptions{
		"no files":    {Kind: release.Model, Name: "m"},
		"empty file":  {Kind: release.Model, Name: "m", Files: []string{empty}},
		"folder":      {Kind: release.Model, Name: "m", Files: []string{dir}},
		"missing":     {Kind: release.Model, Name: "m", Files: []string{filepath.Join(dir, "none")}},
		"bad name":    {Kind: release.Model, Name: "../m", Files: []string{empty}},
		"bad kind":    {Kind: "thing", Name: "m", Files: []string{empty}},
		"bad pattern": {Kind: release.Model, Name: "m", Files: []string{f.Keys.path("release-1", ".pem")}, Accept: []release.Check{{Prompt: "x", Pattern: "("}}},
	} {
		if doc, err := f.Add(t.Context(), o); err == nil {
			t.Errorf("%s: got %s, want an error", name, doc.ID())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Add(ctx, AddOptions{Kind: release.Model, Name: "m", Files: []string{f.Keys.path("release-1", ".pem")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	left, err := filepath.Glob(f.blobPath(".tmp-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRenewalGoesOnForYearsWithoutANewWant(t *testing.T) {
	f := newFleet(t)
	now := noon()
	f.Now = func() time.Time { return now }
	add(t, f, release.Model, "mote", "one")
	sign1(t, f)
	first := assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	c := client(t, f, "box-1", f.Now)
	for range 250 { // two years in steps under half of a timestamp's life
		now = now.Add(3 * day)
		if _, err := f.Renew(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Sign(); err != nil { // the offline roles, where the keys are here
			t.Fatal(err)
		}
		if now.After(noon().Add(700 * day)) {
			break // the roots
		}
	}
	want, err := c.Refresh(t.Context(), from{f, "box-1"})
	if err != nil || want.Counter != first.Counter || want.DirectorVersion < 2 {
		t.Errorf("after %s: got want %d in version %d, %v; want %d, renewed", now.Sub(noon()), want.Counter, want.DirectorVersion, err, first.Counter)
	}
}

func TestRenewalSaysWhichKeyIsMissingOrLockedAndRenewsTheRest(t *testing.T) {
	f := newFleet(t)
	assign(t, f, "box-1", nil, "")
	assign(t, f, "box-2", nil, "")
	f.Now = func() time.Time { return noon().Add(5 * day) }
	if err := os.WriteFile(f.devicePath("box-1", "timestamp.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := f.Renew()
	if err == nil || !strings.Contains(err.Error(), "cannot renew box-1") || !slices.Equal(r.Renewed, []string{"catalog", "box-2"}) {
		t.Errorf("a damaged device: got %+v, %v, want the others renewed", r, err)
	}
	if err := f.Keys.SetPassphrase(directorTimestampKey, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	closed, err := Open(f.Dir()) // as another process has it
	if err != nil {
		t.Fatal(err)
	}
	closed.Now = func() time.Time { return noon().Add(10 * day) }
	r, err = closed.Renew()
	if err == nil || !strings.Contains(err.Error(), directorTimestampKey+" is locked") || !slices.Equal(r.Renewed, []string{"catalog"}) {
		t.Errorf("a locked key: got %+v, %v, want it named and the catalog renewed", r, err)
	}
	asked := 0
	closed.Keys.Ask = func(string) ([]byte, error) { asked++; return []byte("secret"), nil }
	if err := closed.Unlock(); err != nil {
		t.Fatal(err)
	}
	closed.Keys.Ask = nil // nobody is there any more
	if _, err = closed.Renew(); err == nil || strings.Contains(err.Error(), "locked") || asked != 1 {
		t.Errorf("unlocked: got %v after %d questions, want only the damaged device, and one", err, asked)
	}
	if err := os.Remove(filepath.Join(f.Dir(), "keys", directorTimestampKey+".pem")); err != nil {
		t.Fatal(err)
	}
	again, err := Open(f.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Unlock(); err == nil || !strings.Contains(err.Error(), "bring its .pem file") {
		t.Errorf("a key that is gone: got %v, want where to bring it", err)
	}
}

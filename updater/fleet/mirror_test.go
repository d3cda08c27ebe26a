package fleet

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

func mirrorTo(t *testing.T, f *Fleet, o MirrorOptions) MirrorResult {
	t.Helper()
	did, err := f.Mirror(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return did
}

// exported is every file of a folder, by its path.
func exported(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		i, err := e.Info()
		all[strings.TrimPrefix(path, dir+"/")] = i.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// installs says that a device gets its set and every artifact from a folder alone.
func installs(t *testing.T, f *Fleet, dir, device string) release.Want {
	t.Helper()
	want, err := client(t, f, device, noon).Refresh(t.Context(), trust.Directory{Dir: dir, Device: device})
	if err != nil {
		t.Fatalf("device %s: %v", device, err)
	}
	s, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, d := range want.Documents() {
		for _, file := range d.Files {
			if _, err := s.Fetch(t.Context(), file, []content.Source{content.Directory{Dir: dir}}, nil); err != nil {
				t.Fatalf("device %s: %v", device, err)
			}
		}
	}
	return want
}

func TestDeviceInstallsFromAnExportedFolder(t *testing.T) {
	f := newFleet(t)
	mote, other := add(t, f, release.Model, "mote", "weights"), add(t, f, release.Model, "other", "more weights")
	unused := add(t, f, release.Model, "unused", "nobody's weights")
	add(t, f, release.Policy, "plant", "rules")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "plant")
	assign(t, f, "box-2", map[string]string{"chat": "other@1"}, "")
	out := filepath.Join(t.TempDir(), "www")
	did := mirrorTo(t, f, MirrorOptions{To: out})
	if len(did.Devices) != 2 || did.Kept != 0 {
		t.Errorf("got %+v, want two devices and nothing there before", did)
	}
	for _, device := range []string{"box-1", "box-2"} {
		installs(t, f, out, device)
	}
	have := exported(t, out)
	for path := range have {
		if strings.Contains(path, "key") || strings.Contains(path, "enroll") || strings.Contains(path, "fleet.yaml") || strings.Contains(path, unused.Primary().SHA256) {
			t.Errorf("%s was exported", path)
		}
	}
	if again := mirrorTo(t, f, MirrorOptions{To: out}); again.Written != 0 || again.Bytes != 0 || again.Kept != did.Written {
		t.Errorf("again: got %+v, want nothing written and %d kept", again, did.Written)
	}
	one := filepath.Join(t.TempDir(), "one")
	mirrorTo(t, f, MirrorOptions{To: one, Devices: []string{"box-2"}})
	installs(t, f, one, "box-2")
	for path := range exported(t, one) {
		if strings.Contains(path, "box-1") || strings.Contains(path, mote.Primary().SHA256) {
			t.Errorf("an export for box-2 holds %s", path)
		}
	}
	if exported(t, one)["blobs/"+other.Primary().SHA256] == 0 {
		t.Error("an export for box-2 lacks its model")
	}
}

func TestExportIsRepairedAndPruned(t *testing.T) {
	f := newFleet(t)
	v1 := add(t, f, release.Model, "mote", "weights")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	out := t.TempDir()
	mirrorTo(t, f, MirrorOptions{To: out})
	blob := filepath.Join(out, "blobs", v1.Primary().SHA256)
	if err := os.WriteFile(blob, []byte("WEIGHTS"), 0o644); err != nil {
		t.Fatal(err)
	}
	if did := mirrorTo(t, f, MirrorOptions{To: out}); did.Written != 0 {
		t.Errorf("without --verify: got %+v, want the file taken for what it was", did)
	}
	if did := mirrorTo(t, f, MirrorOptions{To: out, Verify: true}); did.Written != 1 {
		t.Errorf("with --verify: got %+v, want one file written", did)
	}
	installs(t, f, out, "box-1")
	add(t, f, release.Model, "mote", "better weights")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote@2"}, "")
	left := filepath.Join(out, "blobs", ".tmp-123")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	did := mirrorTo(t, f, MirrorOptions{To: out, Prune: true})
	if did.Removed != 1 {
		t.Errorf("got %d removed, want the model of version 1", did.Removed)
	}
	for _, path := range []string{blob, blob + ".index", left} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if want := installs(t, f, out, "box-1"); want.Models["chat"].Version != 2 {
		t.Errorf("got version %d, want 2", want.Models["chat"].Version)
	}
}

func TestExportIsRefused(t *testing.T) {
	f := newFleet(t)
	doc := add(t, f, release.Model, "mote", "weights")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	for name, c := range map[string]struct {
		o    MirrorOptions
		text string
	}{
		"into the fleet":      {MirrorOptions{To: f.Dir()}, "choose another folder"},
		"of a stranger":       {MirrorOptions{To: t.TempDir(), Devices: []string{"box-9"}}, "fleet assign"},
		"of no name":          {MirrorOptions{To: t.TempDir(), Devices: []string{"../box-1"}}, "box-1"},
		"pruning for one":     {MirrorOptions{To: t.TempDir(), Devices: []string{"box-1"}, Prune: true}, "all devices"},
		"to no folder at all": {MirrorOptions{To: filepath.Join(f.Dir(), "fleet.yaml", "x")}, "not a directory"},
	} {
		if _, err := f.Mirror(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %q", name, err, c.text)
		}
	}
	// A damaged blob is not handed on, and nothing leads to it.
	if err := os.WriteFile(f.blobPath(doc.Primary().SHA256), []byte("WEIGHTS"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if _, err := f.Mirror(t.Context(), MirrorOptions{To: out}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v, want a damaged file named", err)
	}
	for path := range exported(t, out) {
		if strings.HasSuffix(path, "timestamp.json") || strings.HasSuffix(path, doc.Primary().SHA256) {
			t.Errorf("%s was written all the same", path)
		}
	}
}

// TestReaderOfAnExportNeverSeesAHalf: while a fleet signs and exports again and
// again, a device that reads the folder finds a set that it accepts each time.
func TestReaderOfAnExportNeverSeesAHalf(t *testing.T) {
	f := newFleet(t)
	add(t, f, release.Model, "mote", "weights 1")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	out := t.TempDir()
	mirrorTo(t, f, MirrorOptions{To: out})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stop()
		for n := range 12 {
			add(t, f, release.Model, "mote", "weights 1"+strings.Repeat("x", n+1))
			if _, err := f.Sign(); err != nil {
				t.Error(err)
				return
			}
			if _, err := f.Assign("box-1", map[string]string{"chat": "mote"}, ""); err != nil {
				t.Error(err)
				return
			}
			if _, err := f.Mirror(context.Background(), MirrorOptions{To: out}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	c := client(t, f, "box-1", noon)
	reads, versions := 0, map[uint64]bool{}
	for last := false; !last; reads++ {
		last = ctx.Err() != nil // one more look when all is written
		want, err := c.Refresh(t.Context(), trust.Directory{Dir: out, Device: "box-1"})
		if err != nil {
			t.Fatalf("read %d: %v", reads, err)
		}
		doc := want.Models["chat"]
		versions[doc.Version] = true
		b, err := os.ReadFile(filepath.Join(out, "blobs", doc.Primary().SHA256))
		if err != nil || !bytes.HasPrefix(b, []byte("weights 1")) || int64(len(b)) != doc.Primary().Size {
			t.Fatalf("read %d: the artifact of %s is %q (%v)", reads, doc.ID(), b, err)
		}
	}
	wg.Wait()
	if !versions[13] {
		t.Errorf("got versions %v, want 13 at the end", versions)
	}
	t.Logf("%d reads saw %d versions", reads, len(versions))
}

package view

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater/release"
)

// shelf is a folder of artifacts beside a store of views.
type shelf struct {
	t     *testing.T
	dir   string
	views *Store
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, dir: t.TempDir()}
	s.reopen()
	t.Cleanup(func() { _ = remove(filepath.Join(s.dir, "views")) })
	return s
}

func (s *shelf) reopen() {
	s.t.Helper()
	var err error
	if s.views, err = Open(filepath.Join(s.dir, "views")); err != nil {
		s.t.Fatal(err)
	}
}

// put makes an artifact of a text and answers how a release lists it and where it lies.
func (s *shelf) put(path, text string) (release.File, string) {
	s.t.Helper()
	sum := sha256.Sum256([]byte(text))
	digest := hex.EncodeToString(sum[:])
	at := filepath.Join(s.dir, digest)
	if err := os.WriteFile(at, []byte(text), 0o440); err != nil && !errors.Is(err, fs.ErrPermission) {
		s.t.Fatal(err)
	}
	return release.File{Path: path, Size: int64(len(text)), SHA256: digest, IndexSHA256: digest}, at
}

func (s *shelf) model(names ...string) (release.Document, []string) {
	doc := release.Document{Schema: release.Schema, Kind: release.Model, Name: "mote", Version: 1}
	var files []string
	for _, n := range names {
		f, at := s.put(n, "weights of "+n)
		doc.Files, files = append(doc.Files, f), append(files, at)
	}
	return doc, files
}

func (s *shelf) engine() (release.Document, []string) {
	doc, files := s.model("bin/server", "lib/libx.so")
	doc.Kind, doc.Name, doc.Engine.Kind = release.Engine, "llama", "llama-server"
	doc.Files[0].Executable = true
	doc.Program = &release.Program{Entry: "bin/server", Libraries: []string{"lib"}, Version: "1", Platform: "linux/amd64"}
	return doc, files
}

func (s *shelf) make(doc release.Document, files []string) string {
	s.t.Helper()
	dir, err := s.views.Make(doc, files)
	if err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// tree lists the files of a view with their modes.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		rel, _ := filepath.Rel(dir, path)
		all = append(all, info.Mode().String()+" "+rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAViewHasTheNamesOfItsRelease(t *testing.T) {
	s := newShelf(t)
	doc, files := s.model("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "extra/sight.gguf")
	dir := s.make(doc, files)
	want := []string{"dr-xr-xr-x .", "dr-xr-xr-x extra", "-r--r----- extra/sight.gguf", "-r--r----- m-00001-of-00002.gguf", "-r--r----- m-00002-of-00002.gguf"}
	if got := tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "extra/sight.gguf"))
	if err != nil || string(raw) != "weights of extra/sight.gguf" {
		t.Errorf("got %q, %v", raw, err)
	}
	if again := s.make(doc, files); again != dir {
		t.Errorf("got %s the second time, %s the first", again, dir)
	}
}

func TestWhatMayRunIsACopyAndTheArtifactIsNotTouched(t *testing.T) {
	s := newShelf(t)
	doc, files := s.engine()
	dir := s.make(doc, files)
	want := []string{"dr-xr-xr-x .", "dr-xr-xr-x bin", "-r-xr-xr-x bin/server", "dr-xr-xr-x lib", "-r--r----- lib/libx.so"}
	if got := tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o440 {
		t.Errorf("got the artifact with mode %v, %v", info.Mode(), err)
	}
}

func TestTwoReleasesOfOneNameHaveTwoViews(t *testing.T) {
	s := newShelf(t)
	one, files := s.model("a", "b")
	other, more := s.model("a", "c")
	if s.make(one, files) == s.make(other, more) {
		t.Error("one folder for two documents")
	}
}

func TestAViewThatIsNotItsReleaseIsMadeAnew(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"file more": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "lib", "libplanted.so"), "x", 0o444) },
		"file gone": func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "lib", "libx.so"))) },
		"other bytes": func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "bin", "server"), 0o755))
			write(t, filepath.Join(dir, "bin", "server"), "weights of bin/SERVER", 0o755)
			must(t, os.Chmod(filepath.Join(dir, "bin", "server"), modeProgram))
		},
		"mode": func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "bin", "server"), 0o777)) },
		"link away": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "bin", "server")))
			must(t, os.Symlink("/bin/true", filepath.Join(dir, "bin", "server")))
		},
		"file replaced": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "lib", "libx.so")))
			write(t, filepath.Join(dir, "lib", "libx.so"), "weights of lib/libx.SO", 0o440)
		},
		"no folder": func(t *testing.T, dir string) { must(t, remove(dir)); write(t, dir, "x", 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			doc, files := s.engine()
			dir := s.make(doc, files)
			want := tree(t, dir)
			for _, d := range []string{dir, filepath.Join(dir, "bin"), filepath.Join(dir, "lib")} {
				must(t, os.Chmod(d, 0o755))
			}
			spoil(t, dir)
			if got := tree(t, s.make(doc, files)); !slices.Equal(got, want) {
				// The folders' modes are not what is executed; those of an untouched view may stay opened.
				t.Errorf("got %q, want %q", got, want)
			}
			raw, err := os.ReadFile(filepath.Join(dir, "bin", "server"))
			if err != nil || string(raw) != "weights of bin/server" {
				t.Errorf("got %q, %v", raw, err)
			}
		})
	}
}

func TestADamagedArtifactIsNotShown(t *testing.T) {
	for _, name := range []string{"bin/server", "lib/libx.so"} {
		s := newShelf(t)
		doc, files := s.engine()
		s.make(doc, files)
		i := slices.IndexFunc(doc.Files, func(f release.File) bool { return f.Path == name })
		raw, err := os.ReadFile(files[i])
		must(t, err)
		raw[0] ^= 1
		must(t, os.Chmod(files[i], 0o600))
		write(t, files[i], string(raw), 0o600)
		must(t, remove(s.views.Path(doc)))
		_, err = s.views.Make(doc, files)
		var d *Damage
		if !errors.As(err, &d) || d.Path != name || d.SHA256 != doc.Files[i].SHA256 {
			t.Errorf("%s: got %v, want the damage", name, err)
		}
		if _, err := os.Stat(s.views.Path(doc)); err == nil {
			t.Errorf("%s: the view can be seen", name)
		}
	}
}

func TestALibraryThatRotsIsSeenBeforeTheNextUse(t *testing.T) {
	s := newShelf(t)
	doc, files := s.engine()
	s.make(doc, files)
	must(t, os.Chmod(files[1], 0o600))
	write(t, files[1], "weights of lib/libx.SO", 0o600)
	var d *Damage
	if _, err := s.views.Make(doc, files); !errors.As(err, &d) {
		t.Errorf("got %v, want the damage", err)
	}
}

func TestADocumentThatLeavesItsFolderIsRefused(t *testing.T) {
	s := newShelf(t)
	for _, path := range []string{"../a", "/etc/a", "a/../../b"} {
		doc, files := s.model("x", path)
		if _, err := s.views.Make(doc, files); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestAStartRemovesWhatWasHalfMade(t *testing.T) {
	s := newShelf(t)
	doc, files := s.engine()
	dir := s.make(doc, files)
	half := filepath.Join(s.dir, "views", tmpPrefix+"1", "bin")
	must(t, os.MkdirAll(half, 0o755))
	must(t, os.Chmod(half, modeFolder))
	s.reopen()
	entries, err := os.ReadDir(filepath.Join(s.dir, "views"))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(dir) {
		t.Errorf("got %v, %v, want the whole view alone", entries, err)
	}
}

func TestKeepRemovesWhatNothingNeeds(t *testing.T) {
	s := newShelf(t)
	kept, files := s.engine()
	gone, more := s.model("a", "b")
	s.make(kept, files)
	s.make(gone, more)
	must(t, s.views.Keep([]release.Document{kept}))
	entries, err := os.ReadDir(filepath.Join(s.dir, "views"))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(s.views.Path(kept)) {
		t.Errorf("got %v, %v", entries, err)
	}
	for _, at := range more {
		if _, err := os.Stat(at); err != nil {
			t.Errorf("an artifact went with its view: %v", err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), mode))
}

func TestAViewIsLookedAtAgainBeforeARestart(t *testing.T) {
	s := newShelf(t)
	doc, files := s.engine()
	dir := s.make(doc, files)
	program := filepath.Join(dir, "bin/server")
	must(t, s.views.Again(program))
	must(t, os.Chmod(program, 0o755))
	must(t, os.WriteFile(program, []byte("changed by somebody....."), 0o755))
	must(t, s.views.Again(program))
	if raw, err := os.ReadFile(program); err != nil || string(raw) != "weights of bin/server" {
		t.Errorf("got %q, %v, want the program made anew from its artifact", raw, err)
	}
	library := filepath.Join(dir, "lib/libx.so")
	must(t, os.Chmod(library, 0o600))
	must(t, os.WriteFile(library, []byte("weights of lib/evil.so"), 0o600))
	var d *Damage
	if err := s.views.Again(program); !errors.As(err, &d) || d.Path != "lib/libx.so" {
		t.Errorf("got %v, want the damage of the artifact", err)
	}
	must(t, s.views.Again("/usr/bin/llama-server")) // of the box itself
	must(t, s.views.Keep(nil))
	must(t, s.views.Again(program))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no view made anew of a release that nothing keeps", err)
	}
}

func TestAViewOutlivesALostArtifact(t *testing.T) {
	s := newShelf(t)
	doc, files := s.model("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
	dir := s.make(doc, files)
	must(t, os.Remove(files[1]))
	must(t, s.views.Again(filepath.Join(dir, "m-00001-of-00002.gguf")))
	if raw, err := os.ReadFile(filepath.Join(dir, "m-00002-of-00002.gguf")); err != nil || len(raw) == 0 {
		t.Errorf("got %q, %v, want the view as it was", raw, err)
	}
}

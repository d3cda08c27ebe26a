package content

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
)

func TestImportNamesAFileAsAReleaseWould(t *testing.T) {
	s := openStore(t)
	path := parts.Model(t, "mote-256-f16.gguf")
	f, err := s.Import(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := fileOf(b)
	want.Path = filepath.Base(path)
	if f != want {
		t.Errorf("got %+v, want %+v", f, want)
	}
	wantFile(t, s, f, b)
	if again, err := s.Import(t.Context(), path); err != nil || again != f {
		t.Errorf("twice: got %+v, %v", again, err)
	}
	if all, err := s.List(); err != nil || !slices.Equal(all, []string{f.SHA256}) {
		t.Errorf("list: got %v, %v", all, err)
	}
	if err := errors.Join(s.Remove(f.SHA256), s.Remove(f.SHA256)); err != nil || s.Has(f.SHA256) {
		t.Errorf("remove: got %v", err)
	}
	if _, err := s.Import(t.Context(), t.TempDir()); err == nil {
		t.Error("a directory was imported")
	}
}

func TestStoreBelongsToOneProcess(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("opened twice")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, dir)
}

func TestOpenSweepsWhatAKilledProcessLeft(t *testing.T) {
	dir := t.TempDir()
	want := noise(1, BlockSize)
	f, x := fileOf(want)
	s := openAt(t, dir)
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want, index: x}}, nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	other, _ := fileOf(noise(2, 1))
	for _, n := range []string{"new-1", "import-7", f.SHA256 + journalExt, other.SHA256 + journalExt + ".new", other.SHA256 + partExt} {
		if err := os.WriteFile(filepath.Join(dir, "partial", n), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openAt(t, dir)
	left, err := os.ReadDir(filepath.Join(dir, "partial"))
	if err != nil || len(left) != 1 || left[0].Name() != other.SHA256+partExt {
		t.Errorf("got %v, %v, want only the fetch that can go on", left, err)
	}
}

func TestDigestsThatAreNoneGetNowhere(t *testing.T) {
	s := openStore(t)
	f, _ := fileOf(nil)
	for _, d := range []string{"", "..", "../../etc/passwd", f.SHA256[1:], f.SHA256 + "0", "G" + f.SHA256[1:]} {
		f.SHA256 = d
		if s.Path(d) != "" || s.Has(d) {
			t.Errorf("%q has a path", d)
		}
		if err := s.Remove(d); err == nil {
			t.Errorf("%q was removed", d)
		}
		if _, err := s.Fetch(t.Context(), f, nil, nil); err == nil {
			t.Errorf("%q was fetched", d)
		}
	}
}

func TestVerifyFindsAChangedFile(t *testing.T) {
	s := openStore(t)
	want := noise(1, BlockSize+9)
	f, x := fileOf(want)
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want, index: x}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), f.SHA256); err != nil {
		t.Error(err)
	}
	want[BlockSize]++
	if err := errors.Join(os.Chmod(s.Path(f.SHA256), 0o600), os.WriteFile(s.Path(f.SHA256), want, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), f.SHA256); !errors.Is(err, ErrMismatch) {
		t.Errorf("got %v, want %v", err, ErrMismatch)
	}
}

func TestFetchTakesItsSpaceWhenItBegins(t *testing.T) {
	b := noise(1, 4*BlockSize)
	f, x := fileOf(b)
	s := openAt(t, interrupted(t, f, b, x, 1))
	if got := s.Taken(f.SHA256); got != f.Size {
		t.Errorf("an interrupted fetch: got %d bytes, want %d", got, f.Size)
	}
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: b, index: x}}, nil); err != nil {
		t.Fatal(err)
	}
	other, _ := fileOf(noise(2, 10))
	for digest, want := range map[string]int64{f.SHA256: f.Size, other.SHA256: 0, "../lock": 0} {
		if got := s.Taken(digest); got != want {
			t.Errorf("%.12s: got %d bytes, want %d", digest, got, want)
		}
	}
}

func TestDigestIsWorkedOnByOneCall(t *testing.T) {
	s := openStore(t)
	want := noise(1, 2*BlockSize)
	f, x := fileOf(want)
	m := &memory{data: want, index: x, edit: func(Block, []byte) error {
		if err := s.Remove(f.SHA256); !errors.Is(err, ErrBusy) {
			t.Errorf("remove during a fetch: got %v", err)
		}
		if _, err := s.Fetch(t.Context(), f, nil, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("second fetch: got %v", err)
		}
		return nil
	}}
	if _, err := s.Fetch(t.Context(), f, []Source{m}, nil); err != nil {
		t.Fatal(err)
	}
}

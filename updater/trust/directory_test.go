package trust

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestDirectoryServesAFleetsFolder(t *testing.T) {
	s := newSim(t)
	dir := t.TempDir()
	for name, raw := range s.served {
		repo, object, _ := cut(name)
		path, ok := ObjectPath(repo, box, object)
		if !ok {
			t.Fatalf("no path for %s", name)
		}
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := newDevice(t, s)
	want, err := d.Refresh(t.Context(), Directory{Dir: dir, Device: box})
	if err != nil || want.Counter != 3 {
		t.Errorf("got %v, %v; want counter 3", want, err)
	}
	if raw, err := (Directory{Dir: dir, Device: box}).Metadata(t.Context(), Catalog, "timestamp.json", 10); err != nil || len(raw) != 11 {
		t.Errorf("got %d bytes, %v; want one more than the limit of 10", len(raw), err)
	}
	for _, c := range []struct {
		repo         Repo
		device, name string
	}{
		{Catalog, box, "9.root.json"}, {Catalog, box, "../enroll.json"}, {Catalog, box, "targets/../metadata/timestamp.json"},
		{Catalog, box, "timestamp.json\n"}, {Catalog, box, "1..json"}, {Director, "box-2", "timestamp.json"},
		{Director, "_root", "timestamp.json"}, {Director, "", "timestamp.json"}, {"keys", box, "timestamp.json"},
	} {
		if raw, err := (Directory{Dir: dir, Device: c.device}).Read(c.repo, c.name, 1<<20); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s %q %q: got %d bytes, %v; want not found", c.repo, c.device, c.name, len(raw), err)
		}
	}
}

func cut(name string) (Repo, string, bool) {
	for _, repo := range []Repo{Catalog, Director} {
		if rest, err := filepath.Rel(string(repo), name); err == nil && filepath.IsLocal(rest) {
			return repo, rest, true
		}
	}
	return "", name, false
}

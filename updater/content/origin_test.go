package content

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func wantOrigin(t *testing.T, s *Store, digest string, want []Span) {
	t.Helper()
	got, err := s.Origin(digest)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("origin differs (-want +got):\n%s", d)
	}
}

func TestOriginSaysWhereEachBlockCameFrom(t *testing.T) {
	const mib = BlockSize
	old := noise(1, 6*mib)
	next := bytes.Clone(old)
	copy(next[mib:], noise(2, 4*mib)) // blocks 1 to 4 are new
	f1, x1 := fileOf(old)
	f2, x2 := fileOf(next)
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), f1, []Source{&memory{name: "mqtt", data: old, index: x1}}, nil); err != nil {
		t.Fatal(err)
	}
	wantOrigin(t, s, f1.SHA256, []Span{{0, 6 * mib, "mqtt"}})
	// The first attempt ends after one block, the second after another, from elsewhere.
	ends := func(n int) func(Block, []byte) error {
		return func(k Block, _ []byte) error {
			if k.N >= n {
				return errors.New("unplugged")
			}
			return nil
		}
	}
	for _, m := range []*memory{
		{name: "peer press-8", data: next, index: x2, edit: ends(2)},
		{name: "mirror", data: next, edit: ends(4)},
	} {
		if _, err := s.Fetch(t.Context(), f2, []Source{m}, nil); err == nil {
			t.Fatal("a source that ends gave everything")
		}
	}
	disk := "disk sha256:" + f1.SHA256[:12]
	wantOrigin(t, s, f2.SHA256, []Span{{0, mib, disk}, {mib, mib, "peer press-8"}, {2 * mib, 2 * mib, "mirror"}, {4 * mib, mib, ""}, {5 * mib, mib, disk}})
	// A new process goes on, and the note goes along with the file.
	dir := s.dir
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir)
	if _, err := s.Fetch(t.Context(), f2, []Source{&memory{name: "directory", data: next}}, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f2, next)
	whole := []Span{{0, mib, disk}, {mib, mib, "peer press-8"}, {2 * mib, 2 * mib, "mirror"}, {4 * mib, mib, "directory"}, {5 * mib, mib, disk}}
	wantOrigin(t, s, f2.SHA256, whole)
	if err := s.Remove(f2.SHA256); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Origin(f2.SHA256); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its removal: got %v, want %v", err, ErrNotFound)
	}
}

func TestLostNoteOfOriginCostsOnlyItself(t *testing.T) {
	b := noise(1, 4*BlockSize)
	f, x := fileOf(b)
	for name, spoil := range map[string]func(path string) error{
		"missing":       os.Remove,
		"empty":         func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"of other file": func(p string) error { return os.WriteFile(p, []byte(`{"v":1,"names":["x"],"runs":[[0,99,1]]}`), 0o600) },
		"negative":      func(p string) error { return os.WriteFile(p, []byte(`{"v":1,"names":["x"],"runs":[[-1,2,1]]}`), 0o600) },
		"overflowing": func(p string) error {
			return os.WriteFile(p, []byte(`{"v":1,"names":["x"],"runs":[[1,9223372036854775807,1]]}`), 0o600)
		},
		"unknown name": func(p string) error { return os.WriteFile(p, []byte(`{"v":1,"names":["x"],"runs":[[0,1,2]]}`), 0o600) },
	} {
		s := openStore(t)
		stops := &memory{name: "mirror", data: b, index: x, edit: func(k Block, _ []byte) error {
			if k.N == 2 {
				return errors.New("unplugged")
			}
			return nil
		}}
		if _, err := s.Fetch(t.Context(), f, []Source{stops}, nil); err == nil {
			t.Fatal("a source that ends gave everything")
		}
		if err := spoil(s.partial(f.SHA256, originExt)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Fetch(t.Context(), f, []Source{&memory{name: "mqtt", data: b}}, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantFile(t, s, f, b)
		t.Run(name, func(t *testing.T) {
			wantOrigin(t, s, f.SHA256, []Span{{0, 2 * BlockSize, "resumed"}, {2 * BlockSize, 2 * BlockSize, "mqtt"}})
		})
	}
}

func TestNoteOfOriginIsBounded(t *testing.T) {
	const blocks = 3 * maxOriginRuns
	path := t.TempDir() + "/note"
	o := loadOrigins(path, blocks)
	for n := range blocks {
		o.note(n, fmt.Sprintf("peer %d", n%1000))
	}
	if err := o.save(path); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(path); err != nil || i.Size() > 100<<10 {
		t.Errorf("got a note of %d bytes (%v), want under 100 KiB", i.Size(), err)
	}
	back := loadOrigins(path, blocks)
	if n := len(back.names); n > maxOrigins+1 {
		t.Errorf("got %d names, want at most %d", n, maxOrigins+1)
	}
	if got, want := len(back.runs()), len(o.runs()); got != want {
		t.Errorf("read back: got %d runs, want %d", got, want)
	}
	if back.of[blocks-1] != back.number(originSeveral) {
		t.Errorf("the end is %q, want %q", back.names[back.of[blocks-1]-1], originSeveral)
	}
}

func TestSourceOfWrongBlocksIsAskedLast(t *testing.T) {
	want := noise(1, 6*BlockSize)
	f, x := fileOf(want)
	liar := &memory{name: "liar", data: make([]byte, len(want)), index: x}
	honest := &memory{name: "honest", data: want, index: x}
	s := openStore(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	again := func() int {
		t.Helper()
		before := liar.asked
		if _, err := s.Fetch(t.Context(), f, []Source{liar, honest}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(f.SHA256); err != nil {
			t.Fatal(err)
		}
		return liar.asked - before
	}
	for _, c := range []struct {
		pass time.Duration
		want int // times that the liar is asked
	}{
		{0, 1}, {asideMin - 1, 0}, {1, 1},
		// The second time costs twice as much.
		{2*asideMin - 1, 0}, {1, 1},
		// After a long good time it begins anew.
		{time.Hour, 1}, {asideMin - 1, 0}, {1, 1},
	} {
		now = now.Add(c.pass)
		if got := again(); got != c.want {
			t.Errorf("after another %s: asked %d times, want %d", c.pass, got, c.want)
		}
	}
	// Alone it is asked, whatever it did: there is nobody else.
	liar.data = want
	if _, err := s.Fetch(t.Context(), f, []Source{liar}, nil); err != nil {
		t.Errorf("alone: %v", err)
	}
}

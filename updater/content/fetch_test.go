package content

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/updater/release"
)

func TestFetchFromADirectory(t *testing.T) {
	want := noise(1, 3*BlockSize+5)
	f, x := fileOf(want)
	for name, lay := range map[string][]string{
		"fleet layout": {"blobs/" + f.SHA256, "blobs/" + f.SHA256 + ".index"},
		"flat":         {f.SHA256, f.SHA256 + ".index"},
		"by path":      {f.Path, ""},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "blobs"), 0o700); err != nil {
			t.Fatal(err)
		}
		err := os.WriteFile(filepath.Join(dir, lay[0]), want, 0o600)
		if lay[1] != "" {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, lay[1]), x, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		s := openStore(t)
		if _, err := s.Fetch(t.Context(), f, []Source{Directory{dir}}, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantFile(t, s, f, want)
	}
	_, err := openStore(t).Fetch(t.Context(), f, []Source{Directory{t.TempDir()}}, nil)
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("empty directory: got %v", err)
	}
}

func TestFetchReusesBlocksOnTheDisk(t *testing.T) {
	old := noise(1, 8*BlockSize)
	edited := bytes.Clone(old)
	copy(edited[2*BlockSize+100:], "changed")
	s := openStore(t)
	f1, x1 := fileOf(old)
	f2, x2 := fileOf(edited)
	if _, err := s.Fetch(t.Context(), f1, []Source{&memory{data: old, index: x1}}, nil); err != nil {
		t.Fatal(err)
	}
	var last Progress
	if _, err := s.Fetch(t.Context(), f2, []Source{&memory{data: edited, index: x2}}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f2, edited)
	if last.BySource["disk"] != 7*BlockSize || last.BySource["memory"] != BlockSize {
		t.Errorf("got %v, want 7 MiB from the disk and 1 MiB from the source", last.BySource)
	}
	// A damaged old file must not hurt the new one.
	if err := s.Remove(f2.SHA256); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(s.Path(f1.SHA256), 0o600), os.WriteFile(s.Path(f1.SHA256), make([]byte, len(old)), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(t.Context(), f2, []Source{&memory{data: edited, index: x2}}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f2, edited)
	if last.BySource["disk"] != 0 {
		t.Errorf("got %d bytes from a damaged file", last.BySource["disk"])
	}
}

func TestSourceWithWrongBlocksIsDroppedForTheNext(t *testing.T) {
	want := noise(1, 12*BlockSize)
	f, x := fileOf(want)
	liar := &memory{name: "liar", data: want, index: x, edit: func(k Block, b []byte) error {
		if k.N%2 == 1 {
			b[0] ^= 1
		}
		return nil
	}}
	var last Progress
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), f, []Source{liar, &memory{data: want}}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f, want)
	if last.BySource["liar"] == 0 || last.BySource["memory"] < 6*BlockSize {
		t.Errorf("got %v, want right blocks from both", last.BySource)
	}
	_, err := openStore(t).Fetch(t.Context(), f, []Source{liar}, nil)
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("only the liar: got %v, want %v", err, ErrCorrupt)
	}
}

func TestOneWrongBlockIsAskedForAgain(t *testing.T) {
	want := noise(1, 4*BlockSize)
	f, x := fileOf(want)
	hiccup := true
	m := &memory{data: want, index: x, edit: func(_ Block, b []byte) error {
		if hiccup {
			hiccup, b[7] = false, b[7]+1
		}
		return nil
	}}
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), f, []Source{m}, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f, want)
	if m.asked != 2 {
		t.Errorf("asked %d times, want 2", m.asked)
	}
}

func TestIndexOfALargeFileOnAStickCanBeGivenUp(t *testing.T) {
	dir := t.TempDir()
	b := noise(1, 2*BlockSize)
	f, _ := fileOf(b)
	if err := os.WriteFile(filepath.Join(dir, f.SHA256), b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Directory{Dir: dir}).Index(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestIndexThatWasNotSignedIsRefused(t *testing.T) {
	want := noise(1, 2*BlockSize)
	f, x := fileOf(want)
	_, other := fileOf(noise(2, 2*BlockSize))
	_, err := openStore(t).Fetch(t.Context(), f, []Source{&memory{data: want, index: other}}, nil)
	if !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMismatch) {
		t.Errorf("got %v, want %v: whoever is on the way must not end a want for ever", err, ErrCorrupt)
	}
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want, index: other}, &memory{data: want, index: x}}, nil); err != nil {
		t.Errorf("a second source with the right index: %v", err)
	}
	lie := f
	lie.Size++
	if _, err := openStore(t).Fetch(t.Context(), lie, []Source{&memory{data: want, index: x}}, nil); !errors.Is(err, ErrMismatch) {
		t.Errorf("wrong size: got %v, want %v", err, ErrMismatch)
	}
}

func TestReleaseThatContradictsItselfLeavesNothing(t *testing.T) {
	want := noise(1, 2*BlockSize)
	f, x := fileOf(want)
	other, _ := fileOf(noise(2, 2*BlockSize))
	f.SHA256 = other.SHA256 // the blocks will all be right, the whole not
	s := openStore(t)
	_, err := s.Fetch(t.Context(), f, []Source{&memory{data: want, index: x}}, nil)
	if !errors.Is(err, ErrMismatch) || s.Has(f.SHA256) {
		t.Errorf("got %v, has %v, want a mismatch", err, s.Has(f.SHA256))
	}
	if rest, _ := s.Partial(); len(rest) != 0 {
		t.Errorf("got partial files %v", rest)
	}
}

var errStop = errors.New("stop here")

// interrupted fetches until n blocks came, and returns the store's folder.
func interrupted(t *testing.T, f release.File, b, x []byte, n int) string {
	t.Helper()
	dir := t.TempDir()
	s := openAt(t, dir)
	m := &memory{data: b, index: x, edit: func(k Block, _ []byte) error {
		if k.N == n {
			return errStop
		}
		return nil
	}}
	if _, err := s.Fetch(t.Context(), f, []Source{m}, nil); !errors.Is(err, errStop) {
		t.Fatalf("got %v, want the interruption", err)
	}
	s.Close()
	return dir
}

func TestFetchGoesOnWhereItStopped(t *testing.T) {
	want := noise(1, 10*BlockSize)
	f, x := fileOf(want)
	s := openAt(t, interrupted(t, f, want, x, 6))
	var last Progress
	// The index is not asked for again either.
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want}}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f, want)
	if last.BySource["resumed"] != 6*BlockSize || last.BySource["memory"] != 4*BlockSize {
		t.Errorf("got %v, want 6 MiB resumed and 4 MiB fetched", last.BySource)
	}
}

func TestBlockThatRotsAfterItsMarkIsFetchedAgain(t *testing.T) {
	want := noise(1, 10*BlockSize)
	f, x := fileOf(want)
	dir := interrupted(t, f, want, x, 6)
	part, err := os.OpenFile(filepath.Join(dir, "partial", f.SHA256+partExt), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = part.WriteAt([]byte("rot"), 2*BlockSize+9)
	if err := errors.Join(err, part.Close()); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, dir)
	var last Progress
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want}}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f, want)
	if last.BySource["memory"] != 5*BlockSize {
		t.Errorf("got %v, want 5 MiB fetched", last.BySource)
	}
}

func TestDamagedJournalOnlyCostsTime(t *testing.T) {
	want := noise(1, 6*BlockSize)
	f, x := fileOf(want)
	for name, edit := range map[string]func(b []byte) []byte{
		"missing": nil,
		"empty":   func([]byte) []byte { return nil },
		"torn":    func(b []byte) []byte { return b[:len(b)-5] },
		"zeroed":  func(b []byte) []byte { return make([]byte, len(b)) },
		"flipped": func(b []byte) []byte { b[50] ^= 4; return b },
		"garbage": func(b []byte) []byte { return append(b, noise(3, 1000)...) },
	} {
		dir := interrupted(t, f, want, x, 4)
		p := filepath.Join(dir, "partial", f.SHA256+journalExt)
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if edit == nil {
			err = os.Remove(p)
		} else {
			err = os.WriteFile(p, edit(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		s := openAt(t, dir)
		if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want}}, nil); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantFile(t, s, f, want)
	}
}

// Every file operation fails once, each time it occurs, with a full disk.
// Whatever was there before stays, and the next attempt succeeds.
func TestFaultAtEveryStepLeavesNothingOrEverything(t *testing.T) {
	want := noise(1, 3*BlockSize)
	f, x := fileOf(want)
	var points []string
	dry := openStore(t)
	dry.fault = func(op string) error { points = append(points, op); return nil }
	if _, err := dry.Fetch(t.Context(), f, []Source{&memory{data: want, index: x}}, nil); err != nil {
		t.Fatal(err)
	}
	if len(points) < 8 {
		t.Fatalf("got only the points %v", points)
	}
	for i := range points {
		s := openStore(t)
		n := 0
		s.fault = func(string) error {
			if n++; n == i+1 {
				return syscall.ENOSPC
			}
			return nil
		}
		_, err := s.Fetch(t.Context(), f, []Source{&memory{data: want, index: x}}, nil)
		if !errors.Is(err, ErrNoSpace) {
			t.Errorf("point %d, %s: got %v, want %v", i, points[i], err, ErrNoSpace)
		}
		if s.Has(f.SHA256) {
			t.Errorf("point %d, %s: the file is there after a failure", i, points[i])
		}
		if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want, index: x}}, nil); err != nil {
			t.Errorf("point %d, %s: the next attempt: %v", i, points[i], err)
		}
		wantFile(t, s, f, want)
	}
}

// A real small disk, in a mount namespace of its own.
func TestFullDiskIsFoundBeforeTheTransfer(t *testing.T) {
	cmd, stderr := startChild(t, "full", t.TempDir())
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	text := string(out)
	if !strings.Contains(text, ErrNoSpace.Error()) || strings.Contains(text, StateFetching) {
		t.Errorf("got %q, want no space, and nothing fetched", text)
	}
	var free int64
	if i := strings.Index(text, " free "); i < 0 {
		t.Errorf("got %q", text)
	} else if _, err := fmt.Sscan(text[i+len(" free "):], &free); err != nil || free < 7<<20 {
		t.Errorf("%d bytes free of 8 MiB after the failure: space was kept (%v)", free, err)
	}
}

func TestFetchSurvivesKill9(t *testing.T) {
	want := patterned(childSize)
	f, x := fileOf(want)
	dir := t.TempDir()
	got := int64(0)
	for round := range 3 {
		cmd, _ := startChild(t, "kill", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until := got + (10+rand.Int64N(30))<<20
		got = killAt(t, out, until)
		cmd.Process.Kill()
		cmd.Wait()
		t.Logf("round %d: killed at %d MiB", round, got>>20)
	}
	s := openAt(t, dir)
	var last Progress
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want, index: x}}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, f, want)
	if last.BySource["resumed"] < got {
		t.Errorf("got %d MiB resumed, the killed process had reported %d", last.BySource["resumed"]>>20, got>>20)
	}
}

// killAt reads the child's progress until it passes n bytes.
func killAt(t *testing.T, out io.Reader, n int64) int64 {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var state string
		var done int64
		if _, err := fmt.Sscan(lines.Text(), &state, &done); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		if state == StateFetching && done >= n {
			return done
		}
	}
	t.Fatalf("the child ended before %d bytes", n)
	return 0
}

func TestCancelledFetchKeepsWhatCame(t *testing.T) {
	want := noise(1, 6*BlockSize)
	f, x := fileOf(want)
	s := openStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	m := &memory{data: want, index: x, edit: func(k Block, _ []byte) error {
		if k.N == 3 {
			cancel()
		}
		return ctx.Err()
	}}
	if _, err := s.Fetch(ctx, f, []Source{m}, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	var last Progress
	if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: want}}, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if last.BySource["resumed"] != 3*BlockSize {
		t.Errorf("got %v, want 3 MiB resumed", last.BySource)
	}
}

func TestFileThatRottedIsFetchedAgain(t *testing.T) {
	want := noise(3, 2*BlockSize+7)
	f, _ := fileOf(want)
	stick := Directory{t.TempDir()}
	if err := os.WriteFile(filepath.Join(stick.Dir, f.Path), want, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	var sources map[string]int64
	fetch := func() {
		t.Helper()
		if _, err := s.Fetch(t.Context(), f, []Source{stick}, func(p Progress) { sources = p.BySource }); err != nil {
			t.Fatal(err)
		}
		wantFile(t, s, f, want)
	}
	fetch()
	fetch()
	if sources != nil {
		t.Errorf("a whole file: got it from %v again, want it read only", sources)
	}
	err := errors.Join(os.Chmod(s.Path(f.SHA256), 0o600), os.WriteFile(s.Path(f.SHA256), []byte("rotten"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	fetch()
	if sources["directory"] != f.Size {
		t.Errorf("a rotten file: got it from %v, want all of it from the directory", sources)
	}
}

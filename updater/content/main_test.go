package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/updater/release"
)

// childEnv makes the test binary a child that can be killed or confined: "KIND DIR".
const childEnv = "BOTHY_CONTENT_CHILD"

func TestMain(m *testing.M) {
	kind, dir, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		os.Exit(m.Run())
	}
	if err := child(kind, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const childSize = 200 << 20

// child fetches forever-known bytes into a store in dir.
func child(kind, dir string) error {
	if kind == "power" {
		return leftTwice(dir)
	}
	if kind == "full" {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
			return fmt.Errorf("cannot mount a small disk: %w", err)
		}
	}
	s, err := Open(dir)
	if err != nil {
		return err
	}
	b := patterned(childSize)
	f, x := fileOf(b)
	_, err = s.Fetch(context.Background(), f, []Source{&memory{data: b, index: x}}, func(p Progress) {
		fmt.Println(p.State, p.Done)
	})
	free, ferr := s.Free()
	fmt.Printf("end %v free %d %v\n", err, free, ferr)
	return nil
}

func startChild(t *testing.T, kind, dir string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	out := &bytes.Buffer{}
	cmd.Env, cmd.Stderr = append(os.Environ(), childEnv+"="+kind+" "+dir), out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, out
}

// patterned is n bytes that are cheap to make; every MiB differs.
func patterned(n int) []byte {
	b := bytes.Repeat(noise(9, 1<<16), n>>16)
	for i := 0; i < n; i += BlockSize {
		b[i], b[i+1] = byte(i>>20), byte(i>>28)
	}
	return b
}

func fileOf(b []byte) (release.File, []byte) {
	x, err := BuildIndex(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		panic(err) // a bytes.Reader cannot fail
	}
	sum := sha256.Sum256(b)
	return release.File{Path: "m.gguf", Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:]), IndexSHA256: x.SHA256()}, x.Encode()
}

// memory is a source with everything at hand, that can be told to lie.
type memory struct {
	name  string
	data  []byte
	index []byte
	edit  func(k Block, b []byte) error // changes a block, or ends the source
	asked int
}

func (m *memory) Name() string {
	if m.name == "" {
		return "memory"
	}
	return m.name
}

func (m *memory) Index(context.Context, release.File) ([]byte, error) {
	if m.index == nil {
		return nil, ErrNotFound
	}
	return m.index, nil
}

func (m *memory) Blocks(ctx context.Context, _ release.File, want []Block, sink Sink) error {
	m.asked++
	for _, k := range want {
		b := sink.Buffer(k.Length)
		copy(b, m.data[k.Offset:])
		if m.edit != nil {
			if err := m.edit(k, b); err != nil {
				return err
			}
		}
		if err := sink.Deliver(k, b); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func openStore(tb testing.TB) *Store {
	tb.Helper()
	return openAt(tb, tb.TempDir())
}

func openAt(tb testing.TB, dir string) *Store {
	tb.Helper()
	s, err := Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// wantFile fails unless the store has exactly these bytes and nothing partial.
func wantFile(tb testing.TB, s *Store, f release.File, want []byte) {
	tb.Helper()
	got, err := os.ReadFile(s.Path(f.SHA256))
	if err != nil || !bytes.Equal(got, want) {
		tb.Fatalf("got %d bytes (%v), want %d", len(got), err, len(want))
	}
	if rest, err := s.Partial(); err != nil || len(rest) != 0 {
		tb.Errorf("got partial files %v (%v), want none", rest, err)
	}
	if x, err := s.Index(f.SHA256); err != nil || x.SHA256() != f.IndexSHA256 {
		tb.Errorf("its index is not there: %v", err)
	}
}

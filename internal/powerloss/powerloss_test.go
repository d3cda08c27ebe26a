package powerloss

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestMain makes the test binary the command that is recorded.
func TestMain(m *testing.M) {
	act, dir := os.Getenv("POWERLOSS_CHILD"), os.Getenv("POWERLOSS_DIR")
	if act == "" {
		os.Exit(m.Run())
	}
	if err := acts()[act](dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// acts are small programs; what a disk may hold after each is known.
func acts() map[string]func(dir string) error {
	return map[string]func(string) error{
		"replaced without a sync": func(dir string) error { return replace(dir, false) },
		"replaced with a sync":    func(dir string) error { return replace(dir, true) },
		"two sectors": func(dir string) error {
			return written(dir, func(f *os.File) error {
				_, err := f.WriteAt([]byte(strings.Repeat("n", 2*sector)), 0)
				return err
			})
		},
		"smaller, then larger": func(dir string) error {
			return written(dir, func(f *os.File) error { return errors.Join(f.Truncate(1), f.Truncate(3)) })
		},
		"given space": func(dir string) error {
			return written(dir, func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 2*sector+1) })
		},
		"copied by the kernel": func(dir string) error {
			return written(dir, func(f *os.File) error {
				to, err := os.Create(filepath.Join(dir, "copy"))
				if err != nil {
					return err
				}
				_, err = to.ReadFrom(f)
				return errors.Join(err, to.Sync())
			})
		},
		"a promise": func(dir string) error {
			fmt.Println("ack nothing yet")
			err := written(dir, func(*os.File) error { return nil })
			fmt.Println("ack it is there")
			return err
		},
	}
}

// written makes the file f of two sectors of "o", durably, and goes on with it.
func written(dir string, then func(*os.File) error) error {
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strings.Repeat("o", 2*sector))
	if err = errors.Join(err, f.Sync(), syncFolder(dir)); err != nil {
		return err
	}
	if _, err = f.Seek(0, 0); err != nil {
		return err
	}
	fmt.Println("ack written")
	return then(f)
}

func replace(dir string, sync bool) error {
	return written(dir, func(*os.File) error {
		f, err := os.Create(filepath.Join(dir, "new"))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteString("nnnn"); err != nil {
			return err
		}
		if sync {
			err = f.Sync()
		}
		return errors.Join(err, os.Rename(f.Name(), filepath.Join(dir, "f")))
	})
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// found records the act and answers what its file f may be once it was written, in short, and the promises.
func found(t *testing.T, act string) (contents, acks []string) {
	t.Helper()
	dir := t.TempDir()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "POWERLOSS_CHILD="+act, "POWERLOSS_DIR="+dir)
	r := Record(t, dir, command)
	set, said := map[string]bool{}, map[string]bool{}
	r.States(t, 20, 1, func(s State) {
		body, err := os.ReadFile(filepath.Join(s.Dir, "f"))
		said[fmt.Sprintf("%s: %v", strings.Join(s.Acks, ", "), err == nil)] = true
		if slices.Contains(s.Acks, "written") {
			set[short(body, err)] = true
		}
		if want, err := os.ReadFile(filepath.Join(dir, "f")); s.Final && (err != nil || string(want) != string(body)) {
			t.Errorf("got %s at the end, want what the command left: %s", short(body, nil), short(want, err))
		}
	})
	return slices.Sorted(maps.Keys(set)), slices.Sorted(maps.Keys(said))
}

// short writes runs of one byte as the byte and their length: "o1024".
func short(body []byte, err error) string {
	if err != nil {
		return "gone"
	}
	var out strings.Builder
	for len(body) > 0 {
		rest := strings.TrimLeft(string(body), string(body[0]))
		c := string(body[0])
		if body[0] == 0 {
			c = "0x"
		}
		fmt.Fprintf(&out, "%s%d", c, len(body)-len(rest))
		body = []byte(rest)
	}
	return out.String()
}

func TestStatesAreThoseThatADiskMayHold(t *testing.T) {
	for act, want := range map[string][]string{
		"replaced without a sync": {"", "n4", "o1024"}, // the name may come before the data
		"replaced with a sync":    {"n4", "o1024"},
		"two sectors":             {"n1024", "n512o512", "o1024", "o512n512"},
		"smaller, then larger":    {"o1", "o1024", "o10x2", "o3"},
		"given space":             {"o1024", "o10240x1"},
		"copied by the kernel":    {"o1024"},
	} {
		t.Run(act, func(t *testing.T) {
			if got, _ := found(t, act); !cmp.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestPromisesComeWithTheStatesAfterThem(t *testing.T) {
	_, got := found(t, "a promise")
	want := []string{
		"nothing yet, written, it is there: true", "nothing yet, written: true", "nothing yet: false", "nothing yet: true",
	}
	if !cmp.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestATraceThatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, line := range []string{
		`7 pwrite64(3</x>, "raw", 3, 0) = 3`,
		`7 fsync(x) = 0`,
		`7 openat(AT_FDCWD</>, "\x2f", O_RDONLY) = 3</raw>`,
	} {
		err := parse(strings.NewReader(line+"\n"), func(c call) error {
			p := newPlayer("/x")
			p.open[3] = &open{file: &file{}}
			_, err := p.play(c)
			return err
		})
		if err == nil {
			t.Errorf("got no error for %s", line)
		}
	}
}

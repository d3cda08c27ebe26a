package updater

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// installed is a box on its first want, to be copied; and how many fault points
// a life has that brings the second.
func installed(t *testing.T) (dir string, points int64) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "box")
	for want := range uint64(2) {
		if err := writeSite(dir+".site", want+1); err != nil {
			t.Fatal(err)
		}
	}
	first := boxLife{Dir: dir, Want: 1}.lives(t)
	if got := told(first, "end"); got != "committed "+childBox(1) {
		t.Fatalf("got %q, want the first set committed", got)
	}
	second := boxLife{Dir: copyBox(t, dir), Want: 2}.lives(t)
	points, err := strconv.ParseInt(told(second, "points"), 10, 64)
	if err != nil || points < 40 {
		t.Fatalf("got %q, want at least 40 points", second)
	}
	return dir, points
}

// copyBox copies a box whose process has ended, with its site by name only.
func copyBox(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "box")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+".site", to+".site"); err != nil {
		t.Fatal(err)
	}
	return to
}

// recovers lives once more, unharmed, and looks at what the box comes to.
func recovers(t *testing.T, dir, when string) {
	t.Helper()
	out := boxLife{Dir: dir, Want: 2}.lives(t)
	narrowed := "chat=mote@1/llama@1 policy=plant@2+plant@1"
	if got := told(out, "started"); got != childBox(1) && got != narrowed && got != childBox(2) {
		t.Errorf("%s: got %q right after the start, want all old or all new", when, got)
	}
	if got := told(out, "end"); got != "committed "+childBox(2) {
		t.Errorf("%s: got %q, want the second set committed\n%s", when, got, out)
	}
}

// TestKill9AtEveryPointEndsFullyOldOrFullyNew kills the whole process, with its
// store, its transfer and its locks: at every point with BOTHY_SOAK=1, at every
// seventh without.
func TestKill9AtEveryPointEndsFullyOldOrFullyNew(t *testing.T) {
	t.Parallel()
	dir, points := installed(t)
	step := int64(7)
	if os.Getenv("BOTHY_SOAK") != "" {
		step = 1
	}
	for n := int64(1); n <= points; n += step {
		box := copyBox(t, dir)
		cmd, out := boxLife{Dir: box, Want: 2, KillAt: n}.start(t)
		err := cmd.Wait()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			if n > points-3 { // two lives need not take the same number of steps
				continue
			}
			t.Fatalf("point %d: got %v, want it killed\n%s", n, err, out)
		}
		recovers(t, box, fmt.Sprint("killed at point ", n))
	}
}

// A kill from outside comes at no point that we know of.
func TestKill9AtAnyMomentEndsFullyOldOrFullyNew(t *testing.T) {
	t.Parallel()
	dir, _ := installed(t)
	for _, after := range []time.Duration{5, 20, 40, 60, 90, 130} {
		box := copyBox(t, dir)
		cmd, _ := boxLife{Dir: box, Want: 2}.start(t)
		timer := time.AfterFunc(after*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		recovers(t, box, fmt.Sprint("killed after ", after*time.Millisecond))
	}
}

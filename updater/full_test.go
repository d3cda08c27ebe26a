package updater

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// ballasts is how many bytes the disk has left when a want comes, in turn.
func ballasts() []int64 { return []int64{0, 8 << 10, 64 << 10, 512 << 10, childModel + 64<<10} }

// full lives on a small disk that is full whenever a new want comes, and has
// room again later. What ran must go on meanwhile.
func (l boxLife) full() error {
	if err := unix.Mount("tmpfs", l.Dir, "tmpfs", 0, fmt.Sprintf("size=%dm", l.Disk)); err != nil {
		return fmt.Errorf("cannot mount a small disk: %w", err)
	}
	// The site lies beside the disk, not on it.
	first := boxLife{Dir: l.Dir, Want: 1}
	if err := first.live(); err != nil {
		return err
	}
	for i, spare := range ballasts() {
		if err := (boxLife{Dir: l.Dir}).fills(uint64(i)+1, spare); err != nil {
			return fmt.Errorf("with %d bytes left: %w", spare, err)
		}
	}
	return nil
}

// fills brings the next want on a disk with so many bytes left, and makes room a while later.
func (l boxLife) fills(before uint64, spare int64) error {
	p, err := l.open(before + 1)
	if err != nil {
		return err
	}
	free, err := p.artifacts.Free()
	if err != nil {
		return err
	}
	ballast := filepath.Join(l.Dir, "ballast")
	f, err := os.Create(ballast)
	if err == nil && free > spare {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, free-spare), f.Close())
	}
	if err != nil {
		return err
	}
	var waited string
	time.AfterFunc(700*time.Millisecond, func() {
		fmt.Printf("meanwhile %s\n", p.w.state())
		_ = os.Remove(ballast)
	})
	err = p.brings(before+1, func(c Change) {
		if c.State == Paused {
			waited = c.Reason
		}
	})
	fmt.Printf("waited for %q\n", waited)
	return errors.Join(err, p.close())
}

func TestFullDiskCostsNothingThatRuns(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "box")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range len(ballasts()) + 1 {
		if err := writeSite(dir+".site", uint64(i)+1); err != nil {
			t.Fatal(err)
		}
	}
	out := boxLife{Dir: dir, Disk: 24}.lives(t)
	var ends, meanwhile []string
	for line := range strings.Lines(out) {
		if box, ok := strings.CutPrefix(strings.TrimSpace(line), "end committed "); ok {
			ends = append(ends, box)
		}
		if box, ok := strings.CutPrefix(strings.TrimSpace(line), "meanwhile "); ok {
			meanwhile = append(meanwhile, box)
		}
	}
	for i := range len(ballasts()) + 1 {
		if !slices.Contains(ends, childBox(uint64(i)+1)) {
			t.Errorf("got no end on set %d\n%s", i+1, out)
		}
	}
	for i, box := range meanwhile {
		if box != childBox(uint64(i)+1) {
			t.Errorf("got %q while the disk was full, want what ran before: %q\n%s", box, childBox(uint64(i)+1), out)
		}
	}
	if !strings.Contains(out, `waited for "nospace"`) {
		t.Errorf("got no change that waited for space\n%s", out)
	}
}

// Every write of the journal fails in turn with a full disk, and all that follow
// for ten minutes; then there is room again.
func TestNoSpaceAtEveryWriteHoldsTheChangeNotTheBox(t *testing.T) {
	plain := plainMove()
	writes := 0
	synctest.Test(t, func(t *testing.T) { writes = fullFrom(t, plain, -1) })
	if writes < 20 {
		t.Fatalf("got %d writes, want at least 20", writes)
	}
	for n := range writes {
		t.Run(fmt.Sprint("write ", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { fullFrom(t, plain, n) })
		})
	}
}

// fullFrom brings a set while the journal has no room from its n-th write on, and answers how many writes there were.
func fullFrom(t *testing.T, m move, n int) (writes int) {
	w := newWorld(t)
	var full, armed bool
	a := w.start(func(c *Config) {
		c.Healthy = func(context.Context) error { return w.serves(m) }
	})
	a.brings(1, m.before)
	w.mu.Lock()
	armed = true
	w.full = func(Change) bool {
		if !armed {
			return false
		}
		writes++
		if writes == n+1 {
			full = true
			time.AfterFunc(10*time.Minute, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				full, armed = false, false
			})
		}
		return full
	}
	w.mu.Unlock()
	w.assign(2, m.after)
	a.Offer()
	if n >= 0 {
		<-time.After(5 * time.Minute)
		if err := w.serves(m); err != nil {
			t.Errorf("while the disk is full: %v", err)
		}
	}
	<-time.After(time.Hour)
	c := a.newest()
	if c.Want.Counter != 2 || c.State != Committed || w.state() != m.new {
		t.Errorf("got change %d %s (%s), box %q, want %q committed", c.ID, c.State, c.Error, w.state(), m.new)
	}
	if len(w.candidates) != 0 {
		t.Errorf("got candidates %v left over", w.candidates)
	}
	if err := a.end(); err != nil {
		t.Error(err)
	}
	return writes
}

// serves says what is wrong with the box between two sets: an alias of both must be served.
func (w *world) serves(m move) error {
	state := w.state()
	for part := range strings.FieldsSeq(m.before) {
		alias, _, _ := strings.Cut(part, "=")
		if strings.Contains(m.after, alias+"=") && alias != "engine" && !strings.Contains(state, alias+"=") {
			return fmt.Errorf("%s is gone: %q", alias, state)
		}
	}
	return nil
}

// Every act fails in turn for want of space; later there is some.
func TestNoSpaceInEveryActIsTriedAgain(t *testing.T) {
	var acts []string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		n := len(w.log)
		a.brings(2, after)
		acts = w.log[n:]
		_ = a.end()
	})
	for _, act := range acts {
		if act == "refresh" || act == "keep" {
			continue
		}
		t.Run(act, func(t *testing.T) {
			inBubble(t, func(w *world, a *agent) {
				a.brings(1, before)
				w.breakAct(act, fmt.Errorf("cannot write: %w", syscall.ENOSPC))
				w.assign(2, after)
				a.Offer()
				<-time.After(time.Minute)
				synctest.Wait()
				if err := w.serves(plainMove()); err != nil {
					t.Errorf("while the disk is full: %v", err)
				}
				c := a.newest()
				if paused := c.State == Paused && c.Reason == reasonNoSpace; !paused && (c.State != Undone || c.Code != codeNoSpace) {
					t.Errorf("got %s (%s%s), want it to wait for space", c.State, c.Reason, c.Code)
				}
				w.mend()
				<-time.After(2 * spaceRest)
				expect(t, "end", a.newest().State, Committed)
				expect(t, "box", w.state(), stateAfter)
			})
		})
	}
}

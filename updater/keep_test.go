package updater

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// shelved writes what is kept and why: "mote@1 running,pinned; ...".
func shelved(a *agent) string {
	a.w.t.Helper()
	all, err := a.Kept()
	if err != nil {
		a.w.t.Fatal(err)
	}
	var parts []string
	for _, k := range all {
		parts = append(parts, k.Path+" "+strings.Join(k.Why, ","))
	}
	return strings.Join(parts, "; ")
}

func TestEveryArtifactHasAReasonToStay(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, "chat=mote@1 policy=plant@1")
		a.brings(2, "chat=mote@2 policy=plant@1")
		expect(t, "after two", shelved(a), "mote@2 running; plant@1 running,previous; mote@1 previous")
		w.breakAct("probe chat=mote@3", errBroken)
		a.brings(3, "chat=mote@3 policy=plant@2")
		expect(t, "after an undo", shelved(a), "mote@2 running; plant@1 running,previous; mote@1 previous; plant@2 narrowing")
		expect(t, "on the disk", w.kept, "[mote@1 mote@2 plant@1 plant@2]")
		w.mend()
		w.hold("fetch mote@4")
		w.assign(4, "chat=mote@4 policy=plant@1")
		a.Offer()
		a.reaches(Fetching)
		expect(t, "on the way", shelved(a), "mote@2 running; plant@1 running,previous,change 4; mote@1 previous; plant@2 narrowing; mote@4 change 4")
	})
}

func TestPinnedReleaseStaysUntilItIsUnpinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t)
		a := w.start()
		a.brings(1, "chat=mote@1")
		if err := a.Pin(ctx, "mote@1"); err != nil {
			t.Fatal(err)
		}
		a.brings(2, "chat=mote@2")
		a.brings(3, "chat=mote@3")
		expect(t, "kept", w.kept, "[mote@1 mote@2 mote@3]")
		_ = a.end()
		a = w.start()
		synctest.Wait()
		expect(t, "after a restart", shelved(a), "mote@3 running; mote@2 previous; mote@1 pinned")
		if err := a.Unpin(ctx, "mote@1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, "after unpin", w.kept, "[mote@2 mote@3]")
		for _, what := range []string{"mote@9", "0123", ""} {
			if err := a.Pin(ctx, what); err == nil || !strings.Contains(err.Error(), "artifact list") {
				t.Errorf("got %v for a pin of %q", err, what)
			}
		}
		digest := w.assign(3, "chat=mote@3").Models["chat"].Files[0].SHA256
		if err := a.Pin(ctx, "sha256:"+digest[:12]); err != nil {
			t.Error(err)
		}
		expect(t, "pinned by digest", shelved(a), "mote@3 running,pinned; mote@2 previous")
		if err := a.Unpin(ctx, "mote@2"); err == nil {
			t.Error("what is not pinned was unpinned")
		}
		_ = a.end()
	})
}

func TestPreviousSetIsGivenUpWhenAnOperatorSaysSo(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, "chat=mote@1")
		a.brings(2, "chat=mote@2")
		if err := a.DropPrevious(w.t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, "kept", w.kept, "[mote@2]")
		expect(t, "box", w.state(), "chat=mote@2 policy=built-in")
		expect(t, "back to it", a.brings(3, "chat=mote@1").State, Committed)
	})
}

// The disk holds three models, no more.
func TestPreviousSetGivesWayForSpaceOnlyWhereThatIsAllowed(t *testing.T) {
	for _, giveUp := range []bool{false, true} {
		inBubble(t, func(w *world, a *agent) {
			a.brings(1, "chat=mote@1")
			a.brings(2, "chat=mote@2")
			w.assign(3, "chat=mote@3 embed=gist@1")
			a.Offer()
			<-time.After(time.Hour)
			synctest.Wait()
			c := a.newest()
			expect(t, "waited", strings.Contains(path(c), string(Paused)), true)
			if !giveUp {
				expect(t, "not allowed", fmt.Sprint(c.State, " ", c.Reason), "paused nospace")
				expect(t, "what ran before stays", w.kept, "[mote@1 mote@2]")
				if err := a.DropPrevious(w.t.Context()); err != nil {
					t.Fatal(err)
				}
				c = a.ended(c.ID)
			}
			expect(t, "end", c.State, Committed)
			expect(t, "kept", w.kept, "[gist@1 mote@2 mote@3]")
		}, func(c *Config) {
			c.GiveUpPrevious = giveUp
			w := c.Fetcher.(*world)
			c.Preflight = inThree(w)
		})
	}
}

// inThree is a preflight on a disk that holds three models, those kept among them.
func inThree(w *world) func(context.Context, release.Want, int64) error {
	return func(_ context.Context, want release.Want, need int64) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		kept := 0
		for _, name := range w.kept {
			if _, err := os.Stat(w.blob(release.File{SHA256: w.digest(name)})); err == nil {
				kept++
			}
		}
		if free := 3 - kept; len(want.Models) > 1 && free < 2 && need > 0 {
			return fmt.Errorf("%w: %d free", content.ErrNoSpace, free)
		}
		return nil
	}
}

func TestListedSizesAreThoseOnTheDisk(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, "chat=mote@1")
		w.breakAct("fetch gist@1", content.ErrNoSpace)
		w.assign(2, "chat=mote@1 embed=gist@1")
		a.Offer()
		a.reaches(Paused)
		all, err := a.Kept()
		if err != nil {
			t.Fatal(err)
		}
		var sizes []string
		for _, k := range all {
			sizes = append(sizes, fmt.Sprint(k.Path, " ", k.Taken, "/", k.Size))
		}
		expect(t, "sizes", sizes, "[mote@1 6/6 gist@1 0/6]")
	})
}

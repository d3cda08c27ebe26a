package updater

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

func TestStoreThatCannotBeWrittenHoldsTheChangeNotTheBox(t *testing.T) {
	var full atomic.Bool
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		open := w.hold("prepare chat=mote@2")
		w.assign(2, after)
		a.Offer()
		a.reaches(Switching)
		full.Store(true)
		open()
		<-time.After(time.Hour)
		expect(t, "box meanwhile", w.state(), stateBefore)
		full.Store(false)
		c := a.ended(a.newest().ID)
		expect(t, "end", c.State, Committed)
		expect(t, "prepared", w.did("prepare chat=mote@2"), 1)
		expect(t, "candidates left", len(w.candidates), 0)
	}, func(c *Config) {
		c.Report = func(*store.Tx, Change) error {
			if full.Load() {
				return syscall.ENOSPC
			}
			return nil
		}
	})
}

// The attempt cannot be written at the start: the change stands, the box serves what ran.
func TestStartWithAStoreThatCannotBeWrittenServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		open := w.hold("prepare chat=mote@2")
		w.assign(2, after)
		a.Offer()
		a.reaches(Switching)
		a.end()
		open()
		var full atomic.Bool
		full.Store(true)
		a = w.start(func(c *Config) {
			c.Report = func(*store.Tx, Change) error {
				if full.Load() {
					return syscall.ENOSPC
				}
				return nil
			}
		})
		<-time.After(time.Hour)
		expect(t, "box meanwhile", w.state(), "chat=mote@1 gone=old@1 policy=plant@2+plant@1")
		expect(t, "brought up", w.did("restore chat=mote@1"), 1)
		full.Store(false)
		c := a.ended(2)
		expect(t, "end", fmt.Sprint(c.State, c.Attempts), fmt.Sprint(Committed, 1))
		a.end()
	})
}

func TestWantThatCannotBeStoredIsHeardAgain(t *testing.T) {
	var full atomic.Bool
	full.Store(true)
	inBubble(t, func(w *world, a *agent) {
		w.assign(1, before)
		if err := a.Check(context.Background()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v, want %v", err, syscall.ENOSPC)
		}
		full.Store(false)
		a.reaches(Watch)
		expect(t, "end", a.ended(a.newest().ID).State, Committed)
	}, func(c *Config) {
		c.Report = func(*store.Tx, Change) error {
			if full.Load() {
				return syscall.ENOSPC
			}
			return nil
		}
	})
}

func TestLostArtifactIsFetchedAgain(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		want := w.assign(1, before)
		a.brings(1, before)
		if err := os.Remove(w.blob(want.Models["chat"].Primary())); err != nil {
			t.Fatal(err)
		}
		c := a.brings(1, before)
		expect(t, "change", fmt.Sprint(c.ID, c.State), "2committed")
		expect(t, "fetched", w.did("fetch mote@1"), 2)
		expect(t, "box", w.state(), stateBefore)
	})
}

func TestFileThatRottedSinceItCameIsFetchedAgain(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		a.brings(2, after)
		want := w.assign(3, before)
		if err := os.WriteFile(w.blob(want.Models["chat"].Primary()), []byte("rotten"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := a.brings(3, before)
		expect(t, "change", c.State, Committed)
		expect(t, "fetched", w.did("fetch mote@1"), 2)
	})
}

func TestPolicyThatCannotBeReadAllowsThisBoxOnly(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":    os.Remove,
		"changed": func(path string) error { return os.WriteFile(path, []byte("anything@9"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.start()
				want := w.assign(1, before)
				a.brings(1, before)
				_ = a.end()
				if err := damage(w.blob(want.Policy.Primary())); err != nil {
					t.Fatal(err)
				}
				w.breakAct("refresh", errBroken)
				a = w.start()
				synctest.Wait()
				expect(t, "local only", w.localOnly, true)
				expect(t, "box", w.state(), "chat=mote@1 gone=old@1 policy=built-in")
				_ = a.end()
			})
		})
	}
}

// An older copy of the store may hold a wider policy, of any name, than the one
// that was in force when the store was lost.
func TestStoreThatWasPutBackWidensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		a.end()
		w.breakAct("refresh", errBroken)
		putBack := func(c *Config) { c.PutBack = true }
		for _, edit := range []func(*Config){putBack, func(*Config) {}} { // and the next start knows
			a = w.start(edit)
			synctest.Wait()
			expect(t, "offline", w.state(), "chat=mote@1 gone=old@1 policy=plant@1+built-in")
			expect(t, "this box only", w.localOnly, true)
			a.end()
		}
		w.mend()
		a = w.start()
		synctest.Wait()
		expect(t, "the fleet says the same", w.state(), stateBefore)
		a.end()

		w.assign(2, after)
		a = w.start(putBack)
		a.reaches(Watch)
		expect(t, "on watch", w.state(), stateAfter+"+built-in")
		expect(t, "the fleet says another", a.ended(2).State, Committed)
		synctest.Wait()
		expect(t, "after its last word", w.state(), stateAfter)
		a.end()
	})
}

// The process may be killed between the restore and the journal's note of it.
func TestRestoreThatNobodyNotedWidensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		if _, err := a.db.Snapshot(context.Background()); err != nil {
			t.Fatal(err)
		}
		a.end()
		if err := os.Truncate(w.path, 4096); err != nil {
			t.Fatal(err)
		}
		db, report, err := store.Open(context.Background(), store.Options{Path: w.path})
		if err != nil || report.Restored == "" {
			t.Fatalf("got %+v, %v, want the store restored", report, err)
		}
		if err := db.Close(); err != nil { // here the process ended
			t.Fatal(err)
		}
		w.breakAct("refresh", errBroken)
		for _, life := range []string{"the start after", "and the next"} {
			var restored bool
			a = w.start(func(c *Config) { restored = c.PutBack })
			synctest.Wait()
			expect(t, life+": this box only", w.localOnly, true)
			expect(t, life+": told by the store", restored, life == "the start after")
			a.end()
		}
	})
}

func TestPolicyBelowItsMarkIsLocalOnly(t *testing.T) {
	below := false
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		edit := func(c *Config) {
			c.BelowMark = func(d release.Document) bool { return below && d.Kind == release.Policy }
		}
		a := w.start(edit)
		a.brings(1, before)
		expect(t, "local only", w.localOnly, false)
		_ = a.end()
		below = true
		a = w.start(edit)
		synctest.Wait()
		expect(t, "local only below the mark", w.localOnly, true)
		_ = a.end()
	})
}

package updater

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// What a start cannot write down is not judged: the box serves what ran before,
// and the set on watch is not the one that would be found healthy.
func TestWatchThatAStartCannotWriteDownIsNotCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.assign(2, after)
		a.Offer()
		a.reaches(Watch)
		_ = a.end()
		w.fill(Watch)
		a = w.start()
		<-time.After(time.Hour)
		synctest.Wait()
		expect(t, "while there is no room", fmt.Sprint(a.newest().State, " ", a.Current().Want.Counter), "watch 1")
		w.mend()
		expect(t, "end", a.ended(2).State, Committed)
		synctest.Wait()
		expect(t, "box", w.state(), stateAfter)
		_ = a.end()
	})
}

// Where something else of the agent fails again and again, the change may be why.
func TestStopForAnotherCauseCostsAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		open := w.hold("prepare chat=mote@2")
		w.assign(2, after)
		a.Offer()
		for range maxAttempts {
			a.reaches(Switching)
			a.fail(errBroken)
			_ = a.end()
			a = w.start()
		}
		c := a.ended(2)
		open()
		expect(t, "end", string(c.State)+" "+c.Code, "undone crash")
		_ = a.end()
	})
}

// A clock that was years ahead when a want was undone for want of space must not
// put the next try off by years.
func TestRestAfterAFullDiskOutlivesNoClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ahead := 10 * 365 * 24 * time.Hour
		a := w.start(func(c *Config) { c.Now = func() time.Time { return time.Now().Add(ahead) } })
		a.brings(1, before)
		w.breakAct("prepare chat=mote@2", syscall.ENOSPC)
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code, "undone nospace")
		_ = a.end()
		w.mend()
		a = w.start()
		<-time.After(2 * spaceRest)
		synctest.Wait()
		expect(t, "tried again", a.newest().State, Committed)
		_ = a.end()
	})
}

func TestEveryTaskHasItsOwnTriesToBeUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sick := false
		a := w.start(func(c *Config) {
			c.Healthy = func(context.Context) error {
				if sick {
					return errBroken
				}
				return nil
			}
		})
		a.brings(1, "chat=mote@1 embed=gist@1")
		sick = true
		left := map[string]int{"restore embed=gist@1": 2, "restore chat=mote@1": 2}
		w.mu.Lock()
		w.broken = func(act string) error {
			if left[act] == 0 {
				return nil
			}
			left[act]--
			return errBroken
		}
		w.mu.Unlock()
		c := a.brings(2, "chat=mote@2 embed=gist@2")
		expect(t, "end", string(c.State)+" "+c.Error, "undone not healthy during the watch: broken")
		expect(t, "box", w.state(), "chat=mote@1 embed=gist@1 policy=built-in")
		_ = a.end()
	})
}

// What nothing needs goes before what ran before, also where a stop cut its collection off.
func TestCollectionThatWasCutOffComesBeforeThePreviousSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		giveUp := func(c *Config) { c.GiveUpPrevious = true }
		a := w.start(giveUp)
		a.brings(1, "chat=mote@1")
		a.brings(2, "chat=mote@2")
		open := w.hold("keep")
		a.brings(3, "chat=mote@3")
		w.assign(4, "chat=mote@4")
		a.Offer()
		a.reaches(Planned)
		_ = a.end()
		open()
		w.mu.Lock()
		w.broken = func(act string) error {
			if _, err := os.Stat(filepath.Join(w.dir, w.digest("mote@1"))); err == nil && act == "fetch mote@4" {
				return syscall.ENOSPC
			}
			return nil
		}
		w.mu.Unlock()
		held := w.hold("prepare chat=mote@4")
		a = w.start(giveUp)
		a.reaches(Switching)
		expect(t, "kept", shelved(a), "mote@3 running; mote@2 previous; mote@4 change 4")
		held()
		_ = a.end()
	})
}

func TestPinDuringACollectionTellsWhatIsLeft(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, "chat=mote@1")
		a.brings(2, "chat=mote@2")
		open := w.hold("keep")
		a.brings(3, "chat=mote@3")
		pinned := make(chan error, 1)
		go func() { pinned <- a.Pin(context.Background(), "mote@1") }()
		synctest.Wait()
		open()
		if err := <-pinned; err == nil {
			t.Errorf("got mote@1 pinned, which is gone: %v", w.kept)
		}
		expect(t, "kept", shelved(a), "mote@3 running; mote@2 previous")
	})
}

// A change in an older copy of the store may have been cancelled since.
func TestChangeOfAStoreThatWasPutBackWaitsForTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.assign(2, after+" approval")
		a.Offer()
		c := a.reaches(Waiting)
		_ = a.end()
		w.breakAct("refresh", errBroken)
		a = w.start(func(c *Config) { c.PutBack = true })
		synctest.Wait()
		expect(t, "the old change", a.newest().State, Superseded)
		w.mend()
		a.Offer()
		expect(t, "what the fleet says", a.reaches(Waiting).ID, c.ID+1)
		_ = a.end()
	})
}

// A policy file that the disk changed is brought again, and no model is started anew for it.
func TestPolicyThatRottedIsFetchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		want := w.assign(1, before)
		a.brings(1, before)
		_ = a.end()
		if err := os.WriteFile(w.blob(want.Policy.Primary()), []byte("anything@9"), 0o600); err != nil {
			t.Fatal(err)
		}
		a = w.start()
		synctest.Wait()
		a.brings(1, before)
		expect(t, "box", w.state(), stateBefore)
		expect(t, "fetched", w.did("fetch plant@1"), 2)
		expect(t, "prepared", w.did("prepare chat=mote@1"), 1)
		_ = a.end()
	})
}

// A newer set may name a model that runs already and whose file is lost.
func TestLostFileOfAModelThatStaysIsServedAnew(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		first := w.assign(1, "chat=mote@1 embed=gist@1")
		a.brings(1, "chat=mote@1 embed=gist@1")
		remove(t, w.blob(first.Models["embed"].Primary()))
		expect(t, "end", a.brings(2, "chat=mote@2 embed=gist@1").State, Committed)
		expect(t, "prepared", w.did("prepare embed=gist@1"), 2)
	})
}

func TestMarksThatCouldNotBeRaisedAreRaisedAtTheNextLook(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, "chat=mote@1")
		expect(t, "at the commit", w.marked, "[]")
		if err := a.Check(context.Background()); err != nil {
			t.Fatal(err)
		}
		expect(t, "after a look", w.marked, "[mote@1]")
	}, func(c *Config) {
		fails, raise := 1, c.Installed
		c.Installed = func(docs ...release.Document) error {
			if len(docs) > 0 && fails > 0 {
				fails--
				return syscall.ENOSPC
			}
			return raise(docs...)
		}
	})
}

// What is unwell is noted when switching begins, however long the fetch took, and after a restart.
func TestBaselineIsTakenBeforeAnythingIsTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		edit := func(c *Config) { c.Baseline = func() { _ = w.act(context.Background(), "baseline") } }
		a := w.start(edit)
		a.brings(1, "chat=mote@1")
		open := w.hold("prepare chat=mote@2")
		w.assign(2, "chat=mote@2")
		a.Offer()
		a.reaches(Switching)
		_ = a.end()
		open()
		a = w.start(edit)
		a.ended(2)
		var acts []string
		for _, act := range w.log {
			if act == "baseline" || strings.HasPrefix(act, "prepare") {
				acts = append(acts, act)
			}
		}
		expect(t, "acts", acts, "[baseline prepare chat=mote@1 baseline prepare chat=mote@2 baseline prepare chat=mote@2]")
		_ = a.end()
	})
}

// Anybody who has the broker can send an offer that is refused.
func TestARefusedOfferHidesNoChangeUnderWay(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		w.assign(1, "chat=mote@1 approval")
		a.Offer()
		c := a.reaches(Waiting)
		w.refusal = &trust.Refusal{Code: trust.Rollback, Offer: "0", Subject: "want 0", Err: errBroken}
		_ = a.Check(context.Background())
		expect(t, "newest", a.newest().State, Refused)
		latest, ok, err := a.Latest()
		expect(t, "latest", fmt.Sprint(latest.ID, latest.State, ok, err), fmt.Sprint(c.ID, Waiting, true, nil))
		if err := a.Cancel(context.Background(), c.ID); err != nil {
			t.Fatal(err)
		}
		latest, _, _ = a.Latest()
		expect(t, "without one", latest.State, Refused)
	})
}

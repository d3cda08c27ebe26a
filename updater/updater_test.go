package updater

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// inBubble runs a test in virtual time over a fresh world and ends its agent.
func inBubble(t *testing.T, test func(w *world, a *agent), edit ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start(edit...)
		test(w, a)
		if err := a.end(); err != nil {
			t.Error(err)
		}
	})
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestWantIsCommitted(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		c := a.brings(2, after)
		expect(t, "history", path(c), "planned preflight fetching verified staged switching watch committed")
		expect(t, "box", w.state(), stateAfter)
		expect(t, "running", a.Current().Want.String(), stateAfter)
		expect(t, "previous", a.Current().Previous.String(), stateBefore)
		expect(t, "marks", w.marked, "[mote@2 gist@1 plant@2]")
		expect(t, "kept", w.kept, "[gist@1 mote@1 mote@2 old@1 plant@1 plant@2]")
		expect(t, "progress", c.Progress.Done, c.Progress.Total)
		a.brings(3, "chat=mote@3")
		expect(t, "kept after one more", w.kept, "[gist@1 mote@2 mote@3 plant@2]")
		expect(t, "box without a policy", w.state(), "chat=mote@3 policy=built-in")
	})
}

func TestNothingIsDoneTwice(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		prepared := w.did("prepare")
		a.brings(2, before)
		expect(t, "prepared", w.did("prepare"), prepared)
		expect(t, "counter of what runs", a.Current().Want.Counter, 2)
		a.brings(3, "chat=mote@1 gone=old@2 policy=plant@1")
		expect(t, "prepared for one changed alias", w.did("prepare"), prepared+1)
	})
}

func TestRestartBringsBackWhatRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		_ = a.end()
		collected := w.did("keep")
		w.breakAct("refresh", errBroken)
		a = w.start()
		synctest.Wait()
		expect(t, "box", w.state(), stateBefore)
		expect(t, "collected before a want was heard", w.did("keep")-collected, 0)
		_ = a.end()
	})
}

func TestLostStoreIsRebuiltFromArtifactsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		_ = a.end()
		for _, name := range []string{w.path, w.path + ".initialised", w.path + ".clean"} {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		fetched := w.did("fetch")
		a = w.start()
		synctest.Wait()
		c := a.ended(a.newest().ID)
		expect(t, "end", c.State, Committed)
		expect(t, "fetched again", w.did("fetch")-fetched, 0)
		expect(t, "box", w.state(), stateBefore)
		_ = a.end()
	})
}

func TestFailedAcceptanceIsUndoneNarrowedAndRemembered(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.breakAct("probe chat=mote@2", errors.New("said no"))
		c := a.brings(2, after)
		expect(t, "history", path(c), "planned preflight fetching verified staged switching undoing undone")
		expect(t, "code", c.Code, codeAcceptance)
		expect(t, "error", c.Error, "cannot probe chat: said no")
		expect(t, "box", w.state(), stateNarrowed)
		expect(t, "marks", w.marked, "[mote@1 old@1 plant@1]")
		w.mend()
		expect(t, "same order again", a.brings(2, after).ID, c.ID)
		again := a.brings(3, after)
		expect(t, "a new order of the same set", again.State, Committed)
		expect(t, "box", w.state(), stateAfter)
	})
}

func TestNarrowingSurvivesRestartsAndEndsWithTheNextWant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.breakAct("probe chat=mote@2", errBroken)
		a.brings(2, after)
		_ = a.end()
		a = w.start()
		synctest.Wait()
		expect(t, "box after a restart", w.state(), stateNarrowed)
		expect(t, "narrowing policy is kept", slices.Contains(w.kept, "plant@2"), true)
		w.breakAct("probe chat=mote@3", errBroken)
		a.brings(3, "chat=mote@3 gone=old@1 policy=plant@3")
		expect(t, "two undone", w.state(), stateNarrowed+"+plant@3")
		w.mend()
		c := a.brings(4, before)
		expect(t, "the old set ordered anew", c.State, Committed)
		expect(t, "box", w.state(), stateBefore)
		_ = a.end()
	})
}

func TestPoliciesAreNeverWiderThanBothWhileSwitching(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		open := w.hold("switch chat=mote@2")
		w.assign(2, after)
		a.Offer()
		a.reaches(Switching)
		expect(t, "policies before the first switch", w.state(), "chat=mote@1 gone=old@1 policy=plant@2+plant@1")
		open()
		a.ended(a.newest().ID)
	})
}

func TestUnhealthyWatchIsUndone(t *testing.T) {
	var sick atomic.Bool
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.assign(2, after)
		a.Offer()
		a.reaches(Watch)
		expect(t, "box on watch", w.state(), stateAfter)
		sick.Store(true)
		c := a.ended(a.newest().ID)
		expect(t, "end", c.State, Undone)
		expect(t, "code", c.Code, codeWatch)
		expect(t, "box", w.state(), stateNarrowed)
	}, func(c *Config) {
		c.Healthy = func(context.Context) error {
			if sick.Load() {
				return errBroken
			}
			return nil
		}
	})
}

func TestWatchLastsAsLongAsItShall(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		c := a.brings(1, before)
		var began, ended time.Time
		for _, h := range c.History {
			if h.State == Watch {
				began = h.At
			}
			ended = h.At
		}
		expect(t, "watch", ended.Sub(began), 25*time.Second)
	}, func(c *Config) { c.WatchFor, c.WatchEvery = 25*time.Second, 10*time.Second })
}

func TestRefusedOfferIsRecordedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.refusal = &trust.Refusal{Code: trust.BadSignature, Subject: "director targets", Offer: "7/3", Err: errBroken}
		for range 3 {
			if err := a.Check(context.Background()); trust.CodeOf(err) != trust.BadSignature {
				t.Fatalf("got %v, want the refusal", err)
			}
		}
		_ = a.end()
		a = w.start()
		synctest.Wait()
		c := a.newest()
		expect(t, "state and code", string(c.State)+" "+c.Code, "refused bad-signature")
		expect(t, "number", c.ID, 2)
		expect(t, "seen", c.Seen, 4)
		expect(t, "box", w.state(), stateBefore)
		w.refusal = &trust.Refusal{Code: trust.BadSignature, Subject: "director targets", Offer: "8/3", Err: errBroken}
		_ = a.Check(context.Background())
		expect(t, "another offer", a.newest().ID, 3)
		_ = a.end()
	})
}

func TestRefusedOffersCannotPushTheHistoryOut(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		for i := range keepRefused + 20 {
			w.refusal = &trust.Refusal{Code: trust.Malformed, Subject: "x", Offer: fmt.Sprint(i), Err: errBroken}
			_ = a.Check(context.Background())
		}
		all, err := a.List()
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "records", len(all), keepRefused+1)
		expect(t, "oldest", all[len(all)-1].State, Committed)
	})
}

// Whoever owns the broker can poke as often as they like.
func TestRefusedOffersComeEverMoreRarely(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.refusal = &trust.Refusal{Code: trust.BadSignature, Subject: "x", Offer: "1", Err: errBroken}
		looks := w.did("refresh")
		for range 3600 {
			a.Offer()
			<-time.After(time.Second)
		}
		if got := w.did("refresh") - looks; got < 10 || got > 40 {
			t.Errorf("got %d looks in an hour of poking, want some and few", got)
		}
		w.refusal = nil
		w.assign(2, after)
		a.Offer()
		<-time.After(2 * retryCap)
		expect(t, "a good offer is found all the same", a.newest().State, Committed)
		w.refusal = &trust.Refusal{Code: trust.BadSignature, Subject: "x", Offer: "2", Err: errBroken}
		a.Offer()
		synctest.Wait()
		looks = w.did("refresh")
		_ = a.Check(w.t.Context())
		expect(t, "an operator does not wait", w.did("refresh"), looks+1)
	})
}

// A disk that is full for the engines is no fault of the want.
func TestWantUndoneForWantOfSpaceIsTriedAgain(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.breakAct("prepare chat=mote@2", fmt.Errorf("cannot make its folder: %w", syscall.ENOSPC))
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code, "undone nospace")
		expect(t, "box", w.state(), stateNarrowed)
		expect(t, "at once", a.brings(2, after).ID, c.ID)
		w.mend()
		<-time.After(2 * spaceRest)
		expect(t, "later", fmt.Sprint(a.newest().ID, a.newest().State), fmt.Sprint(c.ID+1, Committed))
		expect(t, "box", w.state(), stateAfter)
	})
}

func TestPolicyThatDoesNotHoldIsRefusedBeforeAnythingSwitches(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.breakAct("stage plant@2", errors.New("probe 3 says local"))
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code, "refused policy")
		expect(t, "error", c.Error, "policy plant@2 refused: probe 3 says local")
		expect(t, "box", w.state(), stateBefore)
		expect(t, "prepared of it", w.did("prepare chat=mote@2"), 0)
	})
}

func TestModelsWithoutTheSignatureThatAPolicyAsksForAreRefusedBeforeAnythingSwitches(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.breakAct("prove plant@2", errors.New("mote@2 carries none"))
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code, "refused provenance")
		expect(t, "error", c.Error, "mote@2 carries none")
		expect(t, "box", w.state(), stateBefore)
		expect(t, "prepared of it", w.did("prepare chat=mote@2"), 0)
	})
}

func TestFetchIsTriedAgainWithGrowingPauses(t *testing.T) {
	for cause, reason := range map[error]string{errBroken: reasonNetwork, syscall.ENOSPC: reasonNoSpace} {
		inBubble(t, func(w *world, a *agent) {
			a.brings(1, before)
			w.breakAct("fetch mote@2", fmt.Errorf("cannot write: %w", cause))
			w.assign(2, after)
			a.Offer()
			for range 5 {
				c := a.reaches(Paused)
				expect(t, "reason", c.Reason, reason)
				for tries := w.did("fetch mote@2"); w.did("fetch mote@2") == tries; {
					<-time.After(100 * time.Millisecond)
				}
				synctest.Wait()
			}
			expect(t, "box meanwhile", w.state(), stateBefore)
			w.mend()
			c := a.ended(a.newest().ID)
			expect(t, "end", c.State, Committed)
			expect(t, "error of a change that ended well", c.Error, "")
		})
	}
}

func TestLongOutageKeepsTheHistoryShortAndTheChangeAlive(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		w.breakAct("fetch mote@1", errBroken)
		w.assign(1, before)
		a.Offer()
		a.reaches(Fetching)
		<-time.After(12 * time.Hour)
		tries := w.did("fetch mote@1")
		if tries < 100 || tries > 400 {
			t.Errorf("got %d tries in twelve hours", tries)
		}
		w.mend()
		c := a.ended(a.newest().ID)
		expect(t, "end", c.State, Committed)
		if len(c.History) > maxHistory || c.History[0].State != Planned {
			t.Errorf("got %d entries of history, the first %s", len(c.History), c.History[0].State)
		}
	})
}

func TestFileThatIsNotWhatWasSignedEndsTheChange(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.breakAct("fetch mote@2", fmt.Errorf("index: %w", content.ErrMismatch))
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code, "failed mismatch")
		expect(t, "box", w.state(), stateBefore)
		w.mend()
		expect(t, "the same order", a.brings(2, after).ID, c.ID)
	})
}

func TestPreflightWaitsOrEnds(t *testing.T) {
	var verdict error
	var need int64
	inBubble(t, func(w *world, a *agent) {
		verdict = fmt.Errorf("engine busy: %w", ErrWait)
		w.assign(1, before)
		a.Offer()
		expect(t, "reason", a.reaches(Paused).Reason, reasonFit)
		expect(t, "bytes to fetch", need, len("mote@1")+len("old@1")+len("plant@1"))
		verdict = nil
		expect(t, "end", a.ended(1).State, Committed)
		verdict = errors.New("needs 40 GiB of memory, this box has 8")
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code+" "+c.Error, "failed preflight needs 40 GiB of memory, this box has 8")
	}, func(c *Config) {
		c.Preflight = func(_ context.Context, _ release.Want, n int64) error { need = n; return verdict }
	})
}

// "upgrade the package first" must be worth following: the fleet's order is the same afterwards.
func TestWantThatTheBoxWasUnfitForIsTriedAgainAtTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		unfit := func(c *Config) {
			c.Preflight = func(context.Context, release.Want, int64) error { return errors.New("upgrade first") }
		}
		a := w.start(unfit)
		w.assign(1, before)
		c := a.brings(1, before)
		expect(t, "end", c.State, Failed)
		expect(t, "again in this process", a.brings(1, before).ID, c.ID)
		a.end()
		a = w.start()
		a.reaches(Watch)
		expect(t, "after the upgrade", a.ended(2).State, Committed)
		a.end()
	})
}

// A fetch takes the space of its whole file when it begins. Were that counted
// again after a pause, a model of more than half the free disk would never come.
func TestSpaceThatAFetchHasTakenIsNotAskedForTwice(t *testing.T) {
	const room = int64(len("mote@1") + len("plant@1"))
	inBubble(t, func(w *world, a *agent) {
		w.breakAct("fetch mote@1", errBroken)
		w.assign(1, "chat=mote@1 embed=mote@1 policy=plant@1")
		a.Offer()
		expect(t, "reason", a.reaches(Paused).Reason, reasonNetwork)
		w.mu.Lock()
		w.taken = map[string]int64{"mote@1": int64(len("mote@1"))}
		w.mu.Unlock()
		w.mend()
		expect(t, "end", a.ended(1).State, Committed)
	}, func(c *Config) {
		c.Preflight = func(_ context.Context, _ release.Want, need int64) error {
			w := c.Fetcher.(*world)
			w.mu.Lock()
			defer w.mu.Unlock()
			if free := room - w.taken["mote@1"]; need > free {
				return fmt.Errorf("%d bytes free, %d needed: %w", free, need, ErrWait)
			}
			return nil
		}
	})
}

func TestWhatASupersededFetchLeftGivesWay(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.breakAct("fetch mote@2", content.ErrNoSpace)
		w.assign(2, after)
		a.Offer()
		a.reaches(Paused)
		kept := w.did("keep")
		w.breakAct("fetch mote@3", content.ErrNoSpace)
		w.assign(3, "chat=mote@3")
		if err := a.Check(context.Background()); err != nil {
			t.Fatal(err)
		}
		expect(t, "new", a.reaches(Paused).ID, 3)
		<-time.After(time.Minute)
		expect(t, "collected while it waits", w.did("keep")-kept, 1)
		w.mu.Lock()
		defer w.mu.Unlock()
		expect(t, "kept", fmt.Sprint(w.kept), "[mote@1 mote@3 old@1 plant@1]")
	})
}

func TestNewerWantSupersedesOneThatHasNotSwitched(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.hold("fetch mote@2")
		w.assign(2, after)
		a.Offer()
		old := a.reaches(Fetching)
		c := a.brings(3, "chat=mote@3")
		expect(t, "newer", c.State, Committed)
		expect(t, "older", a.ended(old.ID).State, Superseded)
		expect(t, "box", w.state(), "chat=mote@3 policy=built-in")
	})
}

func TestNewerWantWaitsForOneThatSwitches(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		open := w.hold("prepare chat=mote@2")
		w.assign(2, after)
		a.Offer()
		first := a.reaches(Switching)
		w.assign(3, "chat=mote@3")
		if err := a.Check(context.Background()); err != nil {
			t.Fatal(err)
		}
		open()
		expect(t, "first", a.ended(first.ID).State, Committed)
		expect(t, "second", a.ended(first.ID+1).State, Committed)
		expect(t, "box", w.state(), "chat=mote@3 policy=built-in")
	})
}

func TestCancelPauseResume(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		ctx := context.Background()
		a.brings(1, before)
		open := w.hold("fetch mote@2")
		w.assign(2, after)
		a.Offer()
		c := a.reaches(Fetching)
		if err := a.Pause(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Hour)
		if c := a.newest(); c.State != Paused || c.Reason != reasonOperator {
			t.Errorf("got %s (%s) ten hours after a pause", c.State, c.Reason)
		}
		if err := a.Resume(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		a.reaches(Fetching)
		if err := a.Cancel(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		expect(t, "end", a.ended(c.ID).State, Cancelled)
		open()
		expect(t, "the same order", a.brings(2, after).ID, c.ID)
		if err := a.Cancel(ctx, c.ID); err == nil || !strings.Contains(err.Error(), "not under way") {
			t.Errorf("got %v for a change that has ended", err)
		}
	})
}

func TestSwitchWaitsForTheWindow(t *testing.T) {
	clock := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when every bubble's clock begins
	inBubble(t, func(w *world, a *agent) {
		w.assign(1, before+" window=22:00-04:00")
		a.Offer()
		c := a.reaches(Waiting)
		expect(t, "reason", c.Reason, reasonWindow)
		expect(t, "box", w.state(), " policy=built-in")
		c = a.ended(c.ID)
		expect(t, "end", c.State, Committed)
		for _, h := range c.History {
			if h.State == Switching && h.At.Hour() != 22 {
				t.Errorf("got a switch at %s, want it at 22:00", h.At)
			}
		}
	}, func(c *Config) { c.Now = func() time.Time { return clock.Add(time.Since(start)) } })
}

func TestSwitchThatHangsTimesOut(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.hold("prepare chat=mote@2")
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code, "undone switch")
		expect(t, "box", w.state(), stateNarrowed)
	}, func(c *Config) { c.SwitchFor = time.Minute })
}

func TestUndoThatFailsIsTriedAgainThenTold(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		w.mu.Lock()
		w.broken = func(act string) error {
			if act == "activate plant@2" || act == "restore chat=mote@1" {
				return errBroken
			}
			return nil
		}
		w.mu.Unlock()
		c := a.brings(2, after)
		expect(t, "end", string(c.State)+" "+c.Code, "failed undo")
		expect(t, "tries", w.did("restore chat=mote@1"), maxAttempts)
		if !strings.Contains(c.Error, "cannot undo switch chat: broken; undone because: cannot activate: broken") {
			t.Errorf("got error %q", c.Error)
		}
		expect(t, "the rest is back", w.state(), "chat=mote@2 gone=old@1 policy=plant@1+plant@2")
		expect(t, "what shall run", a.Current().Want.String(), stateBefore)
	})
}

// elsewhere is a second place to fetch from.
type elsewhere struct{ *world }

func (e elsewhere) Fetch(ctx context.Context, f release.File, progress func(content.Progress)) (string, error) {
	return e.blob(f), os.WriteFile(e.blob(f), e.remote[f.SHA256], 0o600)
}

func TestPlannedStopCostsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.assign(2, after)
		a.Offer()
		for range 6 {
			a.reaches(Watch)
			if err := a.end(); err != nil {
				t.Fatal(err)
			}
			a = w.start()
			synctest.Wait()
			expect(t, "box after the start", w.state(), stateAfter)
		}
		expect(t, "end", a.ended(a.newest().ID).State, Committed)
		_ = a.end()
	})
}

func TestUnreachableSourceIsAskedAgain(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		w.assign(1, before)
		w.breakAct("refresh", errBroken)
		if err := a.Check(context.Background()); !errors.Is(err, errBroken) {
			t.Fatalf("got %v, want %v", err, errBroken)
		}
		w.mend()
		expect(t, "end", a.reaches(Watch).State, Watch)
		a.ended(1)
	})
}

func TestOrdersAfterTheEndAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		synctest.Wait()
		a.stop()
		synctest.Wait()
		if err := a.Check(context.Background()); !errors.Is(err, errStopped) {
			t.Errorf("got %v, want %v", err, errStopped)
		}
		_ = a.end()
	})
}

func TestWaitNamesAChangeThatDoesNotExist(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		if _, err := a.Wait(context.Background(), 99); err == nil || !strings.Contains(err.Error(), "change 99") {
			t.Errorf("got %v", err)
		}
		if _, found, err := a.Show(99); found || err != nil {
			t.Errorf("got %v, %v", found, err)
		}
	})
}

func TestEveryStateIsReachedAndMostEnd(t *testing.T) {
	table := transitions()
	reached := map[State]bool{}
	for from, all := range table {
		for _, to := range all {
			reached[to] = true
			if to == from && to != Paused && to != Waiting {
				t.Errorf("%s goes to itself", from)
			}
		}
	}
	for from := range table {
		if from != "" && !reached[from] {
			t.Errorf("no transition leads to %s", from)
		}
	}
	for _, s := range []State{Committed, Undone, Refused, Cancelled, Superseded, Failed} {
		if !s.Ended() || !reached[s] {
			t.Errorf("%s: ended %v, reached %v", s, s.Ended(), reached[s])
		}
	}
	for _, s := range []State{Switching, Watch, Undoing} {
		if s.givesWay() {
			t.Errorf("%s can be superseded in the middle", s)
		}
	}
}

func TestTransitionOutsideTheTableIsAnInternalError(t *testing.T) {
	u := &Updater{change: &Change{ID: 5, State: Watch}}
	if err := u.move(Fetching, nil); !errors.Is(err, errInternal) || !fatal(err) {
		t.Errorf("got %v, want an internal error", err)
	}
}

package runtime

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func start(t *testing.T, b *bench) {
	t.Helper()
	if err := b.Start(t.Context(), fakeSpec()); err != nil {
		t.Fatal(err)
	}
}

func healthy(int) *fakeProcess { return &fakeProcess{} }

func TestReadyOnlyAfterLoadingAndARealAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(int) *fakeProcess { return &fakeProcess{loads: 40 * time.Second} })
		defer b.shut(t)
		began := time.Now()
		start(t, b)
		if err := b.EnsureReady(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 40*time.Second || took > 41*time.Second {
			t.Errorf("got ready after %v, want at once after loading for 40 s", took)
		}
		if b.at(1).asks != 1 {
			t.Errorf("got %d questions before ready, want 1", b.at(1).asks)
		}
	})
}

func TestCrashesAreRestartedWithBackoffUntilTheBudgetIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{BackoffMin: time.Second, BackoffMax: 4 * time.Second, CoolDown: time.Minute},
			func(n int) *fakeProcess {
				if n > 5 {
					return &fakeProcess{}
				}
				return &fakeProcess{loads: time.Hour, lives: 100 * time.Millisecond, says: "first\nno memory\n"}
			})
		defer b.shut(t)
		start(t, b)
		err := b.EnsureReady(t.Context(), "m")
		var failed *Failed
		if !errors.As(err, &failed) {
			t.Fatalf("got %v, want *Failed", err)
		}
		for _, want := range []string{`model "m"`, "exit status 7", "first | no memory"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %q, want it to say %q", err, want)
			}
		}
		var pauses []time.Duration
		for n := 2; n <= b.launches(); n++ {
			pause := b.at(n).launched.Sub(b.at(n-1).launched) - 100*time.Millisecond
			pauses = append(pauses, pause.Round(50*time.Millisecond))
		}
		// Jitter 0.5 gives three quarters of 1, 2, 4 and, capped, 4 seconds.
		if want := []time.Duration{750 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second, 3 * time.Second}; !slices.Equal(pauses, want) {
			t.Errorf("got pauses %v, want %v", pauses, want)
		}
		st := b.Status()[0]
		if st.Phase != PhaseFailed || st.Crashes != 5 || !slices.Contains(st.LastLines, "no memory") || !st.RetryAt.Equal(failed.Until) {
			t.Errorf("got %+v, want failed after 5 crashes, with its last lines", st)
		}
		if again := b.EnsureReady(t.Context(), "m"); !errors.As(again, &failed) || b.launches() != 5 {
			t.Errorf("got %v after %d launches, want the failure at once during the cool-down", again, b.launches())
		}
		<-time.After(time.Minute + time.Second)
		if err := b.EnsureReady(t.Context(), "m"); err != nil {
			t.Errorf("got %v after the cool-down, want it tried again and well", err)
		}
	})
}

func TestFailedAliasIsTriedEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(int) *fakeProcess { return &fakeProcess{refuse: errors.New("no such file")} })
		defer b.shut(t)
		start(t, b)
		<-time.After(time.Minute)
		if n := b.launches(); n != 5 {
			t.Errorf("got %d launches in the first minute, want the budget of 5", n)
		}
		<-time.After(2*time.Hour - time.Minute)
		// After the budget: one, two, four and eight minutes, then every ten: fourteen more in two hours.
		if n := b.launches(); n < 17 || n > 19 {
			t.Errorf("got %d launches in 2 h, want 18", n)
		}
		if st := b.State("m"); st.Phase != PhaseFailed || st.RetryAt.IsZero() || !strings.Contains(st.Error, "no such file") {
			t.Errorf("got %+v, want failed, with when it is tried again", st)
		}
	})
}

func TestRareCrashesDoNotSpendTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{CrashWindow: 10 * time.Minute}, func(int) *fakeProcess { return &fakeProcess{lives: 3 * time.Minute} })
		defer b.shut(t)
		start(t, b)
		<-time.After(2 * time.Hour)
		if err := b.EnsureReady(t.Context(), "m"); err != nil {
			t.Errorf("got %v, want it running after %d crashes, three in ten minutes", err, b.launches())
		}
		if n := b.launches(); n < 38 {
			t.Errorf("got %d launches in 2 h of crashes every 3 minutes", n)
		}
	})
}

func TestHungEngineIsKilledWithoutGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(n int) *fakeProcess {
			if n == 1 {
				return &fakeProcess{silentAt: time.Minute}
			}
			return &fakeProcess{}
		})
		defer b.shut(t)
		start(t, b)
		<-time.After(50 * time.Second)
		if b.launches() != 1 {
			t.Fatal("restarted before it hung")
		}
		<-time.After(40 * time.Second)
		if st := b.State("m"); st.Phase != PhaseReady || st.Generation != 2 {
			t.Errorf("got %+v, want a second generation within 30 s of the hang", st)
		}
		if got := b.at(1).stops(); got != "[0s]" {
			t.Errorf("got stops with grace %s, want one without", got)
		}
	})
}

func TestIdleEngineThatNoLongerComputesIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(n int) *fakeProcess {
			if n == 1 {
				return &fakeProcess{muteAt: 30 * time.Second}
			}
			return &fakeProcess{}
		})
		defer b.shut(t)
		start(t, b)
		<-time.After(15 * time.Minute)
		if st := b.State("m"); st.Phase != PhaseReady || st.Generation != 2 {
			t.Errorf("got %+v, want a second generation: the first was healthy and mute", st)
		}
	})
}

func TestBusyEngineIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(int) *fakeProcess { return &fakeProcess{muteAt: time.Second} })
		defer b.shut(t)
		start(t, b)
		l, err := b.Acquire(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour) // a question would queue behind the request for as long
		if b.launches() != 1 || b.at(1).asks != 1 {
			t.Errorf("got %d launches and %d questions, want 1 and the first alone", b.launches(), b.at(1).asks)
		}
		l.Done()
	})
}

func TestCandidateThatNeverAnswersIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		engine *fakeProcess
		want   string
	}{
		"loads for ever": {&fakeProcess{loads: time.Hour}, "not ready within 3m0s: the model is still loading"},
		"is mute":        {&fakeProcess{mute: true}, "not ready within 3m0s"},
		"dies":           {&fakeProcess{loads: time.Hour, lives: time.Second, says: "bad tensor"}, "exit status 7; it last wrote: bad tensor"},
		"answers badly":  {&fakeProcess{breaks: &refusal{"/v1/completions", 500, "NaN"}}, "status 500: NaN"},
		"cannot start":   {&fakeProcess{refuse: errors.New("no such file")}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Config{}, func(n int) *fakeProcess {
					if n == 1 {
						return &fakeProcess{}
					}
					return c.engine
				})
				defer b.shut(t)
				start(t, b)
				if err := b.EnsureReady(t.Context(), "m"); err != nil {
					t.Fatal(err)
				}
				next := fakeSpec()
				next.Release = "m@2"
				gen, err := b.Prepare(t.Context(), next)
				if err == nil || gen != 0 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "m@2") {
					t.Errorf("got generation %d and %v, want an error with %q", gen, err, c.want)
				}
				synctest.Wait()
				st := b.Status()[0]
				if st.Candidate != nil || st.Phase != PhaseReady || st.Current.Generation != 1 || st.Crashes != 0 {
					t.Errorf("got %+v, want the first generation as if nothing had been", st)
				}
				select {
				case <-b.at(2).done:
				default:
					t.Error("the candidate's process was left")
				}
			})
		})
	}
}

func TestSwitchDrainsTheOldGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{DrainTimeout: 10 * time.Minute}, healthy)
		defer b.shut(t)
		start(t, b)
		old, err := b.Acquire(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		gen, err := b.Prepare(t.Context(), fakeSpec())
		if err != nil {
			t.Fatal(err)
		}
		if l, _ := b.Acquire(t.Context(), "m"); l.Generation != 1 {
			t.Errorf("got generation %d before the switch, want 1", l.Generation)
		} else {
			l.Done()
		}
		for range 2 { // switching again to what is current is nothing
			if err := b.Switch(t.Context(), "m", gen); err != nil {
				t.Fatal(err)
			}
		}
		if l, _ := b.Acquire(t.Context(), "m"); l.Generation != gen {
			t.Errorf("got generation %d after the switch, want %d", l.Generation, gen)
		} else {
			l.Done()
		}
		<-time.After(9 * time.Minute)
		if b.at(1).stops() != "[]" {
			t.Error("the old generation was ended while a request held it")
		}
		old.Done()
		old.Done() // twice is nothing
		synctest.Wait()
		if st := b.Status()[0]; st.Draining != nil || b.at(1).stops() != "[5s]" {
			t.Errorf("got %+v and stops %s, want the old one ended politely", st, b.at(1).stops())
		}
	})
}

func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{DrainTimeout: time.Minute}, healthy)
		defer b.shut(t)
		start(t, b)
		if _, err := b.Acquire(t.Context(), "m"); err != nil { // never given back
			t.Fatal(err)
		}
		gen, err := b.Prepare(t.Context(), fakeSpec())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Switch(t.Context(), "m", gen); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		third, err := b.Prepare(t.Context(), fakeSpec()) // waits: an alias has two generations at most
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited < time.Minute || waited > 62*time.Second {
			t.Errorf("got a third generation after %v, want it to wait for the drain limit of 1m", waited)
		}
		if err := b.Discard(t.Context(), third); err != nil {
			t.Fatal(err)
		}
		if err := b.Discard(t.Context(), third); err != nil {
			t.Errorf("got %v for a generation that is gone, want nothing", err)
		}
		if err := b.Discard(t.Context(), gen); err == nil {
			t.Error("discarded the current generation")
		}
	})
}

func TestOnlyAReadyCandidateIsSwitchedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(n int) *fakeProcess {
			if n == 2 {
				return &fakeProcess{lives: 5 * time.Second}
			}
			return &fakeProcess{}
		})
		defer b.shut(t)
		start(t, b)
		if err := b.EnsureReady(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
		gen, err := b.Prepare(t.Context(), fakeSpec())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Prepare(t.Context(), fakeSpec()); err == nil || !strings.Contains(err.Error(), "being prepared already") {
			t.Errorf("got %v, want a refusal of a second candidate", err)
		}
		<-time.After(6 * time.Second)
		if err := b.Switch(t.Context(), "m", gen); err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("got %v, want a refusal of a candidate that died", err)
		}
		if err := b.Switch(t.Context(), "other", 1); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnknown", err)
		}
	})
}

func TestPrepareThatIsGivenUpLeavesNoCandidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(int) *fakeProcess { return &fakeProcess{loads: time.Hour} })
		defer b.shut(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := b.Prepare(ctx, fakeSpec()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the caller's deadline", err)
		}
		synctest.Wait()
		if st := b.Status()[0]; st.Candidate != nil || st.Phase != PhaseAbsent {
			t.Errorf("got %+v, want nothing left", st)
		}
	})
}

func TestSwitchRevivesAFailedAlias(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(n int) *fakeProcess {
			if n <= 5 {
				return &fakeProcess{loads: time.Hour, lives: time.Second}
			}
			return &fakeProcess{}
		})
		defer b.shut(t)
		start(t, b)
		if err := b.EnsureReady(t.Context(), "m"); err == nil {
			t.Fatal("got ready, want failed")
		}
		gen, err := b.Prepare(t.Context(), fakeSpec())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Switch(t.Context(), "m", gen); err != nil {
			t.Fatal(err)
		}
		if st := b.State("m"); st.Phase != PhaseReady || st.Error != "" {
			t.Errorf("got %+v, want ready and no error", st)
		}
	})
}

// A restart that was armed for a crashed generation must not fire after something else became current.
func TestSwitchDuringBackoffDisarmsTheRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{BackoffMin: time.Minute, BackoffMax: time.Minute}, func(n int) *fakeProcess {
			if n == 1 {
				return &fakeProcess{lives: time.Second}
			}
			return &fakeProcess{}
		})
		defer b.shut(t)
		start(t, b)
		<-time.After(2 * time.Second)
		if st := b.State("m"); st.Phase != PhaseBackoff || !st.Restarting || st.RetryAt.IsZero() || st.Error == "" {
			t.Fatalf("got %+v, want back-off with its reason", st)
		}
		gen, err := b.Prepare(t.Context(), fakeSpec())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Switch(t.Context(), "m", gen); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Minute)
		if b.launches() != 2 || b.State("m").Generation != gen {
			t.Errorf("got %d launches and %+v, want the switched generation alone", b.launches(), b.State("m"))
		}
	})
}

func TestStartIsIdempotentAndNeverReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, healthy)
		defer b.shut(t)
		start(t, b)
		start(t, b)
		other := fakeSpec()
		other.Release = "m@2"
		if err := b.Start(t.Context(), other); err == nil || !strings.Contains(err.Error(), "m@1") {
			t.Errorf("got %v, want a refusal that names what runs", err)
		}
		if err := b.EnsureReady(t.Context(), "m"); err != nil || b.launches() != 1 {
			t.Errorf("got %v and %d launches, want 1", err, b.launches())
		}
	})
}

func TestCloseWakesWaitersAndRefusesMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(int) *fakeProcess { return &fakeProcess{loads: time.Hour} })
		start(t, b)
		waited := make(chan error, 1)
		go func() { waited <- b.EnsureReady(context.Background(), "m") }()
		synctest.Wait()
		b.shut(t)
		if err := <-waited; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if err := b.Start(t.Context(), fakeSpec()); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if _, err := b.Acquire(t.Context(), "m"); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		b.shut(t) // twice is nothing
	})
}

func TestGenerationNumbersComeFromTheSeam(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := uint64(40)
		b := newBench(t, Config{NextGeneration: func() uint64 { next++; return next }}, healthy)
		b.cfg.probe = func(g *generation) prober { return b.at(int(g.number) - 40) }
		defer b.shut(t)
		start(t, b)
		if err := b.EnsureReady(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
		if gen, err := b.Prepare(t.Context(), fakeSpec()); err != nil || gen != 42 {
			t.Errorf("got generation %d (%v), want 42", gen, err)
		}
		if _, err := b.Inspect(43); err == nil {
			t.Error("got a lease on a generation that never was")
		}
	})
}

func TestRefusals(t *testing.T) {
	b := newBench(t, Config{Fit: func(s Spec) error {
		if s.Context > 1000 {
			return errors.New("it needs 9 GiB")
		}
		return nil
	}}, healthy)
	defer b.shut(t)
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"alias":   {func(s *Spec) { s.Alias = "--model" }, "not a model name"},
		"no file": {func(s *Spec) { s.Files = nil }, "names no file"},
		"path":    {func(s *Spec) { s.Files = []string{"model.gguf"} }, "not an absolute path"},
		"engine":  {func(s *Spec) { s.Engine = "other" }, `no engine of kind "other"`},
		"slots":   {func(s *Spec) { s.Slots = -1 }, "slots -1"},
		"context": {func(s *Spec) { s.Context = 1 << 40 }, "context 1099511627776 is outside"},
		"flag":    {func(s *Spec) { s.Flags = map[string]string{"port": "1"} }, `the flag "port"`},
		"memory":  {func(s *Spec) { s.Context = 2000 }, "it needs 9 GiB"},
	} {
		spec := fakeSpec()
		c.change(&spec)
		if _, err := b.Prepare(t.Context(), spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	if b.launches() != 0 {
		t.Errorf("got %d launches of refused specs", b.launches())
	}
	if st := b.State("never"); st.Phase != PhaseAbsent {
		t.Errorf("got %+v for an unknown alias, want absent", st)
	}
}

func TestFilesAreLookedAtBeforeEveryStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		var damaged atomic.Bool
		b := newBench(t, Config{Whole: func(Spec) error {
			if looks.Add(1); damaged.Load() {
				return errors.New("it is not what was signed")
			}
			return nil
		}}, func(n int) *fakeProcess { return &fakeProcess{lives: time.Minute} })
		defer b.shut(t)
		start(t, b)
		if err := b.EnsureReady(t.Context(), "m"); err != nil || looks.Load() != 1 {
			t.Fatalf("got %v after %d looks, want one look and an answer", err, looks.Load())
		}
		damaged.Store(true)
		<-time.After(2 * time.Minute)
		st := b.Status()[0]
		if b.launches() != 1 || looks.Load() < 2 || !strings.Contains(st.Error, "not what was signed") {
			t.Errorf("got %d starts, %d looks, %q: want no start of what was changed, and why", b.launches(), looks.Load(), st.Error)
		}
	})
}

package runtime

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// switched is a bench whose m@1 still has a request while m@2, without one, is current.
func switched(t *testing.T, cfg Config, script func(int) *fakeProcess) (*bench, *Lease) {
	t.Helper()
	b := newBench(t, cfg, script)
	start(t, b)
	old, err := b.Acquire(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	b.move(t, "m@2")
	return b, old
}

// move prepares and switches to another release.
func (b *bench) move(t *testing.T, release string) {
	t.Helper()
	next := fakeSpec()
	next.Release = release
	gen, err := b.Prepare(t.Context(), next)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Switch(t.Context(), "m", gen); err != nil {
		t.Fatal(err)
	}
}

func TestRecallBringsBackThePredecessorThatDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, old := switched(t, Config{DrainTimeout: 10 * time.Minute}, healthy)
		defer b.shut(t)
		other := fakeSpec()
		other.Release = "m@0"
		if back, err := b.Recall(t.Context(), other); back || err != nil {
			t.Errorf("got %v and %v for a release that does not drain, want nothing", back, err)
		}
		began := time.Now()
		if back, err := b.Recall(t.Context(), fakeSpec()); !back || err != nil {
			t.Fatalf("got %v and %v, want the predecessor back", back, err)
		}
		if took := time.Since(began); took > 0 || b.launches() != 2 {
			t.Errorf("going back took %v and %d launches, want none of either", took, b.launches()-2)
		}
		synctest.Wait()
		st := b.Status()[0]
		if st.Current.Generation != 1 || st.Phase != PhaseReady || st.Spec.Release != "m@1" || st.Draining != nil || b.at(2).stops() != "[5s]" {
			t.Errorf("got %+v, want generation 1 alone, the second ended politely", st)
		}
		if again, err := b.Recall(t.Context(), fakeSpec()); again || err != nil {
			t.Errorf("got %v and %v with nothing draining, want nothing", again, err)
		}
		old.Done()
		<-time.After(time.Hour) // neither its last request nor the limit of its drain ends it now
		if st := b.State("m"); st.Generation != 1 || st.Leases != 0 || b.at(1).stops() != "[]" {
			t.Errorf("got %+v and stops %s, want the recalled generation running", st, b.at(1).stops())
		}
	})
}

func TestDrainLimitCountsFromTheNewestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := switched(t, Config{DrainTimeout: 10 * time.Minute}, healthy) // the request is never given back
		defer b.shut(t)
		<-time.After(6 * time.Minute)
		if back, err := b.Recall(t.Context(), fakeSpec()); !back || err != nil {
			t.Fatalf("got %v and %v", back, err)
		}
		b.move(t, "m@3")
		<-time.After(6 * time.Minute)
		if b.at(1).stops() != "[]" {
			t.Error("the limit of the first drain ended the second")
		}
		<-time.After(5 * time.Minute)
		if got := b.at(1).stops(); got != "[5s]" {
			t.Errorf("got stops %s after the limit, want one", got)
		}
	})
}

func TestCrashedPredecessorIsNotRecalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		b, _ := switched(t, Config{Log: slog.New(slog.NewTextHandler(&said, nil))}, func(n int) *fakeProcess {
			if n == 1 {
				return &fakeProcess{lives: time.Minute}
			}
			return &fakeProcess{}
		})
		defer b.shut(t)
		<-time.After(2 * time.Minute)
		if back, err := b.Recall(t.Context(), fakeSpec()); back || err != nil {
			t.Errorf("got %v and %v, want nothing: it died while it drained", back, err)
		}
		if !strings.Contains(said.String(), "exit status 7") {
			t.Errorf("got the log %q, want it to say how the requests were cut", said.String())
		}
	})
}

// An idle engine is asked now and then, and a question behind a long check would go unanswered.
func TestLongAcceptanceCheckIsNotTakenForAHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, func(int) *fakeProcess { return &fakeProcess{muteAt: time.Second} })
		defer b.shut(t)
		gen, err := b.Prepare(t.Context(), fakeSpec())
		if err != nil {
			t.Fatal(err)
		}
		l, err := b.Inspect(gen)
		if err != nil || l.Generation != gen || l.Alias != "m" {
			t.Fatalf("got %+v (%v), want a lease on generation %d", l, err, gen)
		}
		<-time.After(time.Hour)
		if st := b.Status()[0]; st.Candidate == nil || st.Candidate.Leases != 1 || b.at(1).asks != 1 {
			t.Errorf("got %+v after %d questions, want the candidate left alone", st, b.at(1).asks)
		}
		if err := b.Discard(t.Context(), gen); err != nil || b.at(1).stops() != "[5s]" {
			t.Errorf("got %v and stops %s, want a check not to hold up Discard", err, b.at(1).stops())
		}
		l.Done()
		if _, err := b.Inspect(gen); err == nil {
			t.Error("got a lease on a generation that has ended")
		}
	})
}

func TestRoomIsJudgedOnceTheDrainIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		var judged []time.Duration
		began := time.Now()
		b, _ = switched(t, Config{DrainTimeout: time.Minute, Fit: func(Spec) error {
			judged = append(judged, time.Since(began).Round(time.Minute))
			return nil
		}}, healthy)
		defer b.shut(t)
		b.move(t, "m@3")
		if want := []time.Duration{0, time.Minute}; !slices.Equal(judged, want) {
			t.Errorf("room was judged at %v, want %v: what drains holds memory", judged, want)
		}
	})
}

func TestRefusedSpecLeavesNoFolder(t *testing.T) {
	b := newBench(t, Config{}, healthy)
	defer b.shut(t)
	spec := fakeSpec()
	spec.Flags = map[string]string{"port": "1"}
	if _, err := b.Prepare(t.Context(), spec); err == nil {
		t.Fatal("got a candidate with a flag that is not allowed")
	}
	if left, err := os.ReadDir(b.cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("got %v left (%v), want nothing", left, err)
	}
}

package updater

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The sets of the matrix. Both aliases change, one comes, one goes, and so does the policy.
const (
	before = "chat=mote@1 gone=old@1 policy=plant@1"
	after  = "chat=mote@2 embed=gist@1 policy=plant@2"

	stateBefore   = "chat=mote@1 gone=old@1 policy=plant@1"
	stateAfter    = "chat=mote@2 embed=gist@1 policy=plant@2"
	stateNarrowed = "chat=mote@1 gone=old@1 policy=plant@1+plant@2"
)

// move is a change from one set to another, and what the box is with each.
type move struct {
	before, after string // as a want writes itself
	old, new      string
}

// narrowed is the box on the old set under both policies.
func (m move) narrowed() string { return m.old + "+plant@2" }

// plainMove changes models and the policy, engineMove the engine as well: one
// model changes with it, the other stays and gets a new engine all the same.
func plainMove() move { return move{before, after, stateBefore, stateAfter} }
func engineMove() move {
	return move{
		"chat=mote@1 stays=rock@1 policy=plant@1 engine=llama@1", "chat=mote@2 stays=rock@1 policy=plant@2 engine=llama@2",
		"chat=mote@1/llama@1 stays=rock@1/llama@1 policy=plant@1", "chat=mote@2/llama@2 stays=rock@1/llama@2 policy=plant@2",
	}
}

// scenario is a change whose every fault point is crashed.
type scenario struct {
	name string
	move
	// plan prepares the world and answers what somebody does beside the agent at
	// every change of state, in each of its lives; nil when nobody does anything.
	plan func(w *world) func(a *agent)
	ends map[State]string // how the last change may end, and what the box is then
	last uint64           // counter of the last want
}

func nobody(*world) func(*agent) { return nil }

func breaking(act string, err error) func(*world) func(*agent) {
	return func(w *world) func(*agent) { w.breakAct(act, err); return nil }
}

// mending breaks an act and mends it once the change has come to this state.
func mending(act string, err error, state State) func(*world) func(*agent) {
	return func(w *world) func(*agent) {
		w.breakAct(act, err)
		return func(a *agent) {
			if c, ok := a.last(); ok && c.State == state {
				w.mend()
			}
		}
	}
}

// ordering holds an act back (none: "") and gives an order in a state.
func ordering(held string, state State, order func(a *agent, id uint64)) func(*world) func(*agent) {
	return func(w *world) func(*agent) {
		if held != "" {
			w.hold(held)
		}
		return func(a *agent) {
			if c, ok := a.last(); ok && c.State == state && c.Want.Counter == 2 {
				order(a, c.ID)
			}
		}
	}
}

// pausing pauses the change while it fetches and resumes it then, once.
func pausing(w *world) func(*agent) {
	open := w.hold("fetch mote@2")
	return func(a *agent) {
		c, ok := a.last()
		w.mu.Lock()
		held := w.gates["fetch mote@2"] != nil
		w.mu.Unlock()
		switch {
		case ok && held && c.State == Fetching:
			_ = a.Pause(context.Background(), c.ID)
		case ok && c.State == Paused && c.Reason == reasonOperator:
			open()
			w.mu.Lock()
			delete(w.gates, "fetch mote@2")
			w.mu.Unlock()
			_ = a.Resume(context.Background(), c.ID)
		}
	}
}

const third, stateThird = "chat=mote@3 policy=plant@3", "chat=mote@3 policy=plant@3"

func scenarios() []scenario {
	commits := func(m move) map[State]string { return map[State]string{Committed: m.new} }
	undone := func(m move) map[State]string { return map[State]string{Undone: m.narrowed()} }
	plain, engine := plainMove(), engineMove()
	policy := move{"chat=mote@1 policy=plant@1", "chat=mote@1 policy=plant@2", "chat=mote@1 policy=plant@1", "chat=mote@1 policy=plant@2"}
	approved := plain
	approved.after += " approval"
	ctx := context.Background()
	cancel := func(a *agent, id uint64) { _ = a.Cancel(ctx, id) }
	return []scenario{
		{"commits", plain, nobody, commits(plain), 2},
		{"acceptance fails", plain, breaking("probe embed=gist@1", errBroken), undone(plain), 2},
		{"second switch fails", plain, breaking("switch embed=gist@1", errBroken), undone(plain), 2},
		{"policy does not activate", plain, breaking("activate plant@2", errBroken), undone(plain), 2},
		{"engine commits", engine, nobody, commits(engine), 2},
		{"new engine fails an old model's acceptance", engine, breaking("probe stays=rock@1/llama@2", errBroken), undone(engine), 2},
		{"second switch to the engine fails", engine, breaking("switch stays=rock@1/llama@2", errBroken), undone(engine), 2},
		{"policy only", policy, nobody, commits(policy), 2},
		{"policy only, does not activate", policy, breaking("activate plant@2", errBroken), undone(policy), 2},
		{"policy is refused", plain, breaking("stage plant@2", errBroken), map[State]string{Refused: plain.old}, 2},
		{"cancelled while it fetches", plain, ordering("fetch mote@2", Fetching, cancel), map[State]string{Cancelled: plain.old}, 2},
		{"cancelled while it switches", plain, ordering("prepare chat=mote@2", Switching, cancel), undone(plain), 2},
		{"cancelled on watch", plain, ordering("", Watch, cancel), undone(plain), 2},
		{"paused and resumed", plain, pausing, commits(plain), 2},
		{"approved", approved, ordering("", Waiting, func(a *agent, id uint64) { _ = a.Approve(ctx, id) }), commits(plain), 2},
		{"superseded", plain, ordering("fetch mote@2", Fetching, func(a *agent, _ uint64) { a.w.assign(3, third); a.Offer() }),
			map[State]string{Committed: stateThird}, 3},
		{"superseded while it switches", plain, ordering("", Watch, func(a *agent, _ uint64) { a.w.assign(3, third); a.Offer() }),
			map[State]string{Committed: stateThird}, 3},
		{"no space to fetch", plain, mending("fetch mote@2", fmt.Errorf("cannot write: %w", syscall.ENOSPC), Paused), commits(plain), 2},
		{"no space to prepare", plain, mending("prepare chat=mote@2", fmt.Errorf("cannot write: %w", syscall.ENOSPC), Undone), commits(plain), 2},
	}
}

var errPowerCut = errors.New("power cut")

// last is the newest change, if there is one.
func (a *agent) last() (Change, bool) {
	all, err := a.List()
	if err != nil || len(all) == 0 {
		return Change{}, false
	}
	return all[0], true
}

// beside runs what somebody does beside the agent, until stop.
func (a *agent) beside(act func(*agent)) (stop func()) {
	if act == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			changed := a.Changed()
			act(a)
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}()
	return func() { cancel(); <-done }
}

// comes waits until the scenario's last change has ended as it may.
func (sc scenario) comes(a *agent) Change {
	a.w.t.Helper()
	deadline := time.After(24 * time.Hour)
	for {
		changed := a.Changed()
		c, _ := a.last()
		if _, fine := sc.ends[c.State]; fine && c.Want.Counter == sc.last {
			synctest.Wait()
			return c
		}
		select {
		case <-changed:
		case <-deadline:
			a.w.t.Fatalf("got change %d %s (%s), want the end %v of want %d; history %s", c.ID, c.State, c.Error, sc.ends, sc.last, path(c))
		}
	}
}

// points runs the scenario once and records every fault point of it.
func points(t *testing.T, sc scenario) []string {
	var mu sync.Mutex
	var seen []string
	recording := false
	record := func(on bool) {
		mu.Lock()
		defer mu.Unlock()
		recording = on
	}
	w := newWorld(t)
	a := w.start(func(c *Config) {
		c.Fault = func(point string) error {
			mu.Lock()
			defer mu.Unlock()
			if recording {
				seen = append(seen, point)
			}
			return nil
		}
	})
	a.brings(1, sc.before)
	stop := a.beside(sc.plan(w))
	w.assign(2, sc.after)
	record(true)
	a.Offer()
	c := sc.comes(a)
	record(false)
	stop()
	if w.state() != sc.ends[c.State] {
		t.Fatalf("got %s, %s without a crash, want %v", c.State, w.state(), sc.ends)
	}
	if err := a.end(); err != nil {
		t.Fatal(err)
	}
	return seen
}

// TestCrashAtEveryPointEndsFullyOldOrFullyNew crashes at every point that a
// scenario has and no scenario before it, and at every fourth of the others; at
// all of all scenarios with BOTHY_SOAK=1.
func TestCrashAtEveryPointEndsFullyOldOrFullyNew(t *testing.T) {
	t.Parallel()
	soak, known := os.Getenv("BOTHY_SOAK") != "", map[string]bool{}
	for k, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			var all []string
			synctest.Test(t, func(t *testing.T) { all = points(t, sc) })
			if len(all) < 12 {
				t.Fatalf("got %d fault points, want at least 12: %v", len(all), all)
			}
			missed := 0
			for n, point := range all {
				if !soak && known[point] && (n+k)%4 != 0 {
					continue
				}
				t.Run(fmt.Sprintf("%02d %s", n, point), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						if crashes := crashAt(t, sc, n); crashes != 1 {
							missed++
						}
					})
				})
			}
			for _, point := range all {
				known[point] = true
			}
			// Two lives need not take the same number of steps, nearly they do.
			if missed > 2 {
				t.Errorf("got %d of %d points that were not reached, want them crashed", missed, len(all))
			}
		})
	}
}

// TestCrashTwiceEndsFullyOldOrFullyNew crashes at a point, and again at a point
// of the life that follows: all pairs with BOTHY_SOAK=1, a sample without.
func TestCrashTwiceEndsFullyOldOrFullyNew(t *testing.T) {
	t.Parallel()
	const sample = 8
	soak := os.Getenv("BOTHY_SOAK") != ""
	for k, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			var all []string
			synctest.Test(t, func(t *testing.T) { all = points(t, sc) })
			pairs, again := 0, 0
			for i := range all {
				for j := range 2 * len(all) {
					// The sample is another one of each scenario and the same in every run.
					if !soak && (i*len(all)+j+7*k)%(len(all)*len(all)/sample) != 0 {
						continue
					}
					crashes := 0
					synctest.Test(t, func(t *testing.T) { crashes = crashAt(t, sc, i, j) })
					pairs++
					if crashes == 2 {
						again++
					} else if soak {
						break // the second life had no more points
					}
					if t.Failed() {
						t.Fatalf("crashed at %d %s, then at point %d", i, all[i], j)
					}
				}
			}
			t.Logf("soak: %s: %d pairs of %d points, %d crashed twice", sc.name, pairs, len(all), again)
			if again == 0 {
				t.Error("got no second crash in any pair")
			}
		})
	}
}

// crashAt kills the agent at a point of its life, starts it again, kills it at
// the next point, and so on, then looks at what it comes to. It answers how
// many of the points were reached.
func crashAt(t *testing.T, sc scenario, at ...int) (crashes int) {
	w := newWorld(t)
	// Far from the crash until it is armed. The loop and its worker both count.
	var left atomic.Int64
	left.Store(-1)
	faulty := func(c *Config) {
		c.Fault = func(string) error {
			if left.Add(-1) == -1 {
				return errPowerCut
			}
			return nil
		}
	}
	a := w.start(faulty)
	a.brings(1, sc.before)
	beside := sc.plan(w)
	w.assign(2, sc.after)
	for life, n := range at {
		if life > 0 {
			left.Store(int64(n))
			a = w.start(faulty)
		} else {
			left.Store(int64(n))
			a.Offer()
		}
		stop := a.beside(beside)
		select {
		case err := <-a.err:
			if !errors.Is(err, errPowerCut) {
				t.Fatalf("got %v, want the crash", err)
			}
			crashes++
			a.err <- nil
		case <-time.After(24 * time.Hour):
		}
		stop()
		_ = a.end()
	}
	sc.recovers(t, w, beside)
	return crashes
}

// recovers starts the agent without faults and looks at what the box comes to.
func (sc scenario) recovers(t *testing.T, w *world, beside func(*agent)) {
	a := w.start()
	synctest.Wait()
	if !sc.between(w.state()) {
		t.Errorf("got %q right after the start, want all old or all new", w.state())
	}
	stop := a.beside(beside)
	c := sc.comes(a)
	stop()
	if w.state() != sc.ends[c.State] {
		t.Errorf("got %s, %q, want %v; history %s; error %s", c.State, w.state(), sc.ends, path(c), c.Error)
	}
	old := sc.old == sc.ends[c.State] || sc.narrowed() == sc.ends[c.State]
	if got := a.Current().Want.String(); old != (got == sc.before) {
		t.Errorf("got %q as what runs after %s", got, c.State)
	}
	if len(w.candidates) != 0 {
		t.Errorf("got candidates %v left over", w.candidates)
	}
	if err := a.end(); err != nil {
		t.Error(err)
	}
}

// between says that a set is wholly old or wholly new; the old one may be narrowed.
func (m move) between(state string) bool {
	models, policies, _ := strings.Cut(state, " policy=")
	if old, _, _ := strings.Cut(m.old, " policy="); models == old {
		return strings.Contains(policies, "plant@1") || state == m.new
	}
	return state == m.new || state == stateThird || state == m.new+"+plant@3" || state == strings.Replace(m.new, "policy=", "policy=plant@3+", 1)
}

func TestCrashThatComesBackIsUndoneAfterThree(t *testing.T) {
	sc := scenarios()[0]
	for _, point := range []string{
		"before do prepare chat", "after do prepare chat", "before do switch chat", "after do switch embed",
		"after do activate", "before watch", "after store watch", "before store switching doing remove gone",
	} {
		t.Run(point, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.start()
				a.brings(1, before)
				_ = a.end()
				w.assign(2, after)
				crashes := 0
				for ; crashes < 10; crashes++ {
					a = w.start(func(c *Config) {
						c.Fault = func(p string) error {
							if p == point {
								return errPowerCut
							}
							return nil
						}
					})
					if c, crashed := a.endedOrCrashed(); !crashed {
						if c.State != Undone || c.Code != codeCrash || w.state() != stateNarrowed {
							t.Errorf("got %s (%s) %q after %d crashes", c.State, c.Code, w.state(), crashes)
						}
						_ = a.end()
						break
					}
					_ = a.end()
				}
				if crashes != maxAttempts {
					t.Errorf("got %d crashes before the change was undone (%s), want %d", crashes, sc.name, maxAttempts)
				}
			})
		})
	}
}

// endedOrCrashed waits until the second set's change has ended, or Run has.
func (a *agent) endedOrCrashed() (Change, bool) {
	for {
		changed := a.Changed()
		if c := a.newest(); c.Want.Counter == 2 && c.State.Ended() {
			synctest.Wait()
			return c, false
		}
		select {
		case err := <-a.err:
			a.err <- err
			return Change{}, true
		case <-changed:
		}
	}
}

// An undo that brings the agent down each time is given up, and the rest goes on.
func TestUndoThatCrashesTheAgentIsGivenUpAfterThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		_ = a.end()
		w.assign(2, after)
		w.breakAct("activate plant@2", errBroken)
		crashes := 0
		for ; crashes < 10; crashes++ {
			a = w.start(func(c *Config) {
				c.Fault = func(p string) error {
					if p == "before undo switch embed" {
						return errPowerCut
					}
					return nil
				}
			})
			c, crashed := a.endedOrCrashed()
			_ = a.end()
			if !crashed {
				expect(t, "end", string(c.State)+" "+c.Code, "failed undo")
				break
			}
		}
		expect(t, "crashes", crashes, maxAttempts)
		a = w.start()
		synctest.Wait()
		expect(t, "box after the next start", w.state(), stateNarrowed)
		_ = a.end()
	})
}

func TestPlannedStopWhileUndoingCostsNoTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.breakAct("activate plant@2", errBroken)
		open := w.hold("restore chat=mote@1")
		w.assign(2, after)
		a.Offer()
		for range 6 {
			a.reaches(Undoing)
			_ = a.end()
			a = w.start()
		}
		open()
		c := a.ended(2)
		expect(t, "end", fmt.Sprint(c.State, c.UndoAttempts), "undone0")
		expect(t, "box", w.state(), stateNarrowed)
		_ = a.end()
	})
}

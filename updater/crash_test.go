package updater

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
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
	breaks string // an act that fails; empty: none
	state  State  // its end
}

// want is what the box is in the end.
func (sc scenario) want() string {
	if sc.state == Committed {
		return sc.new
	}
	return sc.narrowed()
}

func (sc scenario) setUp(w *world) {
	if sc.breaks != "" {
		w.breakAct(sc.breaks, errBroken)
	}
}

func scenarios() []scenario {
	return []scenario{
		{"commits", plainMove(), "", Committed},
		{"acceptance fails", plainMove(), "probe embed=gist@1", Undone},
		{"second switch fails", plainMove(), "switch embed=gist@1", Undone},
		{"policy does not activate", plainMove(), "activate plant@2", Undone},
		{"engine commits", engineMove(), "", Committed},
		{"new engine fails an old model's acceptance", engineMove(), "probe stays=rock@1/llama@2", Undone},
		{"second switch to the engine fails", engineMove(), "switch stays=rock@1/llama@2", Undone},
	}
}

var errPowerCut = errors.New("power cut")

// points runs the scenario once and records every fault point of it.
func points(t *testing.T, sc scenario) []string {
	var mu sync.Mutex
	var seen []string
	recording := false
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
	sc.setUp(w)
	mu.Lock()
	recording = true
	mu.Unlock()
	c := a.brings(2, sc.after)
	mu.Lock()
	recording = false
	mu.Unlock()
	if c.State != sc.state || w.state() != sc.want() {
		t.Fatalf("got %s, %s without a crash, want %s, %s", c.State, w.state(), sc.state, sc.want())
	}
	if err := a.end(); err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestCrashAtEveryPointEndsFullyOldOrFullyNew(t *testing.T) {
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			var all []string
			synctest.Test(t, func(t *testing.T) { all = points(t, sc) })
			if len(all) < 40 {
				t.Fatalf("got %d fault points, want at least 40: %v", len(all), all)
			}
			for n, point := range all {
				t.Run(fmt.Sprintf("%02d %s", n, point), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { crashAt(t, sc, n) })
				})
			}
		})
	}
}

// crashAt kills the agent at the n-th point, starts it again and looks at what it comes to.
func crashAt(t *testing.T, sc scenario, n int) {
	w := newWorld(t)
	// Far from the crash until it is armed. The loop and its worker both count.
	var left atomic.Int64
	left.Store(-1)
	a := w.start(func(c *Config) {
		c.Fault = func(string) error {
			if left.Add(-1) == -1 {
				return errPowerCut
			}
			return nil
		}
	})
	a.brings(1, sc.before)
	sc.setUp(w)
	w.assign(2, sc.after)
	left.Store(int64(n))
	a.Offer()
	select {
	case err := <-a.err:
		if !errors.Is(err, errPowerCut) {
			t.Fatalf("got %v, want the crash", err)
		}
	case <-time.After(24 * time.Hour):
		t.Fatal("the point was not reached")
	}
	a.err <- nil
	_ = a.end()

	a = w.start()
	synctest.Wait()
	if !sc.between(w.state()) {
		t.Errorf("got %q right after the start, want all old or all new", w.state())
	}
	c := a.ended(lastPlanned(a))
	if c.State != sc.state || w.state() != sc.want() {
		t.Errorf("got %s, %q, want %s, %q; history %s; error %s", c.State, w.state(), sc.state, sc.want(), path(c), c.Error)
	}
	if got := a.Current().Want.String(); sc.state == Committed && got != sc.after || sc.state == Undone && got != sc.before {
		t.Errorf("got %q as what runs", got)
	}
	if len(w.candidates) != 0 {
		t.Errorf("got candidates %v left over", w.candidates)
	}
	if err := a.end(); err != nil {
		t.Error(err)
	}
}

// between says that a set is wholly old or wholly new; the policies may be narrowed.
func (m move) between(state string) bool {
	models, policies, _ := strings.Cut(state, " policy=")
	if old, _, _ := strings.Cut(m.old, " policy="); models == old {
		return policies == "plant@1" || policies == "plant@1+plant@2" || policies == "plant@2+plant@1"
	}
	return state == m.new
}

// lastPlanned is the change that brings the second set, made before the crash or after it.
func lastPlanned(a *agent) uint64 {
	deadline := time.After(24 * time.Hour)
	for {
		changed := a.Changed()
		if c := a.newest(); c.Want.Counter == 2 {
			return c.ID
		}
		select {
		case <-changed:
		case <-deadline:
			a.w.t.Fatal("no change was made of the second set")
		}
	}
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
		expect(t, "end", fmt.Sprint(c.State, c.UndoAttempts), "undone1")
		expect(t, "box", w.state(), stateNarrowed)
		_ = a.end()
	})
}

package updater

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/bothy-edge/bothy/updater/release"
)

// Where each policy of these tests lets requests run beside this box. The first
// is in force; the second allows less, the third more, the fourth something else.
func cloudOf(policy string) []string {
	return map[string][]string{"plant@1": {"a", "b"}, "plant@2": {"a"}, "plant@3": {"a", "b", "c"}, "plant@4": {"b", "c"}}[policy]
}

// leaves lists the places beside this box that the policies in force allow.
func (w *world) leaves() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return leaves(w.policies, w.localOnly)
}

func leaves(policies []string, localOnly bool) string {
	if localOnly || len(policies) == 0 {
		return ""
	}
	all := cloudOf(policies[0])
	for _, p := range policies[1:] {
		all = slices.DeleteFunc(slices.Clone(all), func(place string) bool { return !slices.Contains(cloudOf(p), place) })
	}
	return strings.Join(all, " ")
}

// within says that every place of a list is in the other.
func within(list, of string) bool {
	for place := range strings.FieldsSeq(list) {
		if !slices.Contains(strings.Fields(of), place) {
			return false
		}
	}
	return true
}

// marks makes the world remember versions outside the store, as the slots do.
func (w *world) marks(c *Config) {
	c.BelowMark = func(d release.Document) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, id := range w.marked {
			if name, version, err := release.ParseID(id); err == nil && name == d.Name && d.Version < version {
				return true
			}
		}
		return false
	}
}

// downfall is a way in which a change to a policy is undone.
type downfall struct {
	name   string
	breaks func(w *world)
	beside func(a *agent)
}

func downfalls(policy string) []downfall {
	act := func(name string) downfall {
		return downfall{name + " fails", func(w *world) { w.breakAct(name, errBroken) }, nil}
	}
	cancel := func(state State, held string) downfall {
		return downfall{"cancelled while " + string(state), func(w *world) {
			if held != "" {
				w.hold(held)
			}
		}, func(a *agent) {
			if c, ok := a.last(); ok && c.State == state && c.Want.Counter == 2 {
				_ = a.Cancel(context.Background(), c.ID)
			}
		}}
	}
	return []downfall{
		act("prepare chat=mote@2"), act("probe chat=mote@2"), act("switch chat=mote@2"), act("activate " + policy),
		act("healthy"), cancel(Switching, "prepare chat=mote@2"), cancel(Watch, ""),
	}
}

// TestUndoNeverUndoesANarrowing holds the eligible places after an undo to the
// intersection of both policies, from both sides: a policy that allowed less was
// undone, and one that allowed more. It must hold after a restart, and more than
// it may never be allowed after whatever becomes of the store.
func TestUndoNeverUndoesANarrowing(t *testing.T) {
	for policy, both := range map[string]string{"plant@2": "a", "plant@3": "a b", "plant@4": "b"} {
		for _, fall := range downfalls(policy) {
			t.Run(policy+"/"+fall.name, func(t *testing.T) {
				for _, later := range []func(*testing.T, *world, string){restarted, storeLost, storePutBack, undoneTwice, nextWant} {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						a := w.start(w.marks, w.watched)
						a.brings(1, "chat=mote@1 policy=plant@1")
						if _, err := a.db.Snapshot(context.Background()); err != nil {
							t.Fatal(err)
						}
						fall.breaks(w)
						stop := a.beside(fall.beside)
						c := a.brings(2, "chat=mote@2 policy="+policy)
						stop()
						expect(t, "end", c.State, Undone)
						expect(t, "may leave after the undo", w.leaves(), both)
						_ = a.end()
						w.mu.Lock()
						w.gates = map[string]chan struct{}{}
						w.mu.Unlock()
						later(t, w, both)
					})
				}
			})
		}
	}
}

func (w *world) watched(c *Config) {
	c.Healthy = func(ctx context.Context) error { return w.act(ctx, "healthy") }
}

// offline starts the box with nobody to ask.
func (w *world) offline() *agent {
	w.mu.Lock()
	w.refusal = errBroken
	w.mu.Unlock()
	a := w.start(w.marks, w.watched)
	synctest.Wait()
	return a
}

func restarted(t *testing.T, w *world, both string) {
	for range 2 {
		a := w.offline()
		expect(t, "may leave after a restart", w.leaves(), both)
		_ = a.end()
	}
}

func storeLost(t *testing.T, w *world, both string) {
	for _, name := range []string{w.path, w.path + ".initialised", w.path + ".clean"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(w.path + ".snapshots"); err != nil {
		t.Fatal(err)
	}
	a := w.offline()
	expect(t, "may leave without a store", w.leaves(), "")
	_ = a.end()
}

// storePutBack damages the store: the copy knows nothing of the undone policy.
func storePutBack(t *testing.T, w *world, both string) {
	w.mayRepair = true
	if err := os.Truncate(w.path, 4096); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a := w.offline()
		expect(t, "may leave with an older store", w.leaves(), "")
		_ = a.end()
	}
}

// undoneTwice brings the same policy again in a new order, which is undone again.
func undoneTwice(t *testing.T, w *world, both string) {
	w.mend()
	w.breakAct("probe chat=mote@5", errBroken)
	a := w.start(w.marks, w.watched)
	c := a.brings(3, "chat=mote@5 policy=plant@1")
	expect(t, "end", c.State, Undone)
	expect(t, "may leave after the next undo", w.leaves(), both)
	_ = a.end()
}

// nextWant ends the narrowing, and nothing before it does.
func nextWant(t *testing.T, w *world, both string) {
	w.mend()
	widest := ""
	w.mu.Lock()
	w.activated = func(policies []string, localOnly bool) {
		if now := leaves(policies, localOnly); !within(now, both) && !within(now, widest) {
			widest = now
		}
	}
	w.mu.Unlock()
	a := w.start(w.marks, w.watched)
	synctest.Wait()
	if widest != "" {
		t.Errorf("got %q allowed before the next want, want at most %q", widest, both)
	}
	c := a.brings(3, "chat=mote@1 policy=plant@1")
	expect(t, "end", c.State, Committed)
	expect(t, "may leave after the next want", w.leaves(), "a b")
	_ = a.end()
}

// Yesterday's copy of the store, put back by hand, holds a policy that a newer
// one has replaced: the marks beside the store know.
func TestPolicyOfAnOlderStoreServesThisBoxOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start(w.marks)
		a.brings(1, "chat=mote@1 policy=plant@1")
		_ = a.end()
		yesterday, err := os.ReadFile(w.path)
		if err != nil {
			t.Fatal(err)
		}
		a = w.start(w.marks)
		a.brings(2, "chat=mote@1 policy=plant@2")
		expect(t, "may leave", w.leaves(), "a")
		_ = a.end()
		if err := os.WriteFile(w.path, yesterday, 0o600); err != nil {
			t.Fatal(err)
		}
		marked := slices.Clone(w.marked)
		a = w.start(func(c *Config) {
			w.marks(c)
			installed := c.Installed
			c.Installed = func(docs ...release.Document) error { // the real slots only rise
				err := installed(docs...)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.marked = marked
				return err
			}
			c.Trust = nowhere{}
		})
		synctest.Wait()
		expect(t, "may leave below the mark", w.leaves(), "")
		_ = a.end()
	})
}

// nowhere is a fleet that nobody reaches.
type nowhere struct{}

func (nowhere) Refresh(context.Context) (release.Want, error) { return release.Want{}, errBroken }

// A policy may be replaced while it narrows: nothing may be wider than both meanwhile.
func TestSwitchIsNeverWiderThanBothPolicies(t *testing.T) {
	for policy, both := range map[string]string{"plant@2": "a", "plant@3": "a b", "plant@4": "b"} {
		inBubble(t, func(w *world, a *agent) {
			a.brings(1, "chat=mote@1 policy=plant@1")
			var seen []string
			w.mu.Lock()
			w.activated = func(policies []string, localOnly bool) { seen = append(seen, leaves(policies, localOnly)) }
			w.mu.Unlock()
			a.brings(2, "chat=mote@2 policy="+policy)
			if len(seen) != 2 || seen[0] != both || seen[1] != strings.Join(cloudOf(policy), " ") {
				t.Errorf("%s: got %q allowed in turn, want %q and then the new policy", policy, seen, both)
			}
		})
	}
}

func TestChangeThatGoesInCirclesEnds(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		w.assign(1, before+" approval")
		a.Offer()
		c := a.reaches(Waiting)
		for range 200 {
			if a.Pause(w.t.Context(), c.ID) != nil {
				break
			}
			if a.Resume(w.t.Context(), c.ID) != nil {
				break
			}
			synctest.Wait()
		}
		c = a.ended(c.ID)
		expect(t, "end", string(c.State)+" "+c.Code, "failed loop")
		if c.Steps > maxSteps+5 {
			t.Errorf("got %d steps, want about %d at most", c.Steps, maxSteps)
		}
	})
}

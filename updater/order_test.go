package updater

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The orders of the table, in its columns' order. Supersede is a newer want.
func orderNames() []string {
	return []string{"cancel", "pause", "resume", "approve", "start", "newer want"}
}

// orderTable says what every order makes of a change in every state: the state
// that follows (with its reason), "noted", or "no". docs/changes.md shows it.
const orderTable = `
planned            | cancelled | paused operator | no        | noted            | noted     | superseded
preflight          | cancelled | paused operator | no        | noted            | noted     | superseded
fetching           | cancelled | paused operator | no        | noted            | noted     | superseded
paused operator    | cancelled | paused operator | preflight | noted            | noted     | superseded
paused network     | cancelled | paused operator | preflight | noted            | noted     | superseded
verified           | cancelled | paused operator | no        | noted            | noted     | superseded
staged             | cancelled | paused operator | no        | noted            | noted     | superseded
waiting approval   | cancelled | paused operator | no        | waiting window   | noted     | superseded
waiting window     | cancelled | paused operator | no        | noted            | switching | superseded
switching          | undoing   | no              | no        | noted            | no        | waits
watch              | undoing   | no              | no        | noted            | no        | waits
undoing            | no        | no              | no        | noted            | no        | waits
committed          | no        | no              | no        | no               | no        | waits
undone             | no        | no              | no        | no               | no        | waits
refused            | no        | no              | no        | no               | no        | waits
cancelled          | no        | no              | no        | no               | no        | waits
superseded         | no        | no              | no        | no               | no        | waits
failed             | no        | no              | no        | no               | no        | waits
`

// orderRows reads the table: the state and reason of each row, and its cells.
func orderRows() (states []string, cells [][]string) {
	for line := range strings.Lines(strings.TrimSpace(orderTable)) {
		var row []string
		for cell := range strings.SplitSeq(line, "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		states, cells = append(states, row[0]), append(cells, row[1:])
	}
	return states, cells
}

// stands brings the second set's change into a state and holds it there until
// the world is freed; it answers the change's number.
func stands(w *world, a *agent, row string) (id uint64, free func()) {
	w.t.Helper()
	state, _, _ := strings.Cut(row, " ")
	set, open := after+" approval window=22:00-04:00", func() {}
	switch row {
	case "planned":
		w.fill(Preflight)
	case "preflight":
		open = w.hold("preflight")
	case "fetching":
		open = w.hold("fetch mote@2")
	case "paused operator":
		open = w.hold("fetch mote@2")
	case "paused network", "superseded", "cancelled":
		w.breakAct("fetch mote@2", errBroken)
	case "verified":
		open = w.hold("stage plant@2")
	case "staged":
		w.fill(Waiting)
	case "switching":
		open = w.hold("prepare chat=mote@2")
	case "watch":
		open = w.hold("healthy")
	case "undoing":
		w.breakAct("activate plant@2", errBroken)
		open = w.hold("restore chat=mote@1")
	case "undone":
		w.breakAct("activate plant@2", errBroken)
	case "refused":
		w.breakAct("stage plant@2", errBroken)
	case "failed":
		w.breakAct("preflight", errBroken)
	}
	w.assign(2, set)
	if err := a.Check(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	id = a.newest().ID
	order := func(do func(context.Context, uint64) error) {
		w.t.Helper()
		if err := do(w.t.Context(), id); err != nil {
			w.t.Fatal(err)
		}
	}
	begins := strings.Contains(" switching watch undoing committed undone ", " "+state+" ")
	if begins {
		order(a.Approve)
		order(a.Start)
	}
	switch row {
	case "paused operator":
		a.reaches(Fetching)
		order(a.Pause)
	case "cancelled":
		order(a.Cancel)
	case "superseded":
		a.brings(3, "chat=mote@3")
	case "waiting window":
		a.reaches(Waiting)
		order(a.Approve)
	}
	if State(state).Ended() {
		a.ended(id)
		w.mend() // the newer want must not meet the same
	} else {
		a.reaches(State(state))
	}
	synctest.Wait()
	return id, func() {
		open()
		w.mend()
	}
}

// gives carries out an order and says what it came to, as the table does.
func gives(a *agent, name string, id uint64) (string, error) {
	was, _, _ := a.Show(id)
	var err error
	switch name {
	case "cancel":
		err = a.Cancel(a.w.t.Context(), id)
	case "pause":
		err = a.Pause(a.w.t.Context(), id)
	case "resume":
		err = a.Resume(a.w.t.Context(), id)
	case "approve":
		err = a.Approve(a.w.t.Context(), id)
	case "start":
		err = a.Start(a.w.t.Context(), id)
	default:
		a.w.assign(9, "chat=mote@9")
		err = a.Check(a.w.t.Context())
	}
	if err != nil {
		return "no", err
	}
	if name == "newer want" {
		if now, _, _ := a.Show(id); now.State != was.State {
			return string(now.State), nil
		}
		return "waits", nil
	}
	// What the order itself brought about; what follows from that comes later.
	for range 2 {
		now, _, _ := a.Show(id)
		for _, h := range now.History[len(was.History):] {
			if h.State != was.State || h.Reason == reasonOperator || h.Reason == reasonWindow {
				return strings.TrimSpace(string(h.State) + " " + h.Reason), nil
			}
		}
		synctest.Wait()
	}
	return "noted", nil
}

func TestEveryOrderInEveryState(t *testing.T) {
	rows, cells := orderRows()
	for i, row := range rows {
		for j, order := range orderNames() {
			t.Run(row+"/"+order, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { orderIn(t, row, order, cells[i][j]) })
			})
		}
	}
}

func orderIn(t *testing.T, row, order, want string) {
	noon := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	began := time.Now()
	w := newWorld(t)
	a := w.start(func(c *Config) {
		c.Now = func() time.Time { return noon.Add(time.Since(began)) }
		c.Healthy = func(ctx context.Context) error { return w.act(ctx, "healthy") }
	})
	a.brings(1, before)
	id, free := stands(w, a, row)
	was, _, _ := a.Show(id)
	if models, _, _ := strings.Cut(w.state(), " policy="); was.State.givesWay() && models != "chat=mote@1 gone=old@1" {
		t.Errorf("got %s, want what ran before to go on", models)
	}
	got, err := gives(a, order, id)
	if got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	if now, _, _ := a.Show(id); err != nil && len(now.History) != len(was.History) {
		t.Errorf("got history %s after %s before, want a refused order to leave no trace", path(now), path(was))
	}
	free()
	c := finish(a, id)
	fits := map[State]string{
		Committed: stateAfter, Undone: stateNarrowed, Refused: stateBefore, Cancelled: stateBefore, Failed: stateBefore, Superseded: stateBefore,
	}[c.State]
	if row == "superseded" {
		fits = "chat=mote@3 policy=built-in"
	}
	if order == "newer want" {
		fits = "chat=mote@9 policy=built-in"
	}
	if w.state() != fits {
		t.Errorf("got %s with the box %q, want %q", c.State, w.state(), fits)
	}
	if len(w.candidates) != 0 {
		t.Errorf("got candidates %v left over", w.candidates)
	}
	if err := a.end(); err != nil {
		t.Error(err)
	}
}

// finish gives whatever order the change waits for, and answers its end.
func finish(a *agent, id uint64) Change {
	a.w.t.Helper()
	deadline := time.After(24 * time.Hour)
	for {
		changed := a.Changed()
		c, _, err := a.Show(id)
		switch {
		case err != nil:
			a.w.t.Fatal(err)
		case c.State.Ended():
			<-time.After(2 * time.Minute) // a newer want may wait for it
			synctest.Wait()
			return c
		case c.State == Paused && c.Reason == reasonOperator:
			_ = a.Resume(a.w.t.Context(), id)
			continue
		case c.State == Waiting:
			_ = a.Approve(a.w.t.Context(), id)
			_ = a.Start(a.w.t.Context(), id)
		}
		select {
		case <-changed:
		case <-deadline:
			a.w.t.Fatalf("change %d is %s (%s) and does not end", id, c.State, c.Reason)
		}
	}
}

func TestApprovalIsAskedForBeforeAnythingSwitches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.assign(2, after+" approval")
		a.Offer()
		c := a.reaches(Waiting)
		expect(t, "reason", c.Reason, reasonApproval)
		<-time.After(48 * time.Hour)
		expect(t, "box after two days", w.state(), stateBefore)
		_ = a.end()
		a = w.start()
		synctest.Wait()
		c, _ = a.Active()
		expect(t, "after a restart", fmt.Sprint(c.State, " ", c.Reason), "waiting approval")
		if err := a.Start(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, "after start, which approves nothing", a.newest().State, Waiting)
		if err := a.Approve(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		expect(t, "end", a.ended(c.ID).State, Committed)
		_ = a.end()
	})
}

func TestApprovalSurvivesARestartAndCountsForOneChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.hold("fetch mote@2")
		w.assign(2, after+" approval")
		a.Offer()
		c := a.reaches(Fetching)
		if err := a.Approve(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		_ = a.end()
		w.mu.Lock()
		w.gates = map[string]chan struct{}{}
		w.mu.Unlock()
		a = w.start()
		expect(t, "end", a.ended(c.ID).State, Committed)
		w.assign(3, before+" approval")
		a.Offer()
		expect(t, "the next one asks again", a.reaches(Waiting).Reason, reasonApproval)
		if err := a.Approve(t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), "not under way") {
			t.Errorf("got %v for a change that has ended", err)
		}
		_ = a.end()
	})
}

// What was approved and lost its files is brought again without asking.
func TestRepairNeedsNoApproval(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		ctx := w.t.Context()
		want := w.assign(1, before+" approval")
		a.Offer()
		c := a.reaches(Waiting)
		if err := a.Approve(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		a.ended(c.ID)
		remove(t, w.blob(want.Models["chat"].Primary()))
		expect(t, "repair", a.brings(1, before+" approval").State, Committed)
	})
}

func TestApprovalThatNobodyAsksForIsRefused(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		ctx := w.t.Context()
		w.hold("fetch mote@1")
		w.assign(1, before)
		a.Offer()
		c := a.reaches(Fetching)
		if err := a.Approve(ctx, c.ID); err == nil || !strings.Contains(err.Error(), "asks for no approval") {
			t.Errorf("got %v", err)
		}
	})
}

// A candidate may come up in the moment in which its change is cancelled.
func TestCandidateOfACancelledChangeIsDiscarded(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		ctx := w.t.Context()
		a.brings(1, before)
		w.mu.Lock()
		w.stubborn = true // prepare ends well although it was told to stop
		w.mu.Unlock()
		open := w.hold("prepare chat=mote@2")
		w.assign(2, after)
		a.Offer()
		c := a.reaches(Switching)
		if err := a.Cancel(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		open()
		c = a.ended(c.ID)
		expect(t, "end", fmt.Sprint(c.State, " ", c.Code), "undone cancelled")
		expect(t, "candidates", len(w.candidates), 0)
		expect(t, "box", w.state(), stateNarrowed)
		expect(t, "the same order again", a.brings(2, after).ID, c.ID)
	})
}

// A newer want, or an operator, must not end what brings the box back after a start.
func TestNewerWantDoesNotCutTheStartShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.brings(1, before)
		w.breakAct("fetch mote@2", errBroken)
		w.assign(2, after)
		a.Offer()
		a.reaches(Paused)
		_ = a.end()
		open := w.hold("restore chat=mote@1")
		a = w.start()
		w.breakAct("fetch mote@3", errBroken)
		w.assign(3, "chat=mote@3")
		if err := a.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		open()
		a.reaches(Paused)
		expect(t, "box", w.state(), stateBefore)
		_ = a.end()
	})
}

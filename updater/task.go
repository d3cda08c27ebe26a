package updater

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/bothy-edge/bothy/updater/release"
)

// deed is the do and the undo of one kind of task, side by side. Undo must
// tolerate that do never happened or half happened.
type deed struct {
	do   func(s scene, ctx context.Context, t Task) (uint64, error)
	undo func(s scene, ctx context.Context, t Task) error
	// code is what a change that fails here ends with.
	code string
}

// The names of tasks, stored and shown.
const (
	taskPrepare  = "prepare"
	taskProbe    = "probe"
	taskNarrow   = "narrow"
	taskSwitch   = "switch"
	taskRemove   = "remove"
	taskActivate = "activate"
)

func deeds() map[string]deed {
	return map[string]deed{
		taskPrepare:  {scene.doPrepare, scene.undoPrepare, codeSwitch},
		taskProbe:    {scene.doProbe, scene.undoNothing, codeAcceptance},
		taskNarrow:   {scene.doNarrow, scene.undoPolicy, codePolicy},
		taskSwitch:   {scene.doSwitch, scene.undoModel, codeSwitch},
		taskRemove:   {scene.doRemove, scene.undoModel, codeSwitch},
		taskActivate: {scene.doActivate, scene.undoPolicy, codePolicy},
	}
}

func (t Task) label() string {
	if t.Alias == "" {
		return t.Name
	}
	return t.Name + " " + t.Alias
}

// plan lists the tasks from what runs to the want. A model that stays gets a
// new candidate all the same when the engine release that serves it changes. Candidates are prepared and
// probed before anything that a request could notice, and so does one whose files were lost; the policies are narrowed
// to what both allow before the first model switches, and only then widened.
func plan(running Running, c Change) []Task {
	var tasks, switches []Task
	want := c.Want
	for _, alias := range slices.Sorted(maps.Keys(want.Models)) {
		old, served := running.Want.Models[alias]
		same := reflect.DeepEqual(old, want.Models[alias]) && reflect.DeepEqual(running.Want.EngineOf(alias), want.EngineOf(alias))
		if served && same && !slices.Contains(c.Lost, alias) {
			continue
		}
		tasks = append(tasks, Task{Name: taskPrepare, Alias: alias}, Task{Name: taskProbe, Alias: alias})
		switches = append(switches, Task{Name: taskSwitch, Alias: alias})
	}
	for _, alias := range slices.Sorted(maps.Keys(running.Want.Models)) {
		if _, kept := want.Models[alias]; !kept {
			switches = append(switches, Task{Name: taskRemove, Alias: alias})
		}
	}
	tasks = append(tasks, Task{Name: taskNarrow})
	tasks = append(tasks, switches...)
	tasks = append(tasks, Task{Name: taskActivate})
	for i := range tasks {
		tasks[i].State = Pending
	}
	return tasks
}

// beginSwitch stores the plan and the attempt before the first act.
func (u *Updater) beginSwitch() error {
	tasks := plan(u.running, *u.change)
	return u.move(Switching, func(c *Change) {
		c.Tasks = tasks
		c.Attempts++
	})
}

// nextTask stores that the next task begins and starts it; after the last the watch begins.
func (u *Updater) nextTask(ctx context.Context) error {
	i := slices.IndexFunc(u.change.Tasks, func(t Task) bool { return t.State != Done })
	if i < 0 {
		u.watched = 0
		return u.move(Watch, nil)
	}
	if u.change.Tasks[i].State == Pending {
		if err := u.setTask(i, Doing, nil); err != nil {
			return err
		}
	}
	t, now := u.change.Tasks[i], u.scene()
	u.work(ctx, "do "+t.label(), func(ctx context.Context) (uint64, error) {
		ctx, cancel := context.WithTimeout(ctx, u.cfg.SwitchFor)
		defer cancel()
		if i == 0 {
			u.cfg.Baseline()
		}
		return deeds()[t.Name].do(now, ctx, t)
	})
	return nil
}

// setTask stores one task in its new state.
func (u *Updater) setTask(i int, state TaskState, edit func(*Change)) error {
	next := u.change.clone()
	next.Tasks[i].State = state
	next.Tasks[i].Updated = u.cfg.Now()
	next.Updated = u.cfg.Now()
	if edit != nil {
		edit(&next)
	}
	return u.save(next, nil)
}

func (u *Updater) taskEnded(o outcome) error {
	i := slices.IndexFunc(u.change.Tasks, func(t Task) bool { return t.State == Doing })
	if i < 0 {
		return fmt.Errorf("%w: change %d: task ended that had not begun", errInternal, u.change.ID)
	}
	t := u.change.Tasks[i]
	if o.err != nil {
		code := deeds()[t.Name].code
		if noSpace(o.err) {
			code = codeNoSpace // no fault of the want: it is tried again
		}
		return u.goBack(code, fmt.Errorf("cannot %s: %w", t.label(), o.err))
	}
	return u.setTask(i, Done, func(c *Change) {
		for j := range c.Tasks {
			// The candidate's number goes to every task about the same model.
			if o.generation != 0 && c.Tasks[j].Alias == t.Alias {
				c.Tasks[j].Generation = o.generation
			}
		}
	})
}

func (u *Updater) watchEnded(err error) error {
	switch {
	case err != nil:
		return u.goBack(codeWatch, fmt.Errorf("not healthy during the watch: %w", err))
	case u.watched < u.cfg.WatchFor:
		return nil
	}
	return u.commit()
}

// commit makes the want what runs, in one transaction with the change's end.
func (u *Updater) commit() error {
	previous := u.running.Want
	if u.running.Want.Digest() == u.change.Want.Digest() && u.running.Previous != nil {
		previous = *u.running.Previous
	}
	now := Running{Change: u.change.ID, Want: u.change.Want, Previous: &previous, Since: u.cfg.Now(), PutBack: u.running.PutBack}
	if err := u.moveRunning(Committed, nil, &now); err != nil {
		return err
	}
	u.raiseMarks()
	if now.PutBack {
		u.Offer() // whether this is the fleet's last word
	}
	return nil
}

// goBack stores that the change is undone, and with it that its policy goes on
// narrowing: that must not be lost to a crash between the two.
func (u *Updater) goBack(code string, cause error) error {
	narrowed := u.running
	if p := u.change.Want.Policy; !reflect.DeepEqual(p, narrowed.Want.Policy) {
		narrowed.Narrowing = narrow(narrowed.Narrowing, p)
	}
	edit := func(c *Change) {
		because(code, cause)(c)
		for i := range c.Tasks {
			// Its undo puts the narrowing in force, also where switching never came that far.
			if c.Tasks[i].Name == taskNarrow {
				c.Tasks[i].State = Done
			}
		}
	}
	return u.moveRunning(Undoing, edit, &narrowed)
}

// maxNarrowing bounds the policies that narrow at once. Past it the built-in
// one, which allows this box only, stands for them all.
const maxNarrowing = 8

// narrow adds a policy to those that narrow; nil is the built-in one. Each
// counts once.
func narrow(list []release.Document, doc *release.Document) []release.Document {
	var d release.Document
	if doc != nil && len(list) < maxNarrowing {
		d = *doc
	}
	for _, have := range list {
		if reflect.DeepEqual(have, d) {
			return list
		}
	}
	return append(slices.Clone(list), d)
}

// nextUndo undoes the last task that may have happened; after the first the change is undone.
func (u *Updater) nextUndo(ctx context.Context) error {
	for i, t := range slices.Backward(u.change.Tasks) {
		switch t.State {
		case Pending, Back:
			continue
		case Doing, Done:
			if err := u.setTask(i, Reverse, func(c *Change) { c.UndoAttempts = 0 }); err != nil {
				return err
			}
		}
		now := u.scene()
		u.work(ctx, "undo "+t.label(), func(ctx context.Context) (uint64, error) {
			ctx, cancel := context.WithTimeout(ctx, u.cfg.SwitchFor)
			defer cancel()
			return 0, deeds()[t.Name].undo(now, ctx, t)
		})
		return nil
	}
	return u.undone()
}

// undone ends the way back. Tasks that were given up make it a failure: what
// ran before is not fully back.
func (u *Updater) undone() error {
	for _, t := range u.change.Tasks {
		if t.Error != "" {
			left := fmt.Errorf("cannot undo %s: %s; undone because: %s", t.label(), t.Error, u.change.Error)
			return u.move(Failed, because(codeUndo, left))
		}
	}
	return u.move(Undone, nil)
}

func (u *Updater) undoEnded(o outcome) error {
	i := slices.IndexFunc(u.change.Tasks, func(t Task) bool { return t.State == Reverse })
	if i < 0 {
		return fmt.Errorf("%w: change %d: undo ended that had not begun", errInternal, u.change.ID)
	}
	if o.err == nil {
		return u.setTask(i, Back, func(c *Change) { c.Tasks[i].Error = "" })
	}
	u.cfg.Log.Error("task cannot be undone", "change", u.change.ID, "task", u.change.Tasks[i].label(), "error", o.err)
	if u.change.UndoAttempts+1 >= maxAttempts {
		return u.undoFailed(i, o.err)
	}
	err := u.setTask(i, Reverse, func(c *Change) {
		c.UndoAttempts++
		c.Tasks[i].Error = o.err.Error()
	})
	if err == nil {
		u.arm(u.backoff(u.change.UndoAttempts))
	}
	return err
}

// undoFailed gives one task up and goes on with the rest: a model that does
// not come back must not keep the policy or the other models from it. What
// runs is still the old set, and every start tries to restore it.
func (u *Updater) undoFailed(i int, cause error) error {
	return u.setTask(i, Back, func(c *Change) {
		c.UndoAttempts = 0
		c.Tasks[i].Error = cause.Error()
	})
}

package updater

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/bothy-edge/bothy/updater/release"
)

const (
	onOld = "chat=mote@1 policy=plant@1 engine=llama@1"
	onNew = "chat=mote@1 policy=plant@1 engine=llama@2"
)

func TestAnEngineReleaseServesModelsThatDidNotChange(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, "chat=mote@1 policy=plant@1")
		expect(t, "box", w.state(), "chat=mote@1 policy=plant@1")
		c := a.brings(2, onOld)
		expect(t, "end", string(c.State)+" "+c.Code, "committed ")
		expect(t, "box", w.state(), "chat=mote@1/llama@1 policy=plant@1")
		a.brings(3, onNew)
		expect(t, "box", w.state(), "chat=mote@1/llama@2 policy=plant@1")
		expect(t, "loaded with the second engine", w.did("prepare chat=mote@1/llama@2"), 1)
		expect(t, "asked of it", w.did("probe chat=mote@1/llama@2"), 1)
		a.brings(4, "chat=mote@1 policy=plant@1")
		expect(t, "box without an engine release", w.state(), "chat=mote@1 policy=plant@1")
	})
}

func TestOnlyModelsOfItsKindAreServedByAnEngineRelease(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		want := w.assign(1, "chat=mote@1 embed=gist@1 engine=llama@1")
		gist := want.Models["embed"]
		gist.Engine.Kind = "embedded"
		want.Models["embed"] = gist
		if err := a.Check(context.Background()); err != nil {
			t.Fatal(err)
		}
		a.ended(a.newest().ID)
		expect(t, "box", w.state(), "chat=mote@1/llama@1 embed=gist@1 policy=built-in")
	})
}

func TestAnEngineThatFailsTakesModelAndPolicyBackWithIt(t *testing.T) {
	for _, fault := range []string{
		"prepare chat=mote@2/llama@2", "probe chat=mote@2/llama@2", "switch chat=mote@2/llama@2", "prepare stays=rock@1/llama@2",
	} {
		t.Run(fault, func(t *testing.T) {
			inBubble(t, func(w *world, a *agent) {
				m := engineMove()
				a.brings(1, m.before)
				w.breakAct(fault, errBroken)
				c := a.brings(2, m.after)
				expect(t, "end", string(c.State), string(Undone))
				expect(t, "box", w.state(), m.narrowed())
				expect(t, "what runs", a.Current().Want.String(), m.before)
				w.mend()
				expect(t, "asked again", a.brings(2, m.after).ID, c.ID)
			})
		})
	}
}

func TestTheOldEngineIsKeptAsLongAsThePreviousGeneration(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, onOld)
		a.brings(2, onNew)
		expect(t, "kept", len(w.kept), 4) // mote@1, plant@1, llama@1 and llama@2
		a.brings(3, "chat=mote@1 policy=plant@2 engine=llama@2")
		for _, path := range w.kept {
			if path == "llama@1" {
				t.Errorf("got %v kept, want llama@1 gone with its generation", w.kept)
			}
		}
	})
}

func TestAStartBringsTheEngineReleaseBack(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, onOld)
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		w.refusal = errBroken // the fleet is out of reach
		*a = *w.start()
		synctest.Wait()
		expect(t, "box", w.state(), "chat=mote@1/llama@1 policy=plant@1")
	})
}

func TestALostFileOfTheEngineIsFetchedAgain(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		want := w.assign(1, onOld)
		if err := a.Check(context.Background()); err != nil {
			t.Fatal(err)
		}
		a.ended(a.newest().ID)
		remove(t, w.blob(want.Engine.Files[0]))
		c := a.brings(1, onOld)
		expect(t, "end", string(c.State), string(Committed))
		expect(t, "fetched", w.did("fetch llama@1"), 2)
		expect(t, "loaded", w.did("prepare chat=mote@1/llama@1"), 2)
	})
}

func TestAnEngineThatDoesNotSayHowItIsRunIsRefused(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		want := w.assign(2, after)
		engine := w.release(release.Engine, "llama@1")
		engine.Program = nil
		want.Engine = &engine
		w.want = want
		if err := a.Check(context.Background()); err != nil {
			t.Fatal(err)
		}
		c := a.ended(a.newest().ID)
		expect(t, "end", string(c.State)+" "+c.Code, "failed unsupported")
		expect(t, "box", w.state(), stateBefore)
		expect(t, "fetched of it", w.did("fetch llama@1"), 0)
	})
}

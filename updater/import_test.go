package updater

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
)

func TestImportFetchesFromItsOwnPlace(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		w.breakAct("fetch mote@1", errBroken)
		w.assign(1, before)
		a.Offer()
		c := a.reaches(Paused)
		id, err := a.Import(context.Background(), "/media/usb", w, elsewhere{w})
		if err != nil || id != c.ID {
			t.Fatalf("got change %d, %v, want %d to go on", id, err, c.ID)
		}
		expect(t, "end", a.ended(id).State, Committed)
		w.assign(2, after)
		id, err = a.Import(context.Background(), "/media/usb", w, elsewhere{w})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "end", a.ended(id).State, Committed)
		expect(t, "fetched over the network", w.did("fetch mote@2"), 0)
	})
}

// stick is another place to look and to fetch: Refresh there never hangs.
type stick struct{ elsewhere }

func (s stick) Refresh(context.Context) (release.Want, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want, s.refusal
}

func TestImportDoesNotWaitForTheNetwork(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		defer w.hold("refresh")() // whoever owns the broker lets the look hang
		a.Offer()
		synctest.Wait()
		w.assign(2, after)
		began := time.Now()
		id, err := a.Import(context.Background(), "/media/usb", stick{elsewhere{w}}, elsewhere{w})
		if err != nil || time.Since(began) > time.Second {
			t.Fatalf("got %v after %s, want the import to go first", err, time.Since(began))
		}
		expect(t, "end", a.ended(id).State, Committed)
		<-time.After(time.Hour)
		if looks := w.did("refresh"); looks < 4 {
			t.Errorf("got %d looks at the network, want it tried again within bounds", looks)
		}
	})
}

func TestImportOfAWantThatIsBeingLookedAtGivesItsPlace(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		w.breakAct("fetch mote@1", errBroken)
		w.assign(1, before)
		a.Offer()
		c := a.reaches(Preflight)
		if id, err := a.Import(context.Background(), "/media/usb", w, elsewhere{w}); err != nil || id != c.ID {
			t.Fatalf("got change %d, %v, want %d", id, err, c.ID)
		}
		expect(t, "end", a.ended(c.ID).State, Committed)
	}, func(c *Config) {
		c.Preflight = func(context.Context, release.Want, int64) error { <-time.After(time.Minute); return nil }
	})
}

func TestImportThatWaitsForASwitchKeepsItsPlace(t *testing.T) {
	inBubble(t, func(w *world, a *agent) {
		a.brings(1, before)
		open := w.hold("prepare chat=mote@2")
		w.assign(2, after)
		a.Offer()
		first := a.reaches(Switching)
		w.breakAct("fetch mote@3", errBroken)
		w.assign(3, "chat=mote@3")
		if _, err := a.Import(context.Background(), "/media/usb", w, elsewhere{w}); err != nil {
			t.Fatal(err)
		}
		open()
		expect(t, "first", a.ended(first.ID).State, Committed)
		expect(t, "imported", a.ended(first.ID+1).State, Committed)
	})
}

// The agent knows only the folder's name after a restart: it says what to type,
// and goes on when that is typed.
func TestImportThatARestartCutOffSaysWhatToType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		open := w.hold("fetch mote@1")
		w.assign(1, before)
		held := elsewhere{w}
		id, err := a.Import(t.Context(), "/media/usb", stick{held}, w)
		if err != nil {
			t.Fatal(err)
		}
		a.reaches(Fetching)
		_ = a.end()
		open()
		w.breakAct("fetch mote@1", errBroken) // no broker has it
		w.refusal = errBroken
		a = w.start()
		c := a.reaches(Paused)
		expect(t, "reason", c.Reason, reasonSource)
		if want := "bothy update import /media/usb"; !strings.Contains(c.Error, want) {
			t.Errorf("got %q, want it to say %q", c.Error, want)
		}
		w.refusal = nil
		if again, err := a.Import(t.Context(), "/media/stick", stick{held}, held); err != nil || again != id {
			t.Fatalf("got change %d, %v, want %d to go on", again, err, id)
		}
		c = a.ended(id)
		expect(t, "end", c.State, Committed)
		expect(t, "from", c.From, "/media/stick")
		_ = a.end()
	})
}

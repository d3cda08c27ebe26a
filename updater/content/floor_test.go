package content

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
)

// dripping has everything and gives a block a minute.
type dripping struct {
	memory
	slow string // why it says so
}

func (d *dripping) Slowed() string { return d.slow }

func (d *dripping) Blocks(ctx context.Context, f release.File, want []Block, sink Sink) error {
	for i := range want {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute):
		}
		if err := d.memory.Blocks(ctx, f, want[i:i+1], sink); err != nil {
			return err
		}
	}
	return nil
}

func TestSourceThatDripsIsLeftWhileThereIsAnother(t *testing.T) {
	data := noise(1, 8*BlockSize)
	f, index := fileOf(data)
	for _, c := range []struct {
		name   string
		slow   string
		other  bool
		blocks int // that the dripping source gives
	}{
		{"another is there", "", true, 2},
		{"it is alone", "", false, 8},
		{"it is us who ask for less", SlowedByRate, true, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t)
			synctest.Test(t, func(t *testing.T) {
				drip := &dripping{memory{name: "drip", data: data, index: index}, c.slow}
				sources := []Source{drip}
				if c.other {
					sources = append(sources, &memory{name: "mirror", data: data, index: index})
				}
				var last Progress
				if _, err := s.Fetch(t.Context(), f, sources, func(p Progress) { last = p }); err != nil {
					t.Fatal(err)
				}
				if got := int(last.BySource["drip"]) / BlockSize; got > c.blocks || got < c.blocks-1 {
					t.Errorf("got %d blocks of the source that drips, want %d; all: %v", got, c.blocks, last.BySource)
				}
			})
		})
	}
}

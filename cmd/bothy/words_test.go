package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
)

func TestErrorsBecomeWhatIsWrongAndWhatToType(t *testing.T) {
	cmd := &cobra.Command{Use: "bothy"}
	for _, c := range []struct {
		err        error
		text, hint string
	}{
		{errors.New("cannot do it"), "cannot do it", ""},
		{errors.New("cannot do it\n"), "cannot do it", ""},
		{errors.New("it is not there; run: bothy make it"), "it is not there", "bothy make it"},
		{errors.New("[1:1] wrong\n>  1 | a; run: b\n   2 | c"), "[1:1] wrong\n>  1 | a; run: b\n   2 | c", ""},
		{fmt.Errorf("cannot: %w", withHint{errors.New("no"), "try this"}), "cannot: no", "try this"},
		{usageError{errors.New("what?")}, "what?", "bothy --help"},
		{usageError{withHint{errors.New("what?"), "that"}}, "what?", "that"},
		{folderHint(fmt.Errorf("cannot write: %w", fs.ErrPermission)), "cannot write: permission denied", "run as root, or name folders of your own as state and runtime in a file for --config"},
		{explainDial("--socket", "/s", syscall.EACCES), "not allowed to connect to /s", "run as root, or join the socket's group: usermod -aG $(stat -c %G /s) $USER"},
		{explainDial("--socket", "/s", errors.New("odd")), "cannot reach the agent at /s: odd", ""},
	} {
		if text, hint := inWords(c.err, cmd); text != c.text || hint != c.hint {
			t.Errorf("%q became %q and %q, want %q and %q", c.err, text, hint, c.text, c.hint)
		}
	}
	if err := folderHint(nil); err != nil {
		t.Errorf("got %v for no error", err)
	}
}

func TestChangeIsToldInWords(t *testing.T) {
	var out strings.Builder
	err := printChange(&out, updater.Change{
		ID: 7, State: updater.Undone, Summary: "mote=mote@2", Code: "acceptance", Error: "the answer was wrong",
		Tasks: []updater.Task{{Name: "narrow", State: updater.Back}, {Name: "probe", Alias: "mote", Generation: 4, State: updater.Back, Error: "wrong"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "change 7  undone: mote=mote@2\nerror     the answer was wrong (acceptance)\ntask      narrow: back\ntask      probe mote, generation 4: wrong: back\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if got, want := sources(map[string]int64{"mqtt": 2 << 20, "disk": 1 << 20}), ", 1.0 MiB from disk, 2.0 MiB from mqtt"; got != want {
		t.Errorf("sources are %q, want %q", got, want)
	}
}

func TestSettingsLeftOpenAreSaidSo(t *testing.T) {
	if a, b := orChosen(0), orChosen(4); a != "by the engine" || b != "4" {
		t.Errorf("got %q and %q", a, b)
	}
	if r, e := modelText(runtime.AliasStatus{}); r != "" || e != "" {
		t.Errorf("a model without a spec is %q on %q", r, e)
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const help = `Show one change. It ends when it was
committed or undone:

  state: committed

More text.

Usage:
  bothy change show ID [flags]

Flags:
  -h, --help         help for show
      --json         print JSON
      --tail lines   the last ones, 'all' of them

Everywhere: --config FILE, --admin-socket PATH

Try:
  bothy change show 41
`

func TestParseReadsEveryPart(t *testing.T) {
	got, err := parse([]string{"bothy", "change", "show"}, "Show one change", help)
	if err != nil {
		t.Fatal(err)
	}
	want := page{
		words: []string{"bothy", "change", "show"}, short: "Show one change",
		long:     []string{"Show one change. It ends when it was committed or undone:", "  state: committed", "More text."},
		usage:    "bothy change show ID [flags]",
		flags:    []entry{{"-h, --help", "help for show"}, {"--json", "print JSON"}, {"--tail lines", "the last ones, 'all' of them"}},
		anywhere: "--config FILE, --admin-socket PATH",
		examples: []string{"bothy change show 41"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(page{}, entry{})); diff != "" {
		t.Errorf("the page differs (-want +got)\n%s", diff)
	}
}

func TestParseRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for name, text := range map[string]string{
		"no usage":          "Show one change.\n",
		"a flag, no text":   "Show.\n\nUsage:\n  bothy show\n\nFlags:\n  --json\n",
		"nothing":           "",
		"flag with one gap": "Show.\n\nUsage:\n  bothy show\n\nFlags:\n  --json prints\n",
	} {
		if p, err := parse([]string{"bothy", "show"}, "Show", text); err == nil {
			t.Errorf("%s: got %+v, want an error", name, p)
		}
	}
}

func TestEscapeLeavesNothingToRoff(t *testing.T) {
	for text, want := range map[string]string{
		`.SH NAME`: `\&.SH NAME`, `--json`: `\-\-json`, `C:\new`: `C:\enew`, `'all'`: `\(aqall\(aq`, "`bothy status`": `\(gabothy status\(ga`,
	} {
		if got := escape(text); got != want {
			t.Errorf("escape(%q): got %q, want %q", text, got, want)
		}
	}
}

// TestWriteFollowsTheHelp runs over a script that answers as bothy does, so that it needs no build.
func TestWriteFollowsTheHelp(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "bothy")
	text := "#!/bin/sh\ncase \"$*\" in\n" +
		"--help) printf 'Runs models.\\n\\nUsage:\\n  bothy COMMAND\\n\\nCommands:\\n  show        Show it\\n' ;;\n" +
		"'show --help') printf 'Show it all.\\n\\nUsage:\\n  bothy show\\n' ;;\n" +
		"completion*) echo \"complete for $2\" ;;\n*) exit 1 ;;\nesac\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(config, []byte("# Where.\nstate: /var/lib/bothy\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := write(out, config, book{binary: script, version: "1.2.3", date: "2026-01-31"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"man/bothy.1":            `\fBbothy\-show(1)\fR`,
		"man/bothy-show.1":       `bothy\-show \- show it`,
		"man/bothy.yaml.5":       "state: /var/lib/bothy",
		"completions/bothy.bash": "complete for bash",
		"completions/bothy.fish": "complete for fish",
		"completions/bothy.zsh":  "complete for zsh",
	} {
		got, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: got %q (%v), want %q in it", name, got, err, want)
		}
	}
}

func TestBelowNamesTheCommandThatFails(t *testing.T) {
	path, err := exec.LookPath("false")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (book{binary: path}).commands(); err == nil || !strings.Contains(err.Error(), "bothy") {
		t.Errorf("got %v, want the command named", err)
	}
}

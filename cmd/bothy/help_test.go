package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// One screen of help: a terminal of 80 by 24 is the least; people have 90 by 30.
const (
	helpLines   = 30
	helpColumns = 90
)

// eachCommand visits every command that a help text lists.
func eachCommand(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			eachCommand(sub, visit)
		}
	}
}

func helpOf(t *testing.T, path string) string {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(append(strings.Fields(path)[1:], "--help"))
	if err := root.Execute(); err != nil {
		t.Fatalf("%s --help: %v", path, err)
	}
	return out.String()
}

func TestHelpFitsOneScreenAndEndsWithALineToPaste(t *testing.T) {
	n := 0
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		n++
		path := cmd.CommandPath()
		lines := strings.Split(strings.TrimRight(helpOf(t, path), "\n"), "\n")
		if len(lines) > helpLines {
			t.Errorf("%s: help has %d lines, want at most %d", path, len(lines), helpLines)
		}
		for _, l := range lines {
			if w := utf8.RuneCountInString(l); w > helpColumns {
				t.Errorf("%s: a line of help has %d columns, want at most %d: %s", path, w, helpColumns, l)
			}
		}
		last := lines[len(lines)-1]
		if !strings.HasPrefix(last, "  bothy") {
			t.Errorf("%s: help ends with %q, want a line to paste", path, last)
			return
		}
		// What can be pasted is a command with flags that exist, and for a command itself it is that command.
		found, rest, err := newRoot().Find(strings.Fields(last)[1:])
		if err != nil {
			t.Errorf("%s: help ends with %q: %v", path, last, err)
			return
		}
		if !cmd.HasSubCommands() && found.CommandPath() != path {
			t.Errorf("%s: help ends with an example of %s", path, found.CommandPath())
		}
		for _, word := range rest {
			if name, ok := strings.CutPrefix(word, "--"); ok && found.Flag(name) == nil {
				t.Errorf("%s: help ends with %q, and there is no flag %s", path, last, word)
			}
		}
	})
	if n < 30 {
		t.Errorf("looked at %d commands, want all", n)
	}
}

// TestReadingCommandsPrintJSON names the commands that change nothing, or answer with a document.
func TestReadingCommandsPrintJSON(t *testing.T) {
	without := []string{ // acts, and what is no document
		"bothy run", "bothy chat", "bothy enroll", "bothy engine serve", "bothy engine bench", "bothy fleet init", "bothy fleet serve", "bothy fleet watch",
		"bothy artifact pin", "bothy artifact unpin", "bothy artifact drop-previous", "bothy change cancel", "bothy change approve", "bothy change start", "bothy change pause", "bothy change resume",
		"bothy fleet acl", "bothy fleet enroll token", "bothy fleet enroll approve", "bothy fleet enroll deny", "bothy fleet enroll auto", "bothy fleet enroll revoke",
		"bothy fleet key apply", "bothy fleet key export", "bothy fleet key passphrase", "bothy fleet key revoke", "bothy fleet key rotate", "bothy fleet key sign",
	}
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		if cmd.HasSubCommands() {
			return
		}
		has, want := cmd.Flags().Lookup("json") != nil, !slices.Contains(without, cmd.CommandPath())
		if has != want {
			t.Errorf("%s: has --json: %v, want %v", cmd.CommandPath(), has, want)
		}
	})
}

func TestEveryCommandSaysWhatItIs(t *testing.T) {
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || len(cmd.Short) > 75 {
			t.Errorf("%s: the line in lists is %q, want one of at most 75 letters without a full stop", cmd.CommandPath(), cmd.Short)
		}
	})
}

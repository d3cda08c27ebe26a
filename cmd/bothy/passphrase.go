package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/spf13/cobra"
)

// passphrases opens encrypted keys: from files that were named, else by asking.
type passphrases struct {
	files []string // FILE, or NAME=FILE for one key
}

func (p *passphrases) flag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&p.files, "passphrase-file", nil, "`FILE` whose first line opens the keys, or NAME=FILE")
}

// ask is for fleet.Keyring. Without a file and without a terminal the answer is
// empty, which leaves the key locked.
func (p *passphrases) ask(name string) ([]byte, error) {
	file := ""
	for _, f := range p.files {
		if key, path, ok := strings.Cut(f, "="); !ok {
			file = f
		} else if key == name {
			return readPassphrase(path)
		}
	}
	if file != "" {
		return readPassphrase(file)
	}
	return askTerminal(fmt.Sprintf("Passphrase of key %s (empty: without this key): ", name))
}

// choose is the passphrase of a new key. It is asked for twice.
func (p *passphrases) choose(name string) ([]byte, error) {
	if len(p.files) > 0 {
		return p.ask(name)
	}
	first, err := askTerminal(fmt.Sprintf("New passphrase of key %s: ", name))
	if err != nil || len(first) == 0 {
		return nil, errors.Join(err, withHint{errors.New("a key needs a passphrase"), "--passphrase-file FILE, or --no-passphrase"})
	}
	second, err := askTerminal("Again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errors.New("the two passphrases differ; nothing was changed")
	}
	return first, nil
}

func readPassphrase(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("cannot read the passphrase: the first line of %s is empty", path)
	}
	return line, nil
}

// openTerminal is the terminal that a person sits at, wherever input and output go.
func openTerminal() (*os.File, bool) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	return tty, err == nil
}

// askTerminal reads a line that is not shown. Nobody there is an empty answer.
func askTerminal(prompt string) ([]byte, error) {
	tty, ok := openTerminal()
	if !ok {
		return nil, nil
	}
	defer tty.Close()
	fmt.Fprint(tty, prompt)
	answer, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return nil, fmt.Errorf("cannot read the passphrase: %w", err)
	}
	return answer, nil
}

// confirm asks a person to type yes.
func confirm(question string) error {
	tty, ok := openTerminal()
	if !ok {
		return withHint{errors.New("nobody is there to confirm"), "read what it says with bothy fleet key show, then add --yes"}
	}
	defer tty.Close()
	fmt.Fprintf(tty, "%s Type yes: ", question)
	var answer string
	if _, err := fmt.Fscanln(tty, &answer); err != nil || answer != "yes" {
		return errors.New("not confirmed; nothing was changed")
	}
	return nil
}

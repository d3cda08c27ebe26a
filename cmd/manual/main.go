// Command manual writes the manual pages and the shell completions of bothy
// into a folder, for the packages.
//
// It runs the binary and reads what `--help` prints, command by command, so that
// the manual cannot say anything else than the help. The page of the
// configuration file is the default configuration itself. Whatever it does not
// understand ends it with an error: a help that changes its form breaks the build
// and not the manual.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func main() {
	binary := flag.String("bothy", "bin/bothy", "binary to document")
	config := flag.String("config", "packaging/bothy.yaml", "default configuration")
	version := flag.String("version", "dev", "version in the foot of the pages")
	date := flag.String("date", "", "date in the foot of the pages, as 2026-01-31")
	out := flag.String("out", "build/manual", "folder to write")
	flag.Parse()
	if err := write(*out, *config, book{binary: *binary, version: *version, date: *date}); err != nil {
		fmt.Fprintln(os.Stderr, "manual: error:", err)
		os.Exit(1)
	}
}

// write fills out/man and out/completions.
func write(out, config string, b book) error {
	pages, err := b.commands()
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	files := map[string]string{"man/bothy.yaml.5": b.configuration(string(raw))}
	for _, p := range pages {
		files["man/"+p.fileName()] = b.roff(p)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		text, err := exec.Command(b.binary, "completion", shell).Output()
		if err != nil {
			return fmt.Errorf("cannot write the completion for %s: %w", shell, err)
		}
		files["completions/bothy."+shell] = string(text)
	}
	for name, text := range files {
		path := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// book is the manual of one binary.
type book struct{ binary, version, date string }

// page is what the help of one command says.
type page struct {
	words    []string // the command: bothy, change, show
	short    string   // one line, from the list of the command above
	long     []string // paragraphs
	usage    string
	commands []entry // what can follow the words
	flags    []entry
	anywhere string // flags of every command
	examples []string
}

// entry is one line of a list: a command or a flag, and what it does.
type entry struct{ name, text string }

// title is bothy-change-show, fileName its file in section 1.
func (p page) title() string    { return strings.Join(p.words, "-") }
func (p page) fileName() string { return p.title() + ".1" }

// commands reads the help of the program and of every command below it.
func (b book) commands() ([]page, error) {
	return b.below([]string{"bothy"}, "")
}

func (b book) below(words []string, short string) ([]page, error) {
	args := append(append([]string{}, words[1:]...), "--help")
	text, err := exec.Command(b.binary, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot read the help of %s: %w", strings.Join(words, " "), err)
	}
	p, err := parse(words, short, string(text))
	if err != nil {
		return nil, fmt.Errorf("cannot read the help of %s: %w", strings.Join(words, " "), err)
	}
	all := []page{p}
	for _, c := range p.commands {
		sub, err := b.below(append(append([]string{}, words...), c.name), c.text)
		if err != nil {
			return nil, err
		}
		all = append(all, sub...)
	}
	return all, nil
}

// parse reads one help text. Its parts begin with Usage:, Commands:, Flags:, Everywhere: and Try: in column one.
func parse(words []string, short, text string) (page, error) {
	p := page{words: words, short: short}
	part := "long"
	var long []string
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if head, ok := heading(line, part); ok {
			part = head
			continue
		}
		if rest, ok := strings.CutPrefix(line, "Everywhere: "); ok {
			p.anywhere = rest
			continue
		}
		var err error
		switch part {
		case "long":
			long = append(long, line)
		case "Usage:":
			p.usage += strings.TrimSpace(line)
		case "Commands:":
			p.commands, err = listed(p.commands, line)
		case "Flags:":
			p.flags, err = listed(p.flags, line)
		case "Try:":
			p.examples = append(p.examples, strings.TrimPrefix(line, "  "))
		}
		if err != nil {
			return p, err
		}
	}
	p.long = paragraphs(long)
	if p.short == "" && len(p.long) > 0 {
		p.short = "run open-weight models on this box; let policy decide what may leave it"
	}
	if p.usage == "" || p.short == "" {
		return p, errors.New("no usage or no description in it")
	}
	return p, nil
}

// heading tells whether a line begins a part. Descriptions may hold such a line only before the usage.
func heading(line, part string) (string, bool) {
	switch line {
	case "Usage:":
		return line, part == "long"
	case "Commands:", "Flags:", "Try:":
		return line, part != "long"
	}
	return "", false
}

// listed takes in one line of a list: two spaces, the name, at least two spaces, the text.
func listed(list []entry, line string) ([]entry, error) {
	line = strings.TrimSpace(line)
	if line == "" {
		return list, nil
	}
	name, text, ok := strings.Cut(line, "  ")
	if !ok {
		// The longest name of a list of commands is followed by one space only where cobra pads to its width.
		if name, text, ok = strings.Cut(line, " "); !ok || strings.HasPrefix(name, "-") {
			return list, fmt.Errorf("cannot split %q into a name and a text", line)
		}
	}
	return append(list, entry{name, strings.TrimSpace(text)}), nil
}

// paragraphs joins the lines of each paragraph; indented lines stay lines of their own.
func paragraphs(lines []string) []string {
	var all []string
	join := false
	for _, line := range lines {
		switch {
		case line == "":
			join = false
		case strings.HasPrefix(line, "  ") || !join:
			all = append(all, line)
			join = !strings.HasPrefix(line, "  ")
		default:
			all[len(all)-1] += " " + line
		}
	}
	return all
}

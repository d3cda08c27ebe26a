package main

import (
	"fmt"
	"strings"
)

// roff renders one page with the man macros of groff_man(7).
func (b book) roff(p page) string {
	var w strings.Builder
	b.head(&w, p.title(), 1, lowerFirst(p.short))
	fmt.Fprintf(&w, ".SH SYNOPSIS\n\\fB%s\\fR%s\n", escape(strings.Join(p.words, " ")), escape(strings.TrimPrefix(p.usage, strings.Join(p.words, " "))))
	w.WriteString(".SH DESCRIPTION\n")
	prose(&w, p.long)
	list(&w, "COMMANDS", p.commands, func(e entry) string { return p.title() + "-" + e.name + "(1)" })
	list(&w, "OPTIONS", p.flags, func(e entry) string { return e.name })
	if p.anywhere != "" {
		fmt.Fprintf(&w, ".PP\nEvery command also takes %s.\n", escape(p.anywhere))
	}
	if len(p.examples) > 0 {
		w.WriteString(".SH EXAMPLES\n")
		literal(&w, p.examples)
	}
	w.WriteString(".SH EXIT STATUS\n0 on success, 1 on a failure, 2 for a command line that cannot be understood.\n")
	b.foot(&w, p)
	return w.String()
}

// configuration is the page of the configuration file, which explains itself.
func (b book) configuration(text string) string {
	var w strings.Builder
	b.head(&w, "bothy.yaml", 5, "configuration of the Bothy agent")
	w.WriteString(".SH SYNOPSIS\n/etc/bothy/bothy.yaml\n.SH DESCRIPTION\n" +
		"The agent and the commands that speak to it read this file. The one that is installed names every key:\n")
	literal(&w, strings.Split(strings.TrimRight(text, "\n"), "\n"))
	w.WriteString(".SH SEE ALSO\n.BR bothy (1),\n.BR bothy\\-run (1)\n")
	return w.String()
}

func (b book) head(w *strings.Builder, title string, section int, short string) {
	fmt.Fprintf(w, ".TH %s %d %q %q %q\n", strings.ToUpper(escape(title)), section, b.date, "bothy "+b.version, "Bothy manual")
	w.WriteString(".nh\n.ad l\n") // file names and flags are not to be torn
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", escape(title), escape(short))
}

func (b book) foot(w *strings.Builder, p page) {
	w.WriteString(".SH SEE ALSO\n")
	if len(p.words) > 1 {
		fmt.Fprintf(w, ".BR %s (1),\n", escape(strings.Join(p.words[:len(p.words)-1], "-")))
	}
	w.WriteString(".BR bothy.yaml (5)\n")
}

// prose writes paragraphs; runs of indented lines keep their form.
func prose(w *strings.Builder, all []string) {
	var block []string
	flush := func() {
		if len(block) > 0 {
			literal(w, block)
			block = nil
		}
	}
	for _, line := range all {
		if rest, ok := strings.CutPrefix(line, "  "); ok {
			block = append(block, rest)
			continue
		}
		flush()
		fmt.Fprintf(w, ".PP\n%s\n", escape(line))
	}
	flush()
}

func list(w *strings.Builder, head string, all []entry, name func(entry) string) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, ".SH %s\n", head)
	for _, e := range all {
		fmt.Fprintf(w, ".TP\n\\fB%s\\fR\n%s\n", escape(name(e)), escape(e.text))
	}
}

func literal(w *strings.Builder, lines []string) {
	w.WriteString(".PP\n.RS 4\n.nf\n")
	for _, line := range lines {
		w.WriteString(escape(line) + "\n")
	}
	w.WriteString(".fi\n.RE\n")
}

// escape keeps roff from reading our text as its own: backslashes, dashes that must stay ASCII, dots and quotes that begin a line.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}

func lowerFirst(text string) string {
	if len(text) > 1 && text[1] >= 'A' && text[1] <= 'Z' {
		return text // an abbreviation
	}
	return strings.ToLower(text[:1]) + text[1:]
}

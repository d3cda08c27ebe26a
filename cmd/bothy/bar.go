package main

import (
	"io"
	"os"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// bar shows long work at a terminal; elsewhere it stays silent.
type bar struct {
	on    bool
	out   io.Writer
	title string
	bar   *progressbar.ProgressBar
	total int64
}

func newBar(out io.Writer, title string) *bar {
	f, ok := out.(*os.File)
	return &bar{on: ok && isatty.IsTerminal(f.Fd()), out: out, title: title}
}

// set moves the bar; a new total starts it anew.
func (b *bar) set(done, total int64) {
	if !b.on || total <= 0 {
		return
	}
	if b.bar == nil || total != b.total {
		b.total = total
		b.bar = progressbar.NewOptions64(total, progressbar.OptionSetDescription(b.title), progressbar.OptionSetWriter(b.out),
			progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30))
	}
	_ = b.bar.Set64(min(done, total)) // a bar that cannot be drawn is no failure
}

func (b *bar) done() {
	if b.bar != nil {
		_ = b.bar.Finish() // as above
	}
}

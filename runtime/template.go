package runtime

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Template runs any server of the OpenAI API by a command line from root-owned configuration, never from a release.
//
// These words are replaced wherever they stand in an argument: {socket}, {model} (the first file), {folder} (the one
// that it lies in, with the other files of the release in their places), {alias}, {context} (tokens a request), {slots}, {threads}. There is no shell, so a value cannot become an argument of its own.
type Template struct {
	Path   string // absolute
	Args   []string
	Env    []string
	Health string // path that answers 200 when ready; "": /health
	Ask    *Ask   // nil: one token of text; &Ask{}: nothing but health
}

// Command fills the template in.
func (t Template) Command(spec Spec, socket string) (Command, error) {
	if !filepath.IsAbs(t.Path) {
		return Command{}, fmt.Errorf("the command %q is not an absolute path", t.Path)
	}
	if err := spec.plain("a configured command"); err != nil {
		return Command{}, err
	}
	if _, err := (flagList{}).args("a configured command", spec.Flags); err != nil {
		return Command{}, err
	}
	words := strings.NewReplacer(
		"{socket}", socket, "{model}", spec.Files[0], "{folder}", filepath.Dir(spec.Files[0]), "{alias}", spec.Alias, "{context}", strconv.Itoa(spec.Context),
		"{slots}", strconv.Itoa(spec.slots()), "{threads}", strconv.Itoa(spec.Threads),
	)
	args := make([]string, len(t.Args))
	listens := false
	for i, a := range t.Args {
		args[i] = words.Replace(a)
		listens = listens || strings.Contains(a, "{socket}")
	}
	if !listens {
		return Command{}, errors.New("the command has no {socket}: it must listen where the agent asks")
	}
	ask := askText
	if t.Ask != nil {
		ask = *t.Ask
	}
	return Command{Path: t.Path, Args: args, Env: t.Env, Health: t.Health, Ask: ask}, nil
}

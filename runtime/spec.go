package runtime

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Spec is what an alias shall run: which files, on which kind of engine, how large. A value; it is not changed once handed over.
type Spec struct {
	Alias     string            `json:"alias"`               // the name that requests use
	Release   string            `json:"release,omitempty"`   // for people: "mote@2"
	Engine    string            `json:"engine"`              // key of Config.Adapters
	Program   *Program          `json:"program,omitempty"`   // of an engine release; nil: the adapter's own
	Files     []string          `json:"files"`               // absolute paths of the model itself; the first is what the engine opens
	Projector string            `json:"projector,omitempty"` // absolute path of what turns images into what the model reads
	Adapters  []string          `json:"adapters,omitempty"`  // absolute paths of LoRA adapters
	Context   int               `json:"context,omitempty"`   // tokens that one request may use; 0: what the model was trained with
	Slots     int               `json:"slots,omitempty"`     // requests decoded at a time; 0: one
	Threads   int               `json:"threads,omitempty"`   // CPU threads; 0: the engine's own choice
	Flags     map[string]string `json:"flags,omitempty"`     // further flags by long name, each through the adapter's allow-list
}

// Program is an engine's program out of an engine release. All paths are absolute and lie in that release.
type Program struct {
	Release   string   `json:"release"` // for people: "llama@3"
	Path      string   `json:"path"`
	Loader    string   `json:"loader,omitempty"`    // runs Path, for a release with a C library of its own
	Libraries []string `json:"libraries,omitempty"` // folders to search for shared libraries
}

// command is the process that runs the program with these arguments.
func (p Program) command(args []string) Command {
	search := strings.Join(p.Libraries, ":")
	// Also where it is empty: the agent's own names libraries that are not of the release.
	c := Command{Path: p.Path, Args: args, Env: []string{"LD_LIBRARY_PATH=" + search}}
	if p.Loader != "" {
		c.Path, c.Args = p.Loader, slices.Concat([]string{"--library-path", search, p.Path}, args)
	}
	return c
}

var aliasPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$`)

// Bounds that no machine exceeds in earnest; they keep a mistaken release from overflowing an engine's own arithmetic.
const (
	maxContext = 16 << 20
	maxSlots   = 1024
	maxThreads = 4096
)

func (s Spec) validate() error {
	if !aliasPattern.MatchString(s.Alias) {
		return fmt.Errorf("alias %q is not a model name: letters, digits and . _ : / @ - only, 128 at most", s.Alias)
	}
	if len(s.Files) == 0 {
		return errors.New("the release names no file")
	}
	for _, f := range s.paths() {
		if !filepath.IsAbs(f) {
			return fmt.Errorf("file %q is not an absolute path", f)
		}
	}
	for _, n := range []struct {
		name     string
		got, max int
	}{{"context", s.Context, maxContext}, {"slots", s.Slots, maxSlots}, {"threads", s.Threads, maxThreads}} {
		if n.got < 0 || n.got > n.max {
			return fmt.Errorf("%s %d is outside 0 to %d", n.name, n.got, n.max)
		}
	}
	return nil
}

// paths are all that the spec names on the disk.
func (s Spec) paths() []string {
	all := slices.Concat(s.Files, s.Adapters)
	if s.Projector != "" {
		all = append(all, s.Projector)
	}
	if p := s.Program; p != nil {
		all = append(append(all, p.Path), p.Libraries...)
		if p.Loader != "" {
			all = append(all, p.Loader)
		}
	}
	return all
}

func (s Spec) equal(t Spec) bool {
	return s.Alias == t.Alias && s.Release == t.Release && s.Engine == t.Engine && s.Projector == t.Projector && s.Context == t.Context &&
		s.Slots == t.Slots && s.Threads == t.Threads && slices.Equal(s.Files, t.Files) && slices.Equal(s.Adapters, t.Adapters) &&
		maps.Equal(s.Flags, t.Flags) && reflect.DeepEqual(s.Program, t.Program)
}

// EngineRelease is the engine release that serves the spec; empty: the engine of the box itself.
func (s Spec) EngineRelease() string {
	if s.Program == nil {
		return ""
	}
	return s.Program.Release
}

// plain refuses what only an adapter that asks for it can use.
func (s Spec) plain(engine string) error {
	switch {
	case s.Program != nil:
		return fmt.Errorf("%s does not come as a release, and %s is one", engine, s.Program.Release)
	case s.Projector != "":
		return fmt.Errorf("%s takes no projector, the release has %s", engine, filepath.Base(s.Projector))
	case len(s.Adapters) > 0:
		return fmt.Errorf("%s takes no LoRA adapters, the release has %d", engine, len(s.Adapters))
	}
	return nil
}

// slots is the number of requests the engine takes at a time.
func (s Spec) slots() int { return max(s.Slots, 1) }

// label names the release for people, or the file where there is no release.
func (s Spec) label() string {
	if s.Release != "" || len(s.Files) == 0 {
		return s.Release
	}
	return filepath.Base(s.Files[0])
}

package runtime

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
)

// Spec is what an alias shall run: which files, on which kind of engine, how large. A value; it is not changed once handed over.
type Spec struct {
	Alias   string            `json:"alias"`             // the name that requests use
	Release string            `json:"release,omitempty"` // for people: "mote@2"
	Engine  string            `json:"engine"`            // key of Config.Adapters
	Files   []string          `json:"files"`             // absolute paths; the first is the model
	Context int               `json:"context,omitempty"` // tokens that one request may use; 0: what the model was trained with
	Slots   int               `json:"slots,omitempty"`   // requests decoded at a time; 0: one
	Threads int               `json:"threads,omitempty"` // CPU threads; 0: the engine's own choice
	Flags   map[string]string `json:"flags,omitempty"`   // further flags by long name, each through the adapter's allow-list
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
	for _, f := range s.Files {
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

func (s Spec) equal(t Spec) bool {
	return s.Alias == t.Alias && s.Release == t.Release && s.Engine == t.Engine && s.Context == t.Context &&
		s.Slots == t.Slots && s.Threads == t.Threads && slices.Equal(s.Files, t.Files) && maps.Equal(s.Flags, t.Flags)
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

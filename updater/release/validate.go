package release

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// Limits on what one document may hold. They bound the work a device does for
// a document before it has fetched anything.
const (
	maxFiles  = 4096
	maxChecks = 64
	maxFlags  = 64
	maxText   = 64 << 10
	maxSize   = int64(1) << 46 // 64 TiB
	maxCount  = 1 << 26        // tokens, slots, threads, seconds
)

// Validate reports the first thing that is wrong with the document.
func (d Document) Validate() error {
	if err := d.validate(); err != nil {
		return fmt.Errorf("release %.80q refused: %w", d.ID(), err)
	}
	return nil
}

func (d Document) validate() error {
	if d.Schema != Schema {
		return fmt.Errorf("schema is %d, want %d", d.Schema, Schema)
	}
	if d.Kind.Folder() == "" {
		return fmt.Errorf("kind %.80q is not model, policy or engine", d.Kind)
	}
	if err := CheckName(d.Name); err != nil {
		return err
	}
	// JSON numbers pass through float64 in other readers; stay where they agree.
	if d.Version == 0 || d.Version > 1<<53 {
		return fmt.Errorf("version %d is not between 1 and 2^53", d.Version)
	}
	if err := validateFiles(d.Kind, d.Files); err != nil {
		return err
	}
	if d.Requires.MemoryBytes < 0 || d.Requires.MemoryBytes > maxSize {
		return fmt.Errorf("requires %d bytes of memory", d.Requires.MemoryBytes)
	}
	if d.Kind != Model && len(d.Accept) > 0 {
		return fmt.Errorf("acceptance checks belong to models, this is a %s", d.Kind)
	}
	if len(d.Accept) > maxChecks {
		return fmt.Errorf("%d acceptance checks, at most %d are accepted", len(d.Accept), maxChecks)
	}
	for i, c := range d.Accept {
		if err := c.validate(); err != nil {
			return fmt.Errorf("acceptance check %d: %w", i+1, err)
		}
	}
	return d.Engine.validate()
}

func validateFiles(kind Kind, files []File) error {
	if len(files) == 0 || len(files) > maxFiles {
		return fmt.Errorf("%d files, want 1 to %d", len(files), maxFiles)
	}
	if kind == Policy && len(files) != 1 {
		return fmt.Errorf("%d files, a policy has exactly one", len(files))
	}
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		if err := f.validate(); err != nil {
			return err
		}
		// Folded, so that no file system can make two of them one.
		folded := strings.ToLower(f.Path)
		if seen[folded] {
			return fmt.Errorf("file %q is listed twice", f.Path)
		}
		seen[folded] = true
	}
	return nil
}

func (f File) validate() error {
	if err := checkPath(f.Path); err != nil {
		return err
	}
	if f.Size < 1 || f.Size > maxSize {
		return fmt.Errorf("file %q has size %d, want 1 to %d", f.Path, f.Size, maxSize)
	}
	if err := CheckDigest(f.SHA256); err != nil {
		return fmt.Errorf("file %q: %w", f.Path, err)
	}
	if err := CheckDigest(f.IndexSHA256); err != nil {
		return fmt.Errorf("index of file %q: %w", f.Path, err)
	}
	return nil
}

// checkPath refuses every path that could leave the folder of its release or
// mean another file on another system.
func checkPath(p string) error {
	if len(p) == 0 || len(p) > 512 || !utf8.ValidString(p) {
		return fmt.Errorf("file path %.80q is empty, too long or not UTF-8", p)
	}
	for _, r := range p {
		if r < 0x20 || r == 0x7f || r == '\\' || r == ':' {
			return fmt.Errorf("file path %q holds %q", p, r)
		}
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("file path %q is not a plain relative path", p)
		}
	}
	return nil
}

func (c Check) validate() error {
	if (c.Prompt == "") == (len(c.Messages) == 0) {
		return errors.New("give either a prompt or messages")
	}
	if c.Want == "" && c.Pattern == "" && c.MinTokensPerSecond == 0 {
		return errors.New("nothing to check: give want, pattern or min_tokens_per_second")
	}
	size := len(c.Prompt) + len(c.Want)
	for _, m := range c.Messages {
		if m.Role != "system" && m.Role != "user" && m.Role != "assistant" {
			return fmt.Errorf("role %.40q is not system, user or assistant", m.Role)
		}
		size += len(m.Content)
	}
	if size > maxText {
		return fmt.Errorf("%d bytes of text, at most %d are accepted", size, maxText)
	}
	if c.Pattern != "" {
		if err := compilePattern(c.Pattern); err != nil {
			return err
		}
	}
	if bad(c.MaxTokens) || bad(c.TimeoutSeconds) {
		return errors.New("max_tokens or timeout_seconds is out of range")
	}
	if r := c.MinTokensPerSecond; r < 0 || math.IsNaN(r) || r > 1e9 {
		return fmt.Errorf("min_tokens_per_second is %g", r)
	}
	return nil
}

func (e EngineSpec) validate() error {
	if e.Kind != "" {
		if err := CheckName(e.Kind); err != nil {
			return fmt.Errorf("engine kind: %w", err)
		}
	}
	if bad(e.Context) || bad(e.Slots) || bad(e.Threads) || bad(e.ReadySeconds) {
		return errors.New("engine context, slots, threads or ready_seconds is out of range")
	}
	if len(e.Flags) > maxFlags {
		return fmt.Errorf("%d engine flags, at most %d are accepted", len(e.Flags), maxFlags)
	}
	for k, v := range e.Flags {
		if k == "" || len(k)+len(v) > 4096 {
			return fmt.Errorf("engine flag %.80q is empty or too long", k)
		}
	}
	return nil
}

func bad(n int) bool { return n < 0 || n > maxCount }

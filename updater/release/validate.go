package release

import (
	"errors"
	"fmt"
	"math"
	"slices"
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

	maxLibraries = 16
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
	if err := d.validateProvenance(); err != nil {
		return err
	}
	if len(d.Accept) > maxChecks {
		return fmt.Errorf("%d acceptance checks, at most %d are accepted", len(d.Accept), maxChecks)
	}
	for i, c := range d.Accept {
		if err := c.validate(); err != nil {
			return fmt.Errorf("acceptance check %d: %w", i+1, err)
		}
	}
	if err := d.Engine.validate(); err != nil {
		return err
	}
	return d.validateProgram()
}

func validateFiles(kind Kind, files []File) error {
	if len(files) == 0 || len(files) > maxFiles {
		return fmt.Errorf("%d files, want 1 to %d", len(files), maxFiles)
	}
	if kind == Policy && len(files) != 1 {
		return fmt.Errorf("%d files, a policy has exactly one", len(files))
	}
	seen := make(map[string]bool, len(files))
	for i, f := range files {
		if err := f.validate(); err != nil {
			return err
		}
		if err := f.belongs(kind, i); err != nil {
			return err
		}
		// Folded, so that no file system can make two of them one.
		folded := strings.ToLower(f.Path)
		if seen[folded] {
			return fmt.Errorf("file %q is listed twice", f.Path)
		}
		seen[folded] = true
	}
	return noFileIsAFolder(seen)
}

// noFileIsAFolder refuses "a" beside "a/b", which no file system can hold.
func noFileIsAFolder(files map[string]bool) error {
	for p := range files {
		for i, c := range p {
			if c == '/' && files[p[:i]] {
				return fmt.Errorf("%q is a file and the folder of %q", p[:i], p)
			}
		}
	}
	return nil
}

// belongs says whether the i-th file of a release of this kind may have its role and its mode.
func (f File) belongs(kind Kind, i int) error {
	switch {
	case f.Executable && kind != Engine:
		return fmt.Errorf("file %q is executable; only files of an engine may be", f.Path)
	case f.Role == "":
		return nil
	case kind != Model || f.Role != Projector && f.Role != Adapter && f.Role != Signature:
		return fmt.Errorf("file %q has the role %.40q; a model's files may be %s, %s or %s", f.Path, f.Role, Projector, Adapter, Signature)
	case i == 0:
		return fmt.Errorf("file %q comes first and has the role %s; the model itself comes first", f.Path, f.Role)
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

// validateProgram checks how an engine is run. An engine release without a
// program can be read, as those of earlier versions could; no device runs it.
func (d Document) validateProgram() error {
	if len(d.FilesOf(Projector)) > 1 {
		return fmt.Errorf("%d files have the role %s, at most one may", len(d.FilesOf(Projector)), Projector)
	}
	if d.Program == nil {
		return nil
	}
	if d.Kind != Engine {
		return fmt.Errorf("a program belongs to engines, this is a %s", d.Kind)
	}
	if d.Engine.Kind == "" {
		return errors.New("the engine does not say of which kind it is")
	}
	return d.Program.validate(d.Files)
}

func (p Program) validate(files []File) error {
	for _, run := range []struct{ what, path string }{{"entry", p.Entry}, {"loader", p.Loader}} {
		if run.what == "loader" && run.path == "" {
			continue
		}
		if !slices.ContainsFunc(files, func(f File) bool { return f.Executable && f.Path == run.path }) {
			return fmt.Errorf("the %s %.512q is no executable file of the release", run.what, run.path)
		}
	}
	if len(p.Libraries) > maxLibraries {
		return fmt.Errorf("%d folders of libraries, at most %d are accepted", len(p.Libraries), maxLibraries)
	}
	for _, dir := range p.Libraries {
		inside := func(f File) bool { return strings.HasPrefix(f.Path, dir+"/") }
		// ':' parts the folders of a search path, and checkPath lets no path hold one.
		if err := checkPath(dir); err != nil || !slices.ContainsFunc(files, inside) {
			return fmt.Errorf("%.512q is no folder of the release to search for libraries", dir)
		}
	}
	if err := CheckVersion(p.Version); err != nil {
		return err
	}
	system, machine, ok := strings.Cut(p.Platform, "/")
	if !ok || CheckName(system) != nil || CheckName(machine) != nil {
		return fmt.Errorf("platform %.80q is not written as linux/amd64", p.Platform)
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

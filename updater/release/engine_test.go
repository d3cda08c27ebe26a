package release

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func engine() Document {
	file := func(path, c string, executable bool) File {
		return File{Path: path, Size: 1, SHA256: hex64(c), IndexSHA256: hex64("0"), Executable: executable}
	}
	return Document{
		Schema: Schema, Kind: Engine, Name: "llama", Version: 3,
		Files: []File{
			file("bin/llama-server", "a", true), file("lib/libllama.so.0", "b", false), file("lib/ld.so", "c", true),
		},
		Engine: EngineSpec{Kind: "llama-server"},
		Program: &Program{Entry: "bin/llama-server", Loader: "lib/ld.so", Libraries: []string{"lib"},
			Version: "b6123", Platform: "linux/amd64"},
	}
}

// goldenEngine is the one encoding of what engine adds to a model.
const goldenEngine = `  "engine": {
    "kind": "llama-server"
  },
  "program": {
    "entry": "bin/llama-server",
    "loader": "lib/ld.so",
    "libraries": [
      "lib"
    ],
    "version": "b6123",
    "platform": "linux/amd64"
  }
}
`

func TestAnEngineReleaseHasOneEncoding(t *testing.T) {
	raw, err := engine().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(raw), goldenEngine) || strings.Count(string(raw), `"executable": true`) != 2 {
		t.Errorf("got %s, want it to end with %s", raw, goldenEngine)
	}
	back, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(engine(), back); diff != "" {
		t.Errorf("read back otherwise (-want +got):\n%s", diff)
	}
}

func TestAnEngineReleaseWithoutAProgramCanBeRead(t *testing.T) {
	old := engine()
	old.Program, old.Files[0].Executable = nil, false
	raw, err := old.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(raw); err != nil {
		t.Errorf("got %v, want what an earlier version signed to be readable", err)
	}
}

func TestAModelMayHaveManyFilesWithRoles(t *testing.T) {
	d := model()
	for i := range 3 {
		d.Files[0].Path = "m-00001-of-00003.gguf"
		if i > 0 {
			d.Files = append(d.Files, File{Path: fmt.Sprintf("m-%05d-of-00003.gguf", i+1), Size: 5, SHA256: hex64("d"), IndexSHA256: hex64("e")})
		}
	}
	d.Files = append(d.Files,
		File{Path: "sight.gguf", Size: 5, SHA256: hex64("1"), IndexSHA256: hex64("2"), Role: Projector},
		File{Path: "a/tone.gguf", Size: 5, SHA256: hex64("3"), IndexSHA256: hex64("4"), Role: Adapter},
		File{Path: "b/tone.gguf", Size: 5, SHA256: hex64("3"), IndexSHA256: hex64("4"), Role: Adapter})
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	if m, p, a := len(d.FilesOf("")), len(d.FilesOf(Projector)), len(d.FilesOf(Adapter)); m != 3 || p != 1 || a != 2 {
		t.Errorf("got %d, %d and %d files by role, want 3, 1 and 2", m, p, a)
	}
}

func TestFilesAndProgramsAreRefused(t *testing.T) {
	extra := func(path string, edit func(*File)) func(*Document) {
		return func(d *Document) {
			f := File{Path: path, Size: 1, SHA256: hex64("d"), IndexSHA256: hex64("e")}
			if edit != nil {
				edit(&f)
			}
			d.Files = append(d.Files, f)
		}
	}
	role := func(r Role) func(*File) { return func(f *File) { f.Role = r } }
	for _, c := range []struct {
		name string
		of   func() Document
		edit func(*Document)
		want string
	}{
		{"the same path in other letters", model, extra("MOTE-q8_0.gguf", nil), "listed twice"},
		{"a file that is a folder", model, extra("mote-q8_0.gguf/x", nil), "is a file and the folder of"},
		{"a folder that is a file", engine, extra("LIB", nil), "is a file and the folder of"},
		{"an executable model", model, func(d *Document) { d.Files[0].Executable = true }, "only files of an engine"},
		{"an unknown role", model, extra("x", role("vocoder")), "role"},
		{"a role first", model, func(d *Document) { d.Files[0].Role = Adapter }, "the model itself comes first"},
		{"a role in an engine", engine, extra("x", role(Adapter)), "role"},
		{"two projectors", model, func(d *Document) { extra("x", role(Projector))(d); extra("y", role(Projector))(d) }, "at most one"},
		{"a model with a program", model, func(d *Document) { d.Program = engine().Program }, "belongs to engines"},
		{"an engine of no kind", engine, func(d *Document) { d.Engine.Kind = "" }, "of which kind"},
		{"an entry from elsewhere", engine, func(d *Document) { d.Program.Entry = "/usr/bin/llama-server" }, "entry"},
		{"an entry that goes up", engine, func(d *Document) { d.Program.Entry = "bin/../bin/llama-server" }, "entry"},
		{"an entry that may not be run", engine, func(d *Document) { d.Program.Entry = "lib/libllama.so.0" }, "entry"},
		{"no entry", engine, func(d *Document) { d.Program.Entry = "" }, "entry"},
		{"a loader from elsewhere", engine, func(d *Document) { d.Program.Loader = "/lib64/ld-linux-x86-64.so.2" }, "loader"},
		{"libraries from elsewhere", engine, func(d *Document) { d.Program.Libraries = []string{"/usr/lib"} }, "no folder"},
		{"libraries above", engine, func(d *Document) { d.Program.Libraries = []string{"lib/.."} }, "no folder"},
		{"two folders in one word", engine, func(d *Document) { d.Program.Libraries = []string{"lib:/usr/lib"} }, "no folder"},
		{"libraries that are not there", engine, func(d *Document) { d.Program.Libraries = []string{"li"} }, "no folder"},
		{"too many folders", engine, func(d *Document) { d.Program.Libraries = strings.Fields(strings.Repeat("lib ", 17)) }, "at most 16"},
		{"no version", engine, func(d *Document) { d.Program.Version = "" }, "version"},
		{"a version in words", engine, func(d *Document) { d.Program.Version = "new" }, "version"},
		{"no platform", engine, func(d *Document) { d.Program.Platform = "" }, "platform"},
		{"half a platform", engine, func(d *Document) { d.Program.Platform = "linux/" }, "platform"},
	} {
		d := c.of()
		c.edit(&d)
		if err := d.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a refusal with %q", c.name, err, c.want)
		}
	}
}

func TestEngineOfFollowsTheKind(t *testing.T) {
	own, e := model(), engine()
	none, other := model(), model()
	none.Engine.Kind, other.Engine.Kind = "", "embedded"
	w := Want{Models: map[string]Document{"own": own, "none": none, "other": other}, Engine: &e}
	for alias, want := range map[string]bool{"own": true, "none": true, "other": false, "absent": false} {
		if got := w.EngineOf(alias) != nil; got != want {
			t.Errorf("%s: served by the set's engine: got %v, want %v", alias, got, want)
		}
	}
	w.Engine = nil
	if w.EngineOf("own") != nil {
		t.Error("got an engine of a set without one")
	}
}

func TestVersionsCompareByTheirNumbers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"b6123", "b6123", 0}, {"b999", "b6123", -1}, {"0.10.0", "0.9.1", 1}, {"v1", "1.0", 0}, {"1.0.1", "1", 1}, {"11669", "b6123", 1},
	} {
		if got, err := CompareVersions(c.a, c.b); err != nil || got != c.want {
			t.Errorf("%s and %s: got %d, %v, want %d", c.a, c.b, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "b", "1.", "1.x", "-1", "1 2", "B1", strings.Repeat("1", 65), "1.1.1.1.1.1.1.1.1"} {
		if err := CheckVersion(bad); err == nil {
			t.Errorf("%q is taken for a version", bad)
		}
	}
}

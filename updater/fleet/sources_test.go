package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater/release"
)

// folderOf writes a folder of files, each with its own name as content; a name that ends with * may be executed.
func folderOf(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		name, executable := strings.CutSuffix(n, "*")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, name)
		if executable {
			if err := os.Chmod(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// listed are the files of a document as "path", "path:role" or "path*".
func listed(doc release.Document) []string {
	var all []string
	for _, f := range doc.Files {
		text := f.Path
		if f.Role != "" {
			text += ":" + string(f.Role)
		}
		if f.Executable {
			text += "*"
		}
		all = append(all, text)
	}
	return all
}

func TestFilesOfAModelAreFound(t *testing.T) {
	split := []string{"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}
	for name, c := range map[string]struct {
		tree   []string
		name   []string // what is named; "." is the folder
		mmproj string
		lora   []string
		want   string
	}{
		"one file":              {[]string{"m.gguf", "n.gguf"}, []string{"m.gguf"}, "", nil, "m.gguf"},
		"the first split":       {split, split[:1], "", nil, strings.Join(split, " ")},
		"all splits":            {split, split, "", nil, strings.Join(split, " ")},
		"a folder of splits":    {append([]string{"README.md", ".git/x", ".hidden"}, split...), []string{"."}, "", nil, strings.Join(split, " ") + " README.md"},
		"safetensors":           {[]string{"a.safetensors", "config.json", "b/tok.json"}, []string{"."}, "", nil, "config.json a.safetensors b/tok.json"},
		"a projector beside it": {[]string{"m.gguf", "p.gguf"}, []string{"m.gguf"}, "p.gguf", nil, "m.gguf p.gguf:mmproj"},
		"a projector in it":     {[]string{"m.gguf", "a/p.gguf"}, []string{"."}, "a/p.gguf", nil, "m.gguf a/p.gguf:mmproj"},
		"adapters in order":     {[]string{"m.gguf", "x.gguf", "y.gguf"}, []string{"m.gguf"}, "", []string{"y.gguf", "x.gguf"}, "m.gguf y.gguf:adapter x.gguf:adapter"},
	} {
		t.Run(name, func(t *testing.T) {
			f, dir := newFleet(t), folderOf(t, c.tree...)
			o := AddOptions{Kind: release.Model, Name: "m"}
			for _, n := range c.name {
				o.Files = append(o.Files, filepath.Join(dir, n))
			}
			if c.mmproj != "" {
				o.Projector = filepath.Join(dir, c.mmproj)
			}
			for _, l := range c.lora {
				o.Adapters = append(o.Adapters, filepath.Join(dir, l))
			}
			doc, err := f.Add(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(listed(doc), " "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			for _, file := range doc.Files {
				if _, err := f.Blob(file.SHA256); err != nil {
					t.Errorf("%s: %v", file.Path, err)
				}
			}
		})
	}
}

func engineOptions(dir string) AddOptions {
	return AddOptions{Kind: release.Engine, Name: "llama", Files: []string{dir}, Engine: release.EngineSpec{Kind: "llama-server"},
		Program: &release.Program{Entry: "bin/server", Loader: "lib/ld.so", Libraries: []string{"lib"}, Version: "b1", Platform: "linux/amd64"}}
}

func TestAnEngineIsAFolder(t *testing.T) {
	f := newFleet(t)
	dir := folderOf(t, "bin/server*", "bin/help*", "lib/ld.so*", "lib/libx.so.1.2*", ".cache/x", "LICENSE")
	if err := os.Symlink("libx.so.1.2", filepath.Join(dir, "lib/libx.so")); err != nil {
		t.Fatal(err)
	}
	doc, err := f.Add(t.Context(), engineOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"LICENSE", "bin/help*", "bin/server*", "lib/ld.so*", "lib/libx.so", "lib/libx.so.1.2"}
	if got := listed(doc); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if doc.Program.Entry != "bin/server" || doc.Program.Version != "b1" {
		t.Errorf("got program %+v", doc.Program)
	}
	again, err := f.Add(t.Context(), engineOptions(dir))
	if err != nil || again.Version != doc.Version {
		t.Errorf("got version %d, %v the second time, want %d", again.Version, err, doc.Version)
	}
	if _, err := f.Sign("llama@1"); err != nil {
		t.Fatal(err)
	}
	a, err := f.AssignChange("box", Change{Engine: "llama"})
	if err != nil || a.Engine != doc.Target() {
		t.Errorf("got %+v, %v, want the engine assigned", a, err)
	}
	if a, err = f.AssignChange("box", Change{Engine: None}); err != nil || a.Engine != "" {
		t.Errorf("got %+v, %v, want no engine", a, err)
	}
}

func TestFoldersAreRefused(t *testing.T) {
	outside := folderOf(t, "secret")
	link := func(to, name string) func(t *testing.T, dir string, o *AddOptions) {
		return func(t *testing.T, dir string, _ *AddOptions) {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		edit func(t *testing.T, dir string, o *AddOptions)
		want string
	}{
		"a link out":          {link(filepath.Join(outside, "secret"), "x"), "leads out of"},
		"a link to a folder":  {link("lib", "more"), "is a link to a folder"},
		"a dead link":         {link("nowhere", "x"), "no such file"},
		"an empty file":       {func(t *testing.T, dir string, _ *AddOptions) { write(t, filepath.Join(dir, "x"), "") }, "is empty"},
		"an entry not to run": {func(_ *testing.T, _ string, o *AddOptions) { o.Program.Entry = "lib/liby.so" }, "chmod +x"},
		"no such entry":       {func(_ *testing.T, _ string, o *AddOptions) { o.Program.Entry = "bin/other" }, "no executable file"},
		"no program":          {func(_ *testing.T, _ string, o *AddOptions) { o.Program = nil }, "how the engine is run"},
		"a file":              {func(_ *testing.T, dir string, o *AddOptions) { o.Files = []string{filepath.Join(dir, "bin/server")} }, "name the folder"},
		"two folders":         {func(_ *testing.T, dir string, o *AddOptions) { o.Files = append(o.Files, dir) }, "name it alone"},
		"a projector":         {func(_ *testing.T, dir string, o *AddOptions) { o.Projector = filepath.Join(dir, "bin/server") }, "only models"},
		"names in two cases": {func(t *testing.T, dir string, _ *AddOptions) {
			write(t, filepath.Join(dir, "LIB"), "x")
		}, "is a file and the folder of"},
		"a model of neither kind": {func(_ *testing.T, _ string, o *AddOptions) { o.Kind, o.Program = release.Model, nil }, "neither a GGUF file nor a config.json"},
		"a policy":                {func(_ *testing.T, _ string, o *AddOptions) { o.Kind, o.Program = release.Policy, nil }, "is a folder, a policy is a file"},
		"too many files": {func(t *testing.T, dir string, _ *AddOptions) {
			for i := range maxSources {
				write(t, filepath.Join(dir, fmt.Sprint(i)), "x")
			}
		}, "more than 4096 files"},
	} {
		t.Run(name, func(t *testing.T) {
			f, dir := newFleet(t), folderOf(t, "bin/server*", "lib/ld.so*", "lib/liby.so")
			o := engineOptions(dir)
			c.edit(t, dir, &o)
			if _, err := f.Add(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

package parts

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// EngineFolder copies the real llama-server with all that it loads into a folder, as a fleet manager would: the program
// in bin, libraries and the dynamic loader in lib. It answers the flags of `bothy fleet add-engine` that go with it.
func EngineFolder(tb testing.TB, dir string) []string {
	tb.Helper()
	root := filepath.Join(Root(), "build", "tools", "llama", "root", "usr")
	program := filepath.Join(root, "bin", "llama-server")
	if _, err := os.Stat(program); err != nil {
		tb.Fatalf("cannot find llama-server with its libraries: %v: run scripts/test-tools", err)
	}
	libraries := filepath.Join(root, "lib", "x86_64-linux-gnu")
	need := map[string]string{"ld-linux-x86-64.so.2": filepath.Join(libraries, "ld-linux-x86-64.so.2")}
	follow(tb, program, libraries, need)
	backends, err := filepath.Glob(filepath.Join(libraries, "libggml-cpu-*.so")) // found at run time, beside the loader
	if err != nil || len(backends) == 0 {
		tb.Fatalf("found no backends of llama-server: %v", err)
	}
	for _, b := range backends {
		need[filepath.Base(b)] = b
		follow(tb, b, libraries, need)
	}
	copyTo(tb, program, filepath.Join(dir, "bin", "llama-server"), 0o755)
	for name, path := range need {
		copyTo(tb, path, filepath.Join(dir, "lib", name), 0o644)
	}
	if err := os.Chmod(filepath.Join(dir, "lib", "ld-linux-x86-64.so.2"), 0o755); err != nil {
		tb.Fatal(err)
	}
	return []string{"--entry", "bin/llama-server", "--loader", "lib/ld-linux-x86-64.so.2", "--library", "lib", "--engine-version", "0.7.0"}
}

// follow adds the libraries that an ELF file needs, and those that they need.
func follow(tb testing.TB, path, libraries string, need map[string]string) {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		if need[name] != "" {
			continue
		}
		for _, dir := range []string{libraries, filepath.Join(libraries, "llama")} {
			at := filepath.Join(dir, name)
			if _, err := os.Stat(at); err == nil {
				need[name] = at
				follow(tb, at, libraries, need)
				break
			}
		}
		if need[name] == "" {
			tb.Fatalf("%s needs %s, which is not there", path, name)
		}
	}
}

func copyTo(tb testing.TB, from, to string, mode fs.FileMode) {
	tb.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, raw, mode))
	}
	if err != nil {
		tb.Fatalf("cannot copy %s: %v", strings.TrimPrefix(from, Root()), err)
	}
}

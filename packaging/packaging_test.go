package packaging

import (
	"bytes"
	"debug/elf"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/semver"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/internal/parts"
)

var (
	update = flag.Bool("update", false, "rewrite the golden lists of the packages' contents")
	folder = flag.String("packages", "", "look at the packages of this folder, all of them, and build none")
)

// built is where TestMain builds the packages of this machine's architecture.
var built struct {
	dir    string
	output string
	err    error
}

func TestMain(m *testing.M) {
	flag.Parse()
	if *folder != "" {
		built.dir = *folder
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "bothy-packages")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir = dir
	cmd := exec.Command("scripts/packages", dir)
	cmd.Dir = parts.Root()
	cmd.Env = append(os.Environ(), "ARCHS="+runtime.GOARCH, "PKG_VERSION=1.2.3", "SOURCE_DATE_EPOCH=1767225600")
	out, err := cmd.CombinedOutput()
	built.output, built.err = string(out), err
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// packageFiles are the paths of the packages with the suffix, one for each architecture that was built.
func packageFiles(t *testing.T, suffix string) []string {
	t.Helper()
	if built.err != nil {
		t.Fatalf("cannot build the packages: %v\n%s", built.err, built.output)
	}
	found, err := filepath.Glob(filepath.Join(built.dir, "*"+suffix))
	if archs := architectures(t); err != nil || len(found) != len(archs) {
		t.Fatalf("got %v (%v), want one %s for each of %v\n%s", found, err, suffix, archs, built.output)
	}
	return found
}

// architectures are those that the packages were built for.
func architectures(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(built.dir, "stage", "*", "nvml-helper"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no binaries in %s (%v)\n%s", built.dir, err, built.output)
	}
	var all []string
	for _, path := range found {
		all = append(all, filepath.Base(filepath.Dir(path)))
	}
	return all
}

// TestContents compares every path, mode, owner and kind. The pages of commands and the documents come and go with
// what they describe; they are checked apart.
func TestContents(t *testing.T) {
	lists := map[string]func(*testing.T, string) []entry{".deb": readDeb, ".rpm": readRPM}
	for suffix, read := range lists {
		for _, path := range packageFiles(t, suffix) {
			compareContents(t, filepath.Join("testdata", "contents"+suffix+".txt"), path, read(t, path))
		}
	}
}

func compareContents(t *testing.T, golden, path string, all []entry) {
	t.Helper()
	var lines []string
	for _, e := range all {
		if !strings.HasPrefix(e.path, "/usr/share/man/man1/bothy-") && filepath.Ext(e.path) != ".md" {
			lines = append(lines, e.String())
		}
	}
	sort.Strings(lines)
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the contents of %s differ (-want +got); if it is meant: go test ./packaging -update\n%s", filepath.Base(path), diff)
	}
}

func TestEveryCommandHasAPageInBothPackages(t *testing.T) {
	deb, rpm := pages(readDeb(t, packageFiles(t, ".deb")[0])), pages(readRPM(t, packageFiles(t, ".rpm")[0]))
	if diff := cmp.Diff(deb, rpm); diff != "" {
		t.Errorf("the manuals differ (-deb +rpm)\n%s", diff)
	}
	for _, name := range []string{"bothy.1", "bothy-run.1", "bothy-fleet-add.1", "bothy-change-show.1", "bothy.yaml.5"} {
		if !deb[name] {
			t.Errorf("there is no page %s", name)
		}
	}
	for _, e := range readDeb(t, packageFiles(t, ".deb")[0]) {
		if (strings.HasSuffix(e.path, ".md") || strings.HasSuffix(e.path, ".gz")) && e.mode != 0o100644 {
			t.Errorf("%s has mode %o, want 100644", e.path, e.mode)
		}
	}
	if deb["bothy-store-check.1"] {
		t.Error("a hidden command has a page")
	}
}

func pages(all []entry) map[string]bool {
	found := map[string]bool{}
	for _, e := range all {
		if strings.HasPrefix(e.path, "/usr/share/man/") && strings.HasSuffix(e.path, ".gz") {
			found[strings.TrimSuffix(filepath.Base(e.path), ".gz")] = true
		}
	}
	return found
}

func TestPackagesAreSmall(t *testing.T) {
	const limit = 12 << 20
	for _, path := range append(packageFiles(t, ".deb"), packageFiles(t, ".rpm")...) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s has %d bytes, want at most %d", filepath.Base(path), info.Size(), limit)
		}
	}
}

func TestProgramsRunOnTheFloor(t *testing.T) {
	for _, arch := range architectures(t) {
		stage := filepath.Join(built.dir, "stage", arch)
		agentText, helperText := read(t, filepath.Join(stage, "bothy")), read(t, filepath.Join(stage, "nvml-helper"))
		if !bytes.Contains(agentText, packed(t, helperText)) {
			t.Errorf("%s: the packaged helper is not the one inside the agent, which would not start it", arch)
		}
		libs, err := openELF(t, agentText).ImportedLibraries()
		if err != nil || len(libs) > 0 {
			t.Errorf("%s: bothy needs %v (%v), want a static binary", arch, libs, err)
		}
		helperRunsOnTheFloor(t, arch, openELF(t, helperText))
	}
}

// packed is the helper as the agent embeds it.
func packed(t *testing.T, elf []byte) []byte {
	t.Helper()
	gzip := exec.Command("gzip", "-9n")
	gzip.Stdin = bytes.NewReader(elf)
	out, err := gzip.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// helperRunsOnTheFloor: no glibc above 2.34, and not bound at its start: a driver that lacks a newer call would end
// the helper then.
func helperRunsOnTheFloor(t *testing.T, arch string, helper *elf.File) {
	t.Helper()
	symbols, err := helper.ImportedSymbols()
	if err != nil || len(symbols) == 0 {
		t.Fatalf("%s: cannot read the helper's symbols: %d, %v", arch, len(symbols), err)
	}
	for _, s := range symbols {
		if v, ok := strings.CutPrefix(s.Version, "GLIBC_"); ok && semver.Compare("v"+v, "v2.34") > 0 {
			t.Errorf("%s: the helper needs %s of glibc %s, want at most 2.34", arch, s.Name, v)
		}
	}
	flags, err := helper.DynValue(elf.DT_FLAGS)
	if err != nil || len(flags) > 0 && flags[0]&uint64(elf.DF_BIND_NOW) != 0 {
		t.Errorf("%s: the helper binds all calls at its start (%v)", arch, err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openELF(t *testing.T, text []byte) *elf.File {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestDefaultConfigurationNamesEveryKey also uncomments all of it: what it shows must be accepted.
func TestDefaultConfigurationNamesEveryKey(t *testing.T) {
	if _, err := agent.LoadConfig("bothy.yaml", true); err != nil {
		t.Fatalf("the agent refuses the default configuration: %v", err)
	}
	raw, err := os.ReadFile("bothy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, line := range strings.Split(string(raw), "\n") {
		if !strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "#  ") { // prose has one space
			all = append(all, strings.TrimPrefix(line, "#"))
		}
	}
	text := strings.Join(all, "\n")
	path := filepath.Join(t.TempDir(), "bothy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.LoadConfig(path, true); err != nil {
		t.Errorf("the agent refuses what the default configuration shows: %v", err)
	}
	for _, key := range keys(reflect.TypeFor[agent.Config]()) {
		if !strings.Contains(text, key+":") {
			t.Errorf("the default configuration does not name %s", key)
		}
	}
}

// keys are the names of all keys in the type, at any depth.
func keys(of reflect.Type) []string {
	switch of.Kind() {
	case reflect.Map, reflect.Slice, reflect.Pointer:
		return keys(of.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	var all []string
	for i := range of.NumField() {
		if name := of.Field(i).Tag.Get("yaml"); name != "" {
			all = append(append(all, name), keys(of.Field(i).Type)...)
		}
	}
	return all
}

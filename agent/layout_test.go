package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/view"
)

// cabinet is a box with artifacts, views and engines that are never started.
func cabinet(t *testing.T, llama string) *box {
	t.Helper()
	dir := t.TempDir()
	b := &box{log: slog.New(slog.DiscardHandler), updater: &updater.Updater{}, o: Options{Version: "v1.4.0", Config: Config{State: dir}}}
	var err error
	if b.artifacts, err = content.Open(filepath.Join(dir, "artifacts")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.artifacts.Close() })
	if b.views, err = view.Open(filepath.Join(dir, "artifacts", "views")); err != nil {
		t.Fatal(err)
	}
	// The read-only folders of views would outlive the test.
	t.Cleanup(func() { _ = b.views.Keep(nil) })
	kinds, _ := adapters(EngineConfig{LlamaServer: llama}, "/bothy")
	kinds[engineLlama] = runtime.LlamaServer{Binary: llama} // whatever the machine has
	b.engines = &engines{kinds: kinds, usual: engineEmbedded, views: b.views, damaged: b.dropDamaged}
	return b
}

// installed makes artifacts of files that hold their own names.
func (b *box) installed(t *testing.T, doc release.Document) updater.Held {
	t.Helper()
	h := updater.Held{Document: doc}
	for i, f := range doc.Files {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(f.Path), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := b.artifacts.Import(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		got.Path, got.Role, got.Executable = f.Path, f.Role, f.Executable
		h.Document.Files[i] = got
		if f.Role != release.Signature {
			h.Files = append(h.Files, b.artifacts.Path(got.SHA256))
		}
	}
	return h
}

func modelOf(files ...release.File) release.Document {
	return release.Document{Schema: 1, Kind: release.Model, Name: "mote", Version: 1, Files: files}
}

func engineRelease() release.Document {
	return release.Document{
		Schema: 1, Kind: release.Engine, Name: "llama", Version: 3, Engine: release.EngineSpec{Kind: engineLlama},
		Files:   []release.File{{Path: "bin/server", Executable: true}, {Path: "lib/ld.so", Executable: true}, {Path: "lib/libx.so"}},
		Program: &release.Program{Entry: "bin/server", Loader: "lib/ld.so", Libraries: []string{"lib"}, Version: "b6123", Platform: goruntime.GOOS + "/" + goruntime.GOARCH},
	}
}

func TestAReleaseIsPlacedUnderItsNames(t *testing.T) {
	b := cabinet(t, "")
	model := b.installed(t, modelOf(
		release.File{Path: "m-00001-of-00002.gguf"}, release.File{Path: "m-00002-of-00002.gguf"},
		release.File{Path: "eye.gguf", Role: release.Projector}, release.File{Path: "x/tone.gguf", Role: release.Adapter}))
	engine := b.installed(t, engineRelease())
	spec, err := b.engines.placed("a", updater.Served{Model: model, Engine: &engine})
	if err != nil {
		t.Fatal(err)
	}
	m, e := b.views.Path(model.Document), b.views.Path(engine.Document)
	want := runtime.Spec{
		Alias: "a", Release: "mote@1", Engine: engineLlama, Files: []string{m + "/m-00001-of-00002.gguf", m + "/m-00002-of-00002.gguf"},
		Projector: m + "/eye.gguf", Adapters: []string{m + "/x/tone.gguf"},
		Program: &runtime.Program{Release: "llama@3", Path: e + "/bin/server", Loader: e + "/lib/ld.so", Libraries: []string{e + "/lib"}},
	}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Errorf("placed otherwise (-want +got):\n%s", diff)
	}
	for _, path := range []string{spec.Files[1], spec.Projector, spec.Adapters[0], spec.Program.Path, spec.Program.Loader} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestASignatureIsNoFileOfTheModel(t *testing.T) {
	b := cabinet(t, "/llama")
	doc := modelOf(release.File{Path: "m.gguf"}, release.File{Path: "model.sig", Role: release.Signature})
	doc.Engine.Kind = engineLlama
	model := b.installed(t, doc)
	spec, err := b.engines.placed("a", updater.Served{Model: model})
	if err != nil || !slices.Equal(spec.Files, []string{b.artifacts.Path(model.Document.Files[0].SHA256)}) {
		t.Errorf("got %v, %v, want the one file itself", spec.Files, err)
	}
}

func TestADamagedEngineIsNotRunAndIsDropped(t *testing.T) {
	b := cabinet(t, "")
	engine, model := b.installed(t, engineRelease()), b.installed(t, modelOf(release.File{Path: "m.gguf"}))
	library := engine.Files[2]
	raw, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	raw[0] ^= 1
	if err := os.Chmod(library, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(library, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = b.engines.placed("a", updater.Served{Model: model, Engine: &engine})
	if err == nil || !strings.Contains(err.Error(), "lib/libx.so is not what was signed") {
		t.Errorf("got %v, want the damage", err)
	}
	if b.artifacts.Has(engine.Document.Files[2].SHA256) || !b.artifacts.Has(engine.Document.Files[0].SHA256) {
		t.Error("want the damaged artifact gone, to be fetched again, and the others kept")
	}
}

// looks is a fleet that has nothing and tells of every question.
type looks chan struct{}

func (l looks) Refresh(ctx context.Context) (release.Want, error) {
	select {
	case l <- struct{}{}:
	case <-ctx.Done():
	}
	return release.Want{}, updater.ErrNobody
}

func TestDamageIsAskedForAtOnce(t *testing.T) {
	b := cabinet(t, "")
	db, _, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "bothy.db")})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(looks)
	f := fetcher{store: b.artifacts, views: b.views, damaged: b.dropDamaged}
	b.updater, err = updater.New(updater.Config{DB: db, Trust: asked, Fetcher: f, Engines: b.engines, Policies: newPolicies(b.log)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.updater.Run(ctx) }()
	<-asked
	model := b.installed(t, modelOf(release.File{Path: "m.gguf"}))
	f.Damaged(model.Document.Files[0])
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Error("got no look for what was dropped")
	}
	if _, here := f.Have(model.Document.Files[0]); here {
		t.Error("the damaged file is still offered")
	}
	stop()
	if err := errors.Join(<-ended, db.Close()); err != nil {
		t.Error(err)
	}
}

func TestAnEngineThatWasChangedIsNotStartedAgain(t *testing.T) {
	b := cabinet(t, "")
	engine, model := b.installed(t, engineRelease()), b.installed(t, modelOf(release.File{Path: "m.gguf"}))
	spec, err := b.engines.placed("a", updater.Served{Model: model, Engine: &engine})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.engines.whole(spec); err != nil {
		t.Fatal(err)
	}
	library := engine.Files[2]
	raw, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	raw[0] ^= 1
	if err := errors.Join(os.Chmod(library, 0o600), os.WriteFile(library, raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := b.engines.whole(spec); err == nil || !strings.Contains(err.Error(), "is not what was signed") {
		t.Errorf("got %v, want the damage", err)
	}
	if b.artifacts.Has(engine.Document.Files[2].SHA256) {
		t.Error("want the damaged artifact gone, to be fetched again")
	}
}

func TestAWantIsHeldAgainstItsEngine(t *testing.T) {
	llama := filepath.Join(t.TempDir(), "llama-server")
	if err := os.WriteFile(llama, []byte("#!/bin/sh\necho 'version: 6000 (abcdef)' >&2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		llama  string // of the box
		engine bool
		edit   func(m, e *release.Document)
		want   string
	}{
		"an engine release serves":           {"", true, func(_, _ *release.Document) {}, ""},
		"also what asks for its kind":        {"", true, func(m, _ *release.Document) { m.Engine.Kind = engineLlama }, ""},
		"without one":                        {"", false, func(m, _ *release.Document) { m.Engine.Kind = engineLlama }, `the engine "llama-server", which is not installed`},
		"another kind":                       {"", true, func(m, _ *release.Document) { m.Requires.Engine = "vllm" }, `it requires the engine "vllm", and "llama-server" would serve it`},
		"a version that it has":              {"", true, func(m, _ *release.Document) { m.Requires.EngineVersion = "b6123" }, ""},
		"a version that it has not":          {llama, true, func(m, _ *release.Document) { m.Requires.EngineVersion = "b6124" }, "it requires version b6124 of llama-server, this is b6123"},
		"a version that the box has":         {llama, false, func(m, _ *release.Document) { m.Engine.Kind, m.Requires.EngineVersion = engineLlama, "b5999" }, ""},
		"a version that the box has not":     {llama, false, func(m, _ *release.Document) { m.Engine.Kind, m.Requires.EngineVersion = engineLlama, "b6001" }, "this is 6000"},
		"a version of the built-in engine":   {"", false, func(m, _ *release.Document) { m.Requires.EngineVersion = "1.5" }, "this is 1.4.0"},
		"a flag that no device allows":       {"", true, func(m, _ *release.Document) { m.Engine.Flags = map[string]string{"rpc": "x"} }, `may not set the flag "rpc"`},
		"another platform":                   {"", true, func(_, e *release.Document) { e.Program.Platform = "linux/s390x" }, "it is for linux/s390x, this box is"},
		"an engine of a kind that has none":  {"", true, func(_, e *release.Document) { e.Engine.Kind = "vllm" }, `an engine of the kind "vllm"`},
		"an engine that needs a newer bothy": {"", true, func(_, e *release.Document) { e.Requires.Agent = "9.0.0" }, "upgrade the package first"},
		"many files that one engine takes":   {"", false, func(m, _ *release.Document) { m.Files = append(m.Files, m.Files[0]) }, "takes one model file"},
		"an adapter that the engine takes not": {"", false, func(m, _ *release.Document) {
			m.Files = append(m.Files, release.File{Path: "x", Role: release.Adapter})
		}, "takes no LoRA adapters"},
	} {
		t.Run(name, func(t *testing.T) {
			b := cabinet(t, c.llama)
			m, e := modelOf(release.File{Path: "m.gguf"}), engineRelease()
			c.edit(&m, &e)
			want := release.Want{Models: map[string]release.Document{"a": m}}
			if c.engine {
				want.Engine = &e
			}
			err := b.fits(t.Context(), want, 1<<30)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestVersionsOfLlamaServerAreRead(t *testing.T) {
	for text, want := range map[string][2]string{ // asked for a build, asked for a release
		"version: 6123 (a1b2c3d)\nbuilt with cc": {"6123", "6123"},
		"version: 0.7.0 (build 11669, commit D)": {"11669", "0.7.0"},
		"version: b7 (x)":                        {"7", "7"},
	} {
		bin := filepath.Join(t.TempDir(), "llama-server")
		if err := os.WriteFile(bin, fmt.Appendf(nil, "#!/bin/sh\ncat <<'E' >&2\n%s\nE\n", text), 0o755); err != nil {
			t.Fatal(err)
		}
		for i, asked := range []string{"b6000", "0.6.1"} {
			if got, err := llamaVersion(t.Context(), bin, asked); err != nil || got != want[i] {
				t.Errorf("%q asked for %s: got %q, %v, want %q", text, asked, got, err, want[i])
			}
		}
	}
	if _, err := llamaVersion(t.Context(), "/bin/true", "1"); err == nil {
		t.Error("got a version of a program that tells none")
	}
}

func TestCopiesOfProgramsCountAsRoom(t *testing.T) {
	e := engineRelease()
	for i := range e.Files {
		e.Files[i].Size = 1 << i
	}
	if got := programBytes(release.Want{Engine: &e}); got != 3 {
		t.Errorf("got %d bytes, want those of the two programs", got)
	}
	if got := programBytes(release.Want{}); got != 0 {
		t.Errorf("got %d bytes without an engine", got)
	}
}

func TestKeepRemovesViewsOfWhatIsGone(t *testing.T) {
	b := cabinet(t, "/llama")
	doc := modelOf(release.File{Path: "m-00001-of-00002.gguf"}, release.File{Path: "m-00002-of-00002.gguf"})
	doc.Engine.Kind = engineLlama
	model := b.installed(t, doc)
	if _, err := b.engines.placed("a", updater.Served{Model: model}); err != nil {
		t.Fatal(err)
	}
	f := fetcher{store: b.artifacts, views: b.views}
	if err := f.Keep(t.Context(), []release.Document{model.Document}); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(b.views.Path(model.Document), "m-00002-of-00002.gguf")); err != nil || !bytes.Contains(raw, []byte("00002-of")) {
		t.Errorf("got %q, %v, want the view kept", raw, err)
	}
	if err := f.Keep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.views.Path(model.Document)); err == nil || b.artifacts.Has(model.Document.Files[0].SHA256) {
		t.Error("want view and artifacts gone")
	}
}

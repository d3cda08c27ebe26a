package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	goruntime "runtime"

	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/view"
)

// spec is what a model release becomes on this box, where its files are left out. engine is the engine release of the
// same want that serves it, or nil.
func (e *engines) spec(alias string, doc release.Document, engine *release.Document) (runtime.Spec, error) {
	kind := doc.Engine.Kind
	switch {
	case engine != nil:
		kind = engine.Engine.Kind
	case kind == "":
		kind = e.usual
	}
	if engine == nil && !e.has(kind) {
		return runtime.Spec{}, fmt.Errorf("it asks for the engine %q, which is not installed on this box", kind)
	}
	threads := doc.Engine.Threads
	if e.threads > 0 && (threads == 0 || threads > e.threads) {
		threads = e.threads
	}
	return runtime.Spec{
		Alias: alias, Release: doc.ID(), Engine: kind,
		Context: doc.Engine.Context, Slots: doc.Engine.Slots, Threads: threads, Flags: doc.Engine.Flags,
	}, nil
}

// placed is spec with the files where an engine finds them.
func (e *engines) placed(alias string, by updater.Served) (runtime.Spec, error) {
	spec, err := e.place(alias, by)
	if err != nil {
		return spec, fmt.Errorf("cannot run %s: %w", by.Model.Document.ID(), err)
	}
	return spec, nil
}

func (e *engines) place(alias string, by updater.Served) (runtime.Spec, error) {
	var engine *release.Document
	if by.Engine != nil {
		engine = &by.Engine.Document
	}
	spec, err := e.spec(alias, by.Model.Document, engine)
	if err != nil {
		return spec, err
	}
	if engine != nil {
		dir, err := e.view(*by.Engine)
		if err != nil {
			return spec, err
		}
		spec.Program = programIn(dir, *engine)
	}
	return spec, e.placeModel(&spec, by.Model)
}

// placeModel names the files of a model. One file needs no name; several need their own, side by side.
func (e *engines) placeModel(spec *runtime.Spec, model updater.Held) error {
	if len(model.Files) == 1 {
		spec.Files = model.Files
		return nil
	}
	dir, err := e.view(model)
	if err != nil {
		return err
	}
	filesIn(spec, dir, model.Document)
	return nil
}

// view lays a release out.
func (e *engines) view(h updater.Held) (string, error) {
	dir, err := e.views.Make(h.Document, h.Files)
	return dir, e.dropped(err)
}

// whole looks again at the views that an engine is about to start from.
func (e *engines) whole(spec runtime.Spec) error {
	if p := spec.Program; p != nil {
		if err := e.views.Again(p.Path); err != nil {
			return e.dropped(err)
		}
	}
	return e.dropped(e.views.Again(spec.Files[0]))
}

// dropped has an artifact that turned out to be damaged dropped, so that it is fetched again.
func (e *engines) dropped(err error) error {
	if d, damaged := errors.AsType[*view.Damage](err); damaged && e.damaged != nil {
		e.damaged(d.SHA256)
	}
	return err
}

// filesIn names the files of a release that is laid out in dir.
func filesIn(spec *runtime.Spec, dir string, doc release.Document) {
	for _, f := range doc.Content() {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		switch f.Role {
		case release.Projector:
			spec.Projector = path
		case release.Adapter:
			spec.Adapters = append(spec.Adapters, path)
		default:
			spec.Files = append(spec.Files, path)
		}
	}
}

// programIn is the program of an engine release that is laid out in dir.
func programIn(dir string, doc release.Document) *runtime.Program {
	p := &runtime.Program{Release: doc.ID(), Path: filepath.Join(dir, filepath.FromSlash(doc.Program.Entry))}
	if doc.Program.Loader != "" {
		p.Loader = filepath.Join(dir, filepath.FromSlash(doc.Program.Loader))
	}
	for _, lib := range doc.Program.Libraries {
		p.Libraries = append(p.Libraries, filepath.Join(dir, filepath.FromSlash(lib)))
	}
	return p
}

// runnable says why an alias could not be served by a want: its engine is not here, does not take the release's files
// or does not allow a flag. It looks at no file.
func (e *engines) runnable(alias string, want release.Want) error {
	doc, engine := want.Models[alias], want.EngineOf(alias)
	spec, err := e.spec(alias, doc, engine)
	if err != nil {
		return err
	}
	const nowhere = "/view"
	if len(doc.Content()) == 1 {
		spec.Files = []string{nowhere}
	} else {
		filesIn(&spec, nowhere, doc)
	}
	if engine != nil {
		spec.Program = programIn(nowhere, *engine)
	}
	_, err = e.kinds[spec.Engine].Command(spec, nowhere+".sock")
	return err
}

// admits says why an engine release cannot run here.
func (e *engines) admits(doc release.Document) error {
	p := doc.Program
	if p == nil {
		return errors.New("it does not say how it is run")
	}
	if mine := goruntime.GOOS + "/" + goruntime.GOARCH; p.Platform != mine {
		return fmt.Errorf("it is for %s, this box is %s", p.Platform, mine)
	}
	if doc.Engine.Kind != engineLlama {
		return fmt.Errorf("it is an engine of the kind %q; this agent takes releases of %s", doc.Engine.Kind, engineLlama)
	}
	return e.views.Executes()
}

// programBytes is the room that the programs of a want take beside its artifacts: they are copied to be run.
func programBytes(want release.Want) int64 {
	var sum int64
	if want.Engine != nil {
		for _, f := range want.Engine.Files {
			if f.Executable {
				sum += f.Size
			}
		}
	}
	return sum
}

// dropDamaged removes an artifact whose bytes are not those of its digest, and has it looked for at once.
func (b *box) dropDamaged(sha256 string) {
	b.log.Error("artifact is damaged on the disk, it will be fetched again", "digest", sha256)
	if err := b.artifacts.Remove(sha256); err != nil && !errors.Is(err, content.ErrBusy) {
		b.log.Error("damaged artifact cannot be removed", "digest", sha256, "error", err)
	}
	b.updater.Offer()
}

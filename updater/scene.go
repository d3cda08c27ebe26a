package updater

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// maxPolicy bounds a policy document in bytes.
const maxPolicy = 4 << 20

// scene is what an act sees of the loop's state, as of its start: acts run
// beside the loop and must not look at what it may change meanwhile.
type scene struct {
	cfg     Config
	want    release.Want // of the change; empty when there is none
	state   State
	running Running
	fetcher Fetcher
	show    func(before, total int64, p content.Progress)
}

func (u *Updater) scene() scene {
	s := scene{cfg: u.cfg, running: u.running, fetcher: u.fetcher, show: u.showProgress}
	if u.change != nil {
		s.want, s.state = u.change.Want, u.change.State
	}
	return s
}

// effective is what serves in this state: the want of a change on watch, else what runs.
func (s scene) effective() release.Want {
	if s.state == Watch {
		return s.want
	}
	return s.running.Want
}

// inForce are the policies of this state.
func (s scene) inForce() []*release.Document {
	switch s.state {
	case Switching:
		return s.narrowed()
	case Watch:
		return []*release.Document{s.want.Policy}
	}
	return s.standing()
}

// narrowed are the policies in force while a change switches: its own, and all that held before.
func (s scene) narrowed() []*release.Document {
	return append([]*release.Document{s.want.Policy}, s.standing()...)
}

// standing are the policies in force without a change: what runs, narrowed by what was undone.
func (s scene) standing() []*release.Document {
	docs := []*release.Document{s.running.Want.Policy}
	for i := range s.running.Narrowing {
		d := &s.running.Narrowing[i]
		if d.Name == "" {
			d = nil
		}
		docs = append(docs, d)
	}
	return docs
}

// activate puts policies in force. One that cannot be read counts as the
// built-in one: what is not known allows nothing but this box.
func (s scene) activate(docs []*release.Document) error {
	var policies []Policy
	var missing error
	if s.running.PutBack {
		docs = append(docs, nil)
	}
	for _, doc := range docs {
		p, err := s.policy(doc)
		if err != nil {
			missing = errors.Join(missing, err)
			p = Policy{Name: doc.Name, Version: doc.Version, LocalOnly: true}
		}
		policies = append(policies, p)
	}
	return errors.Join(s.cfg.Policies.Activate(policies), missing)
}

// policy reads the document of a policy release; nil is the built-in policy.
func (s scene) policy(doc *release.Document) (Policy, error) {
	if doc == nil {
		return Policy{Name: "built-in"}, nil
	}
	path, ok := s.fetcher.Have(doc.Primary())
	if !ok {
		return Policy{}, fmt.Errorf("cannot find the file of policy %s on this box", doc.ID())
	}
	f, err := os.Open(path)
	if err != nil {
		return Policy{}, fmt.Errorf("cannot read policy %s: %w", doc.ID(), err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxPolicy+1))
	if err != nil {
		return Policy{}, fmt.Errorf("cannot read policy %s: %w", doc.ID(), err)
	}
	if len(body) > maxPolicy {
		return Policy{}, fmt.Errorf("cannot read policy %s: more than %d bytes", doc.ID(), maxPolicy)
	}
	// A disk that gives back other bytes must not widen anything.
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != doc.Primary().SHA256 {
		s.cfg.Fetcher.Damaged(doc.Primary())
		return Policy{}, fmt.Errorf("cannot use policy %s: its file %s is not what was signed; check the disk", doc.ID(), path)
	}
	return Policy{Name: doc.Name, Version: doc.Version, Document: body, LocalOnly: s.cfg.BelowMark(*doc)}, nil
}

// held finds a release's files on this box, but for its maker's signature.
func (s scene) held(doc release.Document) (Held, error) {
	h := Held{Document: doc}
	for _, f := range doc.Content() {
		path, ok := s.fetcher.Have(f)
		if !ok {
			return h, fmt.Errorf("cannot find %s of release %s (sha256:%.12s) on this box", f.Path, doc.ID(), f.SHA256)
		}
		h.Files = append(h.Files, path)
	}
	return h, nil
}

// served is what want lets an alias be served by: its model and, where that
// asks for it, the engine of the same want.
func (s scene) served(alias string, want release.Want) (Served, error) {
	model, err := s.held(want.Models[alias])
	by := Served{Model: model}
	if doc := want.EngineOf(alias); err == nil && doc != nil {
		var engine Held
		engine, err = s.held(*doc)
		by.Engine = &engine
	}
	return by, err
}

// restoreModel makes alias served as want says; an alias it does not name ends.
func (s scene) restoreModel(ctx context.Context, alias string, want release.Want) error {
	if _, ok := want.Models[alias]; !ok {
		return s.cfg.Engines.Restore(ctx, alias, nil)
	}
	by, err := s.served(alias, want)
	if err != nil {
		return err
	}
	return s.cfg.Engines.Restore(ctx, alias, &by)
}

func (s scene) doPrepare(ctx context.Context, t Task) (uint64, error) {
	by, err := s.served(t.Alias, s.want)
	if err != nil {
		return 0, err
	}
	return s.cfg.Engines.Prepare(ctx, t.Alias, by)
}

func (s scene) undoPrepare(ctx context.Context, t Task) error {
	if t.Generation == 0 {
		return nil
	}
	return s.cfg.Engines.Discard(ctx, t.Generation)
}

func (s scene) doProbe(ctx context.Context, t Task) (uint64, error) {
	return 0, s.cfg.Engines.Probe(ctx, t.Generation, s.want.Models[t.Alias].Accept)
}

func (s scene) undoNothing(context.Context, Task) error { return nil }

func (s scene) doNarrow(context.Context, Task) (uint64, error) { return 0, s.activate(s.narrowed()) }

func (s scene) doActivate(context.Context, Task) (uint64, error) {
	return 0, s.activate([]*release.Document{s.want.Policy})
}

func (s scene) undoPolicy(context.Context, Task) error { return s.activate(s.standing()) }

func (s scene) doSwitch(ctx context.Context, t Task) (uint64, error) {
	return 0, s.cfg.Engines.Switch(ctx, t.Alias, t.Generation)
}

func (s scene) doRemove(ctx context.Context, t Task) (uint64, error) {
	return 0, s.cfg.Engines.Restore(ctx, t.Alias, nil)
}

func (s scene) undoModel(ctx context.Context, t Task) error {
	return s.restoreModel(ctx, t.Alias, s.running.Want)
}

package updater

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

// Artifact is one file that this box keeps, and why.
type Artifact struct {
	SHA256   string   `json:"sha256"`
	Size     int64    `json:"size"`               // bytes
	Taken    int64    `json:"taken"`              // bytes of disk that it has, also of a fetch that goes on
	Path     string   `json:"path,omitempty"`     // its name in the release
	Releases []string `json:"releases,omitempty"` // that name it
	// Why it is kept: running, previous, narrowing, change 4, pinned. Nothing
	// keeps a file without a reason; it goes with the next collection.
	Why []string `json:"why"`
}

// The reasons for keeping an artifact; a change's is "change" and its number.
const (
	keptRunning   = "running"
	keptPrevious  = "previous"
	keptNarrowing = "narrowing"
	keptPinned    = "pinned"
)

// pin keeps one file until an operator takes the pin out. Pins are lost with the store.
type pin struct {
	File    release.File     `json:"file"`
	Release release.Document `json:"release"` // the one it was named by
	At      time.Time        `json:"at"`
}

func pinTable() store.Table[pin] { return store.Table[pin]{Name: "pins"} }

// shelf collects artifacts with the reasons to keep them, in the order in which they are named.
type shelf struct {
	all []Artifact
	at  map[string]int
}

func (s *shelf) add(why string, f release.File, of string) {
	if s.at == nil {
		s.at = map[string]int{}
	}
	i, known := s.at[f.SHA256]
	if !known {
		i = len(s.all)
		s.at[f.SHA256] = i
		s.all = append(s.all, Artifact{SHA256: f.SHA256, Size: f.Size, Path: f.Path})
	}
	a := &s.all[i]
	if !slices.Contains(a.Why, why) {
		a.Why = append(a.Why, why)
	}
	if of != "" && !slices.Contains(a.Releases, of) {
		a.Releases = append(a.Releases, of)
	}
}

func (s *shelf) documents(why string, docs []release.Document) {
	for _, d := range docs {
		for _, f := range d.Files {
			s.add(why, f, d.ID())
		}
	}
}

// kept lists what must stay: what runs, what ran before it, policies that still
// narrow, the change under way, and what an operator pinned.
func kept(r Running, c *Change, pins []pin) []Artifact {
	var s shelf
	s.documents(keptRunning, r.Want.Documents())
	if r.Previous != nil {
		s.documents(keptPrevious, r.Previous.Documents())
	}
	s.documents(keptNarrowing, r.Narrowing)
	if c != nil {
		s.documents(fmt.Sprint("change ", c.ID), c.Want.Documents())
	}
	for _, p := range pins {
		s.add(keptPinned, p.File, p.Release.ID())
	}
	return s.all
}

func (u *Updater) pins() (all []pin, err error) {
	err = u.cfg.DB.View(func(tx *store.Tx) error {
		return pinTable().Each(tx, "", func(_ string, p pin) error {
			all = append(all, p)
			return nil
		})
	})
	return all, err
}

// Kept lists the artifacts that stay on this box and why, those that run first.
func (u *Updater) Kept() ([]Artifact, error) {
	u.mu.Lock()
	running, active := u.running, u.active
	u.mu.Unlock()
	pins, err := u.pins()
	if err != nil {
		return nil, fmt.Errorf("cannot list artifacts: %w", err)
	}
	change := &active
	if active.State == "" || active.State.Ended() {
		change = nil
	}
	all := kept(running, change, pins)
	for i, a := range all {
		all[i].Taken = a.Size - u.cfg.Fetcher.Takes(release.File{SHA256: a.SHA256, Size: a.Size})
	}
	return all, nil
}

// Pin keeps the files of a release ("mote@2"), or of a digest or its beginning,
// until Unpin, whatever runs. They must lie here.
func (u *Updater) Pin(ctx context.Context, what string) error { return u.retain(ctx, askPin, what) }

// Unpin takes pins out; what nothing else keeps goes with the next collection.
func (u *Updater) Unpin(ctx context.Context, what string) error { return u.retain(ctx, askUnpin, what) }

// DropPrevious gives up the files of the set that ran before this one. It costs
// nothing that runs; a fleet that goes back to that set sends them again.
func (u *Updater) DropPrevious(ctx context.Context) error { return u.retain(ctx, askDropPrevious, "") }

func (u *Updater) retain(ctx context.Context, kind askKind, what string) error {
	_, err := u.ask(ctx, ask{kind: kind, what: what})
	return err
}

// keepOrder carries out an order about what is kept.
func (u *Updater) keepOrder(a ask) error {
	switch a.kind {
	case askPin:
		return u.pin(a.what)
	case askUnpin:
		return u.unpin(a.what)
	}
	return u.dropPrevious()
}

// named says that an operator who wrote what means this file.
func named(what, of string, f release.File) bool {
	const least = 8 // digits of a digest that make it one file for people
	return what == of || len(what) >= least && strings.HasPrefix(f.SHA256, strings.TrimPrefix(what, "sha256:"))
}

func (u *Updater) pin(what string) error {
	pins, err := u.findFiles(what)
	if err != nil {
		return err
	}
	if len(pins) == 0 {
		return fmt.Errorf("cannot pin %q: no file of it lies here; bothy artifact list shows what does", what)
	}
	return u.cfg.DB.Update(func(tx *store.Tx) error {
		for _, p := range pins {
			if err := pinTable().Put(tx, p.File.SHA256, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// findFiles looks for files that lie here in all that this box knows of.
func (u *Updater) findFiles(what string) (pins []pin, err error) {
	docs := u.running.Want.Documents()
	if u.running.Previous != nil {
		docs = append(docs, u.running.Previous.Documents()...)
	}
	err = u.cfg.DB.View(func(tx *store.Tx) error {
		return changeTable().Back(tx, func(_ string, c Change) error {
			docs = append(docs, c.Want.Documents()...)
			return nil
		})
	})
	for _, d := range docs {
		for _, f := range d.Files {
			if _, here := u.cfg.Fetcher.Have(f); here && named(what, d.ID(), f) {
				pins = append(pins, pin{File: f, Release: d, At: u.cfg.Now()})
			}
		}
	}
	return pins, err
}

func (u *Updater) unpin(what string) error {
	pins, err := u.pins()
	if err != nil {
		return err
	}
	pins = slices.DeleteFunc(pins, func(p pin) bool { return !named(what, p.Release.ID(), p.File) })
	if len(pins) == 0 {
		return fmt.Errorf("cannot unpin %q: it is not pinned; bothy artifact list shows what is", what)
	}
	u.collectDue = true
	return u.cfg.DB.Update(func(tx *store.Tx) error {
		for _, p := range pins {
			if err := pinTable().Delete(tx, p.File.SHA256); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropPrevious forgets the set before this one, so that its files are collected.
func (u *Updater) dropPrevious() error {
	r := u.running
	r.Previous = nil
	err := u.cfg.DB.Update(func(tx *store.Tx) error { return runningTable().Put(tx, runningKey, r) })
	if err != nil {
		return err
	}
	u.collectDue = true
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running = r
	return nil
}

// makeRoom looks for space for a change that is short of it: first what nothing
// needs (a superseded fetch has taken the space of its whole file), then, where
// that was allowed, what ran before. It waits until a want was heard in this
// process: after the loss of the store what lies on the disk is all there is.
func (u *Updater) makeRoom(ctx context.Context) (begun bool, err error) {
	if !u.change.short() || !u.offers.heard {
		return false, nil
	}
	if !u.collectDue && u.cfg.GiveUpPrevious && u.change.Reason == reasonNoSpace && u.running.Previous != nil {
		u.cfg.Log.Warn("files of the set before this one given up for space", "set", u.running.Previous.String())
		if err := u.dropPrevious(); err != nil {
			return false, err
		}
	}
	if !u.collectDue {
		return false, nil
	}
	return true, u.collect(ctx)
}

// collect removes artifacts that nothing keeps.
func (u *Updater) collect(ctx context.Context) error {
	pins, err := u.pins()
	if err != nil {
		return err
	}
	u.collectDue = false
	docs := append(u.running.Want.Documents(), u.running.Narrowing...)
	if u.running.Previous != nil {
		docs = append(docs, u.running.Previous.Documents()...)
	}
	if u.change != nil {
		docs = append(docs, u.change.Want.Documents()...)
	}
	for _, p := range pins {
		doc := p.Release
		doc.Files = []release.File{p.File}
		docs = append(docs, doc)
	}
	fetcher := u.cfg.Fetcher
	u.work(ctx, actCollect, func(ctx context.Context) (uint64, error) { return 0, fetcher.Keep(ctx, docs) })
	return nil
}

// collected lets a change that was short of space try at once, before more is given up for it.
func (u *Updater) collected(err error) error {
	if err != nil {
		u.cfg.Log.Error("artifacts cannot be collected", "error", err)
	}
	if c := u.change; c != nil && c.State == Paused && c.short() {
		return u.move(Preflight, nil)
	}
	return nil
}

// short says that the change waits for space.
func (c Change) short() bool { return c.Reason == reasonNoSpace || c.Reason == reasonFit }

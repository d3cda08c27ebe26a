package fleet

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// historyDepth is how many signed sets of a device are looked back upon.
const historyDepth = 100

// Back says what Rollback goes back to: the set that differs from the one now
// and was signed last before it, or the set with the counter To, or the set now
// with some releases replaced.
type Back struct {
	To      uint64
	Models  map[string]string // alias -> release
	Policy  string            // release
	DryRun  bool              // sign nothing
	Counter uint64            // sign only where this is still the counter; 0: whatever it is
}

// RolledBack is what a rollback changes on one device.
type RolledBack struct {
	Device  string   `json:"device"`
	Counter uint64   `json:"counter"`         // of the new want
	From    uint64   `json:"from"`            // of the want before
	To      uint64   `json:"to,omitempty"`    // of the want whose releases come again
	Changes []string `json:"changes"`         // a line each
	Local   bool     `json:"local_only"`      // the policy comes from before: the device allows no cloud
	Signed  bool     `json:"signed"`          // false: a dry run
	Older   []string `json:"older,omitempty"` // releases that the device may take although it had newer ones
}

// errNothingBack is a device that has nothing to go back to.
var errNothingBack = errors.New("there is nothing to go back to")

// Rollback signs a newer want that carries older releases. Devices refuse older
// releases otherwise; these are named in the want as meant. Every one must be in
// the catalog, and here with its files. What the device keeps is that a policy
// older than one it had allows no cloud.
func (f *Fleet) Rollback(device string, o Back) (RolledBack, error) {
	r, err := f.rollback(device, o)
	if err != nil {
		return RolledBack{}, fmt.Errorf("cannot roll back %q: %w", device, err)
	}
	return r, nil
}

func (f *Fleet) rollback(device string, o Back) (RolledBack, error) {
	unlock, err := lock(f.dir)
	if err != nil {
		return RolledBack{}, err
	}
	defer unlock()
	now, err := f.Assignment(device)
	if err != nil {
		return RolledBack{}, err
	}
	if o.Counter != 0 && now.Counter != o.Counter {
		return RolledBack{}, fmt.Errorf("want %d was signed meanwhile, want %d was looked at", now.Counter, o.Counter)
	}
	next, err := f.backTo(now, o)
	if err != nil {
		return RolledBack{}, err
	}
	if sameSet(now, next) {
		return RolledBack{}, fmt.Errorf("%w: want %d is the same set", errNothingBack, now.Counter)
	}
	r := RolledBack{Device: device, Counter: now.Counter + 1, From: now.Counter, Changes: setChanges(now, next)}
	if next.Counter != now.Counter {
		r.To = next.Counter
	}
	next.Counter, next.Older = r.Counter, broughtBack(now, next)
	for _, path := range next.Older {
		r.Older = append(r.Older, targetID(path))
	}
	r.Local = next.Policy != "" && slices.Contains(next.Older, next.Policy)
	if err := errors.Join(next.Validate(), f.installable(next)); err != nil {
		return RolledBack{}, err
	}
	if o.DryRun {
		return r, nil
	}
	b, err := f.deviceBranch(device)
	if err != nil {
		return RolledBack{}, err
	}
	r.Signed = true
	return r, f.publishAssignment(b, b.version(metadata.TARGETS)+1, next)
}

// backTo is the set to go back to. When it may switch, and who must agree, stay.
func (f *Fleet) backTo(now release.Assignment, o Back) (release.Assignment, error) {
	if len(o.Models) > 0 || o.Policy != "" {
		if o.To != 0 {
			return now, errors.New("name either a want or releases")
		}
		return f.apply(now, Change{Models: o.Models, Policy: o.Policy})
	}
	past, err := f.history(now.Device)
	if err != nil {
		return now, err
	}
	for _, a := range past {
		a.Window, a.Approval = now.Window, now.Approval
		switch {
		case o.To == 0 && a.Counter < now.Counter && !sameSet(a, now), o.To != 0 && a.Counter == o.To:
			return a, nil
		}
	}
	if o.To != 0 {
		return now, fmt.Errorf("%w: want %d is not among the last %d of this device", errNothingBack, o.To, historyDepth)
	}
	return now, fmt.Errorf("%w: it had no other set; name releases", errNothingBack)
}

// history lists the sets that were signed for a device, the newest first.
func (f *Fleet) history(device string) ([]release.Assignment, error) {
	b := &branch{dir: f.devicePath(device, ""), device: device, now: f.Now()}
	if err := b.load(); err != nil {
		return nil, err
	}
	var past []release.Assignment
	newest := b.version(metadata.TARGETS)
	for version := newest; version > max(0, newest-historyDepth); version-- {
		raw, err := os.ReadFile(f.devicePath(device, fmt.Sprintf("%d.targets.json", version)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		m, err := metadata.Targets().FromBytes(raw)
		if err != nil {
			continue // a damaged file of the past keeps nobody from the others
		}
		a, err := release.ParseAssignment(m.Signed.UnrecognizedFields[release.AssignmentField])
		if err == nil && a.Device == device && (len(past) == 0 || a.Counter != past[len(past)-1].Counter) {
			past = append(past, a)
		}
	}
	return past, nil
}

// broughtBack are the paths of next that the device may have left behind.
func broughtBack(now, next release.Assignment) []string {
	had := now.Paths()
	var older []string
	for _, path := range next.Paths() {
		if !slices.Contains(had, path) || slices.Contains(now.Older, path) {
			older = append(older, path)
		}
	}
	return older
}

// installable says which release of a set is revoked, damaged or gone.
func (f *Fleet) installable(a release.Assignment) error {
	for _, path := range a.Paths() {
		kind, _, _, err := release.ParseTarget(path)
		if err != nil {
			return err
		}
		entries, err := f.signed(kind)
		if err != nil {
			return err
		}
		if entries[path] == nil {
			return fmt.Errorf("%s is not in the catalog any more; name other releases", targetID(path))
		}
		doc, err := f.document(path, entries[path])
		if err != nil {
			return err
		}
		for _, file := range doc.Files {
			if _, err := os.Stat(f.blobPath(file.SHA256)); err != nil {
				return fmt.Errorf("release %s: %w; add the file again", doc.ID(), err)
			}
		}
	}
	return nil
}

// setChanges tells what differs between two sets, a line each.
func setChanges(now, next release.Assignment) []string {
	var lines []string
	tell := func(what, before, after string) {
		if before == after {
			return
		}
		lines = append(lines, fmt.Sprintf("%s %s -> %s", what, orNone(before), orNone(after)))
	}
	aliases := maps.Clone(now.Models)
	if aliases == nil {
		aliases = map[string]string{}
	}
	maps.Copy(aliases, next.Models)
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		tell(alias, now.Models[alias], next.Models[alias])
	}
	tell("policy", now.Policy, next.Policy)
	tell("engine", now.Engine, next.Engine)
	return lines
}

func orNone(target string) string {
	if target == "" {
		return None
	}
	return targetID(target)
}

// targetID writes a target path as people name the release: "mote@2".
func targetID(target string) string {
	_, name, version, err := release.ParseTarget(target)
	if err != nil {
		return ""
	}
	return release.Document{Name: name, Version: version}.ID()
}

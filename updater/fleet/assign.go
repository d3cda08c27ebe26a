package fleet

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// None, instead of a release, takes something out of a device's set.
const None = "none"

// Change is what Assign changes in a device's set. Releases are written
// "name@version", or "name" for the newest signed one; None takes out.
type Change struct {
	Models map[string]string // alias -> release; aliases that are not named stay
	Policy string            // "" leaves it
	Engine string            // "" leaves it
	Window *release.Window   // nil leaves it
	// AnyTime takes the window out.
	AnyTime bool
	// Approval sets whether an operator at the device must agree; nil leaves it.
	Approval *bool
	// Transfer bounds how the device fetches; nil leaves it, an empty one takes the bounds out.
	Transfer *release.Transfer
	// Replace starts from an empty set.
	Replace bool
}

// Assign changes the models and the policy of a device: aliases that models
// does not name, and an empty policy, stay as they are. See Change for None.
func (f *Fleet) Assign(device string, models map[string]string, policy string) (release.Assignment, error) {
	return f.AssignChange(device, Change{Models: models, Policy: policy})
}

// AssignChange signs the changed set of a device into the director, with the
// next counter, and returns it. A device that has none starts from the empty
// set. A set that would not change is not signed again. Any signed release may
// be assigned, also one older than what the device has: it is the device that
// refuses that, unless it comes by Rollback.
func (f *Fleet) AssignChange(device string, c Change) (release.Assignment, error) {
	a, err := f.assign(device, c)
	if err != nil {
		return release.Assignment{}, fmt.Errorf("cannot assign to %q: %w", device, err)
	}
	return a, nil
}

func (f *Fleet) assign(device string, c Change) (release.Assignment, error) {
	if err := release.CheckDevice(device); err != nil {
		return release.Assignment{}, err
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return release.Assignment{}, err
	}
	defer unlock()
	b, err := f.deviceBranch(device)
	if err != nil {
		return release.Assignment{}, err
	}
	role, err := b.targets(metadata.TARGETS)
	if err != nil {
		return release.Assignment{}, err
	}
	last := release.Assignment{Device: device}
	if b.published() {
		if last, err = release.ParseAssignment(role.Signed.UnrecognizedFields[release.AssignmentField]); err != nil {
			return release.Assignment{}, err
		}
	}
	next, err := f.apply(last, c)
	if err != nil {
		return release.Assignment{}, err
	}
	if b.published() && sameSet(last, next) {
		return last, nil
	}
	if r, err := f.Device(device); err == nil && r.State == DeviceRetired && len(next.Paths()) > 0 {
		return release.Assignment{}, errors.New("the device is retired; its name is not given again")
	}
	next.Counter = last.Counter + 1
	// What was rolled back stays so until another release takes its place.
	next.Older = slices.DeleteFunc(slices.Clone(next.Older), func(path string) bool { return !slices.Contains(next.Paths(), path) })
	if err := next.Validate(); err != nil {
		return release.Assignment{}, err
	}
	return next, f.publishAssignment(b, role.Signed.Version+1, next)
}

// apply resolves the names of a change against the catalog.
func (f *Fleet) apply(last release.Assignment, c Change) (release.Assignment, error) {
	next := last
	next.Models = maps.Clone(last.Models)
	if c.Replace {
		next = release.Assignment{Device: last.Device}
	}
	if next.Models == nil {
		next.Models = map[string]string{}
	}
	for alias, id := range c.Models {
		if id == None {
			delete(next.Models, alias)
			continue
		}
		target, err := f.resolve(release.Model, id)
		if err != nil {
			return next, fmt.Errorf("alias %q: %w", alias, err)
		}
		next.Models[alias] = target
	}
	for _, single := range []struct {
		kind release.Kind
		id   string
		into *string
	}{{release.Policy, c.Policy, &next.Policy}, {release.Engine, c.Engine, &next.Engine}} {
		switch single.id {
		case "":
		case None:
			*single.into = ""
		default:
			target, err := f.resolve(single.kind, single.id)
			if err != nil {
				return next, err
			}
			*single.into = target
		}
	}
	if c.Window != nil {
		next.Window = c.Window
	}
	if c.AnyTime {
		next.Window = nil
	}
	if c.Approval != nil {
		next.Approval = *c.Approval
	}
	if c.Transfer != nil {
		next.Transfer = c.Transfer
		if c.Transfer.Rate == 0 && c.Transfer.Window == nil {
			next.Transfer = nil
		}
	}
	return next, nil
}

func sameSet(a, b release.Assignment) bool {
	return sameWindow(a.Window, b.Window) && sameTransfer(a.Transfer, b.Transfer) && a.Approval == b.Approval && maps.Equal(a.Models, b.Models) && a.Policy == b.Policy && a.Engine == b.Engine
}

func sameWindow(a, b *release.Window) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.From == b.From && a.Until == b.Until && slices.Equal(a.Days, b.Days)
}

func sameTransfer(a, b *release.Transfer) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Rate == b.Rate && sameWindow(a.Window, b.Window)
}

// resolve finds the target path of a signed release.
func (f *Fleet) resolve(kind release.Kind, id string) (string, error) {
	name, version, err := release.ParseID(id)
	if err != nil {
		return "", err
	}
	known, err := f.releases(kind, name)
	if err != nil {
		return "", err
	}
	pending := false
	for _, r := range slices.Backward(known) {
		if version != 0 && r.Document.Version != version {
			continue
		}
		if r.Damage != "" {
			return "", fmt.Errorf("%s; put the file back from a copy of the folder, or assign another version", r.Damage)
		}
		if r.Signed {
			return r.Document.Target(), nil
		}
		pending = true
	}
	if pending {
		return "", fmt.Errorf("%s %s is not signed; run: bothy fleet sign %s %s", kind, id, f.dir, id)
	}
	if kind == release.Engine {
		return "", fmt.Errorf("there is no engine %s; run: bothy fleet add-engine %s FOLDER --name %s", id, f.dir, name)
	}
	return "", fmt.Errorf("there is no %s %s; run: bothy fleet add %s --%s %s FILE", kind, id, f.dir, kind, name)
}

func (f *Fleet) publishAssignment(b *branch, version int64, a release.Assignment) error {
	root, _, err := f.newestRoot(trust.Director)
	if err != nil {
		return err
	}
	key, err := f.oneOf(root, metadata.TARGETS)
	if err != nil {
		return err
	}
	next := metadata.Targets(expires(f.Now(), f.config.Expiry.Director))
	next.Signed.Version = version
	next.Signed.UnrecognizedFields = map[string]any{release.AssignmentField: a}
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
			return fmt.Errorf("the catalog no longer has %s; assign another release", path)
		}
		next.Signed.Targets[path] = entries[path]
	}
	raw, err := sign(next, key)
	if err != nil {
		return err
	}
	return b.publish(part{metadata.TARGETS, version, raw})
}

// Devices lists the devices that have a set, by name.
func (f *Fleet) Devices() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(f.dir, "director"))
	if err != nil {
		return nil, fmt.Errorf("cannot list devices: %w", err)
	}
	var devices []string
	for _, e := range entries {
		if !e.IsDir() || release.CheckDevice(e.Name()) != nil {
			continue
		}
		if _, err := os.Stat(f.devicePath(e.Name(), "timestamp.json")); err == nil {
			devices = append(devices, e.Name())
		}
	}
	return devices, nil
}

// Assignment returns the set that is signed for a device.
func (f *Fleet) Assignment(device string) (release.Assignment, error) {
	role, err := f.deviceTargets(device)
	if err != nil {
		return release.Assignment{}, err
	}
	return release.ParseAssignment(role.Signed.UnrecognizedFields[release.AssignmentField])
}

func (f *Fleet) deviceTargets(device string) (*metadata.Metadata[metadata.TargetsType], error) {
	if err := release.CheckDevice(device); err != nil {
		return nil, fmt.Errorf("cannot read assignment: %w", err)
	}
	b := &branch{dir: f.devicePath(device, ""), device: device, now: f.Now()}
	if err := b.load(); err != nil {
		return nil, err
	}
	if !b.published() {
		return nil, fmt.Errorf("cannot read assignment: %w: device %q; run: bothy fleet assign %s --device %s ALIAS=RELEASE", ErrUnassigned, device, f.dir, device)
	}
	return b.targets(metadata.TARGETS)
}

// ErrUnassigned is what is wrapped when a device has no set.
var ErrUnassigned = errors.New("nothing is assigned to the device")

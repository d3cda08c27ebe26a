package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// AssignmentField is the name of the member, inside the signed part of the
// director's metadata, that carries an Assignment (targets) or a Label
// (timestamp and snapshot).
const AssignmentField = "bothy"

// Assignment is what the director signs about one device beside the list of
// targets. The values of Models, Policy and Engine are target paths; together
// they are exactly the targets of the same metadata.
type Assignment struct {
	Device  string            `json:"device"`
	Counter uint64            `json:"counter"`
	Models  map[string]string `json:"models,omitempty"` // alias -> target path
	Policy  string            `json:"policy,omitempty"`
	Engine  string            `json:"engine,omitempty"`
	Window  *Window           `json:"window,omitempty"`
	// Approval: an operator at the device must agree before it switches.
	Approval bool `json:"approval,omitempty"`
	// Transfer bounds how the device fetches; nil does not.
	Transfer *Transfer `json:"transfer,omitempty"`
	// Older are those of its paths that a device may take although it had a newer
	// release of the same name: a rollback that somebody ordered. A policy among
	// them still allows the device only.
	Older []string `json:"older,omitempty"`
}

// Label names the device inside timestamp and snapshot metadata. All devices
// of a fleet share the director's keys; without it the metadata of one device
// could be replayed to another and use up its version numbers.
type Label struct {
	Device string `json:"device"`
}

// Paths lists the target paths of the assignment, sorted, each once.
func (a Assignment) Paths() []string {
	set := map[string]bool{}
	for _, p := range a.Models {
		set[p] = true
	}
	for _, p := range []string{a.Policy, a.Engine} {
		if p != "" {
			set[p] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// Validate reports the first thing that is wrong with the assignment.
func (a Assignment) Validate() error {
	if err := CheckDevice(a.Device); err != nil {
		return fmt.Errorf("device: %w", err)
	}
	if a.Counter == 0 || a.Counter > 1<<53 {
		return fmt.Errorf("counter %d is not between 1 and 2^53", a.Counter)
	}
	for alias, path := range a.Models {
		if err := CheckName(alias); err != nil {
			return fmt.Errorf("alias: %w", err)
		}
		if err := checkKind(Model, path); err != nil {
			return fmt.Errorf("alias %q: %w", alias, err)
		}
	}
	if a.Policy != "" {
		if err := checkKind(Policy, a.Policy); err != nil {
			return err
		}
	}
	if a.Engine != "" {
		if err := checkKind(Engine, a.Engine); err != nil {
			return err
		}
	}
	if a.Transfer != nil {
		if err := a.Transfer.Validate(); err != nil {
			return fmt.Errorf("transfer: %w", err)
		}
	}
	paths := a.Paths()
	for i, path := range a.Older {
		if !slices.Contains(paths, path) || i > 0 && a.Older[i-1] >= path {
			return fmt.Errorf("older names %.80q, which is not in the set or out of order", path)
		}
	}
	if a.Window != nil {
		return a.Window.Validate()
	}
	return nil
}

func checkKind(want Kind, path string) error {
	kind, _, _, err := ParseTarget(path)
	if err != nil {
		return err
	}
	if kind != want {
		return fmt.Errorf("target %q is a %s, want a %s", path, kind, want)
	}
	return nil
}

// ParseAssignment reads the assignment from the value of AssignmentField as a
// JSON decoder left it. Unknown members are refused: an agent that does not
// understand an order must not carry out half of it.
func ParseAssignment(value any) (Assignment, error) {
	var a Assignment
	if err := remarshal(value, &a); err != nil {
		return Assignment{}, fmt.Errorf("cannot read assignment: %w", err)
	}
	if err := a.Validate(); err != nil {
		return Assignment{}, fmt.Errorf("cannot read assignment: %w", err)
	}
	return a, nil
}

func remarshal(value, into any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// Custom is the custom field of a target, signed alike in both repositories.
type Custom struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"`
	Version uint64 `json:"version"`
}

// Custom is what both repositories sign about the document beside its digest.
func (d Document) Custom() Custom {
	return Custom{Kind: d.Kind, Name: d.Name, Version: d.Version}
}

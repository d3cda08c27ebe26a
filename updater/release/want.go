package release

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"
)

// Want is the verified set that a device shall run: what the director assigned
// and the catalog agreed to. Only package trust makes one.
type Want struct {
	Device  string `json:"device"`
	Counter uint64 `json:"counter"` // rises with every assignment to this device
	// DirectorVersion and CatalogVersion are the versions of the director's
	// targets and of the catalog's snapshot that this set was read from.
	DirectorVersion int64               `json:"director_version"`
	CatalogVersion  int64               `json:"catalog_version"`
	Models          map[string]Document `json:"models,omitempty"` // alias -> release
	Policy          *Document           `json:"policy,omitempty"`
	Engine          *Document           `json:"engine,omitempty"`
	Window          *Window             `json:"window,omitempty"`
	Approval        bool                `json:"approval,omitempty"` // an operator must agree before it switches
	Transfer        *Transfer           `json:"transfer,omitempty"` // how to fetch it
}

// Documents lists the releases of the set: models by alias, then the policy,
// then the engine.
func (w Want) Documents() []Document {
	var all []Document
	for _, alias := range slices.Sorted(maps.Keys(w.Models)) {
		all = append(all, w.Models[alias])
	}
	if w.Policy != nil {
		all = append(all, *w.Policy)
	}
	if w.Engine != nil {
		all = append(all, *w.Engine)
	}
	return all
}

// EngineOf is the engine release that serves an alias: the set's, for a model
// that asks for that kind of engine or for none. Nil: the device's own engine.
func (w Want) EngineOf(alias string) *Document {
	doc, ok := w.Models[alias]
	if !ok || w.Engine == nil || doc.Engine.Kind != "" && doc.Engine.Kind != w.Engine.Engine.Kind {
		return nil
	}
	return w.Engine
}

// Empty says that the set names nothing to run.
func (w Want) Empty() bool { return len(w.Documents()) == 0 }

// Digest identifies the contents of the set: the releases by their bytes,
// their aliases, the window and whether it must be approved. Two wants that differ only in counters or in
// versions of the repositories have one digest.
func (w Want) Digest() string {
	content := struct {
		Models map[string]Document
		Policy *Document
		Engine *Document
		Window *Window
		// Left out when not set: the digests of earlier wants are stored.
		Approval bool      `json:",omitempty"`
		Transfer *Transfer `json:",omitempty"`
	}{w.Models, w.Policy, w.Engine, w.Window, w.Approval, w.Transfer}
	if len(content.Models) == 0 {
		content.Models = nil
	}
	raw, err := encode(content)
	if err != nil {
		// Unreachable: the types hold nothing that JSON cannot write.
		panic("internal error: cannot encode want: " + err.Error())
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// String lists the set on one line: "chat=mote@2 policy=plant@3".
func (w Want) String() string {
	var parts []string
	for _, alias := range slices.Sorted(maps.Keys(w.Models)) {
		parts = append(parts, alias+"="+w.Models[alias].ID())
	}
	if w.Policy != nil {
		parts = append(parts, "policy="+w.Policy.ID())
	}
	if w.Engine != nil {
		parts = append(parts, "engine="+w.Engine.ID())
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, " ")
}

// Reference is the time that expiry is judged by: the latest of the system
// clock, the persisted high-water mark and the time the agent was built. A
// clock set back therefore cannot revive what had expired.
func Reference(system, mark, build time.Time) time.Time {
	latest := system
	for _, t := range []time.Time{mark, build} {
		if t.After(latest) {
			latest = t
		}
	}
	return latest
}

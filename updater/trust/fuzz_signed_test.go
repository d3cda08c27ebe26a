package trust

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// resigned reads hostile bytes as a role's signed part and signs what the
// parser made of them. It answers nil for what the parser refuses.
func resigned[T metadata.Roles](m *metadata.Metadata[T], part []byte, keys []ed25519.PrivateKey) []byte {
	m, err := m.FromBytes(fmt.Appendf(nil, `{"signatures":[],"signed":%s}`, part))
	if err != nil {
		return nil
	}
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return nil
	}
	for _, k := range keys {
		key, err := metadata.KeyFromPublicKey(k.Public())
		if err != nil {
			return nil
		}
		id, err := key.ID()
		if err != nil {
			return nil
		}
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: id, Signature: ed25519.Sign(k, payload)})
	}
	raw, err := m.ToBytes(false)
	if err != nil {
		return nil
	}
	return raw
}

// FuzzSignedRole writes any content under good signatures: a thief who has the
// keys. Nothing may panic behind guard, and what a role says goes no further
// than the rules let it. It needs no disk and so is faster than FuzzMetadata.
func FuzzSignedRole(f *testing.F) {
	s := newSim(f)
	s.publish()
	files := []string{"2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.models.json"}
	s.rotate(s.catalog, func() {})
	for i, name := range files {
		var whole struct {
			Signed json.RawMessage `json:"signed"`
		}
		if err := json.Unmarshal(s.served["catalog/"+name], &whole); err != nil {
			f.Fatalf("%s: %v", name, err)
		}
		f.Add(uint8(i), []byte(whole.Signed))
	}
	honest := s.freeze()
	f.Fuzz(func(t *testing.T, which uint8, part []byte) {
		file := files[int(which)%len(files)]
		raw := s.hostile(file, part)
		if raw == nil {
			return
		}
		r := &repository{name: Catalog, parents: map[string]string{}, loaded: map[string]string{}}
		var err error
		if r.trusted, err = trustedmetadata.New(honest["catalog/1.root.json"]); err != nil {
			t.Fatal(err)
		}
		r.trusted.RefTime = s.now
		_ = guard("hostile", func() error { return r.walkWith(honest, file, raw) })
		for _, role := range r.trusted.Targets {
			for path := range role.Signed.Targets {
				_, _, _, _ = release.ParseTarget(path)
			}
			if d := role.Signed.Delegations; d != nil {
				claims(d, "models/mote/1.json")
			}
		}
	})
}

// hostile signs part as the role that the file holds.
func (s *sim) hostile(file string, part []byte) []byte {
	keys := s.catalog.keys
	switch file {
	case "2.root.json":
		return resigned(metadata.Root(), part, keys[metadata.ROOT])
	case "timestamp.json":
		return resigned(metadata.Timestamp(), part, keys[metadata.TIMESTAMP])
	case "2.snapshot.json":
		return resigned(metadata.Snapshot(), part, keys[metadata.SNAPSHOT])
	case "2.targets.json":
		return resigned(metadata.Targets(), part, keys[metadata.TARGETS])
	}
	return resigned(metadata.Targets(), part, keys["models"])
}

// walkWith goes through the catalog with one file replaced.
func (r *repository) walkWith(honest map[string][]byte, file string, hostile []byte) error {
	served := func(name string) []byte {
		if name == file {
			return hostile
		}
		return honest["catalog/"+name]
	}
	if _, err := r.trusted.UpdateRoot(served("2.root.json")); err != nil {
		return err
	}
	if _, err := r.trusted.UpdateTimestamp(served("timestamp.json")); err != nil {
		return err
	}
	if _, err := r.trusted.UpdateSnapshot(served("2.snapshot.json"), false); err != nil {
		return err
	}
	for _, role := range []string{metadata.TARGETS, "models"} {
		parent := map[string]string{metadata.TARGETS: metadata.ROOT, "models": metadata.TARGETS}[role]
		if _, err := r.trusted.UpdateDelegatedTargets(served("2."+role+".json"), role, parent); err != nil {
			return err
		}
		if err := r.checkDelegations(role); err != nil {
			return err
		}
		_, _ = release.ParseAssignment(r.trusted.Targets[role].Signed.UnrecognizedFields[release.AssignmentField])
	}
	return nil
}

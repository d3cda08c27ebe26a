package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// attack edits a fleet whose device is up to date with counter 3, mote@2 and
// version 2 of every role.
type attack struct {
	name string
	do   func(s *sim)
	code Code
}

// next publishes an honest next assignment.
func next(s *sim, counter uint64) {
	s.release("mote", counter+1)
	s.assign(box, counter, map[string]string{"chat": fmt.Sprintf("models/mote/%d.json", counter+1)}, "policies/plant/1.json")
	s.publish()
}

// withKeys signs one role with other keys while publishing.
func withKeys(r *simRepo, role string, keys []ed25519.PrivateKey, publish func()) {
	good := r.keys[role]
	r.keys[role] = keys
	publish()
	r.keys[role] = good
}

func truncate(s *sim, key string) {
	raw := s.served[key]
	s.served[key] = raw[:len(raw)/2]
}

func signatureAttacks() []attack {
	var all []attack
	for _, target := range []struct {
		repo Repo
		role string
	}{
		{Director, metadata.TIMESTAMP}, {Director, metadata.SNAPSHOT}, {Director, metadata.TARGETS},
		{Catalog, metadata.TIMESTAMP}, {Catalog, metadata.SNAPSHOT}, {Catalog, metadata.TARGETS}, {Catalog, "models"}, {Catalog, "security"},
	} {
		all = append(all, attack{fmt.Sprintf("%s %s signed by a stranger", target.repo, target.role), func(s *sim) {
			r := s.repo(target.repo)
			withKeys(r, target.role, simKeys("stranger", 3), func() { next(s, 4) })
		}, BadSignature})
	}
	for _, role := range []string{metadata.TARGETS, "models", "security"} {
		all = append(all, attack{fmt.Sprintf("catalog %s signed below threshold", role), func(s *sim) {
			withKeys(s.catalog, role, s.catalog.keys[role][:1], func() { next(s, 4) })
		}, BadSignature})
		all = append(all, attack{fmt.Sprintf("catalog %s signed twice by one key", role), func(s *sim) {
			one := s.catalog.keys[role][0]
			withKeys(s.catalog, role, []ed25519.PrivateKey{one, one}, func() { next(s, 4) })
		}, Malformed})
	}
	for _, repo := range []Repo{Catalog, Director} {
		all = append(all, attack{fmt.Sprintf("%s root signed below threshold", repo), func(s *sim) {
			r := s.repo(repo)
			withKeys(r, metadata.ROOT, r.keys[metadata.ROOT][:1], func() { s.rotate(r, func() {}) })
		}, BadSignature})
		all = append(all, attack{fmt.Sprintf("%s root signed by new keys only", repo), func(s *sim) {
			r := s.repo(repo)
			r.setKeys(s.t, metadata.ROOT, simKeys("thief", 3), 2)
			s.rotate(r, func() {})
		}, BadSignature})
	}
	return all
}

func (s *sim) repo(name Repo) *simRepo {
	if name == Catalog {
		return s.catalog
	}
	return s.director
}

func rollbackAttacks() []attack {
	var all []attack
	for _, repo := range []Repo{Catalog, Director} {
		all = append(all,
			attack{fmt.Sprintf("%s timestamp of an older version", repo), func(s *sim) {
				s.repo(repo).timestamp -= 2
				s.publishRepo(s.repo(repo))
			}, Rollback},
			attack{fmt.Sprintf("%s snapshot of an older version", repo), func(s *sim) {
				s.repo(repo).snapshot -= 2
				s.publishRepo(s.repo(repo))
			}, Rollback},
			attack{fmt.Sprintf("%s targets of an older version", repo), func(s *sim) {
				s.repo(repo).versions[metadata.TARGETS] -= 2
				s.publishRepo(s.repo(repo))
			}, Rollback},
			attack{fmt.Sprintf("%s root of an older version", repo), func(s *sim) {
				s.served[string(repo)+"/2.root.json"] = s.served[string(repo)+"/1.root.json"]
			}, Rollback},
		)
	}
	return append(all,
		attack{"models role of an older version", func(s *sim) {
			s.catalog.versions["models"] -= 2
			s.publishRepo(s.catalog)
		}, Rollback},
		attack{"counter goes down", func(s *sim) {
			s.assign(box, 2, map[string]string{"chat": "models/mote/2.json"}, "")
			s.publish()
		}, Rollback},
		attack{"a release older than what runs", func(s *sim) {
			s.assign(box, 4, map[string]string{"chat": "models/mote/1.json"}, "")
			s.publish()
		}, Rollback},
	)
}

func wrongSetAttacks() []attack {
	return []attack{
		{"metadata of another device", func(s *sim) {
			s.assign("box-2", 9, map[string]string{"chat": "models/mote/2.json"}, "")
			s.publishRepo(s.director)
		}, WrongDevice},
		{"another device's targets behind this device's timestamp", func(s *sim) {
			s.assign("box-2", 9, map[string]string{"chat": "models/mote/2.json"}, "")
			s.director.device = box
			s.publishRepo(s.director)
		}, WrongDevice},
		{"no device in the timestamp", func(s *sim) {
			s.director.device = ""
			s.publishRepo(s.director)
		}, Malformed},
		{"a target that is not assigned", func(s *sim) {
			top := s.director.targets[metadata.TARGETS].Signed
			top.Targets["models/mote/1.json"] = s.catalog.targets["models"].Signed.Targets["models/mote/1.json"]
			s.publishRepo(s.director)
		}, Malformed},
		{"the director delegates", func(s *sim) {
			s.director.targets[metadata.TARGETS].Signed.Delegations = s.catalog.targets[metadata.TARGETS].Signed.Delegations
			s.publishRepo(s.director)
		}, Malformed},
		{"the catalog's top role lists a target", func(s *sim) {
			s.catalog.targets[metadata.TARGETS].Signed.Targets["models/mote/2.json"] = s.catalog.targets["models"].Signed.Targets["models/mote/2.json"]
			s.publishRepo(s.catalog)
		}, Malformed},
		{"an unknown order", func(s *sim) {
			top := s.director.targets[metadata.TARGETS].Signed
			top.UnrecognizedFields[release.AssignmentField] = map[string]any{"device": box, "counter": 5, "erase": true}
			s.publishRepo(s.director)
		}, Malformed},
		{"a policy where a model belongs", func(s *sim) {
			s.assign(box, 5, map[string]string{"chat": "policies/plant/1.json"}, "")
			s.publish()
		}, Malformed},
		{"a diamond of delegations", func(s *sim) {
			child := metadata.DelegatedRole{Name: "security", KeyIDs: s.catalog.targets[metadata.TARGETS].Signed.Delegations.Roles[0].KeyIDs,
				Threshold: 2, Paths: []string{"models/*/*"}}
			models := s.catalog.targets["models"]
			models.Signed.Delegations = &metadata.Delegations{Keys: s.catalog.targets[metadata.TARGETS].Signed.Delegations.Keys, Roles: []metadata.DelegatedRole{child}}
			s.publishRepo(s.catalog)
		}, Malformed},
		{"a role that delegates to itself", func(s *sim) {
			models := s.catalog.targets["models"]
			models.Signed.Delegations = &metadata.Delegations{Keys: s.catalog.targets[metadata.TARGETS].Signed.Delegations.Keys,
				Roles: []metadata.DelegatedRole{{Name: metadata.TARGETS, Threshold: 1, Paths: []string{"*"}}}}
			s.publishRepo(s.catalog)
		}, Malformed},
	}
}

func disagreementAttacks() []attack {
	edit := func(change func(e *metadata.TargetFiles)) func(*sim) {
		return func(s *sim) {
			change(s.director.targets[metadata.TARGETS].Signed.Targets["models/mote/2.json"])
			s.publishRepo(s.director)
		}
	}
	return []attack{
		{"director has another length", edit(func(e *metadata.TargetFiles) { e.Length++ }), Disagreement},
		{"director has another hash", edit(func(e *metadata.TargetFiles) {
			e.Hashes = metadata.Hashes{"sha256": bytes.Repeat([]byte{7}, 32)}
		}), Disagreement},
		{"director has no hash", edit(func(e *metadata.TargetFiles) { e.Hashes = metadata.Hashes{} }), Malformed},
		{"director has another custom field", edit(func(e *metadata.TargetFiles) {
			raw := json.RawMessage(`{"kind":"model","name":"mote","version":3}`)
			e.Custom = &raw
		}), Disagreement},
		{"director has a number that is the same as a float", func(s *sim) {
			for repo, text := range map[*simRepo]string{s.catalog: "9007199254740992", s.director: "9007199254740993"} {
				raw := json.RawMessage(`{"kind":"model","name":"mote","version":` + text + `}`)
				role := metadata.TARGETS
				if repo == s.catalog {
					role = "models"
				}
				repo.targets[role].Signed.Targets["models/mote/2.json"].Custom = &raw
			}
			s.publish()
		}, Disagreement},
		{"director leaves out the custom field", edit(func(e *metadata.TargetFiles) { e.Custom = nil }), Disagreement},
		{"director assigns what the catalog does not have", func(s *sim) {
			s.release("mote", 3)
			s.assign(box, 5, map[string]string{"chat": "models/mote/3.json"}, "")
			delete(s.catalog.targets["models"].Signed.Targets, "models/mote/3.json")
			s.publish()
		}, Disagreement},
		{"a model signed by the security role", func(s *sim) {
			s.release("mote", 3)
			s.assign(box, 5, map[string]string{"chat": "models/mote/3.json"}, "")
			models, security := s.catalog.targets["models"].Signed.Targets, s.catalog.targets["security"].Signed.Targets
			security["models/mote/3.json"] = models["models/mote/3.json"]
			delete(models, "models/mote/3.json")
			s.publish()
		}, Disagreement},
		{"document of another release", func(s *sim) {
			doc := s.docs["models/mote/2.json"]
			doc.Name = "other"
			raw, _ := doc.Encode()
			doc.Name, doc.Version = "mote", 3
			s.catalog.targets["models"].Signed.Targets["models/mote/3.json"] = s.entry(doc, raw)
			s.assign(box, 5, map[string]string{"chat": "models/mote/3.json"}, "")
			s.publish()
		}, Mismatch},
		{"custom field that describes another release in both", func(s *sim) {
			s.release("mote", 3)
			raw := json.RawMessage(`{"kind":"model","name":"mote","version":9}`)
			s.catalog.targets["models"].Signed.Targets["models/mote/3.json"].Custom = &raw
			s.assign(box, 5, map[string]string{"chat": "models/mote/3.json"}, "")
			s.publish()
		}, Mismatch},
		{"document that does not match its digest", func(s *sim) {
			next(s, 4)
			for key, raw := range s.served {
				if bytes.Contains(raw, []byte(`"version": 5`)) && bytes.HasPrefix([]byte(key), []byte("catalog/targets/")) {
					s.served[key] = bytes.Replace(raw, []byte("mote.bin"), []byte("evil.bin"), 1)
				}
			}
		}, Mismatch},
	}
}

func mixAttacks() []attack {
	return []attack{
		{"new snapshot with old targets", func(s *sim) {
			old := s.served["catalog/2.models.json"]
			next(s, 4)
			s.served["catalog/3.models.json"] = old
		}, Mismatch},
		{"old snapshot behind a new timestamp", func(s *sim) {
			old := s.served["director/2.snapshot.json"]
			next(s, 4)
			s.served["director/3.snapshot.json"] = old
		}, Mismatch},
		{"snapshot of the other repository", func(s *sim) {
			next(s, 4)
			s.served["director/3.snapshot.json"] = s.served["catalog/3.snapshot.json"]
		}, TooLarge},
		{"timestamp of the other repository", func(s *sim) {
			s.served["director/timestamp.json"] = s.served["catalog/timestamp.json"]
		}, BadSignature},
		{"snapshot does not list the models role", func(s *sim) {
			next(s, 4)
			meta := map[string]*metadata.MetaFiles{}
			for _, role := range []string{"targets", "security"} {
				meta[role+".json"] = describe(3, s.served[fmt.Sprintf("catalog/3.%s.json", role)])
			}
			s.catalog.snapshot++
			s.writeSnapshot(s.catalog, meta)
		}, Mismatch},
		{"timestamp without a snapshot", func(s *sim) { s.stamp(s.director, nil) }, Malformed},
	}
}

func bytesAttacks() []attack {
	var all []attack
	for _, key := range []string{"director/timestamp.json", "director/3.snapshot.json", "director/3.targets.json",
		"catalog/timestamp.json", "catalog/3.snapshot.json", "catalog/3.models.json", "catalog/3.targets.json"} {
		all = append(all,
			attack{"endless " + key, func(s *sim) {
				next(s, 4)
				s.override[key] = func(limit int64) ([]byte, error) { return make([]byte, limit+1), nil }
			}, TooLarge},
		)
		code := Mismatch // the signed digest notices first
		if key == "director/timestamp.json" || key == "catalog/timestamp.json" {
			code = Malformed
		}
		all = append(all, attack{"truncated " + key, func(s *sim) {
			next(s, 4)
			truncate(s, key)
		}, code})
	}
	for name, raw := range map[string]string{
		"empty":            "",
		"null":             "null",
		"array":            "[1,2]",
		"no signed":        `{"signatures":[]}`,
		"null signed":      `{"signed":null,"signatures":[]}`,
		"null meta":        `{"signed":{"_type":"timestamp","spec_version":"1.0.31","version":9,"expires":"2030-01-01T00:00:00Z","meta":null},"signatures":[]}`,
		"version too big":  `{"signed":{"_type":"timestamp","version":1e99},"signatures":[]}`,
		"deep":             string(bytes.Repeat([]byte("["), 8000)),
		"signature twice":  `{"signed":{"_type":"timestamp","spec_version":"1.0.31","version":9,"expires":"2030-01-01T00:00:00Z","meta":{}},"signatures":[{"keyid":"a","sig":"00"},{"keyid":"a","sig":"00"}]}`,
		"wrong type":       `{"signed":{"_type":"root"},"signatures":[]}`,
		"invalid expiries": `{"signed":{"_type":"timestamp","spec_version":"1.0.31","version":9,"expires":"soon","meta":{}},"signatures":[]}`,
	} {
		all = append(all, attack{"timestamp: " + name, func(s *sim) { s.served["director/timestamp.json"] = []byte(raw) }, ""})
		all = append(all, attack{"root: " + name, func(s *sim) { s.served["catalog/2.root.json"] = []byte(raw) }, ""})
	}
	return append(all, attack{"endless root", func(s *sim) {
		s.override["catalog/2.root.json"] = func(limit int64) ([]byte, error) { return make([]byte, limit+1), nil }
	}, TooLarge})
}

// TestAttacksAreRefused: each attack is refused with its code, what ran stays,
// also over a restart, and the device follows the honest fleet afterwards.
func TestAttacksAreRefused(t *testing.T) {
	var all []attack
	for _, group := range [][]attack{signatureAttacks(), rollbackAttacks(), wrongSetAttacks(), disagreementAttacks(), mixAttacks(), bytesAttacks()} {
		all = append(all, group...)
	}
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			s := newSim(t)
			s.publish()
			d := newDevice(t, s)
			before := d.refreshAndInstall()
			a.do(s)
			want, err := d.Refresh(t.Context(), s)
			refusal, ok := errors.AsType[*Refusal](err)
			if !ok || a.code != "" && refusal.Code != a.code {
				t.Fatalf("got %v, %v; want a refusal %q", want, err, a.code)
			}
			for range 2 {
				if now, ok := d.Current(); !ok || now.Digest() != before.Digest() || now.Counter != before.Counter {
					t.Errorf("got current %v, %v after the attack, want %v", now, ok, before)
				}
				d.reopen()
			}
			s.recover()
			if want := d.refresh(); want.Counter != 20 || want.Models["chat"].Version != 21 {
				t.Errorf("got %v with counter %d from the honest fleet, want mote@21 with 20", want, want.Counter)
			}
		})
	}
}

// recover makes the fleet honest again, as its operator would: what it signs
// next has versions above all that it ever signed.
func (s *sim) recover() {
	s.override = map[string]func(int64) ([]byte, error){}
	for _, r := range []*simRepo{s.catalog, s.director} {
		r.snapshot, r.timestamp = 50, 50
		for role, m := range r.targets {
			r.versions[role] = 50
			m.Signed.Targets = map[string]*metadata.TargetFiles{}
			if role == "models" || role == "security" || r.name == Director {
				m.Signed.Delegations = nil
			}
		}
	}
	for name := range s.served {
		if strings.HasSuffix(name, "2.root.json") {
			delete(s.served, name)
		}
	}
	s.policy("plant", 1)
	next(s, 20)
}

// refreshAndInstall takes the honest state and makes it what runs.
func (d *device) refreshAndInstall() release.Want {
	d.t.Helper()
	want := d.refresh()
	d.runs = want.Documents()
	return want
}

package trust

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

const box = "box-1"

// start is the simulator's first moment.
func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// sim is a fleet in memory. It publishes honestly; attacks edit its state or
// what it serves.
type sim struct {
	t   testing.TB
	now time.Time
	// mu is held by a test that edits what a depot reads meanwhile.
	mu sync.Mutex

	catalog, director *simRepo
	docs              map[string]release.Document // by target path
	served            map[string][]byte           // "catalog/2.root.json"
	// override, when it has a name, answers instead of served.
	override map[string]func(limit int64) ([]byte, error)
	asked    []string
	// slow is a name that is answered when the asker has lost patience; entered is told so.
	slow    string
	entered func()
	// bare leaves lengths and digests out of what timestamps and snapshots say, as TUF allows.
	bare bool
}

// simRepo is one repository: what is to be signed, and the keys to sign with.
type simRepo struct {
	name      Repo
	keys      map[string][]ed25519.PrivateKey // role -> keys that sign it
	root      *metadata.Metadata[metadata.RootType]
	targets   map[string]*metadata.Metadata[metadata.TargetsType]
	versions  map[string]int64
	snapshot  int64
	timestamp int64
	device    string
	// labels and expires, by role, replace what is signed as device and expiry.
	labels  map[string]string
	expires map[string]time.Time
}

// simKey derives a key from its name, so that failures repeat.
func simKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func simKeys(name string, n int) []ed25519.PrivateKey {
	keys := make([]ed25519.PrivateKey, n)
	for i := range keys {
		keys[i] = simKey(fmt.Sprint(name, i))
	}
	return keys
}

func newSim(t testing.TB) *sim {
	s := &sim{t: t, now: start(), docs: map[string]release.Document{},
		served: map[string][]byte{}, override: map[string]func(int64) ([]byte, error){}}
	s.catalog = s.newRepo(Catalog, 3)
	s.director = s.newRepo(Director, 1)
	s.director.device = box
	s.delegate("models", "models/*/*")
	s.delegate("security", "policies/*/*")
	s.release("mote", 1)
	s.release("mote", 2)
	s.policy("plant", 1)
	s.assign(box, 3, map[string]string{"chat": "models/mote/2.json"}, "policies/plant/1.json")
	s.publish()
	return s
}

func (s *sim) newRepo(name Repo, n int) *simRepo {
	r := &simRepo{name: name, keys: map[string][]ed25519.PrivateKey{},
		targets: map[string]*metadata.Metadata[metadata.TargetsType]{}, versions: map[string]int64{},
		labels: map[string]string{}, expires: map[string]time.Time{}}
	r.root = metadata.Root(s.now.AddDate(2, 0, 0))
	for role, count := range map[string]int{metadata.ROOT: 3, metadata.TARGETS: n, metadata.SNAPSHOT: 1, metadata.TIMESTAMP: 1} {
		r.setKeys(s.t, role, simKeys(string(name)+role, count), max(1, count-1))
	}
	r.targets[metadata.TARGETS] = metadata.Targets(s.now.AddDate(1, 0, 0))
	s.served[string(name)+"/1.root.json"] = signed(s.t, r.root, r.keys[metadata.ROOT])
	return r
}

func (r *simRepo) setKeys(t testing.TB, role string, keys []ed25519.PrivateKey, threshold int) {
	r.keys[role] = keys
	r.root.Signed.Roles[role] = &metadata.Role{Threshold: threshold}
	for _, k := range keys {
		key := tufKey(t, k)
		if err := r.root.Signed.AddKey(key, role); err != nil {
			t.Fatal(err)
		}
	}
}

func tufKey(t testing.TB, k ed25519.PrivateKey) *metadata.Key {
	key, err := metadata.KeyFromPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *sim) delegate(role, pattern string) {
	top := s.catalog.targets[metadata.TARGETS]
	if top.Signed.Delegations == nil {
		top.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	s.catalog.keys[role] = simKeys(role, 3)
	d := metadata.DelegatedRole{Name: role, Threshold: 2, Terminating: true, Paths: []string{pattern}}
	for _, k := range s.catalog.keys[role] {
		key := tufKey(s.t, k)
		id, err := key.ID()
		if err != nil {
			s.t.Fatal(err)
		}
		top.Signed.Delegations.Keys[id] = key
		d.KeyIDs = append(d.KeyIDs, id)
	}
	top.Signed.Delegations.Roles = append(top.Signed.Delegations.Roles, d)
	s.catalog.targets[role] = metadata.Targets(s.now.AddDate(1, 0, 0))
}

func digestOf(parts ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(parts...)))
	return hex.EncodeToString(sum[:])
}

func (s *sim) release(name string, version uint64) { s.add("models", release.Model, name, version) }
func (s *sim) policy(name string, version uint64)  { s.add("security", release.Policy, name, version) }

func (s *sim) add(role string, kind release.Kind, name string, version uint64) {
	s.put(role, release.Document{Schema: release.Schema, Kind: kind, Name: name, Version: version,
		Files: []release.File{{Path: name + ".bin", Size: 100, SHA256: digestOf(name, version), IndexSHA256: digestOf("index", name, version)}}})
}

// put lists a document in a role under its own path.
func (s *sim) put(role string, doc release.Document) {
	raw, err := doc.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	s.docs[doc.Target()] = doc
	s.catalog.targets[role].Signed.Targets[doc.Target()] = s.entry(doc, raw)
}

// entry serves raw as a release document and describes it.
func (s *sim) entry(doc release.Document, raw []byte) *metadata.TargetFiles {
	entry, err := metadata.TargetFile().FromBytes(doc.Target(), raw)
	if err != nil {
		s.t.Fatal(err)
	}
	custom, err := json.Marshal(doc.Custom())
	if err != nil {
		s.t.Fatal(err)
	}
	message := json.RawMessage(custom)
	entry.Custom = &message
	s.served["catalog/"+release.DocumentName(hex.EncodeToString(entry.Hashes["sha256"]), doc.Name)] = raw
	return entry
}

// assign replaces what the director will sign, copying the catalog's entries.
func (s *sim) assign(device string, counter uint64, models map[string]string, policy string) {
	a := release.Assignment{Device: device, Counter: counter, Models: models, Policy: policy}
	top := metadata.Targets(s.now.AddDate(1, 0, 0))
	for _, path := range a.Paths() {
		for _, role := range s.catalog.targets {
			if entry := role.Signed.Targets[path]; entry != nil {
				copied := *entry
				top.Signed.Targets[path] = &copied
			}
		}
	}
	top.Signed.UnrecognizedFields = map[string]any{release.AssignmentField: a}
	s.director.targets[metadata.TARGETS] = top
	s.director.device = device
}

// publish signs both repositories anew, with versions one higher.
func (s *sim) publish() {
	s.publishRepo(s.catalog)
	s.publishRepo(s.director)
}

func (s *sim) publishRepo(r *simRepo) {
	meta := map[string]*metadata.MetaFiles{}
	for role, m := range r.targets {
		r.versions[role]++
		m.Signed.Version = r.versions[role]
		raw := signed(s.t, m, r.keys[role])
		s.served[fmt.Sprintf("%s/%d.%s.json", r.name, m.Signed.Version, role)] = raw
		meta[role+".json"] = s.describe(m.Signed.Version, raw)
	}
	r.snapshot++
	s.writeSnapshot(r, meta)
}

func (s *sim) writeSnapshot(r *simRepo, meta map[string]*metadata.MetaFiles) {
	snapshot := metadata.Snapshot(r.until(metadata.SNAPSHOT, s.now.AddDate(0, 1, 0)))
	snapshot.Signed.Version = r.snapshot
	snapshot.Signed.Meta = meta
	snapshot.Signed.UnrecognizedFields = r.label(metadata.SNAPSHOT)
	raw := signed(s.t, snapshot, r.keys[metadata.SNAPSHOT])
	s.served[fmt.Sprintf("%s/%d.snapshot.json", r.name, r.snapshot)] = raw
	s.stamp(r, s.describe(r.snapshot, raw))
}

func (s *sim) stamp(r *simRepo, snapshot *metadata.MetaFiles) {
	r.timestamp++
	m := metadata.Timestamp(r.until(metadata.TIMESTAMP, s.now.AddDate(0, 0, 7)))
	m.Signed.Version = r.timestamp
	m.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": snapshot}
	m.Signed.UnrecognizedFields = r.label(metadata.TIMESTAMP)
	s.served[string(r.name)+"/timestamp.json"] = signed(s.t, m, r.keys[metadata.TIMESTAMP])
}

func (r *simRepo) label(role string) map[string]any {
	device := r.device
	if other, ok := r.labels[role]; ok {
		device = other
	}
	if device == "" {
		return nil
	}
	return map[string]any{release.AssignmentField: release.Label{Device: device}}
}

func (r *simRepo) until(role string, usual time.Time) time.Time {
	if other, ok := r.expires[role]; ok {
		return other
	}
	return usual
}

func (s *sim) describe(version int64, raw []byte) *metadata.MetaFiles {
	if s.bare {
		return &metadata.MetaFiles{Version: version}
	}
	return describe(version, raw)
}

// rotate publishes a next root after change; it is signed by the old and the
// new root keys.
func (s *sim) rotate(r *simRepo, change func()) {
	old := r.keys[metadata.ROOT]
	change()
	r.root.Signed.Version++
	signers := slices.Clone(old)
	for _, k := range r.keys[metadata.ROOT] {
		if !slices.ContainsFunc(old, func(o ed25519.PrivateKey) bool { return o.Equal(k) }) {
			signers = append(signers, k)
		}
	}
	s.served[fmt.Sprintf("%s/%d.root.json", r.name, r.root.Signed.Version)] = signed(s.t, r.root, signers)
}

func describe(version int64, raw []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(raw)
	return &metadata.MetaFiles{Version: version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

func signed[T metadata.Roles](t testing.TB, m *metadata.Metadata[T], keys []ed25519.PrivateKey) []byte {
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		t.Fatal(err)
	}
	m.ClearSignatures()
	for _, k := range keys {
		id, err := tufKey(t, k).ID()
		if err != nil {
			t.Fatal(err)
		}
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: id, Signature: ed25519.Sign(k, payload)})
	}
	raw, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Metadata implements Source.
func (s *sim) Metadata(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error) {
	key := string(repo) + "/" + name
	s.asked = append(s.asked, key)
	if key == s.slow {
		s.entered()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if f := s.override[key]; f != nil {
		return f(limit)
	}
	raw, ok := s.served[key]
	if !ok {
		return nil, fmt.Errorf("sim: %s: %w", key, ErrNotFound)
	}
	return raw, nil
}

// freeze remembers all that is served now.
func (s *sim) freeze() map[string][]byte { return maps.Clone(s.served) }

// device is a client with its disk.
type device struct {
	t    testing.TB
	sim  *sim
	dir  string
	db   *store.DB
	now  time.Time
	sync bool
	runs []release.Document
	// source is where the device asks; nil asks the simulator.
	source Source
	*Client
}

// memory is a folder in memory where there is one: hundreds of devices sync their
// disks, and what a lost one would hold is not what these tests are about.
func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "trust-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newDevice(t testing.TB, s *sim) *device {
	d := &device{t: t, sim: s, dir: memory(t), now: s.now, sync: true}
	d.open()
	t.Cleanup(func() { _ = d.db.Close() })
	return d
}

func (d *device) open() {
	d.t.Helper()
	db, _, err := store.Open(d.t.Context(), store.Options{Path: filepath.Join(d.dir, "bothy.db")})
	if err != nil {
		d.t.Fatal(err)
	}
	slots, err := store.OpenSlots(filepath.Join(d.dir, "slots"), "trust")
	if err != nil {
		d.t.Fatal(err)
	}
	d.db = db
	d.Client, err = Open(Config{
		DB: db, Slots: slots, Device: box,
		CatalogRoot:  d.sim.served["catalog/1.root.json"],
		DirectorRoot: d.sim.served["director/1.root.json"],
		Now:          func() time.Time { return d.now },
		Synchronised: func() bool { return d.sync },
		Build:        start().AddDate(0, 0, -30),
		Installed:    func() []release.Document { return d.runs },
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) reopen() {
	d.t.Helper()
	if err := d.db.Close(); err != nil {
		d.t.Fatal(err)
	}
	d.open()
}

func (d *device) from() Source {
	if d.source != nil {
		return d.source
	}
	return d.sim
}

// refresh must succeed.
func (d *device) refresh() release.Want {
	d.t.Helper()
	want, err := d.Refresh(d.t.Context(), d.from())
	if err != nil {
		d.t.Fatalf("refresh: %v", err)
	}
	return want
}

// refused must fail with code.
func (d *device) refused(code Code) *Refusal {
	d.t.Helper()
	want, err := d.Refresh(d.t.Context(), d.from())
	if CodeOf(err) != code {
		d.t.Fatalf("refresh: got %v, %v; want a refusal %q", want, err, code)
	}
	if !want.Empty() || strings.Contains(err.Error(), "%!") {
		d.t.Fatalf("refusal came with %v and reads %q", want, err)
	}
	r, _ := errors.AsType[*Refusal](err)
	return r
}

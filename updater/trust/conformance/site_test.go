package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestMain lets the test binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("BE_TUF_CLIENT") != "" {
		main()
	}
	os.Exit(m.Run())
}

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// key is a signing key with its public part as metadata has it.
type key struct {
	private crypto.Signer
	public  *metadata.Key
	id      string
}

func newKey(t testing.TB, private crypto.Signer) key {
	t.Helper()
	public, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	id, err := public.ID()
	if err != nil {
		t.Fatal(err)
	}
	return key{private, public, id}
}

// edKey derives a key from its name, so that failures repeat.
func edKey(t testing.TB, name string) key {
	seed := sha256.Sum256([]byte(name))
	return newKey(t, ed25519.NewKeyFromSeed(seed[:]))
}

func ecdsaKey(t testing.TB) key {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, private)
}

func rsaKey(t testing.TB) key {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, private)
}

func (k key) sign(t testing.TB, payload []byte) metadata.Signature {
	t.Helper()
	var opts crypto.SignerOpts = crypto.Hash(0)
	message := payload
	if _, ed := k.private.(ed25519.PrivateKey); !ed {
		sum := sha256.Sum256(payload)
		opts, message = crypto.SHA256, sum[:]
	}
	if _, ok := k.private.(*rsa.PrivateKey); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	sig, err := k.private.Sign(rand.Reader, message, opts)
	if err != nil {
		t.Fatal(err)
	}
	return metadata.Signature{KeyID: k.id, Signature: sig}
}

// site is a repository behind a web server. It publishes honestly; tests edit
// its roles before, or its files after.
type site struct {
	t      testing.TB
	now    time.Time
	url    string
	hashes bool // describe metadata by length and digest too

	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   map[string]*metadata.Metadata[metadata.TargetsType]
	keys      map[string][]key // role -> keys that sign it
	published map[string]bool

	// Tests use these between commands, the server during one.
	serving sync.Mutex
	files   map[string][]byte // "metadata/2.root.json", "targets/a/b"
	asked   []string          // in the same way, still escaped
}

func newSite(t *testing.T) *site {
	s := &site{t: t, now: start(), keys: map[string][]key{}, published: map[string]bool{}, files: map[string][]byte{},
		targets: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	expires := s.now.AddDate(0, 0, 30)
	s.root, s.timestamp, s.snapshot = metadata.Root(expires), metadata.Timestamp(expires), metadata.Snapshot(expires)
	s.targets[metadata.TARGETS] = metadata.Targets(expires)
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		s.setKeys(role, 1, edKey(t, role))
	}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.url = server.URL
	s.publish(metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP)
	return s
}

// settle is called around each command: what either side wrote before it, the
// other sees after it.
func (s *site) settle() {
	s.serving.Lock()
	defer s.serving.Unlock()
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.serving.Lock()
	defer s.serving.Unlock()
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	s.asked = append(s.asked, path)
	raw, ok := s.files[path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(raw)
}

// setKeys gives a top-level role new keys, which sign it from now on.
func (s *site) setKeys(role string, threshold int, keys ...key) {
	entry := &metadata.Role{Threshold: threshold}
	for _, k := range keys {
		s.root.Signed.Keys[k.id] = k.public
		entry.KeyIDs = append(entry.KeyIDs, k.id)
	}
	s.root.Signed.Roles[role] = entry
	s.keys[role] = keys
}

// publish signs the next version of roles, in this order.
func (s *site) publish(roles ...string) {
	for _, role := range roles {
		switch role {
		case metadata.ROOT:
			put(s, s.root, role, &s.root.Signed.Version)
		case metadata.TIMESTAMP:
			put(s, s.timestamp, role, &s.timestamp.Signed.Version)
		case metadata.SNAPSHOT:
			raw := put(s, s.snapshot, role, &s.snapshot.Signed.Version)
			s.timestamp.Signed.Meta["snapshot.json"] = s.describe(s.snapshot.Signed.Version, raw)
		default:
			m := s.targets[role]
			raw := put(s, m, role, &m.Signed.Version)
			s.snapshot.Signed.Meta[role+".json"] = s.describe(m.Signed.Version, raw)
		}
	}
}

// all publishes every role but root.
func (s *site) all() {
	s.publish(append(slices.Sorted(maps.Keys(s.targets)), metadata.SNAPSHOT, metadata.TIMESTAMP)...)
}

// put signs one role and serves it; versions count from 1.
func put[T metadata.Roles](s *site, m *metadata.Metadata[T], role string, version *int64) []byte {
	s.t.Helper()
	if s.published[role] {
		*version++
	}
	s.published[role] = true
	raw := s.signed(m, s.keys[role]...)
	s.files["metadata/"+s.fileName(role, *version)] = raw
	return raw
}

func (s *site) fileName(role string, version int64) string {
	name := url.PathEscape(role) + ".json"
	if role == metadata.ROOT || role != metadata.TIMESTAMP && s.root.Signed.ConsistentSnapshot {
		return fmt.Sprintf("%d.%s", version, name)
	}
	return name
}

func (s *site) signed(m any, keys ...key) []byte {
	switch m := m.(type) {
	case *metadata.Metadata[metadata.RootType]:
		return signed(s.t, m, keys)
	case *metadata.Metadata[metadata.TimestampType]:
		return signed(s.t, m, keys)
	case *metadata.Metadata[metadata.SnapshotType]:
		return signed(s.t, m, keys)
	}
	return signed(s.t, m.(*metadata.Metadata[metadata.TargetsType]), keys)
}

func signed[T metadata.Roles](t testing.TB, m *metadata.Metadata[T], keys []key) []byte {
	t.Helper()
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		t.Fatal(err)
	}
	m.ClearSignatures()
	for _, k := range keys {
		m.Signatures = append(m.Signatures, k.sign(t, payload))
	}
	raw, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (s *site) describe(version int64, raw []byte) *metadata.MetaFiles {
	meta := &metadata.MetaFiles{Version: version}
	if s.hashes {
		sum := sha256.Sum256(raw)
		meta.Length, meta.Hashes = int64(len(raw)), metadata.Hashes{"sha256": sum[:]}
	}
	return meta
}

// delegate lets parent trust role with paths; the role is made where it is new.
func (s *site) delegate(parent string, role metadata.DelegatedRole, keys ...key) {
	d := s.targets[parent].Signed.Delegations
	if d == nil {
		d = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
		s.targets[parent].Signed.Delegations = d
	}
	if len(keys) == 0 {
		keys = []key{edKey(s.t, "of "+role.Name)}
	}
	for _, k := range keys {
		d.Keys[k.id] = k.public
		role.KeyIDs = append(role.KeyIDs, k.id)
	}
	role.Threshold = max(role.Threshold, 1)
	d.Roles = append(d.Roles, role)
	if s.targets[role.Name] == nil {
		s.targets[role.Name] = metadata.Targets(s.now.AddDate(0, 0, 30))
		s.keys[role.Name] = keys
	}
}

// target lists content in a role, described by the named digests, and serves it.
func (s *site) target(role, path, content string, algorithms ...string) *metadata.TargetFiles {
	if len(algorithms) == 0 {
		algorithms = []string{"sha256"}
	}
	entry, err := metadata.TargetFile().FromBytes(path, []byte(content), algorithms...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.targets[role].Signed.Targets[path] = entry
	dir, base := filepath.Split(path)
	for _, digest := range entry.Hashes {
		s.files["targets/"+escapePath(fmt.Sprintf("%s%x.%s", dir, []byte(digest), base))] = []byte(content)
	}
	s.files["targets/"+escapePath(path)] = []byte(content)
	return entry
}

// client is the program with its two folders.
type client struct {
	t    *testing.T
	site *site
	dir  string // state and copies of the metadata
	out  string
}

// newClient trusts the site's root of that version.
func newClient(t *testing.T, s *site, root int) *client {
	c := &client{t: t, site: s, dir: t.TempDir(), out: t.TempDir()}
	s.setClock(t)
	file := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(file, s.files[fmt.Sprintf("metadata/%d.root.json", root)], 0o644); err != nil {
		t.Fatal(err)
	}
	if c.run("--metadata-dir", c.dir, "init", file) != 0 {
		t.Fatal("init failed")
	}
	if len(s.asked) != 0 {
		t.Fatalf("init asked for %v", s.asked)
	}
	return c
}

// setClock makes date give the site's time.
func (s *site) setClock(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\necho " + s.now.Format(time.RFC3339) + "\n"
	if err := os.WriteFile(filepath.Join(dir, "date"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func (c *client) run(args ...string) int {
	c.site.settle()
	defer c.site.settle()
	return execute(context.Background(), args, c.t.Output())
}

func (c *client) refresh() int {
	return c.run("--metadata-dir", c.dir, "--metadata-url", c.site.url+"/metadata/", "refresh")
}

func (c *client) download(targets ...string) int {
	args := []string{"--metadata-dir", c.dir, "--metadata-url", c.site.url + "/metadata"}
	for _, name := range targets {
		args = append(args, "--target-name", name)
	}
	return c.run(append(args, "--target-base-url", c.site.url+"/targets", "--target-dir", c.out, "download")...)
}

// mustRefresh is refresh that a test only prepares with.
func (c *client) mustRefresh() {
	c.t.Helper()
	if c.refresh() != 0 {
		c.t.Fatal("got a refusal of honest metadata")
	}
}

// refused must fail and leave the roles as they are given: "root@1 timestamp@2".
func (c *client) refused(roles string) {
	c.t.Helper()
	if c.refresh() != 1 {
		c.t.Errorf("got success, want a refusal")
	}
	c.trusts(roles)
}

// trusts compares the names and versions of the metadata in the folder.
func (c *client) trusts(want string) {
	c.t.Helper()
	found, err := filepath.Glob(filepath.Join(c.dir, "*.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	var got []string
	for _, path := range found {
		raw, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		var m struct{ Signed struct{ Version int64 } }
		if err := json.Unmarshal(raw, &m); err != nil {
			c.t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s@%d", strings.TrimSuffix(filepath.Base(path), ".json"), m.Signed.Version))
	}
	if joined := strings.Join(got, " "); joined != want {
		c.t.Errorf("got %s trusted, want %s", joined, want)
	}
}

// downloaded compares names and contents of the targets that were stored.
func (c *client) downloaded(want map[string]string) {
	c.t.Helper()
	entries, err := os.ReadDir(c.out)
	if err != nil {
		c.t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(c.out, e.Name()))
		if err != nil {
			c.t.Fatal(err)
		}
		got[e.Name()] = string(raw)
	}
	if !maps.Equal(got, want) {
		c.t.Errorf("got %v downloaded, want %v", got, want)
	}
}

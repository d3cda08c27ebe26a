package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	root      = metadata.ROOT
	timestamp = metadata.TIMESTAMP
	snapshot  = metadata.SNAPSHOT
	targets   = metadata.TARGETS
)

const fresh = "root@1 snapshot@1 targets@1 timestamp@1"

func TestRefreshAsksForEachRoleOnceAndCopiesItAsServed(t *testing.T) {
	s := newSite(t)
	s.files["metadata/timestamp.json"] = append(s.files["metadata/timestamp.json"], ' ')
	c := newClient(t, s, 1)
	c.trusts("root@1")
	c.mustRefresh()
	want := "metadata/2.root.json metadata/timestamp.json metadata/1.snapshot.json metadata/1.targets.json"
	if got := strings.Join(s.asked, " "); got != want {
		t.Errorf("got requests %s, want %s", got, want)
	}
	for role, file := range map[string]string{root: "1.root.json", timestamp: "timestamp.json", snapshot: "1.snapshot.json", targets: "1.targets.json"} {
		raw, err := os.ReadFile(filepath.Join(c.dir, role+".json"))
		if err != nil || !bytes.Equal(raw, s.files["metadata/"+file]) {
			t.Errorf("%s is not what was served: %v", role, err)
		}
	}
	s.asked = nil
	c.mustRefresh()
	if got := strings.Join(s.asked, " "); got != "metadata/2.root.json metadata/timestamp.json" {
		t.Errorf("got requests %s for an unchanged repository", got)
	}
}

// TestProgramExitsWithOneOnFailure runs the program itself.
func TestProgramExitsWithOneOnFailure(t *testing.T) {
	s := newSite(t)
	c := newClient(t, s, 1)
	exit := func(args ...string) int {
		s.settle()
		defer s.settle()
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), "BE_TUF_CLIENT=1")
		out, _ := cmd.CombinedOutput()
		t.Logf("%s", out)
		return cmd.ProcessState.ExitCode()
	}
	refresh := []string{"--metadata-dir", c.dir, "--metadata-url", s.url + "/metadata", "refresh"}
	if got := exit(refresh...); got != 0 {
		t.Errorf("got exit status %d from a refresh", got)
	}
	s.timestamp.Signed.Expires = s.now.AddDate(0, 0, -1)
	s.publish(timestamp)
	for _, args := range [][]string{
		refresh, {}, {"refresh"}, {"--no-such-flag"}, {"--metadata-dir", c.dir, "download"},
		{"--metadata-dir", c.dir, "init", "/no/such/file"}, {"--metadata-dir", c.dir, "init", filepath.Join(c.dir, "root.json")},
	} {
		if got := exit(args...); got != 1 {
			t.Errorf("got exit status %d from %v, want 1", got, args)
		}
	}
}

func TestBrokenFirstRootAsksForNothing(t *testing.T) {
	for name, make := range map[string]func(s *site) []byte{
		"no version": func(s *site) []byte {
			return bytes.Replace(s.files["metadata/1.root.json"], []byte(`"version"`), []byte(`"v"`), 1)
		},
		"a stranger's": func(s *site) []byte { return s.signed(s.root, edKey(t, "stranger")) },
		"not signed":   func(s *site) []byte { return s.signed(s.root) },
		"no root":      func(s *site) []byte { return s.files["metadata/timestamp.json"] },
		"not JSON":     func(*site) []byte { return []byte("root") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c := &client{t: t, site: s, dir: t.TempDir()}
			file := filepath.Join(t.TempDir(), "root.json")
			if err := os.WriteFile(file, make(s), 0o644); err != nil {
				t.Fatal(err)
			}
			if c.run("--metadata-dir", c.dir, "init", file) != 1 || c.refresh() != 1 || len(s.asked) != 0 {
				t.Errorf("asked for %v with a broken root", s.asked)
			}
		})
	}
}

// TestRefusedRoleLeavesWhatCameBeforeIt spoils one role of the second version
// of a repository in many ways.
func TestRefusedRoleLeavesWhatCameBeforeIt(t *testing.T) {
	left := map[string]string{
		root:      fresh,
		timestamp: "root@2 snapshot@1 targets@1 timestamp@1",
		snapshot:  "root@2 snapshot@1 targets@1 timestamp@2",
		targets:   "root@2 snapshot@2 targets@1 timestamp@2",
	}
	file := func(role string) string {
		if role == timestamp {
			return "metadata/timestamp.json"
		}
		return "metadata/2." + role + ".json"
	}
	spoil := map[string]func(s *site, role string){
		"signed by a stranger": func(s *site, role string) { s.keys[role] = []key{edKey(t, "stranger")} },
		"not signed":           func(s *site, role string) { s.keys[role] = nil },
		"expired": func(s *site, role string) {
			*map[string]*time.Time{
				root: &s.root.Signed.Expires, timestamp: &s.timestamp.Signed.Expires,
				snapshot: &s.snapshot.Signed.Expires, targets: &s.targets[targets].Signed.Expires,
			}[role] = s.now.AddDate(0, 0, -1)
		},
	}
	after := map[string]func(s *site, role string){
		"missing":    func(s *site, role string) { delete(s.files, file(role)) },
		"cut short":  func(s *site, role string) { s.files[file(role)] = s.files[file(role)][:100] },
		"of no type": func(s *site, role string) { replace(s, file(role), `"_type"`, `"type"`) },
		"another role": func(s *site, role string) {
			s.files[file(role)] = s.files[file(pick(role == snapshot, targets, snapshot))]
		},
		"changed": func(s *site, role string) { replace(s, file(role), `"version":2`, `"version":3`) },
		"endless": func(s *site, role string) { s.files[file(role)] = bytes.Repeat([]byte(" "), 5<<20) },
		"deep":    func(s *site, role string) { s.files[file(role)] = bytes.Repeat([]byte("["), 10<<10) },
	}
	check := func(name, role string, before, then func(*site, string)) {
		t.Run(role+" "+name, func(t *testing.T) {
			s := newSite(t)
			c := newClient(t, s, 1)
			c.mustRefresh()
			before(s, role)
			s.publish(root)
			s.all()
			then(s, role)
			want := left[role]
			if role == root && name == "expired" {
				want = left[timestamp] // TUF 5.3.10: kept, and nothing after it
			}
			if role == root && name == "missing" {
				// The chain ends; the rest is as good under the first root.
				if c.refresh() != 0 {
					t.Error("got a refusal because there is no second root")
				}
				return
			}
			c.refused(want)
		})
	}
	nothing := func(*site, string) {}
	for role := range left {
		for name, f := range spoil {
			check(name, role, f, nothing)
		}
		for name, f := range after {
			check(name, role, nothing, f)
		}
	}
}

func pick[V any](first bool, a, b V) V {
	if first {
		return a
	}
	return b
}

// replace edits a served file, whose signatures then do not match.
func replace(s *site, file, old, new string) {
	if !bytes.Contains(s.files[file], []byte(old)) {
		s.t.Fatalf("%s has no %s", file, old)
	}
	s.files[file] = bytes.Replace(s.files[file], []byte(old), []byte(new), 1)
}

func TestVersionInTheFileMustBeTheOneInItsName(t *testing.T) {
	for role, want := range map[string]string{
		root:     "root@1",
		snapshot: "root@1 timestamp@2",
		targets:  "root@1 snapshot@2 timestamp@2",
	} {
		t.Run(role, func(t *testing.T) {
			s := newSite(t)
			s.all()
			switch role {
			case root:
				s.root.Signed.Version = 3
				s.files["metadata/2.root.json"] = s.signed(s.root, s.keys[root]...)
			case snapshot:
				s.snapshot.Signed.Version = 3
				s.files["metadata/2.snapshot.json"] = s.signed(s.snapshot, s.keys[snapshot]...)
			case targets:
				s.targets[targets].Signed.Version = 3
				s.files["metadata/2.targets.json"] = s.signed(s.targets[targets], s.keys[targets]...)
			}
			newClient(t, s, 1).refused(want)
		})
	}
}

func TestOlderVersionsAreRefused(t *testing.T) {
	for _, hashes := range []bool{false, true} {
		for name, attack := range map[string]struct {
			do   func(s *site)
			want string
		}{
			"timestamp": {func(s *site) { s.timestamp.Signed.Version = 1; s.publish(timestamp) }, "root@1 snapshot@3 targets@3 timestamp@3"},
			"snapshot":  {func(s *site) { s.snapshot.Signed.Version = 1; s.publish(snapshot, timestamp) }, "root@1 snapshot@3 targets@3 timestamp@3"},
			"targets": {func(s *site) { s.targets[targets].Signed.Version = 1; s.publish(targets, snapshot, timestamp) },
				"root@1 snapshot@3 targets@3 timestamp@4"},
			"role taken out": {func(s *site) { delete(s.snapshot.Signed.Meta, "extra.json"); s.publish(snapshot, timestamp) },
				"root@1 snapshot@3 targets@3 timestamp@4"},
			"role": {func(s *site) { s.targets["extra"].Signed.Version = 1; s.publish("extra", snapshot, timestamp) },
				"root@1 snapshot@3 targets@3 timestamp@4"},
		} {
			t.Run(fmt.Sprintf("%s, hashes %v", name, hashes), func(t *testing.T) {
				s := newSite(t)
				s.hashes = hashes
				s.delegate(targets, metadata.DelegatedRole{Name: "extra", Paths: []string{"extra/*"}})
				s.all()
				s.publish("extra")
				s.all()
				c := newClient(t, s, 1)
				c.mustRefresh()
				attack.do(s)
				c.refused(attack.want)
			})
		}
	}
}

func TestMetadataMustHaveTheSignedLengthAndDigest(t *testing.T) {
	for name, edit := range map[string]func(m *metadata.MetaFiles){
		"digest":  func(m *metadata.MetaFiles) { m.Hashes["sha256"][0] ^= 1 },
		"length":  func(m *metadata.MetaFiles) { m.Length-- },
		"unknown": func(m *metadata.MetaFiles) { m.Hashes = metadata.Hashes{"md4": m.Hashes["sha256"]} },
	} {
		t.Run("snapshot "+name, func(t *testing.T) {
			s := newSite(t)
			s.hashes = true
			s.all()
			c := newClient(t, s, 1)
			c.mustRefresh()
			s.publish(targets, snapshot)
			edit(s.timestamp.Signed.Meta["snapshot.json"])
			s.publish(timestamp)
			c.refused("root@1 snapshot@2 targets@2 timestamp@3")
		})
		t.Run("targets "+name, func(t *testing.T) {
			s := newSite(t)
			s.hashes = true
			s.all()
			c := newClient(t, s, 1)
			c.mustRefresh()
			s.publish(targets)
			edit(s.snapshot.Signed.Meta["targets.json"])
			s.publish(snapshot, timestamp)
			c.refused("root@1 snapshot@3 targets@2 timestamp@3")
		})
	}
}

func TestTimestampOfTheSameVersionChangesNothing(t *testing.T) {
	s := newSite(t)
	c := newClient(t, s, 1)
	c.mustRefresh()
	s.timestamp.Signed.Meta["snapshot.json"].Version = 100
	s.files["metadata/timestamp.json"] = s.signed(s.timestamp, s.keys[timestamp]...)
	s.asked = nil
	c.mustRefresh()
	if got := s.asked[len(s.asked)-1]; got != "metadata/timestamp.json" {
		t.Errorf("asked for %s by a timestamp that is not newer", got)
	}
	raw, err := os.ReadFile(filepath.Join(c.dir, "timestamp.json"))
	if err != nil || bytes.Contains(raw, []byte("100")) {
		t.Errorf("stored a timestamp that is not newer: %v", err)
	}
}

func TestExpiredStoredMetadataIsReplaced(t *testing.T) {
	s := newSite(t)
	s.root.Signed.Expires = s.now.AddDate(0, 0, 7)
	s.timestamp.Signed.Expires = s.now.AddDate(0, 0, 7)
	s.publish(root)
	s.all()
	c := newClient(t, s, 1)
	c.mustRefresh()
	s.now = s.now.AddDate(0, 0, 18)
	s.setClock(t)
	c.refused("root@2 snapshot@2 targets@2 timestamp@2") // frozen
	s.root.Signed.Expires = s.now.AddDate(0, 0, 7)
	s.publish(root)
	c.refused("root@3 snapshot@2 targets@2 timestamp@2") // the timestamp still is
	s.timestamp.Signed.Expires = s.now.AddDate(0, 0, 7)
	s.all()
	if c.refresh() != 0 {
		t.Error("got a refusal of a repository that was renewed")
	}
	c.trusts("root@3 snapshot@3 targets@3 timestamp@3")
}

func TestSnapshotIsNoTimestamp(t *testing.T) {
	s := newSite(t)
	c := newClient(t, s, 1)
	s.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": {Version: 1}}
	s.files["metadata/timestamp.json"] = s.signed(s.snapshot, s.keys[timestamp]...)
	c.refused("root@1")
}

func TestUnknownFieldsAreSignedTooAndKept(t *testing.T) {
	s := newSite(t)
	c := newClient(t, s, 1)
	s.root.Signed.UnrecognizedFields = map[string]any{"custom": map[string]any{"a": "b"}}
	s.root.Signed.Roles[root].UnrecognizedFields = map[string]any{"another": "value"}
	s.publish(root)
	c.mustRefresh()
	c.trusts("root@2 snapshot@1 targets@1 timestamp@1")
	s.publish(root)
	replace(s, "metadata/3.root.json", `"a":"b"`, `"a":"c"`)
	c.refused("root@2 snapshot@1 targets@1 timestamp@1")
}

func TestRepositoryWithoutConsistentSnapshots(t *testing.T) {
	s := newSite(t)
	s.root.Signed.ConsistentSnapshot = false
	s.delegate(targets, metadata.DelegatedRole{Name: "a/b", Paths: []string{"x/*"}})
	s.target("a/b", "x/file", "content")
	s.publish(root)
	s.all()
	c := newClient(t, s, 2)
	if c.download("x/file") != 0 {
		t.Error("got a failure from a repository without consistent snapshots")
	}
	want := "metadata/3.root.json metadata/timestamp.json metadata/snapshot.json metadata/targets.json metadata/a%2Fb.json targets/x/file"
	if got := strings.Join(s.asked, " "); got != want {
		t.Errorf("got requests %s, want %s", got, want)
	}
	c.downloaded(map[string]string{"x%2Ffile": "content"})
	// An older file under the same name is still refused.
	old := s.files["metadata/targets.json"]
	s.all()
	c.mustRefresh()
	s.all()
	s.files["metadata/targets.json"] = old
	if c.refresh() != 1 {
		t.Error("accepted older targets under an unversioned name")
	}
}

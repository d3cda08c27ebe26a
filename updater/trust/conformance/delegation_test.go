package main

import (
	"crypto/sha256"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// graph delegates by lines like "targets>A *.py" or "A>C! *", where ! ends the
// search there.
func (s *site) graph(lines ...string) {
	for _, line := range lines {
		edge, pattern, _ := strings.Cut(line, " ")
		parent, name, _ := strings.Cut(edge, ">")
		name, terminating := strings.CutSuffix(name, "!")
		s.delegate(parent, metadata.DelegatedRole{Name: name, Terminating: terminating, Paths: []string{pattern}})
	}
	s.all()
}

// visited lists the delegated roles that were asked for, in order.
func (s *site) visited() string {
	var roles []string
	for _, path := range s.asked[min(4, len(s.asked)):] {
		if name, ok := strings.CutPrefix(path, "metadata/1."); ok {
			roles = append(roles, strings.TrimSuffix(name, ".json"))
		}
	}
	return strings.Join(roles, " ")
}

func TestDelegationsAreSearchedInOrderAndDepthFirst(t *testing.T) {
	for name, c := range map[string]struct {
		graph   []string
		visited string
	}{
		"one":                      {[]string{"targets>A *"}, "A"},
		"two":                      {[]string{"targets>B *", "targets>A *"}, "B A"},
		"depth first":              {[]string{"targets>A *", "targets>B *", "A>C *", "A>D *"}, "A C D B"},
		"three levels":             {[]string{"targets>A *", "targets>B *", "A>C *", "C>D *"}, "A C D B"},
		"terminating":              {[]string{"targets>A *", "targets>B *", "A>C! *", "A>D *"}, "A C"},
		"terminating is descended": {[]string{"targets>A *", "targets>B *", "A>C! *", "C>D *"}, "A C D"},
		"terminating at the top":   {[]string{"targets>A! *", "targets>B *", "A>C *"}, "A C"},
		"terminating elsewhere":    {[]string{"targets>A! *.py", "targets>B *"}, "B"},
		"other paths":              {[]string{"targets>A *.py", "targets>B *", "A>C *"}, "B"},
		"other paths below":        {[]string{"targets>A *", "targets>B *", "A>C *.py", "C>D *"}, "A B"},
		"cycle":                    {[]string{"targets>A *", "targets>B *", "B>C *", "C>D *", "D>B *"}, "A B C D"},
		"two ways":                 {[]string{"targets>A *", "targets>B *", "B>C *", "A>C *"}, "A C B"},
		"two ways, one open":       {[]string{"targets>A *", "targets>B *", "B>C *", "A>C *.py"}, "A B C"},
		"no way":                   {[]string{"targets>A docs/*"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			client := newClient(t, s, 1)
			s.graph(c.graph...)
			if client.download("file") != 1 {
				t.Error("found a target that there is not")
			}
			if got := s.visited(); got != c.visited {
				t.Errorf("got %q visited, want %q", got, c.visited)
			}
		})
	}
}

func TestTargetIsTakenOnlyFromRolesTrustedWithItsPath(t *testing.T) {
	tree := []string{"targets>A *.md", "targets>A2 part-?.gguf", "targets>B models/*/*", "B>C models/x/*", "B>D models/y/*.bin"}
	for path, c := range map[string]struct {
		role, visited string
		found         bool
	}{
		"plain":             {"targets", "", true},
		"README.md":         {"A", "A", true},
		"README.MD":         {"A", "", false},
		"docs/README.md":    {"A", "", false},
		"part-1.gguf":       {"A2", "A2", true},
		"part-12.gguf":      {"A2", "", false},
		"models/x/weights":  {"C", "B C", true},
		"models/y/w.bin":    {"D", "B D", true},
		"models/z/w.bin":    {"D", "B", false},
		"models/x/deep/one": {"C", "", false},
	} {
		t.Run(strings.ReplaceAll(path, "/", "_"), func(t *testing.T) {
			s := newSite(t)
			client := newClient(t, s, 1)
			s.graph(tree...)
			s.published = map[string]bool{targets: true, snapshot: true, timestamp: true, root: true}
			s.target(c.role, path, "content of "+path)
			s.all()
			if got := client.download(path) == 0; got != c.found {
				t.Errorf("got found %v, want %v", got, c.found)
			}
			if got := s.visited(); got != c.visited {
				t.Errorf("got %q visited, want %q", got, c.visited)
			}
			want := map[string]string{}
			if c.found {
				want[url.PathEscape(path)] = "content of " + path
			}
			client.downloaded(want)
		})
	}
}

func TestHashPrefixesAreHexadecimal(t *testing.T) {
	const path = "some/deep/path"
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(path)))
	s := newSite(t)
	client := newClient(t, s, 1)
	wrong := string(digest[0]^1) + digest[1:2]
	s.delegate(targets, metadata.DelegatedRole{Name: "other", PathHashPrefixes: []string{wrong, "zz"}})
	s.delegate(targets, metadata.DelegatedRole{Name: "bin", PathHashPrefixes: []string{"zz", digest[:2]}})
	s.target("bin", path, "content")
	s.all()
	if client.download(path) != 0 || s.visited() != "bin" {
		t.Errorf("got roles %q visited, want bin", s.visited())
	}
}

func TestSuccinctRolesNameTheirBins(t *testing.T) {
	const path = "some/path"
	sum := sha256.Sum256([]byte(path))
	bin := fmt.Sprintf("bin-%x", sum[0]>>4)
	s := newSite(t)
	client := newClient(t, s, 1)
	s.delegate(targets, metadata.DelegatedRole{Name: bin, Paths: []string{"*"}})
	d := s.targets[targets].Signed.Delegations
	d.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: d.Roles[0].KeyIDs, Threshold: 1, BitLength: 4, NamePrefix: "bin"}
	d.Roles = nil
	s.target(bin, path, "content")
	s.all()
	if client.download(path) != 0 || s.visited() != bin {
		t.Errorf("got roles %q visited, want %s", s.visited(), bin)
	}
}

func TestDelegatedRoleNeedsItsDelegatorsThreshold(t *testing.T) {
	for signed, ok := range map[string]bool{"ab": true, "ca": true, "a": false, "ax": false, "": false} {
		t.Run("signed by "+signed, func(t *testing.T) {
			s := newSite(t)
			client := newClient(t, s, 1)
			s.delegate(targets, metadata.DelegatedRole{Name: "role", Threshold: 2, Paths: []string{"*"}}, letters(t, "abc")...)
			s.keys["role"] = letters(t, signed)
			s.target("role", "file", "content")
			s.all()
			if got := client.download("file") == 0; got != ok {
				t.Errorf("got success %v, want %v", got, ok)
			}
		})
	}
}

// TestRoleReachedOneWayHasNoAuthorityOnAnother: release is signed with the key
// that the first parent trusts it with; the second names another key.
func TestRoleReachedOneWayHasNoAuthorityOnAnother(t *testing.T) {
	s := newSite(t)
	client := newClient(t, s, 1)
	s.graph("targets>a one/*", "targets>b two/*", "a>release one/*")
	s.delegate("b", metadata.DelegatedRole{Name: "release", Paths: []string{"two/*"}}, edKey(t, "other"))
	s.target("release", "one/file", "good")
	s.target("release", "two/file", "bad")
	s.all()
	if client.download("one/file", "two/file") != 1 {
		t.Error("took a target with the wrong parent's keys")
	}
	client.downloaded(map[string]string{"one%2Ffile": "good"})
	if client.download("two/file") != 1 {
		t.Error("took a target from the store with the wrong parent's keys")
	}
}

func TestRoleThatTheSnapshotDoesNotListIsNotAskedFor(t *testing.T) {
	s := newSite(t)
	client := newClient(t, s, 1)
	s.delegate(targets, metadata.DelegatedRole{Name: "role", Paths: []string{"*"}})
	s.target("role", "file", "content")
	s.publish("role", targets)
	delete(s.snapshot.Signed.Meta, "role.json")
	s.publish(snapshot, timestamp)
	client.mustRefresh()
	s.asked = nil
	if client.download("file") != 1 || slices.Contains(s.asked, "metadata/1.role.json") {
		t.Errorf("asked for %v, which has a role that the snapshot does not list", s.asked)
	}
	client.trusts("root@1 snapshot@2 targets@2 timestamp@2")
}

func TestRolesMayHaveAnyName(t *testing.T) {
	for _, name := range []string{
		"?", "#", "%", "%2F", "/role", "../role", "..", ".", "a b", "state", "root/0000000001", "root/0000000002", "snapshöt", "a\\b", "1.root", "targets/x",
	} {
		t.Run(url.PathEscape(name), func(t *testing.T) {
			s := newSite(t)
			client := newClient(t, s, 1)
			s.delegate(targets, metadata.DelegatedRole{Name: name, Paths: []string{"*"}})
			s.target(name, "file", "content")
			s.all()
			for range 2 {
				if client.download("file") != 0 {
					t.Error("got a failure")
				}
			}
			want := "metadata/1." + url.PathEscape(name) + ".json"
			if n := len(slices.DeleteFunc(slices.Clone(s.asked), func(path string) bool { return path != want })); n != 1 {
				t.Errorf("got %d requests of %s in %v, want 1", n, want, s.asked)
			}
			if client.names() != 5 {
				t.Errorf("got %d copies of metadata, want 5", client.names())
			}
			client.downloaded(map[string]string{"file": "content"})
		})
	}
	for _, name := range []string{root, timestamp, snapshot, targets} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			client := newClient(t, s, 1)
			top := &s.targets[targets].Signed
			k := edKey(t, "evil")
			top.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{k.id: k.public},
				Roles: []metadata.DelegatedRole{{Name: name, KeyIDs: []string{k.id}, Threshold: 1, Paths: []string{"*"}}}}
			s.all()
			client.refused("root@1 snapshot@2 timestamp@2")
		})
	}
}

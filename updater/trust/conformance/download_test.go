package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// downloads counts the requests for targets.
func (s *site) downloads() (asked []string) {
	return slices.DeleteFunc(slices.Clone(s.asked), func(path string) bool { return !strings.HasPrefix(path, "targets/") })
}

// names counts the copies of metadata.
func (c *client) names() int {
	found, err := filepath.Glob(filepath.Join(c.dir, "*.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	return len(found)
}

func TestTargetIsFetchedUnderItsDigestAndOnlyOnce(t *testing.T) {
	for _, path := range []string{"file", "path/to/a file", "a?b#c", "deep/../file"} {
		t.Run(escapePath(strings.ReplaceAll(path, "/", "_")), func(t *testing.T) {
			s := newSite(t)
			c := newClient(t, s, 1)
			entry := s.target(targets, path, "content")
			s.all()
			c.mustRefresh()
			c.downloaded(map[string]string{})
			for range 2 {
				if c.download(path) != 0 {
					t.Error("got a failure")
				}
			}
			dir, base := filepath.Split(path)
			want := "targets/" + escapePath(dir) + entry.Hashes["sha256"].String() + "." + escapePath(base)
			if got := s.downloads(); !slices.Equal(got, []string{want}) {
				t.Errorf("got requests %v, want once %s", got, want)
			}
			c.downloaded(map[string]string{fileName(path): "content"})
		})
	}
}

func TestTargetWithAnyKnownDigests(t *testing.T) {
	for _, algorithms := range [][]string{{"sha256"}, {"sha512"}, {"sha256", "sha512"}} {
		s := newSite(t)
		c := newClient(t, s, 1)
		s.target(targets, "file", "content", algorithms...)
		s.all()
		if c.download("file") != 0 {
			t.Errorf("got a failure with %v", algorithms)
		}
		c.downloaded(map[string]string{"file": "content"})
	}
}

func TestTargetThatIsNotAsSignedIsNotStored(t *testing.T) {
	for name, spoil := range map[string]func(s *site){
		"changed":  func(s *site) { serveInstead(s, "CONTENT") },
		"longer":   func(s *site) { serveInstead(s, "content and more") },
		"shorter":  func(s *site) { serveInstead(s, "conten") },
		"endless":  func(s *site) { serveInstead(s, strings.Repeat("content", 1<<20)) },
		"missing":  func(s *site) { serveInstead(s, "") },
		"unlisted": func(s *site) { delete(s.targets[targets].Signed.Targets, "file") },
		"length":   func(s *site) { s.targets[targets].Signed.Targets["file"].Length++ },
		"unknown digest": func(s *site) {
			hashes := s.targets[targets].Signed.Targets["file"].Hashes
			hashes["unknown"] = hashes["sha256"]
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c := newClient(t, s, 1)
			s.target(targets, "other", "fine")
			s.target(targets, "file", "content")
			spoil(s)
			s.all()
			if c.download("other", "file", "other") != 1 {
				t.Error("got success")
			}
			c.downloaded(map[string]string{"other": "fine"})
		})
	}
}

func TestTargetWithoutDigestSpoilsItsRole(t *testing.T) {
	s := newSite(t)
	c := newClient(t, s, 1)
	s.target(targets, "file", "content").Hashes = metadata.Hashes{}
	s.all()
	if c.download("file") != 1 {
		t.Error("got success")
	}
	c.downloaded(map[string]string{})
}

// serveInstead replaces what is served for the target "file"; nothing is a 404.
func serveInstead(s *site, content string) {
	for path := range s.files {
		if strings.HasPrefix(path, "targets/") && strings.HasSuffix(path, "file") {
			s.files[path] = []byte(content)
			if content == "" {
				delete(s.files, path)
			}
		}
	}
}

func TestTargetIsReplacedByItsNextVersionOnly(t *testing.T) {
	s := newSite(t)
	c := newClient(t, s, 1)
	s.target(targets, "file", "one")
	s.all()
	c.download("file")
	// What is on disk stays as long as it is what was signed.
	serveInstead(s, "malicious")
	c.download("file")
	c.downloaded(map[string]string{"file": "one"})
	s.target(targets, "file", "two")
	s.all()
	if c.download("file") != 0 {
		t.Error("got a failure")
	}
	c.downloaded(map[string]string{"file": "two"})
	// A file that was damaged on disk is fetched again.
	if err := os.WriteFile(filepath.Join(c.out, "file"), []byte("twx"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.download("file")
	c.downloaded(map[string]string{"file": "two"})
}

func TestTargetsAreProcessedInOrderUpToTheFirstFailure(t *testing.T) {
	s := newSite(t)
	c := newClient(t, s, 1)
	for _, name := range []string{"a", "b", "c"} {
		s.target(targets, name, name)
	}
	s.all()
	if c.download("b", "none", "a") != 1 {
		t.Error("got success with a target that there is not")
	}
	c.downloaded(map[string]string{"b": "b"})
	if roots := slices.DeleteFunc(s.asked, func(path string) bool { return path != "metadata/timestamp.json" }); len(roots) != 1 {
		t.Errorf("got %d refreshes in one command, want 1", len(roots))
	}
}

func TestTargetPathsStayInTheirFolder(t *testing.T) {
	for _, path := range []string{"..", ".", "../up", "/etc/passwd", ".hidden", "a/../../b"} {
		s := newSite(t)
		c := newClient(t, s, 1)
		s.target(targets, path, "content")
		s.all()
		if c.download(path) != 0 {
			t.Errorf("got a failure for %q", path)
		}
		c.downloaded(map[string]string{fileName(path): "content"})
	}
}

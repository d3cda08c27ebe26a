package provenance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// What the statement must say that it is.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://model_signing/signature/v1.0"
)

// maxFiles is the most files that one model may have.
const maxFiles = 4096

// File is one file of a model.
type File struct {
	Name   string // relative to the model's folder, with slashes
	SHA256 string // 64 lower-case hex digits
}

// Manifest is what the signer signed: every file of the model.
type Manifest struct {
	Subject string // how the signer calls the model; informational
	Files   []File // in the order that was signed
	ignored []string
}

// statement is the signed payload. Members of the statement and of a resource
// that the specification leaves to others are ignored.
type statement struct {
	Type    string `json:"_type"`
	Subject []struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	PredicateType string `json:"predicateType"`
	Predicate     struct {
		Serialization struct {
			Method      string   `json:"method"`
			HashType    string   `json:"hash_type"`
			IgnorePaths []string `json:"ignore_paths"`
		} `json:"serialization"`
		Resources []resource `json:"resources"`
	} `json:"predicate"`
}

type resource struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"`
}

// parseManifest reads a payload whose signature was verified. The signer may be
// wrong all the same, or may mean a later version of the format.
func parseManifest(payload []byte) (Manifest, error) {
	var s statement
	if err := decode(payload, &s); err != nil {
		return Manifest{}, err
	}
	how := s.Predicate.Serialization
	switch {
	case s.Type != statementType:
		return Manifest{}, fmt.Errorf("it states %.80q, want %q", s.Type, statementType)
	case s.PredicateType != predicateType:
		return Manifest{}, fmt.Errorf("its predicate is %.80q, want %q; sign again with a current tool", s.PredicateType, predicateType)
	case how.Method != "files":
		return Manifest{}, fmt.Errorf("it lists files by the method %.40q, want \"files\": a digest of each whole file", how.Method)
	case how.HashType != "sha256":
		return Manifest{}, fmt.Errorf("its files are hashed with %.40q, want sha256", how.HashType)
	case len(s.Subject) != 1:
		return Manifest{}, fmt.Errorf("it has %d subjects, want one", len(s.Subject))
	}
	m := Manifest{Subject: s.Subject[0].Name, ignored: how.IgnorePaths}
	root, err := m.readResources(s.Predicate.Resources)
	if err != nil {
		return Manifest{}, err
	}
	if got := s.Subject[0].Digest["sha256"]; got != root || len(s.Subject[0].Digest) != 1 {
		return Manifest{}, fmt.Errorf("its subject has the digest %.80q, its files give sha256 %s", got, root)
	}
	return m, nil
}

// readResources answers the digest over all digests, in the signed order.
func (m *Manifest) readResources(resources []resource) (root string, err error) {
	if n := len(resources); n == 0 || n > maxFiles {
		return "", fmt.Errorf("it lists %d files, want 1 to %d", n, maxFiles)
	}
	all := sha256.New()
	seen := map[string]bool{}
	for _, r := range resources {
		if len(resources) == 1 && r.Name == "." {
			// Tools before version 1.1 call the file of a one-file model so.
			r.Name = m.Subject
		}
		if err := checkName(r.Name); err != nil {
			return "", err
		}
		// Folded, so that no file system can make two of them one.
		folded := strings.ToLower(r.Name)
		if seen[folded] {
			return "", fmt.Errorf("it lists the file %.200q twice", r.Name)
		}
		seen[folded] = true
		sum, err := hex.DecodeString(r.Digest)
		if r.Algorithm != "sha256" || err != nil || len(sum) != sha256.Size || strings.ToLower(r.Digest) != r.Digest {
			return "", fmt.Errorf("it gives %.200q the digest %.80q by %.40q, want SHA-256 in lower-case hex", r.Name, r.Digest, r.Algorithm)
		}
		all.Write(sum)
		m.Files = append(m.Files, File{Name: r.Name, SHA256: r.Digest})
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// checkName refuses every name that could leave the model's folder or mean
// another file on another system.
func checkName(name string) error {
	if name == "" || len(name) > 512 || !utf8.ValidString(name) {
		return fmt.Errorf("it lists a file %.80q: empty, too long or not UTF-8", name)
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r == '\\' || r == ':' {
			return fmt.Errorf("it lists a file %q, which holds %q", name, r)
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("it lists a file %q, which is not a plain relative path", name)
		}
	}
	return nil
}

// Match says whether files are exactly those that were signed: none more, none
// less, none changed. Paths that the signer left out (Ignores) are no exception:
// whoever makes the set leaves them out too. The signature itself is not one of
// them.
func (m Manifest) Match(files []File) error {
	signed := map[string]string{}
	for _, f := range m.Files {
		signed[f.Name] = f.SHA256
	}
	for _, f := range files {
		want, ok := signed[f.Name]
		switch {
		case !ok:
			return fmt.Errorf("the file %q is not among those signed%s", f.Name, m.soleName())
		case want != f.SHA256:
			return fmt.Errorf("the file %q has a SHA-256 that begins with %.12s, signed was one with %.12s", f.Name, f.SHA256, want)
		}
		delete(signed, f.Name)
	}
	if len(signed) > 0 {
		missing := slices.Sorted(maps.Keys(signed))
		return fmt.Errorf("%d of the files that were signed are missing, the first is %q", len(missing), missing[0])
	}
	if len(files) != len(m.Files) {
		return errors.New("a file is there twice")
	}
	return nil
}

// soleName helps where a model of one file was renamed after it was signed.
func (m Manifest) soleName() string {
	if len(m.Files) != 1 {
		return ""
	}
	return fmt.Sprintf(", only %q is", m.Files[0].Name)
}

// Ignores says whether the signer left the path out on purpose: it, or a folder
// that it lies in, is among the signed ignore_paths, or is one of the four names
// of git at the top that are always left out. Such a path may lie in the model's
// folder; it is no part of the model.
func (m Manifest) Ignores(name string) bool {
	for _, path := range append([]string{".git", ".gitignore", ".gitattributes", ".github"}, m.ignored...) {
		if path = strings.TrimSuffix(path, "/"); name == path || path != "" && strings.HasPrefix(name, path+"/") {
			return true
		}
	}
	return false
}

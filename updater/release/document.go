package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Schema is the version of the document format that this package reads and writes.
const Schema = 1

// MaxDocument is the largest release document accepted, in bytes.
const MaxDocument = 1 << 20

// Kind says what a release is for.
type Kind string

// The kinds of release. The values are written to disk and signed.
const (
	Model  Kind = "model"
	Policy Kind = "policy"
	Engine Kind = "engine"
)

// Folder is the first element of the target paths of this kind ("models").
func (k Kind) Folder() string {
	switch k {
	case Model:
		return "models"
	case Policy:
		return "policies"
	case Engine:
		return "engines"
	}
	return ""
}

// Role says what an engine does with a file of a model. Empty: it is part of the model itself.
type Role string

// The roles. The values are written to disk and signed.
const (
	Projector Role = "mmproj"  // turns images into what the model reads; at most one
	Adapter   Role = "adapter" // a LoRA adapter, applied to the model as it is loaded

	Signature Role = "signature" // of who made the model, over all other files; no engine is given it
)

// File names one artifact of a release by digest.
type File struct {
	Path        string `json:"path"`                 // slash separated, relative, no ".."
	Size        int64  `json:"size"`                 // bytes
	SHA256      string `json:"sha256"`               // 64 lower-case hex digits, of the whole file
	IndexSHA256 string `json:"index_sha256"`         // of the block index that goes with the file
	Role        Role   `json:"role,omitempty"`       // of a model's file
	Executable  bool   `json:"executable,omitempty"` // of an engine's file: may be run
}

// Requirements are what a device must have before it fetches anything.
// A zero field asks for nothing.
type Requirements struct {
	Agent         string `json:"agent,omitempty"`          // lowest agent version, "1.2.0"
	Engine        string `json:"engine,omitempty"`         // engine kind, "llama-server"
	EngineVersion string `json:"engine_version,omitempty"` // lowest engine version
	MemoryBytes   int64  `json:"memory_bytes,omitempty"`   // to load and to serve
}

// Message is one turn of an acceptance prompt.
type Message struct {
	Role    string `json:"role"` // "system", "user" or "assistant"
	Content string `json:"content"`
}

// Check is one acceptance check of a model: a prompt, and what must come back.
// Prompt and Messages exclude each other.
type Check struct {
	Name               string    `json:"name,omitempty"`
	Prompt             string    `json:"prompt,omitempty"`
	Messages           []Message `json:"messages,omitempty"`
	Want               string    `json:"want,omitempty"`    // the answer contains this text
	Pattern            string    `json:"pattern,omitempty"` // the answer matches this RE2 expression
	MaxTokens          int       `json:"max_tokens,omitempty"`
	TimeoutSeconds     int       `json:"timeout_seconds,omitempty"`
	MinTokensPerSecond float64   `json:"min_tokens_per_second,omitempty"`
}

// EngineSpec says how a model is served.
type EngineSpec struct {
	Kind         string            `json:"kind,omitempty"`    // "llama-server", "embedded", ...; empty: the device's default
	Context      int               `json:"context,omitempty"` // tokens of one sequence
	Slots        int               `json:"slots,omitempty"`   // requests served at once
	Threads      int               `json:"threads,omitempty"`
	ReadySeconds int               `json:"ready_seconds,omitempty"` // the engine must answer within
	Flags        map[string]string `json:"flags,omitempty"`         // adapter specific
}

// Program says how the files of an engine release are run. Paths are those of files and folders of the release.
type Program struct {
	Entry     string   `json:"entry"`               // the program, an executable file
	Loader    string   `json:"loader,omitempty"`    // a dynamic loader that runs it, for a release with a C library of its own
	Libraries []string `json:"libraries,omitempty"` // folders that are searched for shared libraries, in this order
	Version   string   `json:"version"`             // of the engine, as it calls itself: "b6123", "0.7.0"
	Platform  string   `json:"platform"`            // GOOS/GOARCH that it runs on: "linux/amd64"
}

// Document is one release.
type Document struct {
	Schema   int          `json:"schema"`
	Kind     Kind         `json:"kind"`
	Name     string       `json:"name"`
	Version  uint64       `json:"version"`
	Files    []File       `json:"files"`
	Requires Requirements `json:"requires,omitzero"`
	Accept   []Check      `json:"accept,omitempty"`
	Engine   EngineSpec   `json:"engine,omitzero"`   // of an engine release: Kind alone, the kind that it is
	Program  *Program     `json:"program,omitempty"` // of an engine release

	Provenance *Provenance `json:"provenance,omitempty"` // of a model that its maker signed
}

// ID names the release for people: "mote@2".
func (d Document) ID() string { return d.Name + "@" + strconv.FormatUint(d.Version, 10) }

// Target is the path under which both repositories list the release:
// "models/mote/2.json".
func (d Document) Target() string {
	return TargetPath(d.Kind, d.Name, d.Version)
}

// Primary is the file that an engine or the policy loader opens first.
// The zero File is returned for a document without files.
func (d Document) Primary() File {
	if len(d.Files) == 0 {
		return File{}
	}
	return d.Files[0]
}

// FilesOf lists the files with this role, in their order.
func (d Document) FilesOf(role Role) []File {
	var some []File
	for _, f := range d.Files {
		if f.Role == role {
			some = append(some, f)
		}
	}
	return some
}

// Digest identifies the document by its contents: SHA-256 in hexadecimal.
func (d Document) Digest() string {
	raw, err := encode(d)
	if err != nil {
		// Unreachable: the types hold nothing that JSON cannot write.
		panic("internal error: cannot encode release: " + err.Error())
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// TargetPath is the path of a release in both repositories.
func TargetPath(kind Kind, name string, version uint64) string {
	return kind.Folder() + "/" + name + "/" + strconv.FormatUint(version, 10) + ".json"
}

// ParseTarget takes a target path apart. It accepts only what TargetPath writes.
func ParseTarget(path string) (Kind, string, uint64, error) {
	parts := strings.Split(path, "/")
	if len(parts) != 3 {
		return "", "", 0, fmt.Errorf("cannot read target path %q: want FOLDER/NAME/VERSION.json", path)
	}
	for _, k := range []Kind{Model, Policy, Engine} {
		number, ok := strings.CutSuffix(parts[2], ".json")
		version, err := strconv.ParseUint(number, 10, 64)
		if k.Folder() != parts[0] || !ok || err != nil || CheckName(parts[1]) != nil {
			continue
		}
		if version > 0 && TargetPath(k, parts[1], version) == path {
			return k, parts[1], version, nil
		}
	}
	return "", "", 0, fmt.Errorf("cannot read target path %q: want models|policies|engines/NAME/VERSION.json", path)
}

// DocumentName is the name under which a source serves a release document
// that has this digest.
func DocumentName(sha256 string, name string) string {
	return "targets/" + sha256 + "." + name + ".json"
}

// ParseID reads "name@version". A missing version is returned as 0.
func ParseID(id string) (name string, version uint64, err error) {
	name, number, found := strings.Cut(id, "@")
	if err := CheckName(name); err != nil {
		return "", 0, fmt.Errorf("cannot read release %q: %w", id, err)
	}
	if !found {
		return name, 0, nil
	}
	version, err = strconv.ParseUint(number, 10, 64)
	if err != nil || version == 0 {
		return "", 0, fmt.Errorf("cannot read release %q: the version after @ is a number from 1", id)
	}
	return name, version, nil
}

// Encode writes the document in its only accepted form.
func (d Document) Encode() ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return encode(d)
}

func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Parse reads a release document and validates it. Bytes that differ in any
// way from what Encode writes are refused.
func Parse(raw []byte) (Document, error) {
	var d Document
	if len(raw) > MaxDocument {
		return d, fmt.Errorf("cannot read release: %d bytes, at most %d are accepted", len(raw), MaxDocument)
	}
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return d, fmt.Errorf("cannot read release: %w", err)
	}
	if head.Schema != Schema {
		return d, fmt.Errorf("cannot read release: schema %d, this agent reads %d; update the agent first", head.Schema, Schema)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Document{}, fmt.Errorf("cannot read release: %w", err)
	}
	if err := d.Validate(); err != nil {
		return Document{}, err
	}
	again, err := encode(d)
	if err != nil {
		return Document{}, fmt.Errorf("cannot read release %s: %w", d.ID(), err)
	}
	if !bytes.Equal(again, raw) {
		return Document{}, fmt.Errorf("cannot read release %s: not in canonical form", d.ID())
	}
	return d, nil
}

// CheckName says whether name may name a release, an alias or a device:
// lower-case letters, digits, '.', '_' and '-', at most 64, first a letter or digit.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > 64 {
		return fmt.Errorf("name %.80q has %d characters, want 1 to 64", name, len(name))
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return fmt.Errorf("name %q has %q at position %d; use a-z, 0-9 and, not first, . _ -", name, c, i+1)
		}
	}
	return nil
}

// CheckDevice says whether name may name a device. A device's second
// connection to the broker is NAME-bulk, so no device may be called that.
func CheckDevice(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if strings.HasSuffix(name, "-bulk") {
		return fmt.Errorf("name %q ends with -bulk, which is reserved for the bulk connection", name)
	}
	return nil
}

// CheckDigest says whether s is a SHA-256 in lower-case hexadecimal.
func CheckDigest(s string) error {
	if len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %.80q is not 64 lower-case hex digits", s)
	}
	return nil
}

func compilePattern(p string) error {
	if len(p) > 1024 {
		return errors.New("pattern is longer than 1024 bytes")
	}
	_, err := regexp.Compile(p)
	return err
}

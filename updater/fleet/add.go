package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/provenance"
	"github.com/bothy-edge/bothy/updater/release"
)

// AddOptions describe a release to take in. Kind, Name and Files are required.
type AddOptions struct {
	Kind    release.Kind
	Name    string
	Version uint64   // 0: the next one, or the newest if it is the same release
	Files   []string // paths on this machine: files, the first of a split model, or one folder
	// Sources are the files of the release, the one that is opened first; nil: Expand lists them.
	Sources []Source
	// Projector turns images into what a model reads; Adapters are LoRA adapters. They may lie in the folder of Files.
	Projector string
	Adapters  []string
	// Program says how an engine is run; an engine has one.
	Program *release.Program

	Requires release.Requirements
	Accept   []release.Check
	Engine   release.EngineSpec

	// Signature is the file with the signature of who made the model; empty looks beside
	// its files. Signers are those who may have made it. Unsigned goes without one.
	Signature string
	Signers   []provenance.Signer
	Unsigned  bool

	// Progress, when set, is told how many bytes of all files were taken in.
	Progress func(done, total int64)
}

// Add takes files into the fleet's blobs and writes a release that names them,
// not yet signed. The same release added again, with the same version or with
// none, is returned and not made twice.
func (f *Fleet) Add(ctx context.Context, o AddOptions) (release.Document, error) {
	doc, err := f.add(ctx, o)
	if err != nil {
		return release.Document{}, fmt.Errorf("cannot add %s %q: %w", o.Kind, o.Name, err)
	}
	return doc, nil
}

func (f *Fleet) add(ctx context.Context, o AddOptions) (release.Document, error) {
	if err := release.CheckName(o.Name); err != nil {
		return release.Document{}, err
	}
	switch {
	case o.Kind.Folder() == "":
		return release.Document{}, errors.New("the kind is not model, policy or engine")
	case o.Kind == release.Engine && o.Program == nil:
		return release.Document{}, errors.New("it does not say how the engine is run")
	}
	if err := o.Expand(); err != nil {
		return release.Document{}, err
	}
	if err := o.FindSignature(); err != nil {
		return release.Document{}, err
	}
	signature, err := o.verify(f.Now())
	if err != nil {
		return release.Document{}, err
	}
	o.leaveOut(signature)
	// Hashing takes minutes; the lock is taken only for what follows.
	files, err := f.ingest(ctx, o.Sources, o.Progress)
	if err != nil {
		return release.Document{}, err
	}
	doc := release.Document{Schema: release.Schema, Kind: o.Kind, Name: o.Name, Version: max(o.Version, 1), Files: files,
		Requires: o.Requires, Accept: o.Accept, Engine: o.Engine, Program: o.Program}
	if err := f.attach(ctx, &doc, signature); err != nil {
		return release.Document{}, err
	}
	if err := doc.Validate(); err != nil {
		return release.Document{}, err
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return release.Document{}, err
	}
	defer unlock()
	known, err := f.releases(o.Kind, o.Name)
	if err != nil {
		return release.Document{}, err
	}
	if o.Version == 0 {
		if len(known) > 0 {
			newest := known[len(known)-1].Document
			doc.Version = newest.Version
			if identical(doc, newest) {
				return newest, nil
			}
			doc.Version++
		}
	} else if i := slices.IndexFunc(known, func(r Release) bool { return r.Document.Version == o.Version }); i >= 0 {
		if !identical(doc, known[i].Document) {
			return release.Document{}, fmt.Errorf("version %d exists with other contents; leave out the version to make the next one", o.Version)
		}
		return known[i].Document, nil
	}
	raw, err := doc.Encode()
	if err != nil {
		return release.Document{}, err
	}
	if len(raw) > release.MaxDocument {
		return release.Document{}, fmt.Errorf("its document has %d bytes, at most %d are accepted; it has %d files", len(raw), release.MaxDocument, len(doc.Files))
	}
	return doc, writeFile(f.pendingPath(doc.Target()), raw, 0o644)
}

// Release is a release that the fleet has.
type Release struct {
	Document release.Document `json:"release"`
	Signed   bool             `json:"signed"`
	// Damage is why the signed document cannot be read; of Document only kind, name and version are known then.
	Damage string `json:"damage,omitempty"`
}

// Releases lists every release, signed or pending, by kind, name and version.
func (f *Fleet) Releases() ([]Release, error) {
	var all []Release
	for _, d := range delegations() {
		of, err := f.releases(d.kind, "")
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	return all, nil
}

// releases lists those of one kind and, unless it is empty, one name.
func (f *Fleet) releases(kind release.Kind, name string) ([]Release, error) {
	signed, err := f.signed(kind)
	if err != nil {
		return nil, err
	}
	all := map[string]Release{}
	pending, err := f.pending(kind)
	if err != nil {
		return nil, err
	}
	for _, doc := range pending {
		all[doc.Target()] = Release{Document: doc}
	}
	for target, entry := range signed {
		r := Release{Signed: true}
		if r.Document, err = f.document(target, entry); err != nil {
			// One spoilt document must not keep the fleet from its other releases.
			kind, name, version, bad := release.ParseTarget(target)
			if bad != nil {
				return nil, err
			}
			r.Document, r.Damage = release.Document{Kind: kind, Name: name, Version: version}, err.Error()
		}
		all[target] = r
	}
	var list []Release
	for _, r := range all {
		if name == "" || r.Document.Name == name {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b Release) int {
		if c := strings.Compare(a.Document.Name, b.Document.Name); c != 0 {
			return c
		}
		if a.Document.Version < b.Document.Version {
			return -1
		}
		return 1
	})
	return list, nil
}

// pending reads the unsigned releases of a kind.
func (f *Fleet) pending(kind release.Kind) ([]release.Document, error) {
	var docs []release.Document
	root := f.pendingPath(kind.Folder())
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		version, ok := strings.CutSuffix(entry.Name(), ".json")
		if _, err := strconv.ParseUint(version, 10, 64); entry.IsDir() || !ok || err != nil {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		doc, err := release.Parse(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if f.pendingPath(doc.Target()) != path {
			return fmt.Errorf("%s holds release %s of kind %s; remove it", path, doc.ID(), doc.Kind)
		}
		docs = append(docs, doc)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list pending releases: %w", err)
	}
	return docs, nil
}

// ingest copies files into blobs, each under its digest with its block index.
func (f *Fleet) ingest(ctx context.Context, sources []Source, progress func(done, total int64)) ([]release.File, error) {
	var total, done int64
	for _, s := range sources {
		info, err := os.Stat(s.From)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a regular file", s.From)
		}
		if info.Size() == 0 {
			return nil, fmt.Errorf("%s is empty; a release holds no empty files", s.From)
		}
		total += info.Size()
	}
	var files []release.File
	for _, s := range sources {
		file, err := f.ingestOne(ctx, s.From, func(n int64) {
			done += n
			if progress != nil {
				progress(done, total)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.From, err)
		}
		file.Path, file.Role, file.Executable = s.Path, s.Role, s.Executable
		files = append(files, file)
	}
	return files, nil
}

func (f *Fleet) ingestOne(ctx context.Context, path string, progress func(n int64)) (release.File, error) {
	in, err := os.Open(path)
	if err != nil {
		return release.File{}, err
	}
	defer in.Close() //nolint:errcheck // read only
	if err := os.MkdirAll(f.blobPath(""), 0o755); err != nil {
		return release.File{}, err
	}
	tmp, err := os.CreateTemp(f.blobPath(""), ".tmp-*")
	if err != nil {
		return release.File{}, err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone when it was adopted
	defer tmp.Close()           //nolint:errcheck // synced before it counts
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(tmp, hash), &meter{ctx: ctx, in: in, report: progress})
	if err != nil {
		return release.File{}, err
	}
	index, err := content.BuildIndex(tmp, size)
	if err != nil {
		return release.File{}, err
	}
	file := release.File{Path: filepath.Base(path), Size: size, SHA256: hex.EncodeToString(hash.Sum(nil))}
	if index, err = f.pack(ctx, tmp, file, index); err != nil {
		return release.File{}, err
	}
	file.IndexSHA256 = index.SHA256()
	return file, f.adopt(tmp, file, index.Encode())
}

// adopt makes a finished copy a blob. The index comes first: a blob that can
// be seen has one. A blob that is there is replaced: the disk may have damaged it.
func (f *Fleet) adopt(tmp *os.File, file release.File, index []byte) error {
	if err := writeFile(f.blobPath(file.SHA256)+".index", index, 0o644); err != nil {
		return err
	}
	return f.adoptBlob(tmp, file.SHA256)
}

func (f *Fleet) adoptBlob(tmp *os.File, digest string) error {
	if err := errors.Join(tmp.Chmod(0o644), tmp.Sync()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), f.blobPath(digest)); err != nil {
		return err
	}
	return store.SyncDir(f.blobPath(""))
}

// meter counts what is read and stops when the context ends.
type meter struct {
	ctx    context.Context
	in     io.Reader
	report func(n int64)
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.in.Read(p)
	m.report(int64(n))
	return n, err
}

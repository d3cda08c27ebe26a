package fleet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bothy-edge/bothy/updater/release"
)

// maxSources bounds the files of one release; the document refuses more too.
const maxSources = 4096

// Source is one file on this machine that goes into a release, and what the release says of it.
type Source struct {
	From       string // where it lies
	Path       string // in the release, slash separated
	Role       release.Role
	Executable bool
}

// Expand lists in Sources what Files, Projector and Adapters name: a folder by
// all of its files, the first file of a split model by all of them. What begins
// with a dot in a folder is left out; links are followed inside of it only. Add
// calls it too; calling it twice changes nothing.
func (o *AddOptions) Expand() error {
	if o.Sources != nil {
		return nil
	}
	all, err := o.sources()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("name at least one file")
	}
	o.Sources = all
	return nil
}

func (o *AddOptions) sources() ([]Source, error) {
	var all []Source
	for _, path := range o.Files {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		switch {
		case info.IsDir() && o.Kind == release.Policy:
			return nil, fmt.Errorf("%s is a folder, a policy is a file", path)
		case info.IsDir() && len(o.Files) > 1:
			return nil, fmt.Errorf("%s is a folder; name it alone, or the files alone", path)
		case info.IsDir():
			return o.folder(path)
		case o.Kind == release.Engine:
			return nil, fmt.Errorf("%s is a file; name the folder that holds the engine and its libraries", path)
		}
		all = append(all, Source{From: path, Path: filepath.Base(path)})
	}
	if o.Kind == release.Model && len(all) == 1 {
		all = splits(all[0])
	}
	return o.cast(all)
}

// splitName is what llama.cpp's tools name the files of a model in several.
var splitName = regexp.MustCompile(`^(.+)-00001-of-([0-9]{5})\.gguf$`)

// splits lists the files of a split model by its first one; another file stands for itself.
func splits(first Source) []Source {
	m := splitName.FindStringSubmatch(first.Path)
	if m == nil {
		return []Source{first}
	}
	n, _ := strconv.Atoi(m[2]) // five digits
	all := []Source{first}
	for i := 2; i <= min(n, maxSources+1); i++ {
		name := fmt.Sprintf("%s-%05d-of-%s.gguf", m[1], i, m[2])
		all = append(all, Source{From: filepath.Join(filepath.Dir(first.From), name), Path: name})
	}
	return all
}

// folder lists the files of a folder, the one that an engine opens first.
func (o *AddOptions) folder(root string) ([]Source, error) {
	var all []Source
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || path == root:
			return err
		case strings.HasPrefix(e.Name(), ".") && e.IsDir():
			return fs.SkipDir
		case strings.HasPrefix(e.Name(), ".") || e.IsDir():
			return nil
		case len(all) == maxSources:
			return fmt.Errorf("%s has more than %d files", root, maxSources)
		}
		s, err := o.inFolder(root, path)
		all = append(all, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	if all, err = o.cast(all); err != nil || o.Kind == release.Engine {
		return all, err
	}
	return primaryFirst(root, all)
}

func (o *AddOptions) inFolder(root, path string) (Source, error) {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return Source{}, err
	}
	if err := staysInside(root, path); err != nil {
		return Source{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Source{}, err
	}
	s := Source{From: path, Path: filepath.ToSlash(rel)}
	if p := o.Program; o.Kind == release.Engine && p != nil {
		// A library is mapped, not run; its bit is a habit of linkers.
		named := s.Path == p.Entry || s.Path == p.Loader
		s.Executable = info.Mode()&0o111 != 0 && (named || !libraryName.MatchString(rel))
		if named && !s.Executable {
			return Source{}, fmt.Errorf("%s may not be executed: chmod +x", path)
		}
	}
	return s, nil
}

// libraryName is what shared libraries are called: libx.so, libx.so.1.2.
var libraryName = regexp.MustCompile(`\.so(\.[0-9]+)*$`)

// staysInside refuses a link that leads out of the folder: what lies there was not meant.
func staysInside(root, path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	top, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(top, real)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return fmt.Errorf("%s is a link that leads out of %s; copy the folder with its files first (cp -rL)", path, root)
	}
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return errors.Join(err, fmt.Errorf("%s is a link to a folder; copy the folder with its files first (cp -rL)", path))
	}
	return nil
}

// cast gives the projector and the adapters their roles: files that are there already, or more files.
func (o *AddOptions) cast(all []Source) ([]Source, error) {
	roles := []Source{}
	if o.Projector != "" {
		roles = append(roles, Source{From: o.Projector, Role: release.Projector})
	}
	for _, a := range o.Adapters {
		roles = append(roles, Source{From: a, Role: release.Adapter})
	}
	if len(roles) > 0 && o.Kind != release.Model {
		return nil, errors.New("only models have projectors and adapters")
	}
	for _, r := range roles {
		if _, err := os.Stat(r.From); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(s Source) bool { return sameFile(s.From, r.From) })
		if i >= 0 {
			r.From, r.Path = all[i].From, all[i].Path
			all = slices.Delete(all, i, i+1)
		} else {
			r.Path = filepath.Base(r.From)
		}
		all = append(all, r)
	}
	return all, nil
}

// primaryFirst moves what an engine opens to the front: the GGUF file or the
// first one of a split model, or the config.json of a folder of safetensors.
func primaryFirst(root string, all []Source) ([]Source, error) {
	rank := func(s Source) int {
		switch {
		case s.Role != "":
			return 4
		case strings.HasSuffix(s.Path, ".gguf"):
			return 0
		case s.Path == "config.json":
			return 1
		}
		return 2
	}
	// Paths are in alphabetical order, in which the files of a split model follow one another.
	slices.SortStableFunc(all, func(a, b Source) int { return rank(a) - rank(b) })
	if len(all) == 0 || rank(all[0]) > 1 {
		return nil, fmt.Errorf("%s holds neither a GGUF file nor a config.json at its top; name the model's files one by one", root)
	}
	return all, nil
}

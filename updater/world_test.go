package updater

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// world is the box around the updater: engines, policies, artifacts and the
// fleet, in memory. Its engines and policies die with the agent; its artifacts
// and its store do not.
type world struct {
	t    *testing.T
	dir  string
	path string // of the store

	mu         sync.Mutex
	generation uint64
	candidates map[uint64]string // generation -> "alias=release"
	serving    map[string]string // alias -> release
	policies   []string          // in force, first is shown
	localOnly  bool
	log        []string // every act, in order
	want       release.Want
	refusal    error
	remote     map[string][]byte
	kept       []string
	taken      map[string]int64 // path -> bytes that a fetch has taken of the disk
	marked     []string
	// full says that the store has no room for this change's state; asked under mu.
	full func(Change) bool
	// broken names acts that fail, and how; it is asked under mu.
	broken func(act string) error
	// gates hold acts back until their channel is closed.
	gates map[string]chan struct{}
	// activated is told of every set of policies that comes into force; asked under mu.
	activated func(policies []string, localOnly bool)
	// mayRepair: the test damaged the store.
	mayRepair bool
	// stubborn acts wait for their gate also when they are told to stop.
	stubborn bool
}

func newWorld(t *testing.T) *world {
	dir := quickDir(t)
	w := &world{t: t, dir: dir, path: filepath.Join(dir, "state.db"), remote: map[string][]byte{},
		broken: func(string) error { return nil }, gates: map[string]chan struct{}{}, full: func(Change) bool { return false }}
	w.die()
	return w
}

// quickDir is a fresh folder in memory where the machine has one: hundreds of
// stores that a test kills in its own process need no disk.
func quickDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "bothy-updater-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// die is what a crash does to all that lives in processes.
func (w *world) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.candidates, w.serving, w.policies, w.localOnly = map[uint64]string{}, map[string]string{}, nil, false
	// Numbers begin again: one from before may name another engine now.
	w.generation = 0
}

func (w *world) act(ctx context.Context, act string) error {
	w.mu.Lock()
	w.log = append(w.log, act)
	gate := w.gates[act]
	err := w.broken(act)
	stubborn := w.stubborn
	w.mu.Unlock()
	if gate != nil && stubborn {
		<-gate
	} else if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// by names what serves: "mote@1", or "mote@1/llama@2" with an engine release.
func by(s Served) string {
	if s.Engine == nil {
		return s.Model.Document.ID()
	}
	return s.Model.Document.ID() + "/" + s.Engine.Document.ID()
}

// here says that every file of it lies on the box.
func here(s Served) error {
	files := s.Model.Files
	if s.Engine != nil {
		files = slices.Concat(files, s.Engine.Files)
	}
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) Prepare(ctx context.Context, alias string, s Served) (uint64, error) {
	if err := errors.Join(w.act(ctx, "prepare "+alias+"="+by(s)), here(s)); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation++
	w.candidates[w.generation] = alias + "=" + by(s)
	return w.generation, nil
}

func (w *world) Probe(ctx context.Context, gen uint64, checks []release.Check) error {
	w.mu.Lock()
	candidate := w.candidates[gen]
	w.mu.Unlock()
	if candidate == "" {
		return fmt.Errorf("no candidate %d", gen)
	}
	return w.act(ctx, "probe "+candidate)
}

func (w *world) Switch(ctx context.Context, alias string, gen uint64) error {
	w.mu.Lock()
	candidate := w.candidates[gen]
	w.mu.Unlock()
	of, id, _ := strings.Cut(candidate, "=")
	if of != alias {
		return fmt.Errorf("candidate %d is %q, not of %s", gen, candidate, alias)
	}
	if err := w.act(ctx, "switch "+candidate); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.candidates, gen)
	w.serving[alias] = id
	return nil
}

func (w *world) Discard(ctx context.Context, gen uint64) error {
	if err := w.act(ctx, fmt.Sprint("discard ", gen)); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.candidates, gen)
	return nil
}

func (w *world) Restore(ctx context.Context, alias string, s *Served) error {
	id := "nothing"
	var missing error
	if s != nil {
		id, missing = by(*s), here(*s)
	}
	if err := errors.Join(w.act(ctx, "restore "+alias+"="+id), missing); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s == nil {
		delete(w.serving, alias)
		return nil
	}
	w.serving[alias] = id
	return nil
}

func (w *world) Stage(document []byte) error {
	return w.act(context.Background(), "stage "+string(document))
}

// prove is asked about models with the policy that they come with.
func (w *world) prove(policy []byte, want release.Want, have func(release.File) (string, bool)) error {
	for _, doc := range want.Models {
		if _, ok := have(doc.Primary()); !ok {
			return fmt.Errorf("asked about %s before it is here", doc.ID())
		}
	}
	return w.act(context.Background(), "prove "+string(policy))
}

func (w *world) Activate(policies []Policy) error {
	var names []string
	local := false
	for _, p := range policies {
		name := string(p.Document)
		if name == "" {
			name = "built-in"
		}
		names = append(names, name)
		local = local || p.LocalOnly || p.Document == nil
	}
	if err := w.act(context.Background(), "activate "+strings.Join(names, "+")); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policies, w.localOnly = names, local
	if w.activated != nil {
		w.activated(names, local)
	}
	return nil
}

func (w *world) Refresh(ctx context.Context) (release.Want, error) {
	if err := w.act(ctx, "refresh"); err != nil {
		return release.Want{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.want, w.refusal
}

func (w *world) blob(f release.File) string { return filepath.Join(w.dir, f.SHA256) }

func (w *world) Fetch(ctx context.Context, f release.File, progress func(content.Progress)) (string, error) {
	if here, err := os.ReadFile(w.blob(f)); err == nil && bytes.Equal(here, w.remote[f.SHA256]) {
		return w.blob(f), nil // read again, not fetched again
	}
	progress(content.Progress{State: "fetching", Done: f.Size / 2, Total: f.Size})
	if err := w.act(ctx, "fetch "+f.Path); err != nil {
		return "", err
	}
	return w.blob(f), os.WriteFile(w.blob(f), w.remote[f.SHA256], 0o600)
}

func (w *world) Have(f release.File) (string, bool) {
	_, err := os.Stat(w.blob(f))
	return w.blob(f), err == nil
}

func (w *world) Damaged(f release.File) { _ = os.Remove(w.blob(f)) }

func (w *world) Takes(f release.File) int64 {
	if _, ok := w.Have(f); ok {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return f.Size - w.taken[f.Path]
}

func (w *world) Keep(ctx context.Context, docs []release.Document) error {
	if err := w.act(ctx, "keep"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = nil
	for _, d := range docs {
		for _, f := range d.Files {
			w.kept = append(w.kept, f.Path)
		}
	}
	slices.Sort(w.kept)
	w.kept = slices.Compact(w.kept)
	for digest, body := range w.remote {
		if !slices.Contains(w.kept, string(body)) {
			_ = os.Remove(filepath.Join(w.dir, digest))
		}
	}
	return nil
}

// state is all that a user of the box can notice.
func (w *world) state() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var parts []string
	for _, alias := range slices.Sorted(maps.Keys(w.serving)) {
		parts = append(parts, alias+"="+w.serving[alias])
	}
	return strings.Join(parts, " ") + " policy=" + strings.Join(w.policies, "+")
}

func (w *world) did(prefix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, act := range w.log {
		if strings.HasPrefix(act, prefix) {
			n++
		}
	}
	return n
}

func (w *world) breakAct(act string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = func(a string) error {
		if a == act {
			return err
		}
		return nil
	}
}

func (w *world) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = func(string) error { return nil }
	w.full = func(Change) bool { return false }
}

// fill leaves the store no room for changes in this state.
func (w *world) fill(s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.full = func(c Change) bool { return c.State == s }
}

func (w *world) hold(act string) (open func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gate := make(chan struct{})
	w.gates[act] = gate
	return sync.OnceFunc(func() { close(gate) })
}

// release makes a document of one file whose content is its own name.
func (w *world) release(kind release.Kind, id string) release.Document {
	name, version, err := release.ParseID(id)
	if err != nil {
		w.t.Fatal(err)
	}
	body := []byte(id)
	digest := w.digest(id)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remote[digest] = body
	doc := release.Document{Schema: 1, Kind: kind, Name: name, Version: version, Files: []release.File{
		{Path: id, Size: int64(len(body)), SHA256: digest, IndexSHA256: digest}}}
	if kind == release.Engine {
		doc.Files[0].Executable, doc.Engine.Kind = true, name
		doc.Program = &release.Program{Entry: id, Version: fmt.Sprint(version), Platform: "linux/amd64"}
	}
	return doc
}

// digest is a file's whose content is its own name.
func (w *world) digest(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

// assign makes a want of "chat=mote@1 embed=gist@1 policy=plant@1 engine=llama@1" what the
// fleet offers; the engine serves every model; "approval" and "window=22:00-04:00" may be among it.
func (w *world) assign(counter uint64, set string) release.Want {
	want := release.Want{Device: "box", Counter: counter, DirectorVersion: int64(counter), CatalogVersion: 1, Models: map[string]release.Document{}}
	for _, part := range strings.Fields(set) {
		alias, id, _ := strings.Cut(part, "=")
		switch alias {
		case "policy":
			doc := w.release(release.Policy, id)
			want.Policy = &doc
		case "engine":
			doc := w.release(release.Engine, id)
			want.Engine = &doc
		case "approval":
			want.Approval = true
		case "window":
			from, until, _ := strings.Cut(id, "-")
			want.Window = &release.Window{From: from, Until: until}
		default:
			want.Models[alias] = w.release(release.Model, id)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want = want
	return want
}

// agent is one life of the updater over the world.
type agent struct {
	*Updater
	w    *world
	db   *store.DB
	stop context.CancelFunc
	fail context.CancelCauseFunc // stops it because something else of the agent failed
	err  chan error
}

func (w *world) config(db *store.DB) Config {
	return Config{
		DB: db, Trust: w, Fetcher: w, Engines: w, Policies: w, Provenance: w.prove,
		Installed: func(docs ...release.Document) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.marked = nil
			for _, d := range docs {
				w.marked = append(w.marked, d.ID())
			}
			return nil
		},
		Report: func(_ *store.Tx, c Change) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.full(c) {
				return syscall.ENOSPC
			}
			return nil
		},
		Preflight: func(ctx context.Context, _ release.Want, _ int64) error { return w.act(ctx, "preflight") },
		Jitter:    func() float64 { return 0.5 },
	}
}

// start opens the store and runs an updater over it until it is stopped or killed.
func (w *world) start(edit ...func(*Config)) *agent {
	w.t.Helper()
	db, report, err := store.Open(context.Background(), store.Options{Path: w.path})
	if err != nil {
		w.t.Fatal(err)
	}
	if report.Damage != "" && !w.mayRepair {
		w.t.Fatalf("store damaged: %s", report.Damage)
	}
	cfg := w.config(db)
	cfg.PutBack = report.Restored != ""
	for _, e := range edit {
		e(&cfg)
	}
	u, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, fail := context.WithCancelCause(context.Background())
	a := &agent{Updater: u, w: w, db: db, stop: func() { fail(nil) }, fail: fail, err: make(chan error, 1)}
	go func() { a.err <- u.Run(ctx) }()
	return a
}

// end stops the agent, and with it all its processes; it answers how Run ended.
func (a *agent) end() error {
	a.stop()
	err := <-a.err
	if closeErr := a.db.Close(); closeErr != nil {
		a.w.t.Error(closeErr)
	}
	a.w.die()
	return err
}

// ended waits until the change has ended and everything after it is done.
func (a *agent) ended(id uint64) Change {
	a.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
	defer cancel()
	c, err := a.Wait(ctx, id)
	if err != nil {
		a.w.t.Fatalf("change %d did not end: %v, it is %s (%s)", id, err, c.State, c.Error)
	}
	synctest.Wait()
	return c
}

// reaches waits until the active change is in this state, for an hour at most.
func (a *agent) reaches(state State) Change {
	a.w.t.Helper()
	deadline := time.After(time.Hour)
	for {
		changed := a.Changed()
		if c, ok := a.Active(); ok && c.State == state {
			synctest.Wait()
			return c
		}
		select {
		case <-changed:
		case <-deadline:
			c, _ := a.Active()
			a.w.t.Fatalf("the change is %s (%s), never became %s", c.State, c.Error, state)
		}
	}
}

// newest is the change with the greatest number.
func (a *agent) newest() Change {
	a.w.t.Helper()
	all, err := a.List()
	if err != nil || len(all) == 0 {
		a.w.t.Fatalf("got %d changes, %v", len(all), err)
	}
	return all[0]
}

// brings assigns a set, offers it and waits for the end of its change.
func (a *agent) brings(counter uint64, set string) Change {
	a.w.t.Helper()
	a.w.assign(counter, set)
	if err := a.Check(context.Background()); err != nil {
		a.w.t.Fatal(err)
	}
	return a.ended(a.newest().ID)
}

func path(c Change) string {
	var all []string
	for _, h := range c.History {
		all = append(all, string(h.State))
	}
	return strings.Join(all, " ")
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

var errBroken = errors.New("broken")

package updater

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// childEnv makes the test binary a box of its own process, to be killed or
// confined: real files, a real store, a real fetch; its engines die with it.
const childEnv = "BOTHY_UPDATER_CHILD"

func TestMain(m *testing.M) {
	raw := os.Getenv(childEnv)
	if raw == "" {
		os.Exit(m.Run())
	}
	var life boxLife
	err := json.Unmarshal([]byte(raw), &life)
	if err == nil && life.Disk > 0 {
		err = life.full()
	} else if err == nil {
		err = life.live()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// boxLife is one process of a box: it brings a want to its end, unless it is killed.
type boxLife struct {
	Dir    string // state of the box; the files to fetch lie in site beside it
	Want   uint64
	KillAt int64 // which fault point, counted from one; 0: none
	Disk   int   // MiB of a small disk to live on; 0: none
}

const (
	childModel = 1<<20 + 200<<10 // two blocks
	childOld   = "chat=mote@1 policy=plant@1 engine=llama@1"
)

// childSet is the set of a want: the first is one, every other differs in all of it.
func childSet(want uint64) string { return strings.ReplaceAll(childOld, "@1", fmt.Sprint("@", want)) }

// childBox is what a user of the box notices with a set.
func childBox(want uint64) string {
	return fmt.Sprintf("chat=mote@%d/llama@%d policy=plant@%d", want, want, want)
}

// childFile makes the bytes of a release and names them.
func childFile(id string) ([]byte, release.File, error) {
	body := []byte(id)
	if !strings.HasPrefix(id, "plant") {
		body = bytes.Repeat([]byte(id+" "), childModel/(len(id)+1))
	}
	x, err := content.BuildIndex(bytes.NewReader(body), int64(len(body)))
	sum := sha256.Sum256(body)
	return body, release.File{Path: id, Size: int64(len(body)), SHA256: hex.EncodeToString(sum[:]), IndexSHA256: x.SHA256()}, err
}

func childWant(counter uint64) (release.Want, error) {
	want := release.Want{Device: "box", Counter: counter, Models: map[string]release.Document{}}
	for part := range strings.FieldsSeq(childSet(counter)) {
		kind, id, _ := strings.Cut(part, "=")
		name, version, err := release.ParseID(id)
		if err != nil {
			return want, err
		}
		_, f, err := childFile(id)
		if err != nil {
			return want, err
		}
		doc := release.Document{Schema: 1, Name: name, Version: version, Files: []release.File{f}}
		switch kind {
		case "policy":
			doc.Kind = release.Policy
			want.Policy = &doc
		case "engine":
			doc.Kind, doc.Engine.Kind, doc.Program = release.Engine, name, &release.Program{Entry: id}
			want.Engine = &doc
		default:
			doc.Kind = release.Model
			want.Models[kind] = doc
		}
	}
	return want, nil
}

// writeSite lays the files of a want out for the box to fetch.
func writeSite(dir string, want uint64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for part := range strings.FieldsSeq(childSet(want)) {
		_, id, _ := strings.Cut(part, "=")
		body, f, err := childFile(id)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f.SHA256), body, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// disk is a Fetcher over real files.
type disk struct {
	*content.Store
	site content.Directory
}

func (d disk) Fetch(ctx context.Context, f release.File, progress func(content.Progress)) (string, error) {
	return d.Store.Fetch(ctx, f, []content.Source{d.site}, progress)
}

func (d disk) Have(f release.File) (string, bool) { return d.Path(f.SHA256), d.Has(f.SHA256) }

func (d disk) Damaged(f release.File) { _ = d.Remove(f.SHA256) }

func (d disk) Takes(f release.File) int64 { return max(0, f.Size-d.Taken(f.SHA256)) }

func (d disk) Keep(_ context.Context, docs []release.Document) error {
	wanted := map[string]bool{}
	for _, doc := range docs {
		for _, f := range doc.Files {
			wanted[f.SHA256] = true
		}
	}
	have, err := d.List()
	if err != nil {
		return err
	}
	for _, digest := range have {
		if !wanted[digest] {
			err = errors.Join(err, d.Remove(digest))
		}
	}
	return err
}

// fixed is a Trust that has verified one want.
type fixed struct{ want release.Want }

func (f fixed) Refresh(context.Context) (release.Want, error) { return f.want, nil }

// childParts is the parts of one life.
type childParts struct {
	w         *world
	db        *store.DB
	artifacts *content.Store
	u         *Updater
	points    atomic.Int64
	settled   atomic.Bool // what the journal says was brought up
}

// open opens a box. What the store's own copies said is told by the parent's eye: stdout.
func (l boxLife) open(want uint64) (*childParts, error) {
	p := &childParts{w: &world{dir: l.Dir, broken: func(string) error { return nil }, gates: map[string]chan struct{}{}, full: func(Change) bool { return false }}}
	p.w.die()
	db, report, err := store.Open(context.Background(), store.Options{Path: filepath.Join(l.Dir, "state.db")})
	if err != nil {
		return nil, err
	}
	if report.Damage != "" {
		return nil, fmt.Errorf("the store is damaged: %+v", report)
	}
	p.db = db
	if p.artifacts, err = content.Open(filepath.Join(l.Dir, "artifacts")); err != nil {
		return nil, err
	}
	verified, err := childWant(want)
	if err != nil {
		return nil, err
	}
	p.u, err = New(Config{
		DB: db, Trust: fixed{verified}, Fetcher: disk{p.artifacts, content.Directory{Dir: l.Dir + ".site"}}, Engines: p.w, Policies: p.w,
		WatchFor: 40 * time.Millisecond, WatchEvery: 10 * time.Millisecond, PutBack: report.Restored != "",
		Fault: func(point string) error {
			if point == "after settle" {
				fmt.Println("started " + p.w.state())
				p.settled.Store(true)
			}
			if p.points.Add(1) == l.KillAt {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return nil
		},
	})
	return p, err
}

// brings runs the box until the change of a want has ended, and tells how.
func (p *childParts) brings(want uint64, meanwhile func(Change)) error {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- p.u.Run(ctx) }()
	for {
		changed := p.u.Changed()
		all, err := p.u.List()
		if err != nil {
			return err
		}
		if len(all) > 0 && meanwhile != nil {
			meanwhile(all[0])
		}
		if len(all) > 0 && all[0].Want.Counter == want && all[0].State.Ended() && p.settled.Load() {
			break
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond):
		case err := <-ended:
			return errors.Join(err, errors.New("the change has not ended"))
		}
	}
	c, _ := p.u.List()
	fmt.Printf("end %s %s\n", c[0].State, p.w.state())
	var damaged error
	for _, d := range p.u.Current().Want.Documents() {
		for _, f := range d.Files {
			damaged = errors.Join(damaged, p.artifacts.Verify(ctx, f.SHA256))
		}
	}
	stop()
	return errors.Join(damaged, <-ended)
}

func (p *childParts) close() error { return errors.Join(p.db.Close(), p.artifacts.Close()) }

func (l boxLife) live() error {
	p, err := l.open(l.Want)
	if err != nil {
		return err
	}
	if err := p.brings(l.Want, nil); err != nil {
		return err
	}
	fmt.Printf("points %d\n", p.points.Load())
	return p.close()
}

// start begins a life in a process of its own.
func (l boxLife) start(t *testing.T) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	raw, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	out := &bytes.Buffer{}
	cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if l.Disk > 0 {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// lives is a life that ends by itself; it answers what the box told.
func (l boxLife) lives(t *testing.T) string {
	t.Helper()
	cmd, out := l.start(t)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%+v: %v\n%s", l, err, out)
	}
	return out.String()
}

// told picks what a box said after a word.
func told(out, word string) string {
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, word+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

type note struct {
	Text string `json:"text"`
}

var notes = Table[note]{Name: "notes"}

func clock() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func open(t *testing.T, o Options) (*DB, Report) {
	t.Helper()
	if o.Now == nil {
		o.Now = clock
	}
	db, report, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, report
}

func put(t *testing.T, db *DB, key, text string) {
	t.Helper()
	if err := db.Update(func(tx *Tx) error { return notes.Put(tx, key, note{text}) }); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, db *DB, key string) string {
	t.Helper()
	var n note
	var ok bool
	err := db.View(func(tx *Tx) (err error) { n, ok, err = notes.Get(tx, key); return err })
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return "(none)"
	}
	return n.Text
}

// crash gives the file up as a killed process does: no clean marker.
func crash(db *DB) { db.release() }

func TestFirstStartIsFreshAndSecondIsClean(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "state.db")
	db, report := open(t, Options{Path: path})
	if want := (Report{Fresh: true, Schema: 1}); !cmp.Equal(report, want) && !report.Fresh {
		t.Fatalf("got %+v, want %+v", report, want)
	}
	put(t, db, "a", "one")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	checked := false
	db, report = open(t, Options{Path: path, Check: func(context.Context, string) error { checked = true; return nil }})
	if want := (Report{Clean: true, Schema: 1}); !cmp.Equal(report, want) {
		t.Errorf("got %+v, want %+v", report, want)
	}
	if checked {
		t.Error("the full check ran after a clean stop")
	}
	if got := get(t, db, "a"); got != "one" {
		t.Errorf("got %q, want one", got)
	}
}

func TestUncleanStopIsChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path})
	put(t, db, "a", "one")
	crash(db)
	checked := ""
	db, report := open(t, Options{Path: path, Check: func(_ context.Context, p string) error { checked = p; return nil }})
	if checked != path || report.Clean {
		t.Errorf("got check of %q and clean %v, want check of the file after an unclean stop", checked, report.Clean)
	}
	if got := get(t, db, "a"); got != "one" {
		t.Errorf("got %q, want one", got)
	}
}

func TestExchangedFileIsCheckedInSpiteOfCleanMarker(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	db, _ := open(t, Options{Path: path})
	put(t, db, "a", "one")
	crash(db)
	yesterday, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	db, _ = open(t, Options{Path: path})
	put(t, db, "a", "two")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, yesterday, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, report := open(t, Options{Path: path}); report.Clean {
		t.Error("yesterday's copy was taken for the file that was closed")
	}
}

func TestSecondOpenIsRefusedWhileFirstIsOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, Options{Path: path})
	if _, _, err := Open(t.Context(), Options{Path: path}); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want %v", err, ErrInUse)
	}
}

func TestNewerSchemaIsRefusedUntouched(t *testing.T) {
	for _, clean := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "state.db")
		db, _ := open(t, Options{Path: path, Schema: 7})
		put(t, db, "a", "one")
		if clean {
			_ = db.Close()
		} else {
			crash(db)
		}
		before := contents(t, filepath.Dir(path))
		_, _, err := Open(t.Context(), Options{Path: path, Schema: 6})
		if !errors.Is(err, ErrNewer) {
			t.Fatalf("got %v, want %v", err, ErrNewer)
		}
		if !strings.Contains(err.Error(), "schema 7, this binary knows 6") {
			t.Errorf("got %q, want both schema numbers in it", err)
		}
		if diff := cmp.Diff(before, contents(t, filepath.Dir(path))); diff != "" {
			t.Errorf("files changed (clean %v): %s", clean, diff)
		}
		db, _ = open(t, Options{Path: path, Schema: 7})
		if got := get(t, db, "a"); got != "one" {
			t.Errorf("got %q, want one", got)
		}
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		body, err := os.ReadFile(p)
		info, _ := e.Info()
		all[p] = fmt.Sprintf("%v %x", info.ModTime(), body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMigrationRunsOnceStepByStepAfterASnapshot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path})
	put(t, db, "a", "1")
	_ = db.Close()
	step := func(n string) func(*Tx) error {
		return func(tx *Tx) error {
			old, _, err := notes.Get(tx, "a")
			return errors.Join(err, notes.Put(tx, "a", note{old.Text + n}))
		}
	}
	o := Options{Path: path, Schema: 3, Migrate: map[int]func(*Tx) error{2: step("2"), 3: step("3")}}
	for _, want := range []Report{{Clean: true, MigratedFrom: 1, Schema: 3}, {Clean: true, Schema: 3}} {
		db, report := open(t, o)
		if !cmp.Equal(report, want) {
			t.Errorf("got %+v, want %+v", report, want)
		}
		if got := get(t, db, "a"); got != "123" {
			t.Errorf("got %q, want 123", got)
		}
		_ = db.Close()
	}
	if names, _ := listSnapshots(path + ".snapshots"); len(names) != 1 {
		t.Errorf("got %d snapshots, want 1", len(names))
	}
}

func TestFailedMigrationKeepsTheLastGoodSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path})
	put(t, db, "a", "1")
	_ = db.Close()
	broken := errors.New("broken")
	o := Options{Path: path, Schema: 2, Migrate: map[int]func(*Tx) error{2: func(tx *Tx) error {
		return errors.Join(notes.Put(tx, "a", note{"half"}), broken)
	}}}
	if _, _, err := Open(t.Context(), o); !errors.Is(err, broken) {
		t.Fatalf("got %v, want %v", err, broken)
	}
	db, _ = open(t, Options{Path: path})
	if got := get(t, db, "a"); got != "1" {
		t.Errorf("got %q, want 1", got)
	}
}

func TestTableOrderPrefixBackAndTrim(t *testing.T) {
	db, _ := open(t, Options{Path: filepath.Join(t.TempDir(), "state.db")})
	for _, k := range []string{"b/2", "a/1", "b/1", "c/1"} {
		put(t, db, k, k)
	}
	var each, back []string
	var last string
	err := db.View(func(tx *Tx) error {
		var err error
		last, _, _, err = notes.Last(tx)
		return errors.Join(err,
			notes.Each(tx, "b/", func(k string, v note) error { each = append(each, v.Text); return nil }),
			notes.Back(tx, func(k string, v note) error {
				if back = append(back, k); len(back) == 2 {
					return ErrStop
				}
				return nil
			}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(each, back, last), "[b/1 b/2] [c/1 b/2]c/1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := db.Update(func(tx *Tx) error { return notes.Trim(tx, 1) }); err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, "a/1") + get(t, db, "b/2") + get(t, db, "c/1"); got != "(none)(none)c/1" {
		t.Errorf("got %s after trim", got)
	}
}

func TestAppendNeverReusesANumber(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path})
	first, err := appendNumber(db, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *Tx) error { return numbers.Delete(tx, Key(first)) }); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	db, _ = open(t, Options{Path: path})
	if second, _ := appendNumber(db, "y"); second <= first {
		t.Errorf("got number %d after %d", second, first)
	}
}

func TestFailedUpdateWritesNothing(t *testing.T) {
	db, _ := open(t, Options{Path: filepath.Join(t.TempDir(), "state.db")})
	own := errors.New("own")
	err := db.Update(func(tx *Tx) error { return errors.Join(notes.Put(tx, "a", note{"x"}), own) })
	if !errors.Is(err, own) {
		t.Fatalf("got %v, want %v", err, own)
	}
	if got := get(t, db, "a"); got != "(none)" {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestCallersPanicGoesOn(t *testing.T) {
	db, _ := open(t, Options{Path: filepath.Join(t.TempDir(), "state.db")})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic of a caller was swallowed")
			}
		}()
		_ = db.Update(func(*Tx) error { panic(errors.New("a mistake of the caller")) })
	}()
	put(t, db, "a", "still works")
}

func TestBatchSharesCommitsAndKeepsErrorsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		commits := 0
		db, _ := open(t, Options{Path: filepath.Join(t.TempDir(), "state.db"), Fault: func(op string) error {
			if op == "commit" {
				commits++
			}
			return nil
		}})
		const writers = 64
		own := errors.New("own")
		errs := make([]error, writers)
		var wg sync.WaitGroup
		// The gate holds the first commit back until every writer queues behind it.
		gate := make(chan struct{})
		wg.Go(func() {
			_ = db.Batch(func(*Tx) error { <-gate; return nil })
		})
		synctest.Wait()
		for i := range writers {
			wg.Go(func() {
				errs[i] = db.Batch(func(tx *Tx) error {
					if i%16 == 3 {
						return own
					}
					return notes.Put(tx, strconv.Itoa(i), note{"x"})
				})
			})
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		for i, err := range errs {
			want, wantErr := "x", error(nil)
			if i%16 == 3 {
				want, wantErr = "(none)", own
			}
			if got := get(t, db, strconv.Itoa(i)); got != want || !errors.Is(err, wantErr) {
				t.Errorf("writer %d: got %q, %v, want %q, %v", i, got, err, want, wantErr)
			}
		}
		if commits != 2 {
			t.Errorf("got %d commits for %d writers, want 2", commits, writers)
		}
	})
}

func TestFailedCommitIsReportedAndCheckedAtTheNextStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	full := false
	db, _ := open(t, Options{Path: path, Fault: func(op string) error {
		if full && op == "commit" {
			return errors.New("no space left on device")
		}
		return nil
	}})
	put(t, db, "a", "one")
	full = true
	if err := db.Update(func(tx *Tx) error { return notes.Put(tx, "a", note{"two"}) }); err == nil {
		t.Fatal("a failed commit was acknowledged")
	}
	full = false
	if got := get(t, db, "a"); got != "one" {
		t.Errorf("got %q, want one", got)
	}
	put(t, db, "a", "three")
	_ = db.Close()
	db, _ = open(t, Options{Path: path})
	if got := get(t, db, "a"); got != "three" {
		t.Errorf("got %q, want three", got)
	}
}

func child(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), "STORE_CHILD="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestFullDiskFailsTheWriteAndKeepsTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	out, err := child(t, "full", path).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var last int
	if _, err := fmt.Sscanf(string(out), "acknowledged %d", &last); err != nil || last == 0 {
		t.Fatalf("got output %q, want the number of acknowledged records", out)
	}
	db, report := open(t, Options{Path: path})
	if report.Damage != "" {
		t.Errorf("got damage %q after a full disk", report.Damage)
	}
	if got, want := count(db), strconv.Itoa(last-1); got != want {
		t.Errorf("got %s records, want %s", got, want)
	}
}

func TestKilledWriterLosesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	acknowledged := 0
	for round := range 12 {
		cmd := child(t, "write", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 5+7*round && lines.Scan(); n++ {
			acknowledged, _ = strconv.Atoi(lines.Text())
		}
		_ = cmd.Process.Kill()
		for lines.Scan() {
			acknowledged, _ = strconv.Atoi(lines.Text())
		}
		_ = cmd.Wait()
		db, report := open(t, Options{Path: path})
		if report.Damage != "" || report.Clean {
			t.Fatalf("round %d: got %+v, want an undamaged store after an unclean stop", round, report)
		}
		var last string
		if err := db.View(func(tx *Tx) (err error) { last, _, _, err = numbers.Last(tx); return err }); err != nil {
			t.Fatal(err)
		}
		if last < Key(uint64(acknowledged)) || count(db) != strconv.Itoa(atoi(last)) {
			t.Fatalf("round %d: got %s records up to %s, acknowledged %d", round, count(db), last, acknowledged)
		}
		crash(db)
	}
	if acknowledged < 100 {
		t.Errorf("got %d acknowledged writes, want at least 100", acknowledged)
	}
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

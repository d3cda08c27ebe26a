package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// prepared makes a store whose first records are in a snapshot and whose last
// one is not, stopped cleanly or not, and answers its path.
func prepared(t *testing.T, clean bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path})
	for i := range 300 {
		put(t, db, fmt.Sprintf("k%03d", i), strings.Repeat("some text ", 20))
	}
	if _, err := db.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, db, "late", "not in the snapshot")
	if clean {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		crash(db)
	}
	return path
}

// checker runs the check in a child, as the agent does.
func checker(t *testing.T) func(context.Context, string) error {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return CheckIn("/usr/bin/env", "STORE_CHILD=check", exe)
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

// flip damages one byte of the first place where text occurs.
func flip(text string) func([]byte) []byte {
	return func(b []byte) []byte {
		b[bytes.Index(b, []byte(text))] ^= 0x20
		return b
	}
}

func zero(from, to int) func([]byte) []byte {
	return func(b []byte) []byte {
		clear(b[from:min(to, len(b))])
		return b
	}
}

func TestDamagedFileIsRestoredFromTheSnapshot(t *testing.T) {
	page := os.Getpagesize()
	cases := []struct {
		name   string
		change func([]byte) []byte
		lost   bool
	}{
		{"zero length", func([]byte) []byte { return nil }, true},
		{"one byte", func(b []byte) []byte { return b[:1] }, false},
		{"cut in the first meta", func(b []byte) []byte { return b[:40] }, false},
		{"cut after the metas", func(b []byte) []byte { return b[:2*page] }, false},
		{"cut in half", func(b []byte) []byte { return b[:len(b)/2] }, false},
		{"garbage", func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), len(b)/8) }, false},
		{"all zero", zero(0, 1<<30), false},
		{"both metas", zero(0, 2*page), false},
		{"all but the metas", func(b []byte) []byte { return append(b[:2*page:2*page], make([]byte, len(b)-2*page)...) }, false},
		{"flipped value", func(b []byte) []byte {
			return zero(bytes.LastIndex(b, []byte("not in the")), bytes.LastIndex(b, []byte("not in the"))+1)(b)
		}, false},
		{"random pages", func(b []byte) []byte {
			r := rand.New(rand.NewPCG(1, 2))
			for i := 2 * page; i < len(b); i++ {
				b[i] = byte(r.Uint32())
			}
			return b
		}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := prepared(t, false)
			edit(t, path, c.change)
			db, report := open(t, Options{Path: path, Check: checker(t)})
			if report.Damage == "" || report.Restored == "" || report.Quarantined == "" || report.Lost != c.lost {
				t.Errorf("got %+v, want a store restored from its snapshot, lost %v", report, c.lost)
			}
			if !exists(report.Quarantined) {
				t.Errorf("nothing lies at %s", report.Quarantined)
			}
			if got := get(t, db, "k299"); !strings.HasPrefix(got, "some text") {
				t.Errorf("got %q from the restored store", got)
			}
			put(t, db, "new", "x")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if db, report := open(t, Options{Path: path}); !report.Clean || get(t, db, "new") != "x" {
				t.Errorf("got %+v after the repair, want a clean start", report)
			}
		})
	}
}

func TestFileLostWholeIsRestored(t *testing.T) {
	for _, clean := range []bool{true, false} {
		path := prepared(t, clean)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		db, report := open(t, Options{Path: path})
		if !report.Lost || report.Restored == "" || report.Quarantined != "" {
			t.Errorf("got %+v, want a lost store restored", report)
		}
		if got := get(t, db, "k001"); got == "(none)" {
			t.Error("the restored store is empty")
		}
	}
}

func TestOneDamagedMetaCostsNothingThatTheOtherHolds(t *testing.T) {
	page := os.Getpagesize()
	for _, which := range []int{0, 1} {
		path := prepared(t, false)
		edit(t, path, zero(which*page, which*page+page))
		db, report := open(t, Options{Path: path, Check: checker(t)})
		if report.Damage != "" && report.Restored == "" {
			t.Errorf("meta %d: got %+v, want the file used or restored", which, report)
		}
		if got := get(t, db, "k299"); got == "(none)" {
			t.Errorf("meta %d: records are gone", which)
		}
	}
}

func TestDamageWithoutASnapshotBeginsFreshAndSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path})
	put(t, db, "a", "one")
	crash(db)
	edit(t, path, zero(0, 1<<30))
	db, report := open(t, Options{Path: path})
	if !report.Fresh || report.Quarantined == "" || report.Damage == "" {
		t.Errorf("got %+v, want a fresh store and the damage told", report)
	}
	if got := get(t, db, "a"); got != "(none)" {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestDamagedSnapshotIsPassedOverForAnOlderOne(t *testing.T) {
	path := prepared(t, false)
	db, _ := open(t, Options{Path: path})
	newest, err := db.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	crash(db)
	edit(t, newest, flip("some text"))
	edit(t, path, zero(0, 1<<30))
	db, report := open(t, Options{Path: path})
	if len(report.BadSnapshots) != 1 || report.BadSnapshots[0] != newest || report.Restored == "" {
		t.Errorf("got %+v, want %s passed over", report, newest)
	}
	if got := get(t, db, "late"); got != "(none)" {
		t.Errorf("got %q from the older snapshot", got)
	}
}

func TestNewerSnapshotIsNotReplacedByAFreshStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path, Schema: 4})
	if _, err := db.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	crash(db)
	edit(t, path, zero(0, 1<<30))
	if _, _, err := Open(t.Context(), Options{Path: path, Schema: 3}); !errors.Is(err, ErrNewer) {
		t.Errorf("got %v, want %v", err, ErrNewer)
	}
}

func TestDamageUnderAnOpenStoreIsAnErrorNotACrash(t *testing.T) {
	path := prepared(t, true)
	db, _ := open(t, Options{Path: path})
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	walk := func() error {
		return db.View(func(tx *Tx) error { return notes.Each(tx, "", func(string, note) error { return nil }) })
	}
	for range 2 {
		if err := walk(); !errors.Is(err, ErrDamaged) {
			t.Fatalf("got %v, want %v", err, ErrDamaged)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, report := open(t, Options{Path: path}); report.Restored == "" {
		t.Errorf("got %+v, want the store restored at the next start", report)
	}
}

func TestCheckFindsEveryFlippedByteOfARecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, _ := open(t, Options{Path: path})
	put(t, db, "the-key", "the-value")
	_ = db.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start := bytes.LastIndex(whole, []byte("the-key"))
	end := bytes.LastIndex(whole, []byte("the-value")) + len(`the-value"}`)
	for i := start; i < end; i++ {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Check(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d (%q): got %v, want %v", i, whole[i], err, ErrDamaged)
		}
	}
}

func TestFallbackCheckRunsWhenTheChildCannot(t *testing.T) {
	path := prepared(t, false)
	edit(t, path, func(b []byte) []byte {
		i := bytes.LastIndex(b, []byte("not in the"))
		b[i] ^= 1
		return b
	})
	if _, report := open(t, Options{Path: path, Check: CheckIn("/nonexistent/bothy")}); report.Restored == "" {
		t.Errorf("got %+v, want the damage found without a child", report)
	}
}

func TestCrashAtEveryStepOfARepairIsRepairedByTheNextStart(t *testing.T) {
	for _, op := range []string{"quarantine.rename", "restore.rename", "restore.noted"} {
		path := prepared(t, false)
		edit(t, path, zero(0, 1<<30))
		broken := errors.New("power cut")
		_, _, err := Open(t.Context(), Options{Path: path, Fault: func(at string) error {
			if at == op {
				return broken
			}
			return nil
		}})
		if !errors.Is(err, broken) {
			t.Fatalf("%s: got %v, want %v", op, err, broken)
		}
		db, report := open(t, Options{Path: path})
		if report.Restored == "" || get(t, db, "k299") == "(none)" {
			t.Errorf("%s: got %+v, want the store restored", op, report)
		}
	}
}

// Whoever is killed between the restore and the moment in which its owner wrote
// down what follows from it must hear of it again.
func TestRestoreIsReportedUntilItIsNoted(t *testing.T) {
	path := prepared(t, false)
	edit(t, path, zero(0, 1<<30))
	db, first := open(t, Options{Path: path})
	if first.Restored == "" {
		t.Fatalf("got %+v, want the store restored", first)
	}
	crash(db)
	for _, stop := range []func(*DB){crash, func(db *DB) { _ = db.Close() }} {
		db, again := open(t, Options{Path: path})
		if again.Restored != first.Restored {
			t.Errorf("got restored %q, want %q once more", again.Restored, first.Restored)
		}
		stop(db)
	}
	db, _ = open(t, Options{Path: path})
	if err := errors.Join(db.Noted(), db.Noted(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, report := open(t, Options{Path: path}); report.Restored != "" || report.Damage != "" {
		t.Errorf("got %+v after it was noted, want an ordinary start", report)
	}
}

func TestFailedCreationIsRepeated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if _, _, err := Open(t.Context(), Options{Path: path, Fault: func(at string) error { return errors.New(at) }}); err == nil {
		t.Fatal("a failed creation was taken for an open store")
	}
	if _, report := open(t, Options{Path: path}); !report.Fresh || report.Damage != "" {
		t.Errorf("got %+v, want a fresh store", report)
	}
}

func TestSnapshotsKeepThreeAndAFailedOneCostsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	fail := ""
	db, _ := open(t, Options{Path: path, Fault: func(op string) error {
		if op == fail {
			return errors.New("no space left on device")
		}
		return nil
	}})
	for i := range 5 {
		put(t, db, "a", fmt.Sprint(i))
		if _, err := db.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, fail = range []string{"snapshot.write", "snapshot.rename"} {
		if _, err := db.Snapshot(t.Context()); err == nil {
			t.Errorf("%s failed and a snapshot was reported", fail)
		}
	}
	entries, err := os.ReadDir(path + ".snapshots")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 || !strings.HasPrefix(entries[2].Name(), "state-0000000005-") {
		t.Errorf("got %v, want the newest three and nothing else", entries)
	}
}

func TestQuarantineIsBounded(t *testing.T) {
	path := prepared(t, true)
	for range 6 {
		edit(t, path, zero(0, 1<<30))
		db, _ := open(t, Options{Path: path})
		crash(db)
	}
	if kept, _ := filepath.Glob(path + ".corrupt-*"); len(kept) != keepQuarantined {
		t.Errorf("got %d damaged files kept, want %d", len(kept), keepQuarantined)
	}
}

func TestSlotsKeepTheValueBeforeATornOne(t *testing.T) {
	dir := t.TempDir()
	for _, tear := range []func([]byte) []byte{
		func([]byte) []byte { return nil },
		func(b []byte) []byte { return b[:len(b)-1] },
		flip("three"),
		func(b []byte) []byte { binary.BigEndian.PutUint64(b[len(slotMagic)+8:], 1<<62); return b },
		func(b []byte) []byte { b[len(slotMagic)+7] += 9; return b },
	} {
		s, err := OpenSlots(dir, "marks")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []string{"one", "two", "three"} {
			if err := s.Save([]byte(v)); err != nil {
				t.Fatal(err)
			}
		}
		edit(t, s.paths[s.newest], tear)
		s, err = OpenSlots(dir, "marks")
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Load(); !ok || string(got) != "two" {
			t.Errorf("got %q, want the value before the torn one", got)
		}
		if err := s.Save([]byte("four")); err != nil {
			t.Fatal(err)
		}
		s, _ = OpenSlots(dir, "marks")
		if got, _ := s.Load(); string(got) != "four" {
			t.Errorf("got %q, want four", got)
		}
	}
}

func TestSlotsAreEmptyAtFirstAndShorterValuesReplaceLonger(t *testing.T) {
	s, err := OpenSlots(filepath.Join(t.TempDir(), "slots"), "marks")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Load(); ok {
		t.Error("new slots hold a value")
	}
	for _, v := range []string{strings.Repeat("long", 100), strings.Repeat("long", 100), "", "x"} {
		if err := s.Save([]byte(v)); err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Load(); !ok || string(got) != v {
			t.Errorf("got %q, want %q", got, v)
		}
	}
	if err := s.Save(make([]byte, maxSlot+1)); err == nil {
		t.Error("a value over the limit was saved")
	}
}

// FuzzInspect feeds meta pages that were not written by bbolt; an answer must
// never let a page behind the end of the file through.
func FuzzInspect(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 8192))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := newestMeta(bytes.NewReader(body))
		if err == nil && (m.root >= m.pages || m.pageSize < minPageSize) {
			t.Errorf("got %+v", m)
		}
	})
}

// FuzzSlot decodes arbitrary slot files.
func FuzzSlot(f *testing.F) {
	f.Add(encodeSlot(1, []byte("value")))
	f.Add(encodeSlot(1, nil)[:20])
	f.Fuzz(func(t *testing.T, body []byte) {
		if sequence, value := decodeSlot(body); value != nil && !bytes.HasPrefix(body, encodeSlot(sequence, value)) {
			t.Errorf("got %d %q from %q", sequence, value, body)
		}
	})
}

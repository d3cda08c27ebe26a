package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/powerloss"
)

// powerful is the work whose every moment loses its power: records of several
// pages come and go, snapshots are made, a slot follows, the store is closed and
// opened again. What the store acknowledged is printed.
func powerful(dir string) error {
	slots, err := OpenSlots(dir, "marks")
	if err != nil {
		return err
	}
	var last uint64
	for range 2 {
		db, _, err := Open(context.Background(), Options{Path: filepath.Join(dir, "state.db")})
		if err != nil {
			return err
		}
		for range 6 {
			if last, err = appendNumber(db, strings.Repeat("x", 3000)); err != nil {
				return err
			}
			fmt.Println("ack record", last)
			if err := slots.Save(valued(last)); err != nil {
				return err
			}
			fmt.Println("ack slot", last)
			if last%4 == 0 {
				if _, err := db.Snapshot(context.Background()); err != nil {
					return err
				}
			}
			if err := db.Update(func(tx *Tx) error { return numbers.Delete(tx, Key(last/2)) }); err != nil {
				return err
			}
		}
		if err := db.Close(); err != nil {
			return err
		}
	}
	return nil
}

// repaired is the other work: a store with a snapshot is overwritten, and climbs back.
func repaired(dir string) error {
	path := filepath.Join(dir, "state.db")
	db, _, err := Open(context.Background(), Options{Path: path})
	if err != nil {
		return err
	}
	n, err := appendNumber(db, strings.Repeat("x", 3000))
	if err != nil {
		return err
	}
	if _, err := db.Snapshot(context.Background()); err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 16<<10), 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	fmt.Println("ack record", n) // from here on it must come back: what follows is the repair
	if db, _, err = Open(context.Background(), Options{Path: path}); err != nil {
		return err
	}
	return db.Close()
}

// valued is a slot's value that shows from which save it is, longer and shorter in turn.
func valued(n uint64) []byte {
	return bytes.Repeat([]byte{byte(n)}, int(1000-500*(n%2)))
}

// states records the work and calls each for what its power losses leave.
func states(t *testing.T, work string, atLeast int, each func(powerloss.State)) {
	t.Helper()
	shuffles := 20
	if os.Getenv("BOTHY_SOAK") != "" {
		shuffles = 2000
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], dir)
	child.Env = append(os.Environ(), "STORE_CHILD="+work)
	n := powerloss.Record(t, dir, child).States(t, shuffles, 7, each)
	if n < atLeast {
		t.Errorf("got %d states, want at least %d: the recording sees too little", n, atLeast)
	}
	t.Logf("%d states", n)
}

func TestPowerLossAtAnyMomentKeepsWhatWasAcknowledged(t *testing.T) {
	states(t, "power", 400, func(s powerloss.State) {
		record, slot := promised(t, s.Acks)
		db, report, err := Open(t.Context(), Options{Path: filepath.Join(s.Dir, "state.db")})
		if err != nil {
			t.Fatalf("step %d, after %v: %v", s.Step, s.Acks, err)
		}
		defer db.Close()
		if report.Damage != "" || report.Lost || report.Restored != "" {
			t.Errorf("step %d, after %v: got %+v, want the file as it lay", s.Step, s.Acks, report)
		}
		if got := newest(t, db); got < record {
			t.Errorf("step %d: got record %d as the newest, but %d was acknowledged", s.Step, got, record)
		}
		if _, err := appendNumber(db, "goes on"); err != nil {
			t.Errorf("step %d: got %v when writing on", s.Step, err)
		}
		slots, err := OpenSlots(s.Dir, "marks")
		if err != nil {
			t.Fatal(err)
		}
		allWhole(t, s)
		value, _ := slots.Load()
		if slot > 0 && (len(value) == 0 || uint64(value[0]) < slot || !bytes.Equal(value, valued(uint64(value[0])))) {
			t.Errorf("step %d: got a slot of %d bytes, but %d was saved", s.Step, len(value), slot)
		}
	})
}

func TestPowerLossDuringARepairIsRepairedByTheNextStart(t *testing.T) {
	states(t, "repair", 100, func(s powerloss.State) {
		record, _ := promised(t, s.Acks)
		if record == 0 {
			return // a torn overwriting is no power loss of ours
		}
		db, report, err := Open(t.Context(), Options{Path: filepath.Join(s.Dir, "state.db")})
		if err != nil {
			t.Fatalf("step %d, after %v: %v", s.Step, s.Acks, err)
		}
		defer db.Close()
		if got := newest(t, db); got < record {
			t.Errorf("step %d: got record %d as the newest (%+v), but %d is in the snapshot", s.Step, got, report, record)
		}
	})
}

// promised is the newest record and slot that were acknowledged; 0 before the first.
func promised(t *testing.T, acks []string) (record, slot uint64) {
	t.Helper()
	for _, ack := range acks {
		what, number, _ := strings.Cut(ack, " ")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if what == "record" {
			record = n
		} else {
			slot = n
		}
	}
	return record, slot
}

// newest is the number of the last record, every one of which must be whole.
func newest(t *testing.T, db *DB) uint64 {
	t.Helper()
	var last uint64
	err := db.View(func(tx *Tx) error {
		return numbers.Each(tx, "", func(key, text string) error {
			if text != "goes on" && len(text) != 3000 {
				t.Errorf("got a record of %d bytes", len(text))
			}
			for n := last + 1; ; n++ {
				if Key(n) == key {
					last = n
					return nil
				}
			}
		})
	})
	if err != nil {
		t.Error(err)
	}
	return last
}

// allWhole unpacks every snapshot that carries its final name.
func allWhole(t *testing.T, s powerloss.State) {
	t.Helper()
	snapshots, err := listSnapshots(filepath.Join(s.Dir, "state.db.snapshots"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, path := range snapshots {
		if err := unpackSnapshot(path, filepath.Join(s.Dir, "unpacked")); err != nil {
			t.Errorf("step %d: %s is not whole: %v", s.Step, filepath.Base(path), err)
		}
	}
}

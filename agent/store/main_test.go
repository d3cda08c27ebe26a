package store

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
)

// TestMain makes the test binary the programs that tests run as children:
// the checker, the writer that is killed, the writer on a disk that is full, and the two works whose power is cut.
func TestMain(m *testing.M) {
	switch os.Getenv("STORE_CHILD") {
	case "":
		os.Exit(m.Run())
	case "check":
		exitWith(Check(os.Args[len(os.Args)-1]))
	case "write":
		exitWith(writeForever(os.Args[1]))
	case "full":
		exitWith(writeUntilFull(os.Args[1]))
	case "power":
		exitWith(powerful(os.Args[1]))
	case "repair":
		exitWith(repaired(os.Args[1]))
	}
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// writeForever appends numbers and prints each one after the store acknowledged it.
func writeForever(path string) error {
	db, report, err := Open(context.Background(), Options{Path: path})
	if err != nil {
		return err
	}
	if report.Damage != "" {
		return fmt.Errorf("damaged: %s", report.Damage)
	}
	for {
		var n uint64
		err := db.Batch(func(tx *Tx) (err error) {
			n, err = numbers.Append(tx, "some text that makes the file grow over several pages in time")
			return err
		})
		if err != nil {
			return err
		}
		if n%50 == 0 {
			if _, err := db.Snapshot(context.Background()); err != nil {
				return err
			}
		}
		fmt.Println(n)
	}
}

// writeUntilFull writes under a limit on the file's length until a commit
// fails, then shows that the store still reads and that what fits is still written.
func writeUntilFull(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	db, _, err := Open(context.Background(), Options{Path: path})
	if err != nil {
		return err
	}
	limit := syscall.Rlimit{Cur: 256 << 10, Max: 256 << 10}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	var last uint64
	for i := 0; ; i++ {
		n, err := appendNumber(db, string(make([]byte, 4096)))
		if err != nil {
			fmt.Println("acknowledged", last)
			break
		}
		if last = n; i > 1000 {
			return fmt.Errorf("no write failed")
		}
	}
	if got := count(db); got != strconv.FormatUint(last, 10) {
		return fmt.Errorf("got %s records after the failed write, want %d", got, last)
	}
	return db.Update(func(tx *Tx) error { return numbers.Delete(tx, Key(1)) })
}

var numbers = Table[string]{Name: "numbers"}

func appendNumber(db *DB, text string) (n uint64, err error) {
	err = db.Update(func(tx *Tx) error {
		n, err = numbers.Append(tx, text)
		return err
	})
	return n, err
}

func count(db *DB) string {
	n := 0
	err := db.View(func(tx *Tx) error {
		return numbers.Each(tx, "", func(string, string) error { n++; return nil })
	})
	if err != nil {
		return err.Error()
	}
	return strconv.Itoa(n)
}

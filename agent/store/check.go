package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// exitBroken is how a Go process ends on a fatal fault: what a damaged file does to a checking child.
const exitBroken = 2

// Check examines the whole file at path: both meta pages, every page's place
// in the tree, every record's checksum. It only reads. A badly damaged file may
// end the process, which is why the agent runs it in a child (`bothy
// store-check PATH`), with exit code 1 for an error.
func Check(path string) error {
	return readOnly(path, func(tx *bolt.Tx) error {
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = err
			}
		}
		if first != nil {
			return fmt.Errorf("%w: %v", ErrDamaged, first)
		}
		return checkRecords(tx)
	})
}

// checkHere is the check without a child: it walks every record on this
// goroutine, where a fault can be recovered, and leaves out bbolt's own check,
// which walks on a goroutine where it cannot.
func checkHere(path string) error {
	return readOnly(path, checkRecords)
}

// CheckIn makes Options.Check from a program and its arguments, to which the
// path is appended. The child counts as having found damage when it exits with
// 1 or dies of a fault; killed from outside it decides nothing.
func CheckIn(program string, args ...string) func(context.Context, string) error {
	return func(ctx context.Context, path string) error {
		cmd := exec.CommandContext(ctx, program, append(args[:len(args):len(args)], path)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.WaitDelay = time.Second
		err := runTied(cmd)
		var exit *exec.ExitError
		if err == nil || !errors.As(err, &exit) || ctx.Err() != nil {
			return err
		}
		if code := exit.ExitCode(); code == 1 || code == exitBroken {
			return fmt.Errorf("%w: %s", ErrDamaged, lastLine(stderr.Bytes()))
		}
		return fmt.Errorf("cannot check store in %s: %w", program, err)
	}
}

// runTied runs cmd so that it dies with us: an orphan would hold the file's
// lock against the agent that is started next. The death signal follows the
// thread that started the child, hence the lock (go issue 27505).
func runTied(cmd *exec.Cmd) error {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// lastLine keeps a report short: a child that faulted prints pages of stack, its first line says why.
func lastLine(stderr []byte) []byte {
	line, _, _ := bytes.Cut(bytes.TrimSpace(stderr), []byte("\n"))
	if len(line) > 300 {
		line = line[:300]
	}
	return line
}

// check runs the configured check and falls back to the one in this process
// when that could not be made.
func (db *DB) check(ctx context.Context, path string) error {
	if db.opts.Check != nil {
		err := db.opts.Check(ctx, path)
		if err == nil || errors.Is(err, ErrDamaged) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		db.opts.Log.Warn("store check could not run in a child", "path", path, "error", err)
	}
	return checkHere(path)
}

// readOnly runs fn over the file at path without ever writing to it.
func readOnly(path string, fn func(*bolt.Tx) error) error {
	if _, err := inspect(path); err != nil {
		return err
	}
	return recoverDamage(func(track func(*os.File)) error {
		b, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: lockTimeout, OpenFile: tracked(track)})
		if err != nil {
			return classify(err)
		}
		err = b.View(fn)
		return errors.Join(err, b.Close())
	})
}

func checkRecords(tx *bolt.Tx) error {
	return eachRecord(tx, func(table string, key, raw []byte) error {
		if raw == nil {
			return fmt.Errorf("%w: table %s holds a table %q", ErrDamaged, table, key)
		}
		_, err := openRecord(table, key, raw)
		return err
	})
}

// openBolt opens the file for writing and answers the file behind it too.
// bbolt writes nothing by that.
func openBolt(o Options) (b *bolt.DB, file *os.File, err error) {
	err = recoverDamage(func(track func(*os.File)) error {
		b, err = bolt.Open(o.Path, 0o600, &bolt.Options{
			Timeout:      lockTimeout,
			MaxSize:      int(o.MaxSize),
			FreelistType: bolt.FreelistMapType,
			OpenFile:     tracked(func(f *os.File) { file = f; track(f) }),
		})
		return classify(err)
	})
	return b, file, err
}

// tracked lets a recovered open close the file that bbolt left open.
func tracked(track func(*os.File)) func(string, int, os.FileMode) (*os.File, error) {
	return func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		if err == nil {
			track(f)
		}
		return f, err
	}
}

// recoverDamage runs fn and takes a panic or a fault in it for a damaged file.
func recoverDamage(fn func(track func(*os.File)) error) (err error) {
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if file != nil {
			_ = file.Close()
		}
		err = fmt.Errorf("%w: %v", ErrDamaged, cause)
	}()
	return fn(func(f *os.File) { file = f })
}

// classify tells a damaged file from a disk or a permission that failed: only
// the first may send a file to quarantine.
func classify(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return err
}

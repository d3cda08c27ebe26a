package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tempMark is in the name of every half-written file; Open removes them.
const tempMark = ".tmp-"

// WriteFile replaces the file at path by data so that after a crash either the
// old or the new content is there, whole, and the new one once it returned.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+tempMark+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = renameDurably(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func renameDurably(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

func removeDurably(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable: a rename is not until its folder is synced.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// removeTemps clears what a crash left half-written beside path.
func removeTemps(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)) && strings.Contains(e.Name(), tempMark) {
			if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeLock holds path exclusively until the file is closed or the process
// ends. It is apart from the database file, which is renamed and replaced.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	tick := time.NewTicker(lockTimeout / 20)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ErrInUse, f.Close())
		case <-tick.C:
		}
	}
}

// initialised is the content of the marker that outlives the database file.
type initialised struct {
	At time.Time `json:"at"`
}

func (db *DB) wasInitialised() bool {
	_, err := os.Stat(db.opts.Path + ".initialised")
	return err == nil
}

func (db *DB) markInitialised() error {
	if db.wasInitialised() {
		return nil
	}
	body, err := json.Marshal(initialised{At: db.opts.Now().UTC()})
	if err != nil {
		return err
	}
	return WriteFile(db.opts.Path+".initialised", append(body, '\n'), 0o600)
}

// readClean is the head that Close wrote down; the zero head when the stop was unclean.
func readClean(path string) head {
	var h head
	body, err := os.ReadFile(path + ".clean")
	if err != nil || json.Unmarshal(body, &h) != nil {
		return head{}
	}
	return h
}

// writeClean names the last transaction: a file that was exchanged behind our
// back does not match it and is checked.
func writeClean(path string) error {
	h, err := inspect(path)
	if err != nil {
		return err
	}
	body, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return WriteFile(path+".clean", append(body, '\n'), 0o600)
}

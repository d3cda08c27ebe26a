package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// keepSnapshots is how many snapshots stay.
const keepSnapshots = 3

// Snapshot writes a consistent copy of the store with its SHA-256 behind it
// into Options.Snapshots, keeps the newest three, and answers its path. Writers
// go on meanwhile. A failure leaves the earlier snapshots alone.
func (db *DB) Snapshot(ctx context.Context) (string, error) {
	dir := db.opts.Snapshots
	existing, err := listSnapshots(dir)
	if err != nil {
		return "", err
	}
	if err := removeTemps(filepath.Join(dir, "state")); err != nil {
		return "", err
	}
	// Numbered, not dated: a clock that jumped must not decide which one is newest.
	name := fmt.Sprintf("state-%010d-%s.snapshot", lastNumber(existing)+1, db.opts.Now().UTC().Format("20060102T150405Z"))
	path := filepath.Join(dir, name)
	if err := db.writeSnapshot(ctx, path); err != nil {
		return "", fmt.Errorf("cannot write snapshot %s: %w", path, err)
	}
	for _, old := range existing[:max(0, len(existing)+1-keepSnapshots)] {
		if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return path, err
		}
	}
	return path, nil
}

func (db *DB) writeSnapshot(ctx context.Context, path string) (err error) {
	temp := path + tempMark + "1"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	sum := sha256.New()
	err = db.guard(func() error {
		return db.bolt.View(func(tx *bolt.Tx) error {
			_, err := tx.WriteTo(&untilDone{ctx, io.MultiWriter(f, sum)})
			return err
		})
	})
	if err == nil {
		err = db.opts.Fault("snapshot.write")
	}
	if err == nil {
		_, err = f.Write(sum.Sum(nil))
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = db.opts.Fault("snapshot.rename")
	}
	if err != nil {
		return err
	}
	return renameDurably(temp, path)
}

// untilDone stops a long copy when its context ends.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u *untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// listSnapshots is every snapshot of the folder, oldest first.
func listSnapshots(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "state-*.snapshot"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func lastNumber(snapshots []string) uint64 {
	if len(snapshots) == 0 {
		return 0
	}
	name := strings.TrimPrefix(filepath.Base(snapshots[len(snapshots)-1]), "state-")
	digits, _, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// unpackSnapshot copies a snapshot's content to the file to, synced, after its hash was found right.
func unpackSnapshot(snapshot, to string) error {
	in, err := os.Open(snapshot)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	length := info.Size() - sha256.Size
	if length <= 0 {
		return fmt.Errorf("%w: snapshot is %d bytes long", ErrDamaged, info.Size())
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = copyHashed(out, in, length)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

func copyHashed(out io.Writer, in io.Reader, length int64) error {
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(out, sum), in, length); err != nil {
		return err
	}
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(in, want); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return fmt.Errorf("%w: snapshot does not match its hash", ErrDamaged)
	}
	return nil
}

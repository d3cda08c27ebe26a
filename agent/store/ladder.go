package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

// keepQuarantined bounds the damaged files kept beside the store: a failing disk must not fill itself with them.
const keepQuarantined = 3

// restoredMark ends the name of the note that the store is an older copy of
// itself, until its owner has said that it knows.
const restoredMark = ".restored"

// Noted says that the owner has stored what follows from Report.Restored. Until
// then every Open reports it again: an older copy may allow what a newer record
// took back, and the process may be killed before anybody wrote that down.
func (db *DB) Noted() error { return removeDurably(db.opts.Path + restoredMark) }

// recallRestore reports a restore that an earlier process made and nobody noted.
func (db *DB) recallRestore(report *Report) error {
	if report.Restored != "" {
		return nil
	}
	from, err := os.ReadFile(db.opts.Path + restoredMark)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if report.Restored = string(from); report.Restored == "" {
		report.Restored = "an unknown copy"
	}
	return err
}

// about is the store's own table.
var about = Table[int]{Name: "store"}

const schemaKey = "schema"

// errNoSchema: a valid bbolt file that is not ours, or ours and empty.
var errNoSchema = fmt.Errorf("%w: it holds no schema version", ErrDamaged)

// rebuild climbs the ladder below the file as it lay: the newest good snapshot, else a fresh file.
func (db *DB) rebuild(ctx context.Context, report *Report) error {
	temp, err := db.goodSnapshot(ctx, report)
	if err != nil {
		return err
	}
	if report.Quarantined, err = db.quarantine(); err != nil {
		return err
	}
	// The verdict was about the file that lay there.
	db.damaged.Store(false)
	db.doubtful.Store(false)
	if temp == "" {
		report.Fresh = true
		return db.openFresh()
	}
	if err := db.opts.Fault("restore.rename"); err != nil {
		return err
	}
	// First, so that a crash before the owner heard of it tells the next start.
	if err := WriteFile(db.opts.Path+restoredMark, []byte(report.Restored), 0o600); err != nil {
		return err
	}
	if err := db.opts.Fault("restore.noted"); err != nil {
		return err
	}
	if err := renameDurably(temp, db.opts.Path); err != nil {
		return err
	}
	db.opts.Log.Warn("store restored from a snapshot", "snapshot", report.Restored)
	return db.openFile(report)
}

// goodSnapshot copies the newest snapshot that can be used beside the store
// and answers the copy's path; empty when there is none. One that only a newer
// binary can read ends the climb: a fresh store would hide what it holds.
func (db *DB) goodSnapshot(ctx context.Context, report *Report) (string, error) {
	snapshots, err := listSnapshots(db.opts.Snapshots)
	if err != nil {
		return "", err
	}
	for _, snapshot := range slices.Backward(snapshots) {
		temp, err := db.tryCopy(ctx, snapshot)
		if err == nil {
			report.Restored = snapshot
			return temp, nil
		}
		if !errors.Is(err, ErrDamaged) {
			return "", err
		}
		report.BadSnapshots = append(report.BadSnapshots, snapshot)
		db.opts.Log.Error("snapshot cannot be used", "snapshot", snapshot, "error", err)
	}
	return "", nil
}

// tryCopy unpacks a snapshot beside the store and checks the copy.
func (db *DB) tryCopy(ctx context.Context, snapshot string) (string, error) {
	temp := db.opts.Path + tempMark + "restore"
	err := unpackSnapshot(snapshot, temp)
	if err == nil {
		err = db.check(ctx, temp)
	}
	if err == nil {
		err = db.checkSchema(temp)
	}
	if err != nil {
		_ = os.Remove(temp)
		return "", err
	}
	return temp, nil
}

func (db *DB) checkSchema(path string) error {
	return readOnly(path, func(tx *bolt.Tx) error {
		schema, ok, err := about.Get(&Tx{tx}, schemaKey)
		switch {
		case err != nil:
			return err
		case !ok:
			return errNoSchema
		case schema > db.opts.Schema:
			return newerError(schema, db.opts.Schema)
		}
		return nil
	})
}

// quarantine moves the damaged file aside and answers where; empty when there is none.
func (db *DB) quarantine() (string, error) {
	if _, err := os.Stat(db.opts.Path); errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err := db.opts.Fault("quarantine.rename"); err != nil {
		return "", err
	}
	prefix := db.opts.Path + ".corrupt-"
	to := prefix + db.opts.Now().UTC().Format("20060102T150405.000000000Z")
	for n := 1; exists(to); n++ {
		to = prefix + db.opts.Now().UTC().Format("20060102T150405.000000000Z") + "-" + strconv.Itoa(n)
	}
	if err := renameDurably(db.opts.Path, to); err != nil {
		return "", err
	}
	return to, removeOldest(prefix+"*", keepQuarantined)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removeOldest keeps the last n of the names that match, in order of name.
func removeOldest(pattern string, n int) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names[:max(0, len(names)-n)] {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// openFresh creates the file by temp, sync, rename, sync of the folder. bbolt
// itself would take a zero-length file for a new database after a crash.
func (db *DB) openFresh() error {
	temp := db.opts.Path + tempMark + "new"
	o := db.opts
	o.Path = temp
	b, _, err := openBolt(o)
	if err != nil {
		return err
	}
	err = b.Update(func(tx *bolt.Tx) error { return about.Put(&Tx{tx}, schemaKey, db.opts.Schema) })
	if err := errors.Join(err, b.Close()); err != nil {
		return err
	}
	if err := db.opts.Fault("create.rename"); err != nil {
		return err
	}
	if err := renameDurably(temp, db.opts.Path); err != nil {
		return err
	}
	db.bolt, db.file, err = openBolt(db.opts)
	return err
}

func (db *DB) readSchema() (int, error) {
	var schema int
	err := db.View(func(tx *Tx) error {
		var ok bool
		var err error
		if schema, ok, err = about.Get(tx, schemaKey); err == nil && !ok {
			err = errNoSchema
		}
		return err
	})
	return schema, err
}

// migrate brings the store to this binary's schema, a version a transaction, after a snapshot.
func (db *DB) migrate(ctx context.Context, report *Report) error {
	schema, err := db.readSchema()
	if err != nil {
		return err
	}
	if report.Schema = schema; schema == db.opts.Schema {
		return nil
	}
	if _, err := db.Snapshot(ctx); err != nil {
		return fmt.Errorf("cannot migrate from schema %d: %w", schema, err)
	}
	report.MigratedFrom = schema
	for v := schema + 1; v <= db.opts.Schema; v++ {
		step, ok := db.opts.Migrate[v]
		if !ok {
			return fmt.Errorf("internal error: no migration to schema %d", v)
		}
		err := db.Update(func(tx *Tx) error {
			if err := step(tx); err != nil {
				return err
			}
			return about.Put(tx, schemaKey, v)
		})
		if err != nil {
			return fmt.Errorf("cannot migrate to schema %d: %w", v, err)
		}
		report.Schema = v
	}
	return nil
}

// Package store is the agent's durable state: one bbolt file under typed tables.
//
// It promises that what Update or Batch acknowledged is on the disk, that a
// damaged, empty, missing or half-written file never stops the agent, and that
// a file written by a newer version is refused without being touched. Open
// climbs a ladder: the file as it lies, the newest snapshot whose hash and
// content are good, a fresh file; what was found damaged is kept beside it as
// PATH.corrupt-TIME, and Report says which rung was reached and why.
//
// The full check of the file runs after an unclean stop only, in a child
// process when Options.Check says so: a damaged bbolt file can fault in a
// goroutine that nobody can recover. Every record carries its own checksum,
// because bbolt's data pages have none.
//
// Beside the file lie PATH.initialised (an empty file is then known to be a
// loss, not a first start), PATH.clean (written by Close, names the last
// transaction), PATH.restored (the owner has not yet noted a restore) and PATH.lock. Slots keep what must survive the loss of the
// whole file. bbolt is imported here and nowhere else.
//
// Any package may hold a *DB; it is safe for concurrent use. When the file
// turns out to be damaged while it is open, every later call answers
// ErrDamaged, and the next Open climbs the ladder.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ErrNewer says that the file was written by a newer version; it was not touched.
var ErrNewer = errors.New("written by a newer version of bothy")

// ErrDamaged says that the file's content is not what was written to it.
var ErrDamaged = errors.New("store is damaged")

// ErrInUse says that another process has the store open.
var ErrInUse = errors.New("in use by another process")

// defaultMaxSize bounds the file, in bytes, so that a loop that writes cannot fill the disk.
const defaultMaxSize = 1 << 30

// lockTimeout is how long Open waits for the process before us to let go of the file.
const lockTimeout = time.Second

// Options says where the store lies and how it is opened. Only Path is required.
type Options struct {
	// Path is the file. Its folder is created when missing.
	Path string
	// Snapshots is the folder of snapshots; empty means Path with ".snapshots" appended.
	Snapshots string
	// Schema is the version this binary reads and writes; 0 means 1.
	Schema int
	// Migrate[v] brings a store of version v-1 to version v, in one transaction with the new version number.
	Migrate map[int]func(*Tx) error
	// MaxSize bounds the file in bytes; 0 means 1 GiB.
	MaxSize int64
	// Check examines the file at path after an unclean stop and answers an
	// error that wraps ErrDamaged when it is damaged. Any other error means
	// that the check could not be made, and an in-process one follows.
	// CheckIn makes one that runs a child; nil means in-process.
	Check func(ctx context.Context, path string) error
	// Log receives what Open repaired; nil discards.
	Log *slog.Logger
	// Now is the clock, used in file names only; nil means time.Now.
	Now func() time.Time
	// Fault, when set, is asked before each labelled file operation; its error
	// is taken for the operation's own. Tests use it.
	Fault func(op string) error
}

// Report says what Open found and did. It is shown by `bothy status`.
type Report struct {
	// Fresh: there is no earlier data in the store now.
	Fresh bool `json:"fresh"`
	// Clean: the last stop was clean, and the full check was left out.
	Clean bool `json:"clean"`
	// Lost: an initialised store was missing or empty.
	Lost bool `json:"lost"`
	// Damage is why the file could not be used as it lay; empty when it could.
	Damage string `json:"damage,omitempty"`
	// Restored is the snapshot the store was rebuilt from, now or by an earlier
	// process that ended before Noted.
	Restored string `json:"restored,omitempty"`
	// Quarantined is where the damaged file is kept now.
	Quarantined string `json:"quarantined,omitempty"`
	// BadSnapshots are the snapshots that were tried and could not be used.
	BadSnapshots []string `json:"bad_snapshots,omitempty"`
	// MigratedFrom is the schema version before Open; 0 when nothing was migrated.
	MigratedFrom int `json:"migrated_from,omitempty"`
	// Schema is the version in the store now.
	Schema int `json:"schema"`
}

// DB is an open store. Safe for concurrent use. The owner must call Close.
type DB struct {
	opts Options
	bolt *bolt.DB
	// file is the descriptor behind bolt.
	file  *os.File
	lock  *os.File
	group group
	// damaged is set once a transaction met a damaged page.
	damaged atomic.Bool
	// doubtful is set when a commit failed: the next start checks the file.
	doubtful atomic.Bool
}

// Damaged says that a damaged page was met while the store was open: nothing can
// be read or written any more, and the next Open repairs the file.
func (db *DB) Damaged() bool { return db.damaged.Load() }

// Open opens the store, repairing it as far as the ladder goes. It fails with
// ErrNewer or ErrInUse without touching anything, or when the folder itself
// cannot be used (permission, full or failing disk).
func Open(ctx context.Context, opts Options) (*DB, Report, error) {
	opts = opts.withDefaults()
	if err := makeDirs(opts); err != nil {
		return nil, Report{}, err
	}
	lock, err := takeLock(ctx, opts.Path+".lock")
	if err != nil {
		return nil, Report{}, fmt.Errorf("cannot open store %s: %w", opts.Path, err)
	}
	db := &DB{opts: opts, lock: lock}
	report, err := db.open(ctx)
	if err != nil {
		db.release()
		return nil, report, fmt.Errorf("cannot open store %s: %w", opts.Path, err)
	}
	return db, report, nil
}

// open runs with the lock held.
func (db *DB) open(ctx context.Context) (Report, error) {
	var report Report
	if err := removeTemps(db.opts.Path); err != nil {
		return report, err
	}
	err := db.openAsIs(ctx, &report)
	if errors.Is(err, ErrDamaged) {
		report.Damage = err.Error()
		db.opts.Log.Error("store is damaged, rebuilding", "path", db.opts.Path, "error", err)
		err = db.rebuild(ctx, &report)
	}
	if err != nil {
		return report, err
	}
	if err := db.recallRestore(&report); err != nil {
		return report, err
	}
	// From here on the file changes: a crash is an unclean stop again.
	if err := removeDurably(db.opts.Path + ".clean"); err != nil {
		return report, err
	}
	if err := db.migrate(ctx, &report); err != nil {
		return report, err
	}
	return report, db.markInitialised()
}

// openAsIs is the first rung: the file as it lies, or a first start.
func (db *DB) openAsIs(ctx context.Context, report *Report) error {
	path := db.opts.Path
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !db.wasInitialised():
		report.Fresh = true
		return db.openFresh()
	case errors.Is(err, os.ErrNotExist):
		report.Lost = true
		return fmt.Errorf("%w: the file is missing", ErrDamaged)
	case err != nil:
		return err
	case info.Size() == 0:
		report.Lost = db.wasInitialised()
		return fmt.Errorf("%w: the file is empty", ErrDamaged)
	}
	head, err := inspect(path)
	if err != nil {
		return err
	}
	report.Clean = readClean(path) == head
	if !report.Clean {
		if err := db.check(ctx, path); err != nil {
			return err
		}
	}
	return db.openFile(report)
}

// openFile opens the file in place and reads its schema version.
func (db *DB) openFile(report *Report) error {
	var err error
	if db.bolt, db.file, err = openBolt(db.opts); err != nil {
		return err
	}
	schema, err := db.readSchema()
	if err == nil && schema > db.opts.Schema {
		err = newerError(schema, db.opts.Schema)
	}
	if err != nil {
		report.Lost = report.Lost || errors.Is(err, errNoSchema)
		return errors.Join(err, db.closeBolt())
	}
	report.Schema = schema
	return nil
}

func newerError(have, want int) error {
	return fmt.Errorf("%w: schema %d, this binary knows %d; install the version that wrote it", ErrNewer, have, want)
}

// Close marks the stop as clean and lets go of the file. The store must not be used afterwards.
func (db *DB) Close() error {
	if db.bolt == nil {
		return nil
	}
	err := db.closeBolt()
	if err == nil && !db.damaged.Load() && !db.doubtful.Load() {
		err = writeClean(db.opts.Path)
	}
	db.release()
	if err != nil {
		return fmt.Errorf("cannot close store %s: %w", db.opts.Path, err)
	}
	return nil
}

// release gives up what Open took; what was acknowledged is on the disk already.
func (db *DB) release() {
	if db.bolt != nil {
		_ = db.closeBolt()
	}
	_ = db.lock.Close()
}

// closeBolt closes the file. A transaction that met a damaged page may have
// left bbolt's locks taken, so that its own Close would wait for ever: then
// only the descriptor, which holds the file lock, is given back.
func (db *DB) closeBolt() error {
	b, f := db.bolt, db.file
	db.bolt, db.file = nil, nil
	if db.damaged.Load() {
		return f.Close()
	}
	return b.Close()
}

// Size is the length of the file in bytes; 0 when it cannot be had.
func (db *DB) Size() int64 {
	info, err := os.Stat(db.opts.Path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (o Options) withDefaults() Options {
	if o.Snapshots == "" {
		o.Snapshots = o.Path + ".snapshots"
	}
	if o.Schema == 0 {
		o.Schema = 1
	}
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Fault == nil {
		o.Fault = func(string) error { return nil }
	}
	return o
}

func makeDirs(o Options) error {
	for _, dir := range []string{filepath.Dir(o.Path), o.Snapshots} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot create folder %s: %w", dir, err)
		}
	}
	return nil
}

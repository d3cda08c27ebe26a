package store

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
)

// Tx is one transaction. It is valid only inside the function it was given to,
// and only on that goroutine.
type Tx struct{ bolt *bolt.Tx }

// View runs fn over one consistent state of the store. It never waits for a
// writer or for the disk to sync. fn must not call Update, Batch or View.
func (db *DB) View(fn func(*Tx) error) error {
	return db.guard(func() error {
		return db.bolt.View(func(tx *bolt.Tx) error { return fn(&Tx{tx}) })
	})
}

// Update runs fn alone and makes what it wrote durable before it returns. When
// fn fails nothing was written. An error of the commit itself (full disk)
// leaves the state from before in memory; fn may be tried again.
func (db *DB) Update(fn func(*Tx) error) error {
	var own error
	err := db.guard(func() error {
		return db.bolt.Update(func(tx *bolt.Tx) error {
			if own = fn(&Tx{tx}); own != nil {
				return own
			}
			own = db.opts.Fault("commit")
			return own
		})
	})
	if err != nil && own == nil {
		db.doubtful.Store(true)
		return fmt.Errorf("cannot write store %s: %w", db.opts.Path, err)
	}
	return err
}

// guard turns what a damaged page does to bbolt into ErrDamaged. A panic that
// is the caller's own bug goes on.
func (db *DB) guard(fn func() error) (err error) {
	if db.damaged.Load() {
		return fmt.Errorf("%w: restart the agent to restore it", ErrDamaged)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if !isDamage(cause) {
			panic(cause)
		}
		db.damaged.Store(true)
		err = fmt.Errorf("%w: %v", ErrDamaged, cause)
		db.opts.Log.Error("store is damaged", "path", db.opts.Path, "error", err)
	}()
	err = fn()
	if errors.Is(err, ErrDamaged) {
		db.doubtful.Store(true)
	}
	return err
}

// isDamage tells bbolt's own complaints (strings) and faults inside the mapped
// file (a runtime error with an address) from a bug of the caller.
func isDamage(cause any) bool {
	if _, ok := cause.(string); ok {
		return true
	}
	var fault interface {
		runtime.Error
		Addr() uintptr
	}
	err, ok := cause.(error)
	return ok && errors.As(err, &fault)
}

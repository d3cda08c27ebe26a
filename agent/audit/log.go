package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	defaultSegment = 32 << 20
	defaultKeep    = 16
	maxPending     = 8192        // records waiting for the disk before they are dropped
	hurry          = 1024        // as many pending records wake the writer
	lazy           = time.Second // how long a record that stays here may wait for company
	remembered     = 256         // records kept for Recent
)

// ErrClosed is returned by Depart after Close.
var ErrClosed = errors.New("the audit log is closed")

// Options says where a log lies and how large it may get.
type Options struct {
	Dir     string           // made with mode 0700 when missing
	Segment int64            // size at which a new file begins; 0: 32 MiB
	Keep    int              // files kept; 0: 16
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: no log
	// Fault, when set, is asked before each file operation ("write", "sync", "create") and fails it. For tests.
	Fault func(op string) error
}

// Report says what Open found.
type Report struct {
	Head     Head   `json:"head"`
	Torn     int64  `json:"torn_bytes,omitempty"` // cut off the end: a crash in the middle of a write
	SetAside string `json:"set_aside,omitempty"`  // file that did not verify, under its new name
	Damage   string `json:"damage,omitempty"`     // why
}

// Log is an open audit log. Safe for concurrent use.
type Log struct {
	opts Options

	mu      sync.Mutex
	pending []entry
	recent  []Record // ring
	next    int      // of the ring
	lost    uint64
	failed  error // of the latest write, nil after a good one
	closed  bool

	urgent chan struct{} // work waits; capacity 1 because one reminder covers all
	stop   chan struct{}
	done   chan struct{}

	file file // owned by the writer
}

type entry struct {
	record Record
	done   chan error // of a departure, capacity 1 so that the writer never waits; else nil
}

// Open finds the end of the chain, repairs what a crash left and starts the writer.
// The log must be closed.
func Open(opts Options) (*Log, Report, error) {
	if opts.Segment <= 0 {
		opts.Segment = defaultSegment
	}
	if opts.Keep <= 0 {
		opts.Keep = defaultKeep
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Fault == nil {
		opts.Fault = func(string) error { return nil }
	}
	f, report, err := recoverFile(opts)
	if err != nil {
		return nil, report, fmt.Errorf("cannot open the audit log in %s: %w", opts.Dir, err)
	}
	l := &Log{opts: opts, file: f, urgent: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	if report.SetAside != "" {
		opts.Log.Error("audit log did not verify, a new chain begins", "file", report.SetAside, "cause", report.Damage)
		l.Record(Record{Event: Reset, Code: filepath.Base(report.SetAside)})
	}
	go l.run()
	return l, report, nil
}

// Record takes a record of something that stays on the box. It never blocks; the
// record is written within two seconds and dropped, and counted, when the disk does not keep up.
func (l *Log) Record(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remember(&r)
	if l.closed || len(l.pending) >= maxPending {
		l.lost++
		return
	}
	l.pending = append(l.pending, entry{record: r})
	if len(l.pending) == hurry {
		l.wake()
	}
}

func (l *Log) wake() {
	select {
	case l.urgent <- struct{}{}:
	default:
	}
}

// Depart returns nil once the record is on the disk. Any error means that it may
// not be, and that what it describes must not happen.
func (l *Log) Depart(ctx context.Context, r Record) error {
	done := make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	if len(l.pending) >= maxPending {
		l.mu.Unlock()
		return errors.New("cannot record a departure: the disk does not keep up")
	}
	r.Event = Departed
	l.remember(&r)
	l.pending = append(l.pending, entry{record: r, done: done})
	l.mu.Unlock()
	l.wake()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// remember stamps and bounds the record and keeps it for Recent. Call with mu held.
func (l *Log) remember(r *Record) {
	r.clip()
	r.Time = l.opts.Now().UTC()
	if len(l.recent) < remembered {
		l.recent = append(l.recent, *r)
		return
	}
	l.recent[l.next] = *r
	l.next = (l.next + 1) % remembered
}

// Recent gives up to n of the latest records, the newest first, written or not.
// Their Seq and Prev are not filled.
func (l *Log) Recent(n int) []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(l.recent))
	out := make([]Record, 0, n)
	for i := range n {
		at := (l.next - 1 - i + 2*len(l.recent)) % len(l.recent)
		out = append(out, l.recent[at])
	}
	return out
}

// Status is what `bothy status` shows of the log.
type Status struct {
	Head  Head   `json:"head"`
	Lost  uint64 `json:"lost"`
	Error string `json:"error,omitempty"` // why the latest write failed; the cloud is refused meanwhile
}

// Status tells how far the chain is on the disk and whether it can be written.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{Head: l.file.head, Lost: l.lost}
	if l.failed != nil {
		s.Error = l.failed.Error()
	}
	return s
}

// Close writes what is pending and ends the writer. Closing twice is an error.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	<-l.done
	return errors.Join(l.failed, l.file.close())
}

// run is the one writer: it sleeps until a departure waits or the lazy ones have waited long enough.
func (l *Log) run() {
	defer close(l.done)
	tick := time.NewTicker(lazy)
	defer tick.Stop()
	for {
		select {
		case <-l.urgent:
		case <-tick.C:
		case <-l.stop:
			l.flush()
			return
		}
		l.flush()
	}
}

// flush writes all that is pending with one sync.
func (l *Log) flush() {
	l.mu.Lock()
	batch, lost := l.pending, l.lost
	l.pending = nil
	l.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	head, err := l.file.append(batch, lost, &l.opts)
	if err != nil {
		l.opts.Log.Error("audit log cannot be written, the cloud is refused", "error", err, "records", len(batch))
	}
	l.settle(batch, head, lost, err)
}

// settle tells who waits, and counts a batch that did not reach the disk as lost.
func (l *Log) settle(batch []entry, head Head, lost uint64, err error) {
	l.mu.Lock()
	l.failed = err
	if err == nil {
		l.file.head = head
		l.lost -= lost
	}
	for _, e := range batch {
		if err != nil && e.done == nil {
			l.lost++
		}
	}
	l.mu.Unlock()
	for _, e := range batch {
		if e.done != nil {
			e.done <- err
		}
	}
}

// makeDir makes the log's folder and its entry in the parent durable.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

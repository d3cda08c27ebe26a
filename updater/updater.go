// Package updater brings what the fleet wants to what this box runs, one
// change at a time.
//
// A change is one journaled intention: the models, the policy and the engine of
// one want, switched together and undone together. It promises that a crash at
// any point leaves the box fully on the old set or fully on the new one after
// the next start: the intention is stored before every act and the fact after
// it, acts are idempotent, and what was interrupted is done again or undone.
// After three crashes while switching or on watch the change is undone. Budgets
// are stored, so a restart cannot refill them.
//
// Undo never undoes a narrowing: once a policy was ready to switch, requests
// are decided by the intersection of the old and the new one until the next
// want is on watch. A want that ended badly is remembered with its counter and
// not tried again until the fleet assigns anew; a refused offer is recorded once.
//
// Run is the only writer. The other methods may be called from anywhere; they
// post to it or read. What verifies, fetches, serves and decides is handed in
// as Trust, Fetcher, Engines and Policies: this package knows the order of
// things and nothing of how they are done.
package updater

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// Trust answers the set this device shall run, verified. An offer that must
// not be installed is a *trust.Refusal; any other error is tried again.
type Trust interface {
	Refresh(ctx context.Context) (release.Want, error)
}

// Fetcher brings artifacts to this box and knows where they lie.
type Fetcher interface {
	// Fetch brings one file, resuming what was begun, and answers its path.
	// progress may be called from any goroutine until Fetch returns.
	Fetch(ctx context.Context, f release.File, progress func(content.Progress)) (path string, err error)
	// Have answers the path of a file that lies here whole and verified.
	Have(f release.File) (path string, ok bool)
	// Takes answers how many bytes of disk a fetch of it would still take: none
	// for one that lies here, and what a fetch that began has taken does not count again.
	Takes(f release.File) int64
	// Damaged is told of a file that the disk gives back with other bytes: Have must
	// not answer it any more, and a want is asked for again.
	Damaged(f release.File)
	// Keep removes everything but what these releases need.
	Keep(ctx context.Context, docs []release.Document) error
}

// Held is a release whose files lie on this box.
type Held struct {
	Document release.Document
	Files    []string // where its content lies, in the order of the document
}

// Served is what an alias is served by, of one want.
type Served struct {
	Model  Held
	Engine *Held // the engine release; nil: the engine that the box itself has
}

// Engines prepares, switches and restores what serves an alias. Every method
// may be called again after a crash and must tolerate that it already happened
// or never did.
type Engines interface {
	// Prepare starts a candidate beside what serves and answers its generation once it is ready.
	Prepare(ctx context.Context, alias string, by Served) (generation uint64, err error)
	// Probe runs the release's acceptance checks on a candidate.
	Probe(ctx context.Context, generation uint64, checks []release.Check) error
	// Switch makes the candidate the one that serves alias.
	Switch(ctx context.Context, alias string, generation uint64) error
	// Discard ends a candidate; one that is gone or was switched to and replaced is no error.
	Discard(ctx context.Context, generation uint64) error
	// Restore makes alias served by this, whatever serves it now; nil ends what
	// serves it. It does nothing when that is so already.
	Restore(ctx context.Context, alias string, by *Served) error
}

// Policy is one policy of those in force. Without a Document it is the
// built-in one, which allows this box only.
type Policy struct {
	Name     string
	Version  uint64
	Document []byte
	// LocalOnly: below its anti-rollback mark; it may name no place but this box.
	LocalOnly bool
}

// Policies says what requests are decided by.
type Policies interface {
	// Stage parses a policy and runs its probes. Nothing changes.
	Stage(document []byte) error
	// Activate decides from now on by the intersection of these policies. The
	// first is the one shown by name. It is called again at every start.
	Activate(policies []Policy) error
}

// Config is what an Updater works with. DB, Trust, Fetcher, Engines and Policies are required.
type Config struct {
	DB       *store.DB
	Trust    Trust
	Fetcher  Fetcher
	Engines  Engines
	Policies Policies

	// Preflight says why a want cannot be installed here (memory, versions);
	// need is the number of bytes of disk that its fetch still takes. An error that wraps ErrWait
	// is asked again later, any other ends the change. Nil allows all.
	Preflight func(ctx context.Context, want release.Want, need int64) error
	// Provenance says why models of a want lack the signatures of their makers that the policies in
	// force, or the want's own (nil: the built-in one), ask for. have answers where a file lies. Nil asks for none.
	Provenance func(policy []byte, want release.Want, have func(release.File) (path string, ok bool)) error
	// Govern is told, before files are fetched, what the fleet asks of the transfer; nil
	// asks for nothing.
	Govern func(t *release.Transfer)
	// Baseline is called before a change touches anything that serves: what is
	// unwell then is not its fault. Nil is for a Healthy that does not care.
	Baseline func()
	// Healthy is asked every WatchEvery during the watch; an error undoes the change. Nil is healthy.
	Healthy func(ctx context.Context) error
	// Installed raises the anti-rollback marks after a commit. Nil leaves them.
	Installed func(docs ...release.Document) error
	// BelowMark says that a release is older than its anti-rollback mark. Nil: none is.
	BelowMark func(doc release.Document) bool
	// Report is called in the transaction of every change of state, to queue it for the fleet.
	Report func(tx *store.Tx, c Change) error

	// GiveUpPrevious lets a change that is short of space have that of the files
	// of what ran before. Without it only an operator gives them up.
	GiveUpPrevious bool

	// PutBack says that DB was restored from an older copy of itself.
	PutBack bool

	// WatchFor is how long a switch is on probation; 0 means 30 s.
	WatchFor time.Duration
	// WatchEvery is the pause between two looks during the watch; 0 means 2 s.
	WatchEvery time.Duration
	// SwitchFor bounds each act of switching and undoing; 0 means 15 min.
	SwitchFor time.Duration
	// Every is the pause between two looks for a new want; 0 means 1 h.
	Every time.Duration
	// RefreshFor bounds one look; 0 means 10 min.
	RefreshFor time.Duration
	// Jitter spreads retries, in [0, 1); nil means math/rand.
	Jitter func() float64
	Now    func() time.Time
	Log    *slog.Logger
	// Fault, when set, is asked at every named point. Its error stops Run there
	// as a crash would: nothing more is stored or done.
	Fault func(point string) error
}

// ErrNobody marks an error of Trust that says that there is nobody to ask: a
// device without a fleet, or a fleet without a broker. It is normal, and an
// offer or an import still comes through.
var ErrNobody = errors.New("there is nobody to ask for a new want")

// ErrWait marks an error of Preflight that may pass: the change pauses and asks again.
var ErrWait = errors.New("not now")

// maxAttempts is how many starts of switching a change gets.
const maxAttempts = 3

// Updater is the change machine. Its methods are safe for concurrent use.
type Updater struct {
	cfg Config

	asks  chan ask
	poked chan struct{} // capacity 1: many pokes are one
	done  chan struct{} // closed when Run has ended

	// Guarded by mu: what readers see of the loop's state.
	mu       sync.Mutex
	running  Running
	active   Change
	progress content.Progress
	changed  chan struct{} // closed and replaced at every change

	// Owned by Run.
	change  *Change
	pending *offered
	worker  *worker
	held    *outcome     // could not be stored yet
	stepped chan outcome // capacity 1: there is one worker
	offers  offers
	booted  bool
	unfit   map[string]bool // digests of wants that this process found unfit
	// settling: the box was, or is being, brought to what the journal says.
	settling bool
	// collectDue: artifacts may lie here that nothing needs any more.
	collectDue bool
	waiting    bool
	alarm      *time.Timer
	alarmFor   time.Duration
	watched    time.Duration
	tries      int
	fetcher    Fetcher
	imported   bool  // fetcher is an import's
	unmarked   bool  // the marks of what runs could not be raised yet
	afterwards []ask // pins that wait for the end of a collection
	goroutine  sync.WaitGroup
}

// New reads the stored changes. Nothing happens before Run.
func New(cfg Config) (*Updater, error) {
	u := &Updater{
		cfg:     cfg.withDefaults(),
		asks:    make(chan ask),
		poked:   make(chan struct{}, 1),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
		stepped: make(chan outcome, 1),
		fetcher: cfg.Fetcher,
		unfit:   map[string]bool{},
	}
	u.offers.refreshed = make(chan refreshed, 1)
	if err := errors.Join(u.load(), u.distrust()); err != nil {
		return nil, fmt.Errorf("cannot open the journal of changes: %w", err)
	}
	return u, nil
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.WatchFor, 30 * time.Second}, {&c.WatchEvery, 2 * time.Second},
		{&c.SwitchFor, 15 * time.Minute}, {&c.Every, time.Hour}, {&c.RefreshFor, 10 * time.Minute},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	c.WatchEvery = min(c.WatchEvery, c.WatchFor)
	if c.Preflight == nil {
		c.Preflight = func(context.Context, release.Want, int64) error { return nil }
	}
	if c.Provenance == nil {
		c.Provenance = func([]byte, release.Want, func(release.File) (string, bool)) error { return nil }
	}
	if c.Govern == nil {
		c.Govern = func(*release.Transfer) {}
	}
	if c.Baseline == nil {
		c.Baseline = func() {}
	}
	if c.Healthy == nil {
		c.Healthy = func(context.Context) error { return nil }
	}
	if c.Installed == nil {
		c.Installed = func(...release.Document) error { return nil }
	}
	if c.BelowMark == nil {
		c.BelowMark = func(release.Document) bool { return false }
	}
	if c.Report == nil {
		c.Report = func(*store.Tx, Change) error { return nil }
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Fault == nil {
		c.Fault = func(string) error { return nil }
	}
	return c
}

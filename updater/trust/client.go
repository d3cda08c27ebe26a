package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

// Config is what a client needs. DB, Slots, Device and both roots are required.
type Config struct {
	DB           *store.DB
	Slots        *store.Slots
	Device       string
	CatalogRoot  []byte // as given out of band at enrolment
	DirectorRoot []byte

	// Now is the system clock; nil means time.Now.
	Now func() time.Time
	// Synchronised says whether the clock is known to be right; nil asks the
	// kernel. Only then does the clock mark rise.
	Synchronised func() bool
	// Build is when the agent was built: no honest clock is before it.
	Build time.Time
	// Installed lists the releases that run. A release of the same name that
	// is older than one of them is refused. Nil means only what MarkInstalled
	// was told. It must not call Refresh.
	Installed func() []release.Document
	// Log receives what an operator may want to know; nil discards it.
	Log *slog.Logger
}

// Client verifies for one device. Safe for concurrent use.
type Client struct {
	config Config
	vault  vault
	log    *slog.Logger

	keeper *keeper
	// enrolled is the digest of what was given at enrolment.
	enrolled string
	// refreshing is held for the whole of a refresh.
	refreshing sync.Mutex
	// ordering is held while one order is judged: its number must not be taken twice.
	ordering sync.Mutex

	seen     sync.Mutex // guards what readers may ask for during a refresh
	want     *release.Want
	versions Versions
	signers  signers
}

// Versions says what was last verified, for status.
type Versions struct {
	Catalog  RepoVersions `json:"catalog"`
	Director RepoVersions `json:"director"`
	Counter  uint64       `json:"counter"`
	// Reference is the time that the last decision was judged by.
	Reference time.Time `json:"reference"`
	// Stale is true when the stored set is older than the marks: the database
	// was lost or put back. Current has nothing until the next refresh.
	Stale bool `json:"stale,omitempty"`
}

// RepoVersions are the verified versions of one repository; 0 means none yet.
type RepoVersions struct {
	Root      int64     `json:"root"`
	Timestamp int64     `json:"timestamp"`
	Snapshot  int64     `json:"snapshot"`
	Targets   int64     `json:"targets"`
	Expires   time.Time `json:"expires,omitzero"` // of the timestamp
	Expired   bool      `json:"expired,omitempty"`
}

// Open verifies what is stored, without a source. A damaged or lost store is
// not an error: the client starts again from the enrolled roots and the marks.
func Open(cfg Config) (*Client, error) {
	if err := release.CheckDevice(cfg.Device); err != nil {
		return nil, fmt.Errorf("cannot open trust: device: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Synchronised == nil {
		cfg.Synchronised = kernelClockSynchronised
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{config: cfg, vault: vault{cfg.DB}, log: cfg.Log, enrolled: enrolment(cfg)}
	keeper, err := openKeeper(cfg.Slots, c.vault, c.enrolled, cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("cannot open trust: %w", err)
	}
	c.keeper = keeper
	if err := c.restore(); err != nil {
		return nil, fmt.Errorf("cannot open trust: %w", err)
	}
	return c, nil
}

// enrolment identifies device and roots, so that marks and stored sets of an
// earlier enrolment are not taken for this one's.
func enrolment(cfg Config) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(cfg.Device), cfg.CatalogRoot, cfg.DirectorRoot} {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// restore verifies the stored metadata and loads the settled want.
func (c *Client) restore() error {
	versions, err := c.look(c.reference())
	if err != nil {
		return err
	}
	stored, found, err := c.vault.want()
	if err != nil {
		return err
	}
	c.seen.Lock()
	defer c.seen.Unlock()
	c.versions = versions
	if found && stored.Enrolment == c.enrolled {
		c.versions.Stale = c.putBack(stored.Want)
		if !c.versions.Stale {
			c.want = &stored.Want
		}
	}
	return nil
}

// look verifies what is stored and says what it is. It needs no source: whoever
// lets nothing through must not hide that what the device holds has expired.
func (c *Client) look(reference time.Time) (Versions, error) {
	catalog, director := c.walk(Catalog, nil), c.walk(Director, nil)
	for r, enrolled := range map[*repository][]byte{catalog: c.config.CatalogRoot, director: c.config.DirectorRoot} {
		if err := r.begin(enrolled, reference); err != nil {
			return Versions{}, err
		}
		r.loadStoredTimestamp()
		if r.trusted.Timestamp == nil {
			continue
		}
		// Expired or incomplete: then there is less to show, nothing more.
		if err := r.loadStored(); err != nil {
			c.log.Debug("stored metadata is not current", "repository", r.name, "error", err)
		}
	}
	c.noteSigners(director)
	return Versions{
		Catalog:   catalog.versions(),
		Director:  director.versions(),
		Counter:   c.keeper.marks().Counter,
		Reference: reference,
	}, nil
}

// putBack says whether the database is an older copy of itself: both the want
// and the director's metadata stored with it are below the marks. A want that
// is merely older than a refused offer is not; that offer's metadata is stored.
func (c *Client) putBack(want release.Want) bool {
	if want.Counter >= c.keeper.marks().Counter {
		return false
	}
	key := roleKey(Director, metadata.TARGETS)
	var version int64
	if raw, found, err := c.vault.metadata(key); err == nil && found {
		_ = guard(key, func() error { // what cannot be read has no version
			m, err := metadata.Targets().FromBytes(raw)
			if err == nil {
				version = m.Signed.Version
			}
			return err
		})
	}
	return version < c.keeper.marks().Roles[key]
}

// Refresh fetches what is new, verifies both repositories and their agreement,
// and returns the set. An offer that must not be installed is a *Refusal; any
// other error is worth another try.
func (c *Client) Refresh(ctx context.Context, src Source) (release.Want, error) {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	reference := c.reference()
	director, catalog := c.walk(Director, src), c.walk(Catalog, src)
	want, err := c.refresh(ctx, src, director, catalog, reference)
	if c.config.Synchronised() {
		// The system clock, not the reference: a mark must not feed on itself.
		if err := c.keeper.raiseTime(c.config.Now()); err != nil {
			return release.Want{}, err
		}
	}
	versions, lookErr := c.look(reference)
	c.seen.Lock()
	defer c.seen.Unlock()
	if lookErr == nil {
		versions.Stale = c.versions.Stale && err != nil
		c.versions = versions
	}
	if err != nil {
		if r, ok := errors.AsType[*Refusal](err); ok {
			r.Offer = offer(director, catalog)
		}
		return release.Want{}, err
	}
	c.want = &want
	return want, nil
}

func (c *Client) refresh(ctx context.Context, src Source, director, catalog *repository, reference time.Time) (release.Want, error) {
	var none release.Want
	if c.config.Installed != nil {
		if err := c.keeper.raiseInstalled(c.config.Installed()); err != nil {
			return none, err
		}
	}
	if err := director.begin(c.config.DirectorRoot, reference); err != nil {
		return none, err
	}
	if err := catalog.begin(c.config.CatalogRoot, reference); err != nil {
		return none, err
	}
	if err := director.refresh(ctx); err != nil {
		return none, err
	}
	assigned, err := director.assignment()
	if err != nil {
		return none, err
	}
	if err := catalog.refresh(ctx); err != nil {
		return none, err
	}
	if n := len(catalog.trusted.Targets[metadata.TARGETS].Signed.Targets); n > 0 {
		return none, refuse(Malformed, "catalog targets", "the top-level role lists %d targets itself; it must only delegate", n)
	}
	want, digests, err := c.resolve(ctx, src, director, catalog, assigned)
	if err != nil {
		return none, err
	}
	return want, c.settle(want, digests)
}

// resolve turns target paths into documents that both repositories signed for.
func (c *Client) resolve(ctx context.Context, src Source, director, catalog *repository, a release.Assignment) (release.Want, map[string]bool, error) {
	docs := map[string]release.Document{}
	digests := map[string]bool{}
	for _, path := range a.Paths() {
		entry, err := agree(ctx, director, catalog, path)
		if err != nil {
			return release.Want{}, nil, err
		}
		doc, err := c.document(ctx, src, path, entry)
		if err != nil {
			return release.Want{}, nil, err
		}
		// The mark stays where it is: a policy below it goes on to allow this device only.
		if mark := c.keeper.marks().Installed[installedKey(doc.Kind, doc.Name)]; doc.Version < mark && !slices.Contains(a.Older, path) {
			return release.Want{}, nil, refuse(Rollback, path, "version %d is older than %s@%d, which this device has", doc.Version, doc.Name, mark)
		}
		docs[path] = doc
		digests[hex.EncodeToString(entry.Hashes["sha256"])] = true
	}
	want := release.Want{
		Device:          a.Device,
		Counter:         a.Counter,
		DirectorVersion: director.trusted.Targets[metadata.TARGETS].Signed.Version,
		CatalogVersion:  catalog.trusted.Snapshot.Signed.Version,
		Window:          a.Window,
		Approval:        a.Approval,
		Transfer:        a.Transfer,
	}
	if len(a.Models) > 0 {
		want.Models = make(map[string]release.Document, len(a.Models))
	}
	for alias, path := range a.Models {
		want.Models[alias] = docs[path]
	}
	if doc, ok := docs[a.Policy]; ok {
		want.Policy = &doc
	}
	if doc, ok := docs[a.Engine]; ok {
		want.Engine = &doc
	}
	return want, digests, nil
}

func (c *Client) settle(want release.Want, digests map[string]bool) error {
	if last, ok := c.Current(); ok && last.Counter == want.Counter && last.Digest() == want.Digest() &&
		last.DirectorVersion == want.DirectorVersion && last.CatalogVersion == want.CatalogVersion {
		return nil
	}
	return c.vault.settle(settled{Enrolment: c.enrolled, Want: want}, digests)
}

// Current returns the last set that both repositories agreed on, without a
// source and whatever has expired since. It is false before the first one, and
// after the database was put back to an older state.
func (c *Client) Current() (release.Want, bool) {
	c.seen.Lock()
	defer c.seen.Unlock()
	if c.want == nil {
		return release.Want{}, false
	}
	return *c.want, true
}

// Versions says what was last verified.
func (c *Client) Versions() Versions {
	c.seen.Lock()
	defer c.seen.Unlock()
	return c.versions
}

// MarkInstalled records releases that were committed. From then on an older
// release of the same kind and name is refused, even after the database was
// lost. Recording the same release again does nothing.
func (c *Client) MarkInstalled(docs ...release.Document) error {
	return c.keeper.raiseInstalled(docs)
}

// BelowMark says whether doc is older than a release of its kind and name that
// was committed on this device. A policy that is must not allow the cloud.
func (c *Client) BelowMark(doc release.Document) bool {
	return doc.Version < c.keeper.marks().Installed[installedKey(doc.Kind, doc.Name)]
}

func (c *Client) reference() time.Time {
	return release.Reference(c.config.Now(), c.keeper.marks().Time, c.config.Build).UTC()
}

func (c *Client) walk(name Repo, src Source) *repository {
	r := &repository{name: name, source: src, vault: c.vault, keeper: c.keeper, log: c.log}
	if name == Director {
		r.device = c.config.Device
	}
	return r
}

// loadStored loads snapshot and targets from the store alone.
func (r *repository) loadStored() error {
	ctx := context.Background() // nothing is fetched
	if err := r.fetchSnapshot(ctx); err != nil {
		return err
	}
	return r.loadRole(ctx, metadata.TARGETS, metadata.ROOT)
}

func (r *repository) versions() RepoVersions {
	v := RepoVersions{Root: r.rootVersion()}
	if t := r.trusted.Timestamp; t != nil {
		v.Timestamp, v.Expires = t.Signed.Version, t.Signed.Expires
		v.Expired = t.Signed.IsExpired(r.trusted.RefTime)
	}
	if s := r.trusted.Snapshot; s != nil {
		v.Snapshot = s.Signed.Version
	}
	if t := r.trusted.Targets[metadata.TARGETS]; t != nil {
		v.Targets = t.Signed.Version
	}
	return v
}

// offer identifies what the source gave, to tell one bad offer from the next.
func offer(repos ...*repository) string {
	h := sha256.New()
	empty := true
	for _, r := range repos {
		sum := sha256.Sum256(r.offered)
		h.Write(sum[:])
		empty = empty && len(r.offered) == 0
	}
	if empty {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

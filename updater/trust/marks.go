package trust

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

// marks is what must never go down. It is kept in the slot files and, as a
// second copy, in the database; the copy with the higher sequence counts. The
// slot files are written first.
type marks struct {
	Sequence  uint64              `json:"sequence"`
	Enrolment string              `json:"enrolment"` // digest of device and enrolled roots
	Time      time.Time           `json:"time"`      // high-water mark of a trusted clock
	Counter   uint64              `json:"counter"`   // of the director's assignment
	Order     uint64              `json:"order"`     // number of the newest order accepted
	Roots     map[Repo]int64      `json:"roots"`
	Roles     map[string]int64    `json:"roles"`     // "catalog/models" -> version
	Installed map[string]uint64   `json:"installed"` // "models/mote" -> release version
	Expires   map[Repo]*time.Time `json:"expires"`   // of the newest timestamp verified
}

func newMarks(enrolment string) marks {
	return marks{
		Enrolment: enrolment,
		Roots:     map[Repo]int64{},
		Roles:     map[string]int64{},
		Installed: map[string]uint64{},
		Expires:   map[Repo]*time.Time{},
	}
}

func (m marks) clone() marks {
	m.Roots = maps.Clone(m.Roots)
	m.Roles = maps.Clone(m.Roles)
	m.Installed = maps.Clone(m.Installed)
	m.Expires = maps.Clone(m.Expires)
	return m
}

// parseMarks reads one stored copy. A copy of another enrolment, or one that
// cannot be read, counts as absent.
func parseMarks(raw []byte, enrolment string) (marks, bool) {
	m := newMarks(enrolment)
	if err := json.Unmarshal(raw, &m); err != nil || m.Enrolment != enrolment {
		return newMarks(enrolment), false
	}
	// A stored null would leave a nil map behind.
	full := newMarks(enrolment)
	if m.Roots == nil {
		m.Roots = full.Roots
	}
	if m.Roles == nil {
		m.Roles = full.Roles
	}
	if m.Installed == nil {
		m.Installed = full.Installed
	}
	if m.Expires == nil {
		m.Expires = full.Expires
	}
	return m, true
}

// roleKey names a role in the marks and in the store. The role is escaped: a
// delegation may have any name, also one that looks like another key.
func roleKey(repo Repo, role string) string { return string(repo) + "/" + url.PathEscape(role) }

// roleOf is the role that roleKey named, and whether it is one of repo.
func roleOf(repo Repo, key string) (role string, ours bool) {
	name, ours := strings.CutPrefix(key, string(repo)+"/")
	role, err := url.PathUnescape(name)
	return role, ours && err == nil
}

func installedKey(kind release.Kind, name string) string { return kind.Folder() + "/" + name }

// keeper owns the marks. Safe for concurrent use; it is never locked while a
// source is asked, so a commit does not wait for a slow broker.
type keeper struct {
	slots *store.Slots
	vault vault

	mu  sync.Mutex // guards now; its maps are replaced, never changed
	now marks
}

// marks returns what is in force; the caller must not change its maps.
func (k *keeper) marks() marks {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// openKeeper loads the newer of the two copies.
func openKeeper(slots *store.Slots, v vault, enrolment string, log *slog.Logger) (*keeper, error) {
	k := &keeper{slots: slots, vault: v, now: newMarks(enrolment)}
	raw, found := slots.Load()
	if found {
		m, ok := parseMarks(raw, enrolment)
		if !ok {
			log.Warn("anti-rollback marks belong to another enrolment and are not used")
		}
		k.now = m
	}
	raw, err := v.marks()
	if err != nil {
		return nil, err
	}
	if m, ok := parseMarks(raw, enrolment); ok && m.Sequence > k.now.Sequence {
		log.Warn("anti-rollback slot files are older than the database", "sequence", k.now.Sequence, "database", m.Sequence)
		k.now = m
	}
	return k, nil
}

// save makes the change durable in both places if it changed anything.
func (k *keeper) save(change func(*marks)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.now.clone()
	change(&next)
	if same(next, k.now) {
		return nil
	}
	return k.write(next, "", nil)
}

// keep stores verified metadata under key, and the marks that it raises, in
// one transaction of the database.
func (k *keeper) keep(key string, raw []byte, change func(*marks)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.now.clone()
	change(&next)
	if same(next, k.now) {
		return k.vault.putMetadata(key, raw)
	}
	return k.write(next, key, raw)
}

// write is called with mu held.
func (k *keeper) write(next marks, key string, metadata []byte) error {
	next.Sequence++
	raw, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("internal error: cannot encode marks: %w", err)
	}
	if err := k.slots.Save(raw); err != nil {
		return fmt.Errorf("cannot save anti-rollback marks: %w", err)
	}
	k.now = next
	return k.vault.putMarks(raw, key, metadata)
}

func same(a, b marks) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// keepRole stores a verified role and records its version.
func (k *keeper) keepRole(repo Repo, role string, version int64, raw []byte) error {
	key := roleKey(repo, role)
	return k.keep(key, raw, func(m *marks) { m.Roles[key] = max(m.Roles[key], version) })
}

// raiseInstalled records releases that run, so that an older one is refused
// even after the database is gone.
func (k *keeper) raiseInstalled(docs []release.Document) error {
	return k.save(func(m *marks) {
		for _, d := range docs {
			key := installedKey(d.Kind, d.Name)
			m.Installed[key] = max(m.Installed[key], d.Version)
		}
	})
}

// markStep is how far the clock mark may lag: the slot files are flash.
const markStep = 10 * time.Minute

// raiseTime moves the clock mark up to now. It never passes the first expiry
// among the newest timestamps verified: a clock that lies about the year can
// expire what the device holds, but never what the fleet signs next.
func (k *keeper) raiseTime(now time.Time) error {
	have := k.marks()
	if len(have.Expires) < 2 {
		return nil
	}
	for _, expires := range have.Expires {
		if limit := expires.Add(time.Second); now.After(limit) {
			now = limit
		}
	}
	if now.Before(have.Time.Add(markStep)) {
		return nil
	}
	return k.save(func(m *marks) { m.Time = now.UTC() })
}

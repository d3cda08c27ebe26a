package inventory

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Bounds of an inventory.
const (
	maxStrangers = 1000            // devices that the fleet does not know
	maxEventBody = 8 << 10         // bytes
	eventsKeep   = 32 << 20        // bytes of a file of events; two are kept
	compactFloor = 1 << 20         // bytes that may be out of date in any case
	flushEvery   = time.Second     // reports of that time share one write
	ackedFolder  = "acknowledged"  // alarms that a person has seen
	sightingFile = "devices.jsonl" // the last line of a device counts
	eventFile    = "events.jsonl"  // the newest events, in the order in which they came
)

// Sighting is what the depot knows of one device from its reports.
type Sighting struct {
	Device string `json:"device"`
	// Key names the device's key that signed State; empty: nobody vouches for it.
	Key   string        `json:"key,omitempty"`
	State *report.State `json:"state,omitempty"`
	Seen  time.Time     `json:"seen,omitzero"` // of the newest state

	Online   bool      `json:"online"`
	Epoch    uint64    `json:"epoch,omitempty"` // of the device's start that said so
	OnlineAt time.Time `json:"online_at,omitzero"`

	// Problem says why a report was not believed after the last one that was.
	Problem   string    `json:"problem,omitempty"`
	ProblemAt time.Time `json:"problem_at,omitzero"`

	// Origin and Number are the last event's; Lost counts those that never came.
	Origin uint64    `json:"origin,omitempty"`
	Number uint64    `json:"number,omitempty"`
	Lost   uint64    `json:"lost,omitempty"`
	LostAt time.Time `json:"lost_at,omitzero"`

	// Alarms stay until somebody acknowledges them: what they tell of does not mend itself.
	Alarms []Finding `json:"alarms,omitempty"`
}

// Finding is one thing that a fleet manager should know of a device.
type Finding struct {
	ID       string    `json:"id"`
	Severity string    `json:"severity"` // "warning" or "critical"
	What     string    `json:"what,omitempty"`
	Since    time.Time `json:"since,omitzero"`
}

// Event is an event of a device as the inventory keeps it.
type Event struct {
	Device string          `json:"device"`
	Origin uint64          `json:"origin"`
	Seq    uint64          `json:"seq"`
	Time   time.Time       `json:"time"` // by the device's clock
	Came   time.Time       `json:"came"`
	Kind   string          `json:"kind"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// Keeper keeps what devices report, in the folder inventory/ of the fleet.
// One process at a time may have it open; readers of the files need no leave.
// Reports are written at most once a second, together, so that a fleet that
// comes back at once costs one write. Safe for concurrent use.
type Keeper struct {
	f    *fleet.Fleet
	dir  string
	lock *os.File

	mu        sync.Mutex
	sightings map[string]*Sighting
	strangers int
	dirty     map[string]bool
	events    []Event

	writing sync.Mutex // held for a flush; guards what follows
	file    *os.File
	size    int64
	lengths map[string]int64 // of the last line of each device
}

// ErrBusy is wrapped when another process keeps the inventory.
var ErrBusy = errors.New("another process keeps it")

func folder(f *fleet.Fleet) string { return filepath.Join(f.Dir(), "inventory") }

// Open opens the fleet's inventory for writing. The caller must Close it.
func Open(f *fleet.Fleet) (*Keeper, error) {
	v := &Keeper{f: f, dir: folder(f), sightings: map[string]*Sighting{}, dirty: map[string]bool{}, lengths: map[string]int64{}}
	if err := v.open(); err != nil {
		v.release()
		return nil, fmt.Errorf("cannot open the inventory %s: %w", v.dir, err)
	}
	return v, nil
}

func (v *Keeper) open() error {
	if err := os.MkdirAll(v.dir, 0o755); err != nil {
		return err
	}
	var err error
	if v.lock, err = os.OpenFile(filepath.Join(v.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(v.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrBusy
		}
		return err
	}
	tail := tail{path: filepath.Join(v.dir, sightingFile)}
	all, err := tail.read()
	if err != nil {
		return err
	}
	for device, s := range all {
		v.sightings[device] = &s
		if !v.f.Has(device) {
			v.strangers++
		}
	}
	return v.compact() // which also drops half a line that a crash left
}

func (v *Keeper) release() {
	if v.file != nil {
		_ = v.file.Close()
	}
	if v.lock != nil {
		_ = v.lock.Close() // and lets go of the lock
	}
}

// Run writes what was taken, until ctx ends, and returns nil then. What could
// not be written is tried again; tell hears of it once for each failure.
func (v *Keeper) Run(ctx context.Context, tell func(error)) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := v.Flush(); err != nil {
				tell(err)
			}
		}
	}
}

// Close writes what is left and lets go of the inventory.
func (v *Keeper) Close() error {
	err := v.Flush()
	v.release()
	return err
}

// Take takes one report: kind is "state", "event" or "online", and retained
// says that the broker had kept it. What cannot be believed is an error that
// says why; it is in the inventory too.
func (v *Keeper) Take(device, kind string, payload []byte, retained bool, at time.Time) error {
	if err := release.CheckDevice(device); err != nil {
		return fmt.Errorf("report dropped: %w", err)
	}
	key, err := v.key(device)
	if err != nil {
		return fmt.Errorf("report of %q dropped: %w", device, err)
	}
	at = at.UTC().Truncate(time.Millisecond)
	v.mu.Lock()
	defer v.mu.Unlock()
	s, err := v.sighting(device)
	if err != nil {
		return fmt.Errorf("report of %q dropped: %w", device, err)
	}
	changed := false
	switch kind {
	case "state":
		changed, err = s.takeState(key, payload, retained, at)
	case "event":
		var e Event
		if e, changed, err = s.takeEvent(key, payload, at); changed {
			v.events = append(v.events, e)
		}
	case "online":
		changed = s.takeOnline(payload, at)
	}
	if err != nil {
		changed = s.Problem != err.Error() || changed
		s.Problem = err.Error()
		if s.ProblemAt.IsZero() {
			s.ProblemAt = at
		}
		err = fmt.Errorf("%s of %q not believed: %w", kind, device, err)
	}
	if changed {
		v.dirty[device] = true
	}
	return err
}

// key is the device's registered public key; nil: it has none.
func (v *Keeper) key(device string) (ed25519.PublicKey, error) {
	r, err := v.f.Device(device)
	switch {
	case errors.Is(err, trust.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case r.State != fleet.DeviceApproved && r.State != fleet.DeviceRetired:
		return nil, nil
	}
	return r.PublicKey, nil
}

// sighting finds or makes the entry of a device; mu is held.
func (v *Keeper) sighting(device string) (*Sighting, error) {
	if s := v.sightings[device]; s != nil {
		return s, nil
	}
	if !v.f.Has(device) {
		if v.strangers >= maxStrangers {
			return nil, fmt.Errorf("%d devices that the fleet does not know have reported already", v.strangers)
		}
		v.strangers++
	}
	s := &Sighting{Device: device}
	v.sightings[device] = s
	return s, nil
}

// unseal checks the envelope of a report. Without a key it only takes the content
// out, for people to look at: nothing is compared, and nobody vouches for it.
func unseal(key ed25519.PublicKey, payloadType string, raw []byte) (body []byte, signer string, err error) {
	if key != nil {
		body, err = release.OpenEnvelope(key, payloadType, raw)
		return body, release.KeyID(key), err
	}
	var env struct{ PayloadType, Payload string }
	if err := json.Unmarshal(raw, &env); err != nil || env.PayloadType != payloadType {
		return nil, "", fmt.Errorf("cannot open envelope: want one that holds %q", payloadType)
	}
	body, err = base64.StdEncoding.DecodeString(env.Payload)
	return body, "", err
}

func (s *Sighting) takeState(key ed25519.PublicKey, raw []byte, retained bool, at time.Time) (changed bool, err error) {
	body, signer, err := unseal(key, release.StateType, raw)
	if err != nil {
		return false, err
	}
	next, err := report.Parse(body)
	if err != nil {
		return false, err
	}
	if next.Device != s.Device {
		return false, fmt.Errorf("it is of device %q", next.Device)
	}
	if s.Key != signer {
		// Enrolled now, or anew: what was said under another key binds nobody.
		*s = Sighting{Device: s.Device, Key: signer, Online: s.Online, Epoch: s.Epoch, OnlineAt: s.OnlineAt}
	}
	if s.State != nil && !next.After(*s.State) {
		return false, nil // the broker repeats what it kept, or somebody replays
	}
	if s.State != nil && signer != "" {
		s.compare(*s.State, next, at)
	}
	s.State, s.Seen, s.Problem, s.ProblemAt = &next, at, "", time.Time{}
	if retained && next.Time.Before(at) {
		s.Seen = next.Time // nobody knows how long the broker had it
	} else if signer != "" && !s.Online && next.Epoch >= s.Epoch {
		s.Online, s.Epoch, s.OnlineAt = true, next.Epoch, at // it has just spoken
	}
	return true, nil
}

// compare looks for what must never go back.
func (s *Sighting) compare(last, next report.State, at time.Time) {
	switch {
	case next.Audit.Seq < last.Audit.Seq:
		s.alarm("audit-rewound", at, "the end of its audit log went back from %s to %s; records are missing", last.Audit, next.Audit)
	case next.Audit.Seq == last.Audit.Seq && next.Audit.Hash != last.Audit.Hash:
		s.alarm("audit-rewound", at, "the end of its audit log was %s and is %s; records were rewritten", last.Audit, next.Audit)
	}
	if next.Counter < last.Counter {
		s.alarm("counter-rolled-back", at, "its newest verified want was %d and is %d; its anti-rollback marks were lost or put back", last.Counter, next.Counter)
	}
}

// maxSticky bounds the alarms that wait for an acknowledgement.
const maxSticky = 16

func (s *Sighting) alarm(id string, at time.Time, format string, args ...any) {
	if len(s.Alarms) == maxSticky { // the first tell where it began, the last what was newest
		s.Alarms = append(s.Alarms[:maxSticky/2:maxSticky/2], s.Alarms[maxSticky/2+1:]...)
	}
	s.Alarms = append(s.Alarms, Finding{ID: id, Severity: report.Critical, What: fmt.Sprintf(format, args...), Since: at})
}

func (s *Sighting) takeEvent(key ed25519.PublicKey, raw []byte, at time.Time) (kept Event, fresh bool, err error) {
	body, _, err := unseal(key, release.EventType, raw)
	if err != nil {
		return kept, false, err
	}
	e, err := mqtt.ParseEvent(s.Device, body)
	if err != nil {
		return kept, false, err
	}
	if e.Origin < s.Origin || e.Origin == s.Origin && e.Seq <= s.Number {
		return kept, false, nil // it came before
	}
	if e.Origin == s.Origin && e.Seq > s.Number+1 {
		s.Lost += e.Seq - s.Number - 1
		s.LostAt = at
	}
	s.Origin, s.Number = e.Origin, e.Seq
	if len(e.Body) > maxEventBody {
		e.Body = nil
	}
	return Event{Device: s.Device, Origin: e.Origin, Seq: e.Seq, Time: e.Time.UTC(), Came: at, Kind: e.Kind, Body: e.Body}, true, nil
}

// takeOnline believes the newest start: a will of an earlier one may be
// published long after the device is back.
func (s *Sighting) takeOnline(raw []byte, at time.Time) (changed bool) {
	p, err := mqtt.ParsePresence(raw)
	if err != nil || p.Epoch < s.Epoch {
		return false
	}
	signed := uint64(0)
	if s.Key != "" && s.State != nil {
		signed = s.State.Epoch
	}
	// Nobody signs a presence. An epoch is the time of a start, or little more.
	if p.Epoch < signed || p.Epoch != signed && p.Epoch > uint64(at.Add(24*time.Hour).Unix()) {
		return false
	}
	if p.Online == s.Online && p.Epoch == s.Epoch {
		return false
	}
	s.Online, s.Epoch, s.OnlineAt = p.Online, p.Epoch, at
	return true
}

// batch is what one flush writes.
type batch struct {
	devices map[string]int64 // length of each one's line
	lines   []byte
	events  []Event
	log     []byte
}

// Flush writes what was taken since the last time. What cannot be written waits for the next.
func (v *Keeper) Flush() error {
	v.writing.Lock()
	defer v.writing.Unlock()
	b, err := v.collect()
	if err == nil {
		err = v.write(b)
	}
	if err != nil {
		v.putBack(b)
		return fmt.Errorf("cannot write the inventory %s: %w", v.dir, err)
	}
	return nil
}

func (v *Keeper) write(b batch) error {
	if len(b.log) > 0 {
		if err := v.appendEvents(b.log); err != nil {
			return err
		}
	}
	if len(b.lines) == 0 {
		return nil
	}
	return v.appendSightings(b)
}

// collect encodes what is to be written, and takes it for written.
func (v *Keeper) collect() (batch, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := batch{events: v.events, devices: make(map[string]int64, len(v.dirty))}
	var lines, log bytes.Buffer
	enc, encLog := json.NewEncoder(&lines), json.NewEncoder(&log)
	for device := range v.dirty {
		b.devices[device] = 0
		before := lines.Len()
		if err := enc.Encode(v.sightings[device]); err != nil {
			return b, fmt.Errorf("internal error: %w", err)
		}
		b.devices[device] = int64(lines.Len() - before)
	}
	for _, e := range v.events {
		if err := encLog.Encode(e); err != nil {
			return b, fmt.Errorf("internal error: %w", err)
		}
	}
	b.lines, b.log = lines.Bytes(), log.Bytes()
	v.dirty, v.events = map[string]bool{}, nil
	return b, nil
}

// maxWaiting bounds the events that a full disk keeps in memory.
const maxWaiting = 10_000

func (v *Keeper) putBack(b batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for device := range b.devices {
		v.dirty[device] = true
	}
	v.events = append(b.events, v.events...)
	v.events = v.events[max(0, len(v.events)-maxWaiting):]
}

func (v *Keeper) appendSightings(b batch) error {
	_, err := v.file.Write(b.lines)
	if err == nil {
		err = v.file.Sync()
	}
	if err != nil {
		return errors.Join(err, v.file.Truncate(v.size)) // half a line would spoil the next one
	}
	v.size += int64(len(b.lines))
	for device, n := range b.devices {
		v.lengths[device] = n
	}
	live := int64(0)
	for _, n := range v.lengths {
		live += n
	}
	if v.size > 2*live+compactFloor {
		return v.compact()
	}
	return nil
}

// compact writes every sighting once, into a new file that replaces the old one.
// The lock writing is held, or nobody else has v yet.
func (v *Keeper) compact() error {
	var out bytes.Buffer
	lengths, err := v.encodeAll(&out)
	if err != nil {
		return err
	}
	path := filepath.Join(v.dir, sightingFile)
	if err := store.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if v.file != nil {
		_ = v.file.Close()
	}
	v.file, v.size, v.lengths = file, int64(out.Len()), lengths
	return nil
}

func (v *Keeper) encodeAll(out *bytes.Buffer) (lengths map[string]int64, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	enc := json.NewEncoder(out)
	lengths = make(map[string]int64, len(v.sightings))
	for device, s := range v.sightings {
		before := out.Len()
		if err := enc.Encode(s); err != nil {
			return nil, fmt.Errorf("internal error: %w", err)
		}
		lengths[device] = int64(out.Len() - before)
	}
	return lengths, nil
}

func (v *Keeper) appendEvents(lines []byte) error {
	path := filepath.Join(v.dir, eventFile)
	if info, err := os.Stat(path); err == nil && info.Size()+int64(len(lines)) > eventsKeep {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	before, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.Write(lines)
	}
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return errors.Join(err, file.Truncate(before))
	}
	return nil
}

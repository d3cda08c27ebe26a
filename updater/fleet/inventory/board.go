package inventory

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Silence of a device is a finding after this many of its heartbeats.
const (
	silentAfter      = 3
	defaultHeartbeat = 10 * time.Minute // of a device that does not say its own
	certificateSoon  = 7 * 24 * time.Hour
)

// View is one device as the fleet sees it now: what it shall run, what it
// says, and what is wrong.
type View struct {
	Device   string            `json:"device"`
	Record   fleet.DeviceState `json:"record,omitempty"` // empty: it has enrolled with no token
	Verified bool              `json:"verified"`         // its registered key signed State
	Online   bool              `json:"online"`
	Seen     time.Time         `json:"seen,omitzero"` // when its newest state came
	Health   string            `json:"health"`        // "ok", "warning" or "critical"

	Wanted  uint64            `json:"wanted_counter"`   // counter of the set that is signed for it
	Models  map[string]string `json:"models,omitempty"` // of that set: alias -> release
	Policy  string            `json:"policy,omitempty"`
	Retired bool              `json:"-"`

	State    *report.State `json:"state,omitempty"` // what it says
	Findings []Finding     `json:"findings"`
}

// Done says that the device runs what it shall.
func (v View) Done() bool {
	return v.Verified && v.State.Running == v.Wanted
}

// Board reads the folder again and again, each time only what changed. It is
// used by one goroutine.
type Board struct {
	f       *fleet.Fleet
	tail    tail
	assigns map[string]assigned
}

// assigned is a set as it was read from a timestamp of this age and size.
type assigned struct {
	stamp time.Time
	size  int64
	set   release.Assignment
}

// OpenBoard opens a view of all devices. It writes nothing.
func OpenBoard(f *fleet.Fleet) *Board {
	return &Board{f: f, tail: tail{path: filepath.Join(folder(f), sightingFile)}, assigns: map[string]assigned{}}
}

// Devices lists every device that has a record, a set, or has reported, those in
// trouble first. Retired ones are left out.
func (b *Board) Devices() ([]View, error) {
	views := map[string]*View{}
	at := func(device string) *View {
		if views[device] == nil {
			views[device] = &View{Device: device}
		}
		return views[device]
	}
	records, err := b.f.DeviceRecords()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		v := at(r.Device)
		v.Record, v.Retired = r.State, r.State == fleet.DeviceRetired
	}
	devices, err := b.f.Devices()
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		if err := b.assign(at(device)); err != nil {
			return nil, err
		}
	}
	sightings, err := b.tail.read()
	if err != nil {
		return nil, fmt.Errorf("cannot read the inventory: %w", err)
	}
	for device := range sightings {
		at(device)
	}
	all := make([]View, 0, len(views))
	for device, v := range views {
		if v.Retired {
			continue
		}
		s := sightings[device]
		v.see(s, acknowledged(b.f, device, s), b.f.Now())
		all = append(all, *v)
	}
	slices.SortFunc(all, byTrouble)
	return all, nil
}

// byTrouble sorts the worst first, then those that are not done, then by name.
func byTrouble(a, b View) int {
	rank := func(v View) int {
		switch {
		case v.Health == report.Critical:
			return 0
		case v.Health == report.Warning:
			return 1
		case !v.Done():
			return 2
		}
		return 3
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Device, b.Device))
}

// assign reads the signed set of a device, unless it is the one read last time.
func (b *Board) assign(v *View) error {
	info, err := os.Stat(filepath.Join(b.f.Dir(), "director", v.Device, "timestamp.json"))
	if err != nil {
		return fmt.Errorf("cannot read assignment: %w", err)
	}
	have, ok := b.assigns[v.Device]
	if !ok || !have.stamp.Equal(info.ModTime()) || have.size != info.Size() {
		set, err := b.f.Assignment(v.Device)
		if err != nil {
			return err
		}
		have = assigned{info.ModTime(), info.Size(), set}
		b.assigns[v.Device] = have
	}
	v.Wanted, v.Models, v.Policy = have.set.Counter, map[string]string{}, targetID(have.set.Policy)
	for alias, target := range have.set.Models {
		v.Models[alias] = targetID(target)
	}
	return nil
}

// targetID writes a target path as people name the release: "mote@2".
func targetID(target string) string {
	_, name, version, err := release.ParseTarget(target)
	if err != nil {
		return ""
	}
	return release.Document{Name: name, Version: version}.ID()
}

// see fills in what was reported and what is wrong.
func (v *View) see(s Sighting, acknowledged time.Time, now time.Time) {
	v.Verified, v.Online, v.Seen, v.State, v.Findings = s.Key != "" && s.State != nil, s.Online, s.Seen, s.State, []Finding{}
	add := func(id, severity string, since time.Time, format string, args ...any) {
		v.Findings = append(v.Findings, Finding{ID: id, Severity: severity, What: fmt.Sprintf(format, args...), Since: since})
	}
	if s.State == nil {
		add("never-seen", report.Warning, time.Time{}, "it has not reported yet")
	} else {
		v.seeState(s, now, add)
	}
	if s.Problem != "" && s.ProblemAt.After(acknowledged) {
		add("report-refused", report.Critical, s.ProblemAt, "a report in its name cannot be believed: %s", s.Problem)
	}
	if s.Lost > 0 && s.LostAt.After(acknowledged) {
		add("events-lost", report.Warning, s.LostAt, "%d of its events never came", s.Lost)
	}
	for _, a := range s.Alarms {
		if a.Since.After(acknowledged) {
			v.Findings = append(v.Findings, a)
		}
	}
	v.Health = "ok"
	for _, f := range v.Findings {
		v.Health = report.Worst(v.Health, f.Severity)
	}
}

func (v *View) seeState(s Sighting, now time.Time, add func(id, severity string, since time.Time, format string, args ...any)) {
	if !v.Verified {
		add("unverified", report.Warning, time.Time{}, "no key is registered for it: anybody on the broker can say this")
	}
	heartbeat := time.Duration(s.State.Heartbeat) * time.Second
	if heartbeat <= 0 {
		heartbeat = defaultHeartbeat
	}
	due := s.Seen.Add(silentAfter * heartbeat)
	switch {
	case now.After(due):
		add("silent", report.Critical, due, "it has not said anything since %s; it should every %s", s.Seen.Format(time.RFC3339), heartbeat)
	case !s.Online:
		add("offline", report.Warning, s.OnlineAt, "it has no connection to the broker")
	}
	if end := s.State.Certificate; !end.IsZero() && now.After(end.Add(-certificateSoon)) {
		severity := report.Warning
		if now.After(end) {
			severity = report.Critical
		}
		add("certificate-expires", severity, end.Add(-certificateSoon), "its certificate ends on %s", end.Format(time.DateOnly))
	}
	for _, a := range s.State.Alarms {
		if slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.ID == a.ID }) {
			continue // both have found it
		}
		severity := report.Warning
		if a.Severity == report.Critical {
			severity = report.Critical
		}
		add(a.ID, severity, time.Time{}, "%s", a.What)
	}
}

// acknowledged is until when somebody has seen the alarms of a device.
func acknowledged(f *fleet.Fleet, device string, s Sighting) time.Time {
	if len(s.Alarms) == 0 && s.Problem == "" && s.Lost == 0 {
		return time.Time{}
	}
	raw, err := os.ReadFile(filepath.Join(folder(f), ackedFolder, device))
	if err != nil {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, string(raw))
	if err != nil {
		return time.Time{}
	}
	return at
}

// Acknowledge notes that somebody has seen what was found of a device until now
// and does not mend itself: a rewound audit log, lost events, refused reports.
func Acknowledge(f *fleet.Fleet, device string) error {
	if err := release.CheckDevice(device); err != nil {
		return fmt.Errorf("cannot acknowledge: %w", err)
	}
	t := tail{path: filepath.Join(folder(f), sightingFile)}
	all, err := t.read()
	if err != nil {
		return fmt.Errorf("cannot acknowledge: %w", err)
	}
	if _, ok := all[device]; !ok {
		return fmt.Errorf("cannot acknowledge: device %q has reported nothing: %w", device, trust.ErrNotFound)
	}
	path := filepath.Join(folder(f), ackedFolder, device)
	err = os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = store.WriteFile(path, []byte(f.Now().UTC().Format(time.RFC3339Nano)), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot acknowledge: %w", err)
	}
	return nil
}

// Package report is what a device tells its fleet: the form of its signed state.
//
// It is pure: no I/O, no clock. Parse takes bytes whose signature was checked
// already and still trusts none of them: a device may be owned by somebody
// else, and one of them must neither fill the fleet's memory nor write to the
// terminal of a person who reads its texts. Encode cuts what is too long, so
// that a state always passes a broker.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/bothy-edge/bothy/updater/release"
)

// Schema is the version of the state that this package reads and writes.
const Schema = 1

// Bounds of a state. MaxState leaves room for the envelope in a control packet.
const (
	MaxState  = 40 << 10 // bytes
	maxText   = 256      // bytes of a text
	maxName   = 96       // bytes of a name, of a release with its version
	maxModels = 64
	maxAlarms = 24
)

// The severities of an alarm.
const (
	Warning  = "warning"
	Critical = "critical"
)

// State is what a device runs and how it is, as of Time. Epoch and Seq order
// the states of one device: an older one is a replay.
type State struct {
	Schema    int       `json:"schema"`
	Device    string    `json:"device"`
	Epoch     uint64    `json:"epoch"` // of the device's start
	Seq       uint64    `json:"seq"`   // of this state within it, from 1
	Time      time.Time `json:"time"`
	Heartbeat int       `json:"heartbeat_s"` // a new state comes at least that often, in seconds
	Agent     string    `json:"agent"`       // version
	Health    string    `json:"health"`      // "ok", "warning" or "critical"

	Running uint64           `json:"running_counter"` // of the want that runs
	Counter uint64           `json:"counter"`         // of the newest want that was verified
	Models  map[string]Model `json:"models"`          // by alias
	Policy  string           `json:"policy,omitempty"`
	Engine  string           `json:"engine,omitempty"` // engine release
	Change  *Change          `json:"change,omitempty"` // under way, or the last

	Catalog  Repository `json:"catalog"`
	Director Repository `json:"director"`
	Order    uint64     `json:"order,omitempty"` // number of the newest order taken

	Alarms      []Alarm   `json:"alarms,omitempty"`
	Audit       Head      `json:"audit"`                        // end of the audit log's chain
	Certificate time.Time `json:"certificate_expires,omitzero"` // of the device's certificate
	Capacity    Capacity  `json:"capacity"`
}

// Model is one alias that a device serves, or tries to.
type Model struct {
	Release    string `json:"release"`
	Engine     string `json:"engine,omitempty"`         // kind
	Program    string `json:"engine_release,omitempty"` // that the engine is from; empty: the box's own
	Generation uint64 `json:"generation,omitempty"`
	Phase      string `json:"phase"`
}

// Change is a change of the device, in short.
type Change struct {
	ID      uint64 `json:"id"`
	State   string `json:"state"`
	Reason  string `json:"reason,omitempty"` // why it waits
	Summary string `json:"summary,omitempty"`
	Error   string `json:"error,omitempty"`
	Done    int64  `json:"done_bytes,omitempty"`
	Total   int64  `json:"total_bytes,omitempty"`
}

// Repository is what was verified last of one repository; 0 means nothing yet.
type Repository struct {
	Root      int64     `json:"root"`
	Timestamp int64     `json:"timestamp"`
	Snapshot  int64     `json:"snapshot"`
	Targets   int64     `json:"targets"`
	Expires   time.Time `json:"expires,omitzero"` // of the timestamp
}

// Alarm is one finding of the device, or of the fleet about it.
type Alarm struct {
	ID       string `json:"id"`
	Severity string `json:"severity"` // Warning or Critical
	What     string `json:"what,omitempty"`
}

// Head is the end of the audit log's chain.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash,omitempty"`
}

// String writes a head as `bothy audit verify --head` takes it.
func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Seq, h.Hash) }

// Capacity is what the machine has. Sizes in bytes.
type Capacity struct {
	Cores           int    `json:"cores"`
	MemoryTotal     uint64 `json:"memory_total"`
	MemoryAvailable uint64 `json:"memory_available"`
	DiskTotal       uint64 `json:"disk_total"`
	DiskFree        uint64 `json:"disk_free"`
	GPUs            int    `json:"gpus,omitempty"`
	GPU             string `json:"gpu,omitempty"` // name of the first
	GPUTotal        uint64 `json:"gpu_memory_total,omitempty"`
	GPUUsed         uint64 `json:"gpu_memory_used,omitempty"`
}

// Encode writes a state. Too many models or alarms and too long texts are cut:
// a state that is too large would be dropped by a broker, and say nothing.
func (s State) Encode() ([]byte, error) {
	s.Schema = Schema
	s = s.cut()
	raw, err := s.marshal()
	if err == nil && len(raw) > MaxState {
		for i := range s.Alarms {
			s.Alarms[i].What = "" // their ids say the most
		}
		raw, err = s.marshal()
	}
	if err == nil && len(raw) > MaxState {
		err = fmt.Errorf("%d bytes, at most %d are accepted", len(raw), MaxState)
	}
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot encode state: %w", err)
	}
	return raw, nil
}

func (s State) marshal() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(s)
	return bytes.TrimSpace(out.Bytes()), err
}

// cut returns a copy within the bounds.
func (s State) cut() State {
	models := make(map[string]Model, min(len(s.Models), maxModels))
	for _, alias := range slices.Sorted(maps.Keys(s.Models)) {
		if len(models) == maxModels {
			break
		}
		m := s.Models[alias]
		models[name(alias)] = Model{Release: name(m.Release), Engine: name(m.Engine), Program: name(m.Program), Generation: m.Generation, Phase: name(m.Phase)}
	}
	s.Models = models
	var alarms []Alarm
	for _, severe := range []bool{true, false} { // the worst are the last to go
		for _, a := range s.Alarms {
			if (a.Severity == Critical) == severe && len(alarms) < maxAlarms {
				alarms = append(alarms, Alarm{name(a.ID), name(a.Severity), text(a.What)})
			}
		}
	}
	s.Alarms = alarms
	if s.Change != nil {
		c := *s.Change
		c.State, c.Reason, c.Summary, c.Error = name(c.State), name(c.Reason), text(c.Summary), text(c.Error)
		s.Change = &c
	}
	for _, field := range []*string{&s.Device, &s.Agent, &s.Health, &s.Policy, &s.Engine, &s.Audit.Hash, &s.Capacity.GPU} {
		*field = name(*field)
	}
	return s
}

func text(s string) string { return clean(s, maxText) }
func name(s string) string { return clean(s, maxName) }

// clean cuts a text and takes out what would move a cursor.
func clean(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-3], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// Parse reads the state of a device. Members that it does not know are passed
// over: an agent may be newer than its fleet.
func Parse(raw []byte) (State, error) {
	var s State
	if len(raw) > MaxState {
		return s, fmt.Errorf("cannot read state: %d bytes, at most %d are accepted", len(raw), MaxState)
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&s); err != nil {
		return State{}, fmt.Errorf("cannot read state: %w", err)
	}
	switch {
	case s.Schema != Schema:
		return State{}, fmt.Errorf("cannot read state: schema %d, this bothy reads %d", s.Schema, Schema)
	case release.CheckDevice(s.Device) != nil:
		return State{}, fmt.Errorf("cannot read state: %w", release.CheckDevice(s.Device))
	case s.Seq == 0:
		return State{}, errors.New("cannot read state: it has no number")
	}
	s.Heartbeat = min(max(s.Heartbeat, 0), 7*24*3600)
	s.Time = s.Time.UTC()
	return s.cut(), nil
}

// After says that s was made after o by the same device.
func (s State) After(o State) bool {
	return s.Epoch > o.Epoch || s.Epoch == o.Epoch && s.Seq > o.Seq
}

// Worst is the worse of two healths.
func Worst(a, b string) string {
	for _, h := range []string{Critical, Warning} {
		if a == h || b == h {
			return h
		}
	}
	return "ok"
}

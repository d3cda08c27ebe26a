package policy

import (
	"encoding/json"
	"time"

	"github.com/bothy-edge/bothy/updater/provenance"
)

// document is the policy as written. Field names in JSON are those of the YAML.
type document struct {
	Schema     int        `json:"schema"`
	Name       string     `json:"name"`
	KillSwitch bool       `json:"kill_switch,omitempty"`
	Upstreams  []Upstream `json:"upstreams,omitempty"`
	Classes    []class    `json:"classes,omitempty"`
	Rules      []rule     `json:"rules,omitempty"`
	Spill      *spill     `json:"spill,omitempty"`
	Updates    *updates   `json:"updates,omitempty"`
	Probes     []probe    `json:"probes,omitempty"`
}

// updates is what a policy asks of the releases that this box installs.
type updates struct {
	RequireSignature []signer `json:"require_signature,omitempty"`
}

// signer is somebody whose signature of a model counts.
type signer struct {
	Name     string `json:"name"`
	Key      string `json:"key,omitempty"`
	Roots    string `json:"roots,omitempty"`
	Identity string `json:"identity,omitempty"`
	signer   provenance.Signer
	pos      position
}

// class names requests by what is found in them, by who sends them, or by a label they carry.
type class struct {
	Name      string   `json:"name"`
	Detectors []string `json:"detectors,omitempty"`
	Callers   []caller `json:"callers,omitempty"`
	Labels    []string `json:"labels,omitempty"`
	pos       position
}

// caller is a pattern: every field given must match, one of its values is enough.
type caller struct {
	Unit      []glob   `json:"unit,omitempty"`
	Exe       []glob   `json:"exe,omitempty"`
	Container []glob   `json:"container,omitempty"`
	UID       []uint32 `json:"uid,omitempty"`
	GID       []uint32 `json:"gid,omitempty"`
}

// rule is one line of the table.
type rule struct {
	Name      string  `json:"name"`
	When      *when   `json:"when,omitempty"`
	Places    []Place `json:"places,omitempty"`
	Priority  string  `json:"priority,omitempty"`
	MaxTokens int     `json:"max_tokens,omitempty"`
	Deny      string  `json:"deny,omitempty"`
	pos       position
}

// when is a conjunction: every field given must hold, one of a list's values is enough.
type when struct {
	caller
	Model    []glob   `json:"model,omitempty"`
	API      []string `json:"api,omitempty"`
	Class    []string `json:"class,omitempty"`
	MinBytes int      `json:"min_bytes,omitempty"`
	MaxBytes int      `json:"max_bytes,omitempty"`
	Hours    []hours  `json:"hours,omitempty"`
	Days     []string `json:"days,omitempty"`
}

// spill is the section as written; nil fields take their defaults.
type spill struct {
	MaxWait  *duration `json:"max_wait,omitempty"`
	MaxQueue int       `json:"max_queue,omitempty"`
}

func (s *spill) spill() Spill {
	out := Spill{MaxWait: DefaultMaxWait}
	if s == nil {
		return out
	}
	if s.MaxWait != nil {
		out.MaxWait = time.Duration(*s.MaxWait)
	}
	out.MaxQueue = s.MaxQueue
	return out
}

// duration is written the way Go prints it: "2s", "1m30s".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// MarshalJSON writes the upstream as the document has it, the timeout as text ("2m0s").
func (u Upstream) MarshalJSON() ([]byte, error) {
	type plain Upstream
	return json.Marshal(struct {
		plain
		Timeout duration `json:"timeout"`
	}{plain(u), duration(u.Timeout)})
}

// hours is a daily window in minutes since midnight; To before From passes midnight.
type hours struct{ From, To int }

const dayMinutes = 24 * 60

func (h hours) MarshalText() ([]byte, error) {
	return []byte(clock(h.From) + "-" + clock(h.To)), nil
}

func clock(minutes int) string {
	return string([]byte{
		byte('0' + minutes/600), byte('0' + minutes/60%10), ':',
		byte('0' + minutes%60/10), byte('0' + minutes%10),
	})
}

// holds says whether the minute lies in the window; From is inside, To is not.
func (h hours) holds(minute int) bool {
	if h.From < h.To {
		return h.From <= minute && minute < h.To
	}
	return minute >= h.From || minute < h.To
}

// glob is a literal, or a text with one "*" that stands for any characters. It never matches "".
type glob struct {
	prefix, suffix string
	star           bool
}

func (g glob) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

func (g glob) String() string {
	if g.star {
		return g.prefix + "*" + g.suffix
	}
	return g.prefix
}

func (g glob) matches(s string) bool {
	if !g.star {
		return s == g.prefix && s != ""
	}
	return s != "" && len(s) >= len(g.prefix)+len(g.suffix) &&
		s[:len(g.prefix)] == g.prefix && s[len(s)-len(g.suffix):] == g.suffix
}

// covers says whether every text that o matches is matched by g too.
func (g glob) covers(o glob) bool {
	if !o.star {
		return g.matches(o.prefix)
	}
	return g.star && len(o.prefix) >= len(g.prefix) && o.prefix[:len(g.prefix)] == g.prefix &&
		len(o.suffix) >= len(g.suffix) && o.suffix[len(o.suffix)-len(g.suffix):] == g.suffix
}

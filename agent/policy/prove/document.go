package prove

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/bothy-edge/bothy/agent/policy"
)

// document mirrors the canonical JSON of a policy. It is decoded strictly: a
// field that is not here might decide where a request runs, and then nothing
// could be proven. Fields that decide no place are listed and not looked at.
type document struct {
	Schema     int             `json:"schema"`
	Name       string          `json:"name"`
	KillSwitch bool            `json:"kill_switch"`
	Upstreams  []upstream      `json:"upstreams"`
	Classes    []class         `json:"classes"`
	Rules      []rule          `json:"rules"`
	Spill      json.RawMessage `json:"spill"`
	Updates    json.RawMessage `json:"updates"`
	Probes     json.RawMessage `json:"probes"`
}

type upstream struct {
	Name       string            `json:"name"`
	API        string            `json:"api"`
	BaseURL    string            `json:"base_url"`
	Credential string            `json:"credential"`
	Models     map[string]string `json:"models"`
	Timeout    string            `json:"timeout"`
}

type class struct {
	Name      string   `json:"name"`
	Detectors []string `json:"detectors"`
	Callers   []caller `json:"callers"`
	Labels    []string `json:"labels"`
}

type caller struct {
	Unit      []glob   `json:"unit"`
	Exe       []glob   `json:"exe"`
	Container []glob   `json:"container"`
	UID       []uint32 `json:"uid"`
	GID       []uint32 `json:"gid"`
}

type rule struct {
	Name      string   `json:"name"`
	When      when     `json:"when"`
	Places    []string `json:"places"`
	Priority  string   `json:"priority"`
	MaxTokens int      `json:"max_tokens"`
	Deny      string   `json:"deny"`
}

type when struct {
	caller
	Model    []glob   `json:"model"`
	API      []string `json:"api"`
	Class    []string `json:"class"`
	MinBytes int      `json:"min_bytes"`
	MaxBytes int      `json:"max_bytes"`
	Hours    []hours  `json:"hours"`
	Days     []string `json:"days"`
}

// glob is a literal, or a text with one "*" that stands for any characters; it never matches "".
type glob string

func (g glob) matches(s string) bool {
	prefix, suffix, star := strings.Cut(string(g), "*")
	if !star {
		return s == prefix && s != ""
	}
	return s != "" && len(s) >= len(prefix)+len(suffix) && strings.HasPrefix(s, prefix) && strings.HasSuffix(s, suffix)
}

// hours is a daily window in minutes; from is inside, to is not, and it may pass midnight.
type hours struct{ from, to int }

func (h *hours) UnmarshalText(text []byte) error {
	from, to, ok := strings.Cut(string(text), "-")
	var err, err2 error
	h.from, err = clock(from)
	h.to, err2 = clock(to)
	if !ok || err != nil || err2 != nil {
		return fmt.Errorf("%q is no window", text)
	}
	return nil
}

func clock(s string) (int, error) {
	h, m, _ := strings.Cut(s, ":")
	hour, err := strconv.Atoi(h)
	if err != nil {
		return 0, err
	}
	minute, err := strconv.Atoi(m)
	return hour*60 + minute, err
}

func (h hours) holds(minute int) bool {
	if h.from < h.to {
		return h.from <= minute && minute < h.to
	}
	return minute >= h.from || minute < h.to
}

func dayNames() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// read takes a policy apart.
func read(p *policy.Policy) (document, error) {
	d, err := decode(p.Document())
	if err != nil {
		return d, fmt.Errorf("cannot analyse policy %q: this version does not understand all of it: %w", p.Name(), err)
	}
	return d, nil
}

func decode(canonical []byte) (document, error) {
	var d document
	dec := json.NewDecoder(bytes.NewReader(canonical))
	dec.DisallowUnknownFields()
	err := dec.Decode(&d)
	return d, err
}

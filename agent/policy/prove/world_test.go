package prove

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// world makes random policies and requests out of a few names, so that they often meet.
type world struct{ *rand.Rand }

func newWorld(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 11))} }

func pick[T any](w world, from []T) T { return from[w.IntN(len(from))] }

func some[T any](w world, from []T) []T {
	var out []T
	for _, v := range from {
		if w.IntN(3) == 0 {
			out = append(out, v)
		}
	}
	return out
}

type object = map[string]any

// put sets a list field unless it is empty.
func put[T any](o object, key string, values []T) {
	if len(values) > 0 {
		o[key] = values
	}
}

// Patterns that begin and end alike, so that texts are found where they overlap.
func patterns() []string { return []string{"a", "b*", "*b", "ab*ba", "ab*", "*ba", "*", "aba"} }

func (w world) pattern() object {
	o := object{}
	put(o, "unit", some(w, patterns()))
	if w.IntN(3) == 0 {
		put(o, "exe", some(w, []string{"/a", "/b*"}))
	}
	if w.IntN(3) == 0 {
		put(o, "container", some(w, []string{"c", "d*"}))
	}
	if w.IntN(3) == 0 {
		put(o, "uid", some(w, []int{1, 2}))
	}
	return o
}

func (w world) when(classes []string) object {
	o := object{}
	if w.IntN(2) == 0 {
		o = w.pattern()
	}
	put(o, "class", some(w, classes))
	if w.IntN(3) == 0 {
		put(o, "model", some(w, []string{"m", "m*", "n"}))
	}
	if w.IntN(4) == 0 {
		put(o, "api", some(w, policy.APIs()))
	}
	if w.IntN(4) == 0 {
		o["min_bytes"] = 1 + w.IntN(3)*100
	}
	if w.IntN(4) == 0 {
		o["max_bytes"] = 150 + w.IntN(3)*100
	}
	if w.IntN(4) == 0 {
		o["hours"] = pick(w, []string{"08:00-18:00", "22:00-06:00", "00:00-24:00"})
	}
	if w.IntN(4) == 0 {
		put(o, "days", some(w, []string{"sat", "sun", "mon"}))
	}
	return o
}

// document is a random one; rules that could never fire are left out, as Parse would refuse them.
func (w world) document() object {
	doc := object{"schema": 1, "name": "random", "upstreams": []object{
		{"name": "x", "api": "openai", "base_url": "https://x.example/v1"},
		{"name": "y", "api": "openai", "base_url": pick(w, []string{"https://y.example", "https://z.example"})},
	}}
	if w.IntN(10) == 0 {
		doc["kill_switch"] = true
	}
	if w.IntN(2) == 0 {
		doc["upstreams"].([]object)[1]["models"] = map[string]string{"m": pick(w, []string{"M", "N"}), "k": "K"}
	}
	classes, names := []object{}, []string{policy.Opaque}
	for i := range w.IntN(4) {
		c := object{"name": fmt.Sprint("class", i)}
		put(c, "labels", some(w, []string{"l", "k"}))
		put(c, "detectors", some(w, detect.All()))
		if p := w.pattern(); len(p) > 0 && w.IntN(2) == 0 {
			c["callers"] = []object{p}
		}
		classes, names = append(classes, c), append(names, fmt.Sprint("class", i))
	}
	if len(classes) > 0 {
		doc["classes"] = classes
	}
	w.rules(doc, names)
	return doc
}

func (w world) rules(doc object, classes []string) {
	var rules []object
	for i := range w.IntN(7) {
		r := object{"name": fmt.Sprint("rule", i)}
		if w.IntN(6) > 0 {
			r["places"] = pick(w, [][]string{{"local"}, {"x"}, {"local", "x"}, {"y", "local"}, {"local", "y", "x"}, {"x", "y", "local"}})
		} else {
			r["deny"] = "no"
		}
		if when := w.when(classes); len(when) > 0 {
			r["when"] = when
		}
		doc["rules"] = append(rules[:len(rules):len(rules)], r)
		if _, err := parse(doc); err == nil {
			rules = append(rules, r)
		}
	}
	if doc["rules"] = rules; len(rules) == 0 {
		delete(doc, "rules")
	}
}

func parse(doc object) (*policy.Policy, error) {
	src, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return policy.Parse(src)
}

func (w world) policy(t *testing.T) *policy.Policy {
	t.Helper()
	return must(t, w.document())
}

func must(t *testing.T, doc object) *policy.Policy {
	t.Helper()
	p, err := parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w world) caller() policy.Caller {
	c := policy.Caller{
		UID: uint32(w.IntN(3)), GID: uint32(w.IntN(2)), Unit: w.word(), Container: pick(w, []string{"", "c", "d", "dd"}),
		Exe: pick(w, []string{"", "/a", "/b", "/bb", "/c"}), Unattested: w.IntN(6) == 0,
	}
	return c
}

// word is a short one, so that patterns overlap in it.
func (w world) word() string {
	b := make([]byte, w.IntN(6))
	for i := range b {
		b[i] = "aabbc"[w.IntN(5)]
	}
	return string(b)
}

func (w world) ask() policy.Ask {
	return policy.Ask{
		Model: pick(w, []string{"m", "n", "k", "mm", "z"}), API: pick(w, policy.APIs()), Kinds: some(w, detect.All()),
		Opaque: w.IntN(4) == 0, Incomplete: w.IntN(5) == 0, Bytes: w.IntN(500),
		Labels: some(w, []string{"l", "k", "class0", "class1", "opaque", "unheard-of"}), OnlyLocal: w.IntN(6) == 0,
		Time: time.Date(2026, 3, 1+w.IntN(7), w.IntN(24), w.IntN(60), 0, 0, time.UTC),
	}
}

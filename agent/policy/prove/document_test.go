package prove

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/prove/sat"
)

// A field that decides a place and is overlooked would make a proof a lie.
func TestFieldsThatAreNotKnownAreRefused(t *testing.T) {
	for _, canonical := range []string{
		`{"schema":1,"name":"a","geofence":true}`,
		`{"schema":1,"name":"a","rules":[{"name":"r","places":["local"],"unless":{}}]}`,
		`{"schema":1,"name":"a","rules":[{"name":"r","places":["local"],"when":{"weather":"rain"}}]}`,
		`{"schema":1,"name":"a","classes":[{"name":"c","words":["x"]}]}`,
		`{"schema":1,"name":"a","classes":[{"name":"c","callers":[{"user":"x"}]}]}`,
		`{"schema":1,"name":"a","upstreams":[{"name":"u","api":"openai","base_url":"https://a","only_at":"night"}]}`,
	} {
		if _, err := decode([]byte(canonical)); err == nil || !strings.Contains(err.Error(), "unknown field") {
			t.Errorf("%s: got %v, want an unknown field", canonical, err)
		}
	}
}

// The published schema has the parser's fields (a test of agent/policy); here must be the same.
func TestEveryFieldOfTheLanguageIsKnown(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	type def struct {
		Properties map[string]any `json:"properties"`
	}
	var schema struct {
		def
		Defs map[string]def `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		want map[string]any
		have reflect.Type
	}{
		"document": {schema.Properties, reflect.TypeFor[document]()},
		"upstream": {schema.Defs["upstream"].Properties, reflect.TypeFor[upstream]()},
		"class":    {schema.Defs["class"].Properties, reflect.TypeFor[class]()},
		"caller":   {schema.Defs["caller"].Properties, reflect.TypeFor[caller]()},
		"rule":     {schema.Defs["rule"].Properties, reflect.TypeFor[rule]()},
		"when":     {schema.Defs["when"].Properties, reflect.TypeFor[when]()},
	} {
		var have []string
		for _, f := range reflect.VisibleFields(c.have) {
			if tag := f.Tag.Get("json"); tag != "" {
				have = append(have, tag)
			}
		}
		for field := range c.want {
			if !slices.Contains(have, field) {
				t.Errorf("%s has a field %q that the prover does not know: give it a meaning in encode.go, or list it as one that decides no place", name, field)
			}
		}
		if len(c.want) < 4 {
			t.Errorf("%s: got fields %v, want those of the language", name, c.want)
		}
	}
}

// Every text of up to six letters, against random patterns, has a case that matches the same ones.
func TestPartitionTellsApartWhatPatternsDo(t *testing.T) {
	words := []string{""}
	for i := 0; len(words[i]) < 6; i++ {
		words = append(words, words[i]+"a", words[i]+"b", words[i]+"c")
	}
	for seed := range uint64(60) {
		w := newWorld(seed)
		var globs []glob
		for range 1 + w.IntN(6) {
			g := w.word()
			if at := w.IntN(2 * (len(g) + 1)); at <= len(g) {
				g = g[:at] + "*" + g[at:]
			}
			if g != "" {
				globs = append(globs, glob(g))
			}
		}
		atoms, err := partition(globs, "b")
		if err != nil {
			t.Fatal(err)
		}
		p := parts{globs: globs}
		cases := map[string]bool{}
		for _, a := range atoms {
			if cases[p.key(a.example)] || a.example == "" {
				t.Fatalf("%q: two cases for one set, or an empty one: %+v", globs, atoms)
			}
			cases[p.key(a.example)] = true
		}
		for _, text := range words[1:] {
			if !cases[p.key(text)] {
				t.Fatalf("%q: no case has %q: %+v", globs, text, atoms)
			}
		}
	}
}

func TestWhatIsTooHardIsNotProven(t *testing.T) {
	s, err := newSpace(vocabulary{})
	if err != nil {
		t.Fatal(err)
	}
	const holes = 9 // ten pigeons do not fit, which takes such a solver very long to see
	in := make([][]sat.Lit, holes+1)
	for i := range in {
		for range holes {
			in[i] = append(in[i], s.solver.Var())
		}
		s.solver.Add(in[i]...)
		for j := range i {
			for h := range holes {
				s.solver.Add(in[i][h].Not(), in[j][h].Not())
			}
		}
	}
	s.solver.Budget = 50
	if r, err := s.example(s.yes); err != ErrTooHard || r != nil {
		t.Errorf("got %v %v, want %v", r, err, ErrTooHard)
	}
}

func TestCurlIsOneLineOfShell(t *testing.T) {
	r := Request{Ask: policy.Ask{Model: `it's "a"`, API: "completions", Labels: []string{"phi", "l"}, OnlyLocal: true}, Text: "hello", high: 1000}
	want := `curl --unix-socket '/run/a b' http://bothy/v1/completions -H 'content-type: application/json' -H 'x-bothy-class: phi, l' -H 'x-bothy-place: local'` +
		` --data-binary '{"model":"it'\''s \"a\"","prompt":"hello"}'`
	if got := r.Curl("/run/a b"); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	for name, change := range map[string]func(*Request){
		"a scan that does not finish": func(r *Request) { r.Ask.Incomplete = true },
		"a body that is too small":    func(r *Request) { r.high = 9 },
		"opaque text":                 func(r *Request) { r.Ask.Opaque = true },
		"kinds without a sample":      func(r *Request) { r.Ask.Kinds = append(r.Ask.Kinds, "dna") },
	} {
		other := r
		change(&other)
		if got := other.Curl("/run/api.sock"); got != "" {
			t.Errorf("%s: got %s, want none", name, got)
		}
	}
	r.Ask.API, r.Ask.Opaque = "chat", true
	if got := r.Curl("/run/api.sock"); !strings.Contains(got, `"image_url":{"url":"https://example.com/a.png"}`) {
		t.Errorf("got %s, want an image", got)
	}
}

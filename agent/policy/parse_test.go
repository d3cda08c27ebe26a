package policy

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const head = "schema: 1\nname: site\n"

const full = head + `upstreams:
  - name: burst
    api: openai
    base_url: https://api.example.com/v1/
    credential: burst-key
    models: {mote: mote-large, "7b": big}
    timeout: 90s
  - {name: near, api: openai, base_url: "http://127.0.0.1:8443/v1"}
classes:
  - name: payment
    detectors: [card, iban]
    labels: pci
  - name: clinic
    callers:
      - unit: ["clinic-*.service", ward.service]
        uid: 0x3e8
rules:
  - name: payments stay
    when: {class: [payment, clinic]}
    places: local
  - name: night
    when: {hours: ["22:00-06:00"], days: [sat, sun], model: "mo*", api: chat, min_bytes: 10, max_bytes: 1000}
    places: [near, local]
    priority: batch
    max_tokens: 512
  - name: no embeddings
    when: {api: embeddings}
    deny: |
      this box does
      not embed
  - name: pictures
    when: {class: opaque}
    places: [local, near]
  - name: rest
    places: [local, burst]
spill: {max_wait: 1500ms, max_queue: 4}
probes:
  - name: a card stays
    ask: {model: mote, text: "4111 1111 1111 1111"}
    want: {places: [local], rule: payments stay, classes: [payment]}
  - name: the rest may leave
    ask: {model: mote, text: hello, caller: {uid: 5, unit: web.service, exe: /bin/web}, time: "2026-03-02 12:00"}
    want: {places: [local, burst], denied: false, priority: interactive, max_tokens: 0}
`

func mustParse(t testing.TB, src string) *Policy {
	t.Helper()
	p, err := Parse([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseReadsEveryField(t *testing.T) {
	p := mustParse(t, full)
	if err := p.Probe(); err != nil {
		t.Error(err)
	}
	wantUpstreams := []Upstream{
		{Name: "burst", API: "openai", BaseURL: "https://api.example.com/v1", Credential: "burst-key", Models: map[string]string{"mote": "mote-large", "7b": "big"}, Timeout: 90 * time.Second},
		{Name: "near", API: "openai", BaseURL: "http://127.0.0.1:8443/v1", Timeout: DefaultTimeout},
	}
	if diff := cmp.Diff(wantUpstreams, p.Upstreams()); diff != "" {
		t.Errorf("upstreams (-want +got):\n%s", diff)
	}
	if got, want := p.Spill(), (Spill{MaxWait: 1500 * time.Millisecond, MaxQueue: 4}); got != want {
		t.Errorf("spill: got %v, want %v", got, want)
	}
	if p.Name() != "site" || p.KillSwitch() {
		t.Errorf("got name %q, kill switch %t", p.Name(), p.KillSwitch())
	}
	saturday := time.Date(2026, 3, 7, 23, 0, 0, 0, time.UTC)
	got := p.Decide(Caller{UID: 7}, Ask{Model: "mote", API: "chat", Bytes: 20, Time: saturday})
	want := Verdict{Places: []Place{"near", Local}, Priority: Batch, MaxTokens: 512, Rule: "night"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("at night (-want +got):\n%s", diff)
	}
	got = p.Decide(Caller{UID: 1000, Unit: "clinic-a.service"}, Ask{Model: "mote", Time: saturday})
	want = Verdict{Places: []Place{Local}, Priority: Interactive, Rule: "payments stay", Classes: []string{"clinic"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("from the clinic (-want +got):\n%s", diff)
	}
	got = p.Decide(Caller{}, Ask{Model: "mote", API: "embeddings"})
	if got.Deny != "this box does\nnot embed\n" || len(got.Places) != 0 {
		t.Errorf("embeddings: got %+v", got)
	}
}

func TestDocumentIsCanonicalAndParsesAgain(t *testing.T) {
	p := mustParse(t, full)
	again := mustParse(t, string(p.Document()))
	if diff := cmp.Diff(string(p.Document()), string(again.Document())); diff != "" {
		t.Errorf("second document (-first +second):\n%s", diff)
	}
	if err := again.Probe(); err != nil {
		t.Error(err)
	}
	if def := mustParse(t, string(Default().Document())); def.Name() != "default" {
		t.Errorf("the default parses as %q", def.Name())
	}
}

func TestParseRefuses(t *testing.T) {
	const one = "upstreams: [{name: burst, api: openai, base_url: 'https://a.example/v1'}]\n"
	for _, c := range []struct{ name, src, want string }{
		{"empty file", "", `1:1: the policy is empty; one that keeps every request on this box has just the lines "schema: 1" and "name: local-only"`},
		{"only a comment", "# nothing\n", `1:1: the policy is empty; one that keeps every request on this box has just the lines "schema: 1" and "name: local-only"`},
		{"not a mapping", "- a\n", `1:1: a policy is a mapping of fields, not a list`},
		{"no YAML", "schema: [1,\n", `1:9: not valid YAML: sequence end token ']' not found`},
		{"missing fields", "rules: [{name: a, places: local}]\n", `1:1: a policy needs the field "schema"; 1:1: a policy needs the field "name"`},
		{"newer schema", "schema: 2\nname: x\n", `1:9: schema is a whole number from 1 to 1`},
		{"unknown field", head + "rule: []\n", `3:1: unknown field "rule" of a policy; did you mean "rules"?`},
		{"unknown field of a rule", head + "rules:\n  - name: a\n    place: local\n", `5:5: unknown field "place" of a rule; did you mean "places"?`},
		{"no near field", head + "x1y2z3w4: 1\n", `3:1: unknown field "x1y2z3w4" of a policy; known: schema, name, kill_switch, upstreams, classes, rules, spill, updates, probes`},
		{"a field twice", "schema: 1\nname: a\nname: b\n", `3:1: not valid YAML: mapping key "name" already defined at [2:1]`},
		{"a field without value", head + "rules:\n", `3:1: field "rules" of a policy has no value`},
		{"an anchor", head + "rules: &a []\n", `3:8: rules is a list, not an anchor, alias, tag or merge key (policies use none)`},
		{"two documents", head + "---\nschema: 1\n", `4:1: a second document begins here; a policy is one document`},
		{"later field", head + one + "rules: [{name: a, places: [burst], mask: [card]}]\n", `4:36: field "mask" of a rule is not supported by this version: nothing would be masked; keep the class on this box with "places: local"`},
		{"budget", head + "upstreams: [{name: a, api: openai, base_url: 'https://a/', budget: 3}]\n", `3:60: field "budget" of an upstream is not supported by this version: nothing would stop at it; use max_tokens on the rules, or deny`},
		{"hysteresis", head + "spill: {hysteresis: 1s}\n", `3:9: field "hysteresis" of spill is not supported by this version: the thresholds apply to each request as they are`},
		{"missing upstream", head + one + "rules:\n  - name: a\n    places: [local, brust]\n", `6:21: rule "a" names the upstream "brust", which is not defined; did you mean "burst"?`},
		{"no upstreams at all", head + "rules:\n  - {name: a, places: cloud}\n", `4:23: rule "a" names the upstream "cloud", which is not defined; none are defined`},
		{"missing class", head + "classes: [{name: phi}]\nrules:\n  - {name: a, when: {class: pih}, places: local}\n", `5:29: rule "a" names the class "pih", which is not defined; did you mean "phi"?`},
		{"unknown detector", head + "classes: [{name: a, detectors: [shoe-size]}]\n", `3:33: unknown detector "shoe-size"; known: api-token, birth-date, card, email, iban, ip, mac, medical-record, national-id, phone, private-key, wallet`},
		{"duplicate rule", head + "rules:\n  - {name: a, when: {uid: 1}, places: local}\n  - {name: a, places: local}\n", `5:5: rule "a" is already defined at line 4`},
		{"duplicate upstream", head + "upstreams:\n  - {name: a, api: openai, base_url: 'https://a/'}\n  - {name: a, api: openai, base_url: 'https://a/'}\n", `5:5: upstream "a" is already defined at line 4`},
		{"duplicate class", head + "classes:\n  - name: a\n  - name: a\n", `5:5: class "a" is already defined at line 4`},
		{"duplicate probe", head + "probes:\n  - {name: a, ask: {model: m}, want: {denied: true}}\n  - {name: a, ask: {model: m}, want: {denied: true}}\n", `5:5: probe "a" is already defined at line 4`},
		{"unreachable rule", head + "rules:\n  - {name: all, places: local}\n  - {name: late, when: {uid: 5}, places: local}\n", `5:5: rule 2 ("late") can never fire: rule 1 ("all") takes every request it would match`},
		{"unreachable in pieces", head + "rules:\n  - {name: a, when: {uid: [5, 6]}, places: local}\n  - {name: b, when: {uid: 7}, places: local}\n  - {name: c, when: {uid: [5, 7], model: x}, places: local}\n", `6:5: rule 3 ("c") can never fire: rule 1 ("a") and rule 2 ("b") together take every request it would match`},
		{"a rule without effect", head + "rules: [{name: a}]\n", `3:9: rule 1 ("a") has neither places nor deny`},
		{"deny and places", head + "rules: [{name: a, places: local, deny: no}]\n", `3:9: rule 1 ("a") denies, so places, priority and max_tokens mean nothing; take them or deny out`},
		{"a place twice", head + "rules: [{name: a, places: [local, local]}]\n", `3:9: rule 1 ("a") names the place "local" twice`},
		{"sizes crossed", head + "rules: [{name: a, when: {min_bytes: 5, max_bytes: 4}, places: local}]\n", `3:9: rule 1 ("a") can never fire: min_bytes 5 is above max_bytes 4`},
		{"reserved names", head + "upstreams: [{name: local, api: openai, base_url: 'https://a/'}]\nclasses: [{name: opaque}]\nrules: [{name: default, places: local}]\n",
			`3:20: an upstream cannot be named "local": that is this box; 4:18: the class "opaque" is built in and cannot be defined; 5:16: a rule cannot be named "default": that is the answer when no rule matches`},
		{"http to a name", head + "upstreams: [{name: a, api: openai, base_url: 'http://localhost:1/v1'}]\n", `3:46: base_url "http://localhost:1/v1" is not encrypted; http is for loopback addresses only`},
		{"plain http", head + "upstreams: [{name: a, api: openai, base_url: 'http://a.example/v1'}]\n", `3:46: base_url "http://a.example/v1" is not encrypted; http is for loopback addresses only`},
		{"key in the URL", head + "upstreams: [{name: a, api: openai, base_url: 'https://u:p@a.example/v1'}]\n", `3:46: base_url has a user, query or fragment; it is scheme, host and path only`},
		{"no URL", head + "upstreams: [{name: a, api: openai, base_url: api}]\n", `3:46: base_url "api" is not a URL such as "https://api.example.com/v1"`},
		{"other api", head + "upstreams: [{name: a, api: anthropic, base_url: 'https://a/'}]\n", `3:28: unknown api "anthropic"; known: openai`},
		{"duration without unit", head + "spill: {max_wait: 5}\n", `3:19: max_wait is a duration with its unit, up to 24h, for example "500ms", "10s" or "2m"`},
		{"hours", head + "rules: [{name: a, when: {hours: 8-18}, places: local}]\n", `3:33: hours "8-18" is not a window such as "08:00-18:00" or "22:00-06:00"`},
		{"two stars", head + "rules: [{name: a, when: {unit: '*a*'}, places: local}]\n", `3:32: unit "*a*" has more than one "*"`},
		{"a number for a text", head + "rules: [{name: 5, places: local}]\n", `3:16: name is text, not a number; put it in quotes`},
		{"an empty list", head + "rules: [{name: a, when: {uid: []}, places: local}]\n", `3:31: uid lists nothing; leave the field out`},
		{"an empty condition", head + "rules: [{name: a, when: {}, places: local}]\n", `3:25: when has no condition; leave it out for a rule that takes everything`},
		{"a negative uid", head + "rules: [{name: a, when: {uid: -1}, places: local}]\n", `3:31: uid is a whole number from 0 to 4294967294`},
		{"a probe of a missing place", head + "probes: [{name: p, ask: {model: m}, want: {places: [mars]}}]\n", `3:53: a probe names the upstream "mars", which is not defined; none are defined`},
		{"header injection", head + "rules: [{name: \"a\\r\\nx: y\", places: local}]\n", "3:16: name \"a\\r\\nx: y\" may have only printable ASCII without '+' and '\"'"},
		{"deep brackets", head + "rules: " + strings.Repeat("[", 100_000), "3:24: nested too deeply"},
		{"deep indents", head + strings.Repeat("- ", 100_000), "3:65: nested too deeply"},
		{"too large", head + "# " + strings.Repeat("x", 300_000), "1:1: the policy has 300023 bytes; the limit is 262144"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.src))
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want an *Error", err)
			}
			if got, want := err.Error(), "cannot use policy: "+c.want; got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestReachableRulesAreNotRefused(t *testing.T) {
	for name, rules := range map[string]string{
		"narrower first":          "[{name: a, when: {uid: 1}, places: local}, {name: b, places: local}]",
		"other model":             "[{name: a, when: {uid: 1, model: x}, places: local}, {name: b, when: {uid: 1}, places: local}]",
		"glob is not the literal": "[{name: a, when: {unit: 'a*b'}, places: local}, {name: b, when: {unit: '*b'}, places: local}]",
		"any unit is not none":    "[{name: a, when: {unit: '*'}, places: local}, {name: b, when: {uid: 1}, places: local}]",
		"sizes overlap":           "[{name: a, when: {max_bytes: 10}, places: local}, {name: b, when: {max_bytes: 11}, places: local}]",
		"hours overlap":           "[{name: a, when: {hours: '08:00-18:00'}, places: local}, {name: b, when: {hours: '08:00-18:01'}, places: local}]",
		"classes are two":         "[{name: a, when: {class: x}, places: local}, {name: b, when: {class: [x, opaque]}, places: local}]",
	} {
		if _, err := Parse([]byte(head + "classes: [{name: x, detectors: card}]\nrules: " + rules + "\n")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFailingProbeNamesWhatDiffers(t *testing.T) {
	src := head + `upstreams: [{name: burst, api: openai, base_url: "https://a.example/v1"}]
rules:
  - {name: all, places: [local, burst]}
probes:
  - {name: fine, ask: {model: mote}, want: {places: [local, burst]}}
  - name: cards stay
    ask: {model: mote, text: "4111 1111 1111 1111"}
    want: {places: local}
  - {name: denied, ask: {model: mote}, want: {denied: true}}
`
	err := mustParse(t, src).Probe()
	want := `policy "site" refused: probe "cards stay" (line 8) failed: places are [local burst], want [local]; decided by rule "all"
policy "site" refused: probe "denied" (line 11) failed: denied is false, want true; decided by rule "all"`
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	results := mustParse(t, src).Probes()
	if !results[0].Passed || results[1].Passed || results[1].Problem != "places are [local burst], want [local]" {
		t.Errorf("got %+v", results)
	}
}

// The example in the manual is a policy that works.
func TestManualsExampleParses(t *testing.T) {
	manual, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(manual), "```yaml\n")
	example, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("docs/policy.md has no yaml example")
	}
	p := mustParse(t, example)
	if err := p.Probe(); err != nil {
		t.Error(err)
	}
	for _, f := range []string{"schema", "name", "kill_switch", "upstreams", "classes", "rules", "spill", "probes"} {
		if !strings.Contains(string(manual), "`"+f+"`") {
			t.Errorf("docs/policy.md does not describe the field %q", f)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(head))
	f.Add([]byte("a: &x [*x]\n<<: *x\n? b\n: !!str c\n"))
	f.Add([]byte("schema: 1\nname: |\n  x\n..."))
	f.Add([]byte(mustParse(f, full).Document()))
	f.Fuzz(func(t *testing.T, src []byte) {
		p, err := Parse(src)
		if err != nil {
			return
		}
		again, err := Parse(p.Document())
		if err != nil {
			t.Fatalf("%q parses, but not its canonical form %s: %v", src, p.Document(), err)
		}
		if string(again.Document()) != string(p.Document()) {
			t.Fatalf("canonical form of %q changes from %s to %s", src, p.Document(), again.Document())
		}
		p.Decide(Caller{}, Ask{Incomplete: true})
	})
}

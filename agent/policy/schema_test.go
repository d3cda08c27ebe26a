package policy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

const schemaPath = "../../docs/policy.schema.json"

// object is a JSON object as the schema's file has it.
type object = map[string]any

// readSchema gives the published schema, compiled and as it is written.
func readSchema(t *testing.T) (*jsonschema.Schema, object) {
	t.Helper()
	raw, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s, doc.(object)
}

// validate is what an editor says to a document; YAML, which JSON is too.
func validate(t *testing.T, s *jsonschema.Schema, src string) error {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(src))
	if err != nil {
		t.Fatalf("%v in %s", err, src)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

// section is one kind of mapping: where it stands in a document, and in the schema.
type section struct {
	def      string // of $defs; "" is the document itself
	document string // with %s for the mapping
}

func sections() []section {
	return []section{
		{"", "%s"},
		{"upstream", head + "upstreams: [%s]\n"},
		{"class", head + "classes: [%s]\n"},
		{"caller", head + "classes: [{name: c, callers: [%s]}]\n"},
		{"rule", head + "rules: [%s]\n"},
		{"when", head + "rules: [{name: a, places: local, when: %s}]\n"},
		{"spill", head + "spill: %s\n"},
		{"updates", head + "updates: %s\n"},
		{"signer", head + "updates: {require_signature: [%s]}\n"},
		{"probe", head + "probes: [%s]\n"},
		{"ask", head + "probes: [{name: p, want: {denied: false}, ask: %s}]\n"},
		{"asking", head + "probes: [{name: p, want: {denied: false}, ask: {model: m, caller: %s}}]\n"},
		{"want", head + "probes: [{name: p, ask: {model: m}, want: %s}]\n"},
	}
}

// fieldTable asks the parser which fields a section has and which it needs.
func (s section) fieldTable(t *testing.T) (known, required []string) {
	t.Helper()
	_, err := Parse([]byte(fmt.Sprintf(s.document, "{zzzzzzzzzzzzzzzzzzzz: 1}")))
	var refused *Error
	if !errors.As(err, &refused) {
		t.Fatalf("%s: got %v", s.def, err)
	}
	needs := regexp.MustCompile(`^an? .* needs the field "(.*)"$|^[a-z]+ needs the field "(.*)"$`)
	for _, p := range refused.Problems {
		if _, list, ok := strings.Cut(p.Message, "; known: "); ok {
			known = strings.Split(list, ", ")
		}
		if m := needs.FindStringSubmatch(p.Message); m != nil {
			required = append(required, m[1]+m[2])
		}
	}
	slices.Sort(known)
	slices.Sort(required)
	return known, required
}

func (s section) schema(t *testing.T, whole object) object {
	t.Helper()
	if s.def == "" {
		return whole
	}
	def, ok := whole["$defs"].(object)[s.def].(object)
	if !ok {
		t.Fatalf("the schema does not define %q", s.def)
	}
	return def
}

func TestSchemaHasTheFieldsOfTheParser(t *testing.T) {
	_, whole := readSchema(t)
	total := 0
	for _, s := range sections() {
		known, required := s.fieldTable(t)
		def := s.schema(t, whole)
		properties := def["properties"].(object)
		if diff := cmp.Diff(known, slices.Sorted(maps.Keys(properties))); diff != "" {
			t.Errorf("%q: fields (-parser +schema):\n%s", s.def, diff)
		}
		var wanted []string
		for _, r := range list(def["required"]) {
			wanted = append(wanted, r.(string))
		}
		slices.Sort(wanted)
		if diff := cmp.Diff(required, wanted); diff != "" {
			t.Errorf("%q: required (-parser +schema):\n%s", s.def, diff)
		}
		if def["additionalProperties"] != false {
			t.Errorf("%q lets unknown fields pass", s.def)
		}
		for name, p := range properties {
			total++
			if text, _ := p.(object)["description"].(string); len(text) < 10 || !strings.HasSuffix(text, ".") {
				t.Errorf("%q does not describe %q in a sentence: %q", s.def, name, text)
			}
		}
	}
	if total < 50 {
		t.Errorf("looked at %d fields, want all", total)
	}
}

func list(v any) []any { l, _ := v.([]any); return l }

func TestSchemaHasTheWordsOfTheParser(t *testing.T) {
	_, whole := readSchema(t)
	var kinds []string
	for _, k := range detect.All() {
		kinds = append(kinds, string(k))
	}
	for def, want := range map[string][]string{
		"detector": kinds, "api": APIs(), "priority": {Interactive, Batch}, "day": dayNames(),
	} {
		var got []string
		for _, v := range list(whole["$defs"].(object)[def].(object)["enum"]) {
			got = append(got, v.(string))
		}
		slices.Sort(got)
		if diff := cmp.Diff(slices.Sorted(slices.Values(want)), got); diff != "" {
			t.Errorf("%s (-parser +schema):\n%s", def, diff)
		}
	}
}

// What the parser takes, an editor must not underline.
func TestSchemaAcceptsWhatTheParserAccepts(t *testing.T) {
	s, _ := readSchema(t)
	manual, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(manual), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	documents := []string{example, full, head, string(mustParse(t, full).Document()), string(Default().Document())}
	for seed := range uint64(300) {
		p := newWorld(seed).policy()
		if _, err := Parse(p.Document()); err == nil {
			documents = append(documents, string(p.Document()))
		}
	}
	if len(documents) < 100 {
		t.Errorf("only %d documents", len(documents))
	}
	for _, src := range documents {
		if err := validate(t, s, src); err != nil {
			t.Errorf("the schema refuses %s: %v", src, err)
		}
	}
}

// triedValues are what a field may be given by mistake, and what some field wants.
func triedValues() []string {
	return []string{
		"true", "5", "0", "-1", "1.5", "text", "''", "[]", "{}", "[5]", "[a, b]", "[a, [b]]", "{a: b}", "[{}]", "local", "[local]", "'*'", "'a*b*'",
		"chat", "[chat, embeddings]", "batch", "card", "[iban, card]", "opaque", "sat", "[sat, sun]", "'08:00-18:00'", "'8-18'", "['22:00-24:00']", "'24:00-25:00'",
		"2s", "1m30s", "5", "9999999999", "4294967294", "4294967295", "2147483648", "1000001", "'2026-03-02 09:30'", "'2026-03-02'", "openai", "https://a.example/v1",
		"ftp://a", "'with space'", "' edge'", "'a+b'", "default", strings.Repeat("x", 65), "{unit: a}", "{uid: 5}", "{model: m}", "{denied: true}", "{}",
	}
}

// Every field is given every value, beside what the section needs. Where the
// parser accepts it, so must the schema; where it complains of a value's type,
// the schema must not accept it.
func TestSchemaAgreesWithTheParserOnEveryValueOfEveryField(t *testing.T) {
	s, _ := readSchema(t)
	needs := map[string]object{
		"": {"schema": "1", "name": "x"}, "upstream": {"name": "u", "api": "openai", "base_url": "'https://a.example'"}, "class": {"name": "c"},
		"rule": {"name": "r", "places": "local"}, "signer": {"name": "s"}, "probe": {"name": "p", "ask": "{model: m}", "want": "{denied: false}"}, "ask": {"model": "m"},
	}
	typed := regexp.MustCompile(` is (text|a list|a mapping|true or false|a whole number|a duration|not a window|empty)| lists nothing|unknown (api|priority|detector|day) `)
	accepted, refused := 0, 0
	for _, sec := range sections() {
		known, _ := sec.fieldTable(t)
		for _, field := range known {
			for _, value := range triedValues() {
				fields := maps.Clone(needs[sec.def])
				if fields == nil {
					fields = object{}
				}
				fields[field] = value
				if field == "deny" {
					delete(fields, "places")
				}
				var parts []string
				for _, k := range slices.Sorted(maps.Keys(fields)) {
					parts = append(parts, fmt.Sprintf("%s: %s", k, fields[k]))
				}
				src := fmt.Sprintf(sec.document, "{"+strings.Join(parts, ", ")+"}")
				_, err := Parse([]byte(src))
				editor := validate(t, s, src)
				switch {
				case err == nil && editor != nil:
					t.Errorf("the parser takes %s, the schema does not: %v", src, editor)
				case err == nil:
					accepted++
				case typed.MatchString(err.Error()) && editor == nil:
					t.Errorf("the schema takes %s: %v", src, err)
				default:
					refused++
				}
			}
		}
	}
	if accepted < 150 || refused < 2000 {
		t.Errorf("%d accepted, %d refused: the values say too little", accepted, refused)
	}
}

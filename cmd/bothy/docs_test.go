package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
)

func readDoc(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts.Root(), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fieldsOf gives, for every struct that v's JSON or YAML is made of, the names of its fields.
func fieldsOf(tag string, types map[string][]string, t reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		fieldsOf(tag, types, t.Elem())
		return
	case reflect.Struct:
	default:
		return
	}
	if _, seen := types[t.String()]; seen || t.PkgPath() == "time" {
		return
	}
	types[t.String()] = []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get(tag), ",")
		if name != "" && name != "-" {
			types[t.String()] = append(types[t.String()], name)
		}
		fieldsOf(tag, types, f.Type)
	}
}

var (
	typeHeading = regexp.MustCompile("(?m)^### .*`([a-z]+\\.[A-Za-z]+)`$")
	tableRow    = regexp.MustCompile("(?m)^\\| (`[^|]*) \\|")
	quoted      = regexp.MustCompile("`([^`]+)`")
)

// documented gives the fields in the table under every heading that names a type.
func documented(text string) map[string][]string {
	types := map[string][]string{}
	at := typeHeading.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		fields := []string{}
		for _, row := range tableRow.FindAllStringSubmatch(text[m[1]:end], -1) {
			for _, q := range quoted.FindAllStringSubmatch(row[1], -1) {
				fields = append(fields, q[1])
			}
		}
		types[text[m[2]:m[3]]] = fields
	}
	return types
}

func TestEveryJSONFieldIsDocumented(t *testing.T) {
	types := map[string][]string{}
	for _, v := range []any{
		agent.Status{}, runtime.AliasStatus{}, runtime.Line{}, agent.PolicyShown{}, checked{}, agent.ExplainRequest{}, agent.ExplainAnswer{},
		updater.Change{}, agent.UpdateStatus{}, agent.Examined{}, versionInfo{}, release.Document{}, release.Assignment{},
		agent.Problem{}, agent.ImportRequest{}, agent.ImportAnswer{}, agent.PinRequest{}, updater.Artifact{}, agent.Explained{}, fleet.MirrorResult{},
		proof{}, differences{}, probed{}, verified{}, audit.Record{}, fleet.KeyInfo{}, fleet.OrderRecord{}, requestShown{},
		fleetShown{}, fleet.Enrolment{}, fleet.RolledBack{},
	} {
		fieldsOf("json", types, reflect.TypeOf(v))
	}
	doc := documented(readDoc(t, "docs/json.md"))
	for name, fields := range types {
		told, ok := doc[name]
		if !ok {
			t.Errorf("docs/json.md has no heading for %s, which is part of the JSON", name)
			continue
		}
		for _, f := range fields {
			if !slices.Contains(told, f) {
				t.Errorf("docs/json.md does not describe %q of %s", f, name)
			}
		}
		for _, f := range told {
			if !slices.Contains(fields, f) {
				t.Errorf("docs/json.md describes %q of %s, which does not exist", f, name)
			}
		}
	}
	for name := range doc {
		if types[name] == nil {
			t.Errorf("docs/json.md describes %s, which is no part of the JSON", name)
		}
	}
	if len(types) < 40 {
		t.Errorf("looked at %d types, want all", len(types))
	}
}

func TestEveryCommandWithJSONIsDocumented(t *testing.T) {
	doc := readDoc(t, "docs/json.md")
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		if path := cmd.CommandPath(); cmd.Flags().Lookup("json") != nil && !strings.Contains(doc, "`"+path+" ") {
			t.Errorf("docs/json.md does not say what %s --json prints", path)
		}
	})
}

func TestEveryRouteIsDocumented(t *testing.T) {
	route := regexp.MustCompile("\"((?:GET|POST|PUT|DELETE) /[^\"]*)\"")
	row := regexp.MustCompile("(?m)^\\| `([A-Z]+ /[^`]*)` \\| (reads|orders) \\|")
	doc := readDoc(t, "docs/json.md")
	var have, told []string
	for _, m := range route.FindAllStringSubmatch(readDoc(t, "agent/admin.go"), -1) {
		have = append(have, m[1])
	}
	for _, m := range row.FindAllStringSubmatch(doc, -1) {
		told = append(told, m[1])
		if get := strings.HasPrefix(m[1], "GET "); get && m[2] != "reads" {
			t.Errorf("docs/json.md says that %s orders", m[1])
		}
	}
	slices.Sort(have)
	slices.Sort(told)
	if !slices.Equal(have, told) || len(have) < 10 {
		t.Errorf("docs/json.md lists the routes %q, the admin socket has %q", told, have)
	}
}

func TestEveryConfigurationKeyIsDocumented(t *testing.T) {
	var keys []string
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := prefix + f.Tag.Get("yaml")
			switch f.Type.Kind() {
			case reflect.Struct:
				walk(name+".", f.Type)
			case reflect.Map:
				walk(name+".NAME.", f.Type.Elem())
			default:
				keys = append(keys, name)
			}
		}
	}
	walk("", reflect.TypeFor[agent.Config]())
	doc := readDoc(t, "docs/config.md")
	var told []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.A-Z]+)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(doc, -1) {
		told = append(told, row[1])
	}
	slices.Sort(keys)
	slices.Sort(told)
	if !slices.Equal(keys, told) {
		t.Errorf("docs/config.md describes\n%q, the configuration has\n%q", told, keys)
	}
}

// example is the first fenced YAML block of a text.
func example(t *testing.T, doc string) string {
	t.Helper()
	_, rest, ok := strings.Cut(doc, "```yaml\n")
	text, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("there is no YAML block")
	}
	return text
}

func TestExampleConfigurationIsValid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bothy.yaml")
	if err := os.WriteFile(path, []byte(example(t, readDoc(t, "docs/config.md"))), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := agent.LoadConfig(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if c.API.Group != "bothy-clients" || c.Upstreams["burst-key"].KeyFile == "" || c.Upstreams["lab-key"].Credential == "" || len(c.Engines.Command.Args) == 0 {
		t.Errorf("got %+v, want what the example says", c)
	}
}

func TestDocumentedDefaultsHold(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	t.Setenv("RUNTIME_DIRECTORY", "")
	c, err := agent.LoadConfig(filepath.Join(t.TempDir(), "none.yaml"), false)
	if err != nil {
		t.Fatal(err)
	}
	doc := readDoc(t, "docs/config.md")
	for key, value := range map[string]string{
		"api.max_body":           fmt.Sprintf("%dMiB", c.API.MaxBody>>20),
		"engines.command.health": c.Engines.Command.Health,
		"updates.watch":          time.Duration(c.Updates.Watch).String(),
		"broker.heartbeat":       time.Duration(c.Broker.Heartbeat).String(),
		"log.level":              c.Log.Level,
		"log.format":             c.Log.Format,
	} {
		if !strings.Contains(doc, "| `"+key+"` | `"+value+"` |") {
			t.Errorf("docs/config.md does not give %s as the default of %s", value, key)
		}
	}
}

func TestEveryFindingIsDocumented(t *testing.T) {
	src := readDoc(t, "agent/findings.go")
	var ids []string
	for _, m := range regexp.MustCompile(`\{"([a-z-]+)", Health`).FindAllStringSubmatch(src, -1) {
		ids = append(ids, m[1])
	}
	if strings.Contains(src, `"update-" + u.State`) {
		for _, s := range []updater.State{updater.Refused, updater.Undone, updater.Failed} {
			ids = append(ids, "update-"+string(s))
		}
	}
	doc := readDoc(t, "docs/operations.md")
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (?:warning|critical)").FindAllStringSubmatch(doc, -1) {
		told = append(told, m[1])
	}
	slices.Sort(ids)
	slices.Sort(told)
	if !slices.Equal(ids, told) || len(ids) < 10 {
		t.Errorf("docs/operations.md describes the findings\n%q, the agent has\n%q", told, ids)
	}
}

func TestEveryFindingOfAFleetIsDocumented(t *testing.T) {
	var ids, told []string
	for _, m := range regexp.MustCompile(`(?:add|alarm)\("([a-z-]+)", `).FindAllStringSubmatch(readDoc(t, "updater/fleet/inventory/board.go")+readDoc(t, "updater/fleet/inventory/inventory.go"), -1) {
		ids = append(ids, m[1])
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (?:warning|critical)").FindAllStringSubmatch(readDoc(t, "docs/fleet.md"), -1) {
		told = append(told, m[1])
	}
	slices.Sort(ids)
	slices.Sort(told)
	if ids = slices.Compact(ids); !slices.Equal(ids, told) || len(ids) < 8 {
		t.Errorf("docs/fleet.md describes the findings\n%q, the fleet has\n%q", told, ids)
	}
}

// TestReadmesCommandsExist keeps what people paste from rotting.
func TestReadmesCommandsExist(t *testing.T) {
	n := 0
	for _, path := range []string{"README.md", "docs/json.md", "docs/config.md", "docs/operations.md", "docs/policy.md", "docs/fleet.md"} {
		for _, m := range regexp.MustCompile("(?m)(?:^|`)bothy ([a-z][^`\n#|]*)").FindAllStringSubmatch(readDoc(t, path), -1) {
			words := strings.Fields(m[1])
			cmd, _, err := newRoot().Find(words)
			if err != nil || !cmd.HasParent() {
				t.Errorf("%s: there is no command `bothy %s`", path, m[1])
				continue
			}
			n++
			for _, w := range words {
				if name, ok := strings.CutPrefix(strings.Trim(w, "[]"), "--"); ok && cmd.Flag(name) == nil && cmd.InheritedFlags().Lookup(name) == nil && name != "help" {
					t.Errorf("%s: `bothy %s` has no flag --%s", path, m[1], name)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("looked at %d commands, want more", n)
	}
}

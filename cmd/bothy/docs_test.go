package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
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
		agent.Problem{}, agent.ImportRequest{}, agent.ImportAnswer{},
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

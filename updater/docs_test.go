package updater

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the generated part of docs/changes.md")

const (
	changesPage  = "../docs/changes.md"
	generatedTop = "<!-- made from the tables of the code: go test ./updater -run Page -update -->\n"
	generatedEnd = "<!-- end of what is made -->\n"
)

// TestPageShowsTheTablesOfTheCode holds docs/changes.md against the states, their
// sentences, the transitions and the orders, all as the code has them.
func TestPageShowsTheTablesOfTheCode(t *testing.T) {
	page, err := os.ReadFile(changesPage)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found1 := strings.Cut(string(page), generatedTop)
	shown, tail, found2 := strings.Cut(rest, generatedEnd)
	if !found1 || !found2 {
		t.Fatalf("%s lacks the lines %q and %q", changesPage, generatedTop, generatedEnd)
	}
	made := diagram() + stateList(t) + orderList()
	if *update {
		if err := os.WriteFile(changesPage, []byte(head+generatedTop+made+generatedEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(made, shown); diff != "" {
		t.Errorf("%s is out of date (-code +page); go test ./updater -run Page -update\n%s", changesPage, diff)
	}
}

// diagram draws the table of transitions. What every state that gives way has in
// common is drawn once, from the box around them.
func diagram() string {
	const around = "not_switched"
	var b strings.Builder
	b.WriteString("\n```mermaid\nstateDiagram-v2\n")
	arrow := func(from, to string) { fmt.Fprintf(&b, "    %s --> %s\n", from, to) }
	for _, to := range transitions()[""] {
		arrow("[*]", string(to))
	}
	fmt.Fprintf(&b, "    state \"nothing that serves is touched\" as %s {\n", around)
	common := slices.Clone(states())
	for _, from := range states() {
		if from.givesWay() {
			fmt.Fprintf(&b, "        %s\n", from)
			common = slices.DeleteFunc(common, func(to State) bool { return !to.Ended() || !allowed(from, to) })
		}
	}
	b.WriteString("    }\n")
	for _, to := range common {
		arrow(around, string(to))
	}
	for _, from := range states() {
		for _, to := range transitions()[from] {
			if !from.givesWay() || !slices.Contains(common, to) {
				arrow(string(from), string(to))
			}
		}
	}
	for _, s := range states() {
		if s.Ended() {
			arrow(string(s), "[*]")
		}
	}
	b.WriteString("```\n\n")
	return b.String()
}

// stateList is the sentence of every state, as the code says it.
func stateList(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "state.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	sentences := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 && v.Comment != nil {
			if lit, ok := v.Values[0].(*ast.BasicLit); ok {
				sentences[strings.Trim(lit.Value, `"`)] = strings.TrimSpace(v.Comment.Text())
			}
		}
		return true
	})
	var b strings.Builder
	b.WriteString("| state | what it is |\n|---|---|\n")
	for _, s := range states() {
		if sentences[string(s)] == "" {
			t.Errorf("state %s has no sentence in state.go", s)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", s, sentences[string(s)])
	}
	return b.String()
}

// orderList is the table that TestEveryOrderInEveryState holds the machine to.
func orderList() string {
	rows, cells := orderRows()
	var b strings.Builder
	fmt.Fprintf(&b, "\n| state | %s |\n|---%s|\n", strings.Join(orderNames(), " | "), strings.Repeat("|---", len(orderNames())))
	for i, row := range rows {
		if State(row).Ended() {
			row, cells[i][5] = row+" (ended)", "a change of its own"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", row, strings.Join(cells[i], " | "))
	}
	b.WriteString("\n")
	return b.String()
}

package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with a document. Line and Column count from 1.
type Problem struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
}

func (p Problem) String() string { return fmt.Sprintf("%d:%d: %s", p.Line, p.Column, p.Message) }

// Error is what Parse returns for a document it refuses: every problem it found, in the order of the source.
type Error struct {
	Problems []Problem
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return "cannot use policy: " + strings.Join(lines, "; ")
}

// maxProblems bounds the list: what comes after a page of problems helps nobody.
const maxProblems = 20

// problems collects what is wrong while a document is read and checked.
type problems struct {
	found []Problem
}

func (p *problems) add(at position, format string, args ...any) {
	if len(p.found) < maxProblems {
		p.found = append(p.found, Problem{Line: max(at.line, 1), Column: max(at.column, 1), Message: fmt.Sprintf(format, args...)})
	}
}

func (p *problems) err() error {
	if len(p.found) == 0 {
		return nil
	}
	slices.SortStableFunc(p.found, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return &Error{Problems: p.found}
}

// hint is `; did you mean "x"?` when a known word is near, and the list of known words otherwise.
func hint(word string, known []string) string {
	best, distance := "", len(word)/3+2
	for _, k := range known {
		if d := editDistance(word, k); d < distance {
			best, distance = k, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("; did you mean %q?", best)
	case len(known) == 0:
		return "; none are defined"
	default:
		return "; known: " + strings.Join(known, ", ")
	}
}

// editDistance counts the insertions, deletions and substitutions between two
// words, in bytes; long words are cut, they are no misspelling of a short one.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

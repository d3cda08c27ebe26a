package agent

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/content"
)

// maxSpans bounds what is told of one file; a file of one source is one span.
const maxSpans = 500

// Explained tells where the artifacts of a change came from.
type Explained struct {
	Change uint64          `json:"change"`
	Files  []ExplainedFile `json:"files"`
}

// ExplainedFile is one artifact. It may have come with an earlier change that wanted it too.
type ExplainedFile struct {
	Release  string           `json:"release"`
	Path     string           `json:"path"`
	SHA256   string           `json:"sha256"`
	Size     int64            `json:"size"`                // bytes
	State    string           `json:"state"`               // "here", "partial", or "absent": not begun, or removed since
	BySource map[string]int64 `json:"by_source,omitempty"` // bytes
	Spans    []content.Span   `json:"spans,omitempty"`     // in order, at most 500
	More     int              `json:"more,omitempty"`      // spans left out
}

// explainChange answers where each block of a change's artifacts came from.
func (b *box) explainChange(r *http.Request) (any, error) {
	got, err := b.getChange(r)
	if err != nil {
		return nil, err
	}
	c := got.(updater.Change)
	names, err := b.artifactNames()
	if err != nil {
		return nil, err
	}
	out := Explained{Change: c.ID, Files: []ExplainedFile{}}
	seen := map[string]bool{}
	for _, d := range c.Want.Documents() {
		for _, f := range d.Files {
			if seen[f.SHA256] {
				continue
			}
			seen[f.SHA256] = true
			e := ExplainedFile{Release: d.ID(), Path: f.Path, SHA256: f.SHA256, Size: f.Size, State: "absent"}
			spans, err := b.artifacts.Origin(f.SHA256)
			if err != nil && !errors.Is(err, content.ErrNotFound) {
				return nil, err
			}
			if err == nil {
				e.tell(spans, names, b.artifacts.Has(f.SHA256))
			}
			out.Files = append(out.Files, e)
		}
	}
	return out, nil
}

func (e *ExplainedFile) tell(spans []content.Span, names map[string]string, whole bool) {
	e.State, e.BySource = "partial", map[string]int64{}
	if whole {
		e.State = "here"
	}
	for i, s := range spans {
		if s.Source == "" && whole {
			s.Source = "unknown" // it came before notes were kept, or the note was lost
		}
		kind, which, _ := strings.Cut(s.Source, " ")
		if kind != "" {
			e.BySource[kind] += s.Length
		}
		if name := names[which]; name != "" {
			s.Source = kind + " " + name + " (" + which + ")"
		}
		if i < maxSpans {
			e.Spans = append(e.Spans, s)
		} else {
			e.More++
		}
	}
}

// artifactNames tells by what name people know an artifact: the release and the
// path, by the short digest that origins use.
func (b *box) artifactNames() (map[string]string, error) {
	all, err := b.updater.List()
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, c := range all {
		for _, d := range c.Want.Documents() {
			for _, f := range d.Files {
				names[fmt.Sprintf("sha256:%.12s", f.SHA256)] = d.ID() + "/" + f.Path
			}
		}
	}
	return names, nil
}

package agent

import (
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime"
)

func TestAModelThatWasDownBeforeDoesNotUndoAChange(t *testing.T) {
	dir := t.TempDir()
	broken := runtime.Template{Path: "/bin/false", Args: []string{"{socket}"}, Health: "/health"}
	s := runtime.New(runtime.Config{Dir: parts.SocketDir(t), Adapters: map[string]runtime.Adapter{"broken": broken}})
	defer s.Close(t.Context())
	b := &box{supervisor: s, o: Options{Config: Config{State: dir}}}
	spec := runtime.Spec{Alias: "m", Release: "m@1", Engine: "broken", Files: []string{"/dev/null"}}
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for len(ailing(s.Status())) == 0 {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.healthy(t.Context()); err == nil {
		t.Error("a model went down during the watch: got healthy, want not")
	}
	before := ailing(s.Status())
	b.ailing.Store(&before)
	if err := b.healthy(t.Context()); err != nil {
		t.Errorf("it was down before the change: got %v, want healthy", err)
	}
	before["m"] = ailment{release: "m@0"}
	if err := b.healthy(t.Context()); err == nil {
		t.Error("the change replaced the release: got healthy, want not")
	}
}

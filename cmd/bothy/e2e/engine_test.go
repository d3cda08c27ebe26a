package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater"
)

// babbler is the name under which this test's own program is an engine that starts, answers, and talks nonsense.
const babbler = "babbler"

func babble(args []string) int {
	i := slices.Index(args, "--host")
	l, err := net.Listen("unix", args[i+1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			_, _ = io.WriteString(w, `{"choices":[{"text":"blah","message":{"role":"assistant","content":"blah blah"}}],"usage":{"completion_tokens":2}}`)
		}
	}))
	return 1
}

// addEngine takes a folder in as the next version of the engine release llama, signed.
func (w *world) addEngine(folder string, flags ...string) {
	w.t.Helper()
	w.must(append([]string{"fleet", "add-engine", w.fleet.Dir(), folder, "--name", "llama"}, flags...)...)
	w.must("fleet", "sign", w.fleet.Dir())
}

// addPlainPolicy takes in a policy that lets everything run here, as the next version of site.
func (w *world) addPlainPolicy(rule string) {
	w.t.Helper()
	path := w.path("plain.yaml")
	text := "schema: 1\nname: site\nrules:\n  - name: " + rule + "\n    places: [local]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.must("fleet", "add", w.fleet.Dir(), "--policy", "site", path)
	w.must("fleet", "sign", w.fleet.Dir())
}

// runsOn fails the test unless the whole generation is in place: the model, the engine release, the policy.
func (w *world) runsOn(model, engine, policy string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s runs on %s under %s", model, engine, policy), func() error {
		s, err := w.status()
		if err != nil {
			return err
		}
		if s.Policy.Release != policy || len(s.Models) != 1 || s.Models[0].Current == nil {
			return fmt.Errorf("policy %q, models %+v", s.Policy.Release, s.Models)
		}
		if c := s.Models[0].Current; c.Release != model || c.Program != engine || c.Engine != "llama-server" {
			return fmt.Errorf("%+v", *c)
		}
		return nil
	})
	w.answers(model)
}

// staysInView fails the test when the engine maps any program or library from outside of its release.
func (w *world) staysInView() {
	w.t.Helper()
	s, err := w.status()
	if err != nil || s.Models[0].Current == nil {
		w.t.Fatalf("no engine runs: %v", err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.Models[0].Current.PID))
	if err != nil {
		w.t.Fatal(err)
	}
	views, n := w.path("state/artifacts/views")+"/engine-llama-", 0
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.Contains(f[1], "x") || !strings.HasPrefix(f[5], "/") {
			continue
		}
		if n++; !strings.HasPrefix(f[5], views) {
			w.t.Errorf("the engine executes %s, which is not of its release", f[5])
		}
	}
	if n < 3 {
		w.t.Errorf("looked at %d mappings of programs, want the server and its libraries", n)
	}
}

func (w *world) folder(name string) string {
	w.t.Helper()
	dir := w.path(name)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// brokenEngine is a folder with an engine that ends at once.
func (w *world) brokenEngine() string {
	dir := w.folder("broken")
	if err := os.WriteFile(filepath.Join(dir, "bin", "server"), []byte("#!/bin/sh\necho no GPU of this kind\nexit 1\n"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// babblingEngine is a folder with an engine that talks nonsense.
func (w *world) babblingEngine() string {
	dir := w.folder("babbling")
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin", babbler), raw, 0o755)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// TestModelPolicyAndEngineAreOneGeneration walks a device without any llama-server of its own through engine releases:
// the real one, one that does not start, one that talks nonsense, and one in whose switch the agent is killed.
func TestModelPolicyAndEngineAreOneGeneration(t *testing.T) {
	t.Parallel()
	w := online(t, "engines: {threads: 1}")
	w.env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"} // without a llama-server
	real := w.folder("real")
	flags := parts.EngineFolder(t, real)
	w.addEngine(real, flags...)
	checks := w.path("checks.yaml")
	if err := os.WriteFile(checks, []byte("- prompt: "+question+"\n  want: "+fact+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.add("mote", "mote-256-q4_k_m.gguf", "--accept", checks)
	w.add("mote", "mote-chat-q8_0.gguf", "--accept", checks)
	w.addPlainPolicy("one")
	w.addPlainPolicy("two")
	w.startAgent()
	w.install("mote=mote@1", "--policy", "site@1", "--engine", "llama@1")
	w.runsOn("mote@1", "llama@1", "site@1")
	w.staysInView()
	if out := w.must("model", "list"); !strings.Contains(out, "llama-server (llama@1)") {
		t.Errorf("got %s, want the engine release named", out)
	}

	for i, bad := range []struct {
		name, code string
		folder     string
		flags      []string
	}{
		{"does not start", "switch", w.brokenEngine(), []string{"--entry", "bin/server", "--engine-version", "1"}},
		{"talks nonsense", "acceptance", w.babblingEngine(), []string{"--entry", "bin/" + babbler, "--engine-version", "1"}},
	} {
		w.addEngine(bad.folder, bad.flags...)
		last := w.lastChange()
		w.assign("mote=mote@2", "--policy", "site@2", "--engine", fmt.Sprintf("llama@%d", i+2))
		if c := w.changeAfter(last); c.State != updater.Undone || c.Code != bad.code {
			t.Fatalf("an engine that %s: change ended %s (%s): %s, want it undone (%s)", bad.name, c.State, c.Code, c.Error, bad.code)
		}
		w.runsOn("mote@1", "llama@1", "site@1")
	}

	if err := os.WriteFile(filepath.Join(real, "NOTICE"), []byte("built again\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.addEngine(real, flags...)
	w.killedInTheSwitch()
	w.runsOn("mote@2", "llama@4", "site@2")
	w.staysInView()
}

// killedInTheSwitch assigns a whole new generation, kills the agent while it switches to it, and starts it again.
func (w *world) killedInTheSwitch() {
	w.t.Helper()
	last := w.lastChange()
	w.assign("mote=mote@2", "--policy", "site@2", "--engine", "llama@4")
	for end := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		s, err := w.status()
		if err == nil && s.Update.Change > last && slices.Contains([]string{"switching", "watch", "committed"}, s.Update.State) {
			w.t.Logf("killed while %s", s.Update.State)
			break
		}
		if time.Now().After(end) {
			w.t.Fatalf("the change does not switch: %+v, %v", s.Update, err)
		}
	}
	w.agent.kill()
	w.noOrphans()
	w.startAgent()
	w.eventually("the change is through", func() error {
		s, err := w.status()
		if err == nil && (s.Update.State != string(updater.Committed) || s.Update.Change <= last) {
			err = fmt.Errorf("%+v", s.Update)
		}
		return err
	})
}

// TestASplitModelIsServedAfterARestart has the real llama-server open a model in three files by their names.
func TestASplitModelIsServedAfterARestart(t *testing.T) {
	t.Parallel()
	w := offline(t, "engines: {llama_server: "+parts.Llama(t, "llama-server")+", threads: 1}")
	files := parts.SplitModel(t, w.dir, "mote-chat-q8_0.gguf", 3)
	w.must("fleet", "add", w.fleet.Dir(), "--model", "mote", files[0], "--context", "512")
	w.must("fleet", "sign", w.fleet.Dir())
	w.assign("mote=mote@1")
	w.startAgent()
	if c := w.imported(); len(c.Want.Models["mote"].Files) != 3 {
		t.Fatalf("got %d files, want three", len(c.Want.Models["mote"].Files))
	}
	w.answers("mote@1")
	w.agent.kill()
	views, err := filepath.Glob(w.path("state/artifacts/views/model-mote-*/*.gguf"))
	if err != nil || len(views) != 3 {
		t.Fatalf("got %v, %v, want the model's names", views, err)
	}
	// Somebody took a file out of the view: it is made anew.
	if err := errors.Join(os.Chmod(filepath.Dir(views[0]), 0o755), os.Remove(views[1])); err != nil {
		t.Fatal(err)
	}
	w.startAgent()
	w.comesBackRunning("mote@1")
	if _, err := os.Stat(views[1]); errors.Is(err, fs.ErrNotExist) {
		t.Error("the view lacks a file still")
	}
}

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
)

// runningBox is a world without a broker that runs mote@1.
func runningBox(t *testing.T) *world {
	t.Helper()
	w := offline(t)
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.assign("mote=mote@1")
	w.imported()
	return w
}

// TestModelThatCannotRunIsUndone rolls out files that are signed, arrive whole, and are no model.
func TestModelThatCannotRunIsUndone(t *testing.T) {
	t.Parallel()
	w := runningBox(t)
	good, err := os.ReadFile(parts.Model(t, "mote-chat-q8_0.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	absurd := bytes.Clone(good)
	binary.LittleEndian.PutUint64(absurd[8:], 1<<60) // tensors, behind magic and version
	// The architecture's name is the first of its kind, and begins the names of its keys.
	strange := bytes.Replace(bytes.ReplaceAll(good, []byte("llama."), []byte("lemma.")), []byte("llama"), []byte("lemma"), 1)
	for _, c := range []struct {
		name, says string
		file       []byte
		published  bool // by the command line too, which looks before it takes a file in
	}{
		{"truncated", "truncated", good[:len(good)/2], false}, {"absurd count", "tensors", absurd, false},
		{"unknown architecture", "lemma", strange, true}, {"text", "", []byte("weights"), false},
	} {
		path := filepath.Join(w.dir, "bad.gguf")
		if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if add := w.run("fleet", "add", w.fleet.Dir(), "--model", "mote", path); (add.code == 0) != c.published || !c.published && !strings.Contains(add.err, "bothy: error: cannot read model") {
			t.Errorf("%s: fleet add: exit %d: %s", c.name, add.code, add.err)
		}
		// Who signs with other tools can sign anything: the device must not believe it.
		doc, err := w.fleet.Add(t.Context(), fleet.AddOptions{Kind: release.Model, Name: "mote", Files: []string{path}})
		if err != nil {
			t.Fatal(err)
		}
		w.must("fleet", "sign", w.fleet.Dir())
		w.assign("mote=" + doc.ID())
		got := read[updater.Change](w, "update", "import", w.fleet.Dir())
		if got.State != updater.Undone || got.Code != "switch" || !strings.Contains(got.Error, c.says) {
			t.Errorf("%s: change %d ended %s (%s): %s", c.name, got.ID, got.State, got.Code, got.Error)
		}
		t.Logf("%s: %s", c.name, got.Error)
		w.answers("mote@1")
		w.must("status") // a change that was undone is a warning, not critical
	}
}

// TestRequestsThatCannotBeServed are answered in OpenAI's format, and the next request is served.
func TestRequestsThatCannotBeServed(t *testing.T) {
	t.Parallel()
	w := runningBox(t)
	chat := func(content string) string {
		return `{"model":"mote","messages":[{"role":"user","content":"` + content + `"}]}`
	}
	for _, c := range []struct {
		name, path string
		body       io.Reader
		status     int
		code       string
	}{
		{"broken JSON", "/v1/chat/completions", strings.NewReader(`{"model":"mote","messages":[`), 400, ""},
		{"unknown model", "/v1/chat/completions", strings.NewReader(`{"model":"nobody","messages":[]}`), 404, "model_not_found"},
		{"200 MB", "/v1/chat/completions", io.MultiReader(strings.NewReader(`{"model":"mote","messages":[{"role":"user","content":"`), io.LimitReader(spaces{}, 200<<20)), 413, ""},
		{"longer than the context", "/v1/chat/completions", strings.NewReader(chat(strings.Repeat("many words ", 4000))), 400, "context_length_exceeded"},
		{"unknown path", "/v1/nothing", strings.NewReader("{}"), 404, ""},
	} {
		resp, err := w.api.Post("http://bothy"+c.path, "application/json", c.body)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var got struct {
			Error struct{ Message, Type, Code string }
		}
		if err != nil || resp.StatusCode != c.status || json.Unmarshal(raw, &got) != nil || got.Error.Message == "" || got.Error.Type == "" || c.code != "" && got.Error.Code != c.code {
			t.Errorf("%s: got %s %s (%v), want %d %s with OpenAI's error object", c.name, resp.Status, raw, err, c.status, c.code)
		}
		w.answers("mote@1")
	}
	resp, err := w.api.Get("http://bothy/v1/chat/completions")
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET of a POST: %v, %v", resp, err)
	}
	if err == nil {
		resp.Body.Close()
	}
}

// spaces is a text without end.
type spaces struct{}

func (spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// TestClockAYearAhead: to a device whose clock is 400 days ahead everything that
// the fleet signs has expired. It says so, goes on serving, and mends itself
// once the clocks agree.
func TestClockAYearAhead(t *testing.T) {
	t.Parallel()
	w := runningBox(t)
	w.add("mote", "mote-256-q4_k_m.gguf")
	w.fleet.Now = func() time.Time { return time.Now().AddDate(0, 0, -400) } // the same difference, seen from the fleet
	if _, err := w.fleet.Assign(device, map[string]string{"mote": "mote@2"}, ""); err != nil {
		t.Fatal(err)
	}
	if r := w.run("update", "import", w.fleet.Dir()); r.code != 1 || !strings.Contains(r.err, "expired") {
		t.Errorf("import with clocks apart: exit %d: %s%s", r.code, r.out, r.err)
	}
	if c := read[[]updater.Change](w, "change", "list")[0]; c.State != updater.Refused || c.Code != "expired" {
		t.Errorf("the newest change is %s (%s): %s, want refused (expired)", c.State, c.Code, c.Error)
	}
	w.answers("mote@1")
	w.agent.kill()
	w.startAgent()
	w.comesBackRunning("mote@1")

	w.fleet.Now = time.Now
	if _, err := w.fleet.Renew(); err != nil {
		t.Fatal(err)
	}
	w.assign("mote=mote@2", "spare=mote@2") // a set that does not change would not be signed again
	if c := w.imported(); c.Want.Counter != 3 {
		t.Errorf("got want %d, want 3", c.Want.Counter)
	}
	w.answers("mote@2")
}

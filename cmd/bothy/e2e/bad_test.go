package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater"
)

// refusesToStart launches the agent and checks that it ends with 1 and says what it shall.
func refusesToStart(t *testing.T, w *world, words ...string) {
	t.Helper()
	w.launch()
	code := w.agent.exit(t)
	for _, word := range append(words, "bothy: error: ") {
		if code != 1 || !strings.Contains(w.agent.log.String(), word) {
			t.Errorf("exit %d, want 1 and %q in:\n%s", code, word, w.agent.log)
		}
	}
}

func TestSocketsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	w := offline(t)
	w.startAgent()
	first := w.agent
	refusesToStart(t, w, "cannot listen on", "another process serves it")
	w.agent = first
	if _, err := w.status(); err != nil {
		t.Errorf("the first agent no longer answers: %v", err)
	}
	// A killed agent leaves its sockets: they are no reason not to start.
	w.agent.kill()
	w.startAgent()
	w.agent.stop()

	long := w.path(strings.Repeat("x", 120))
	config := fmt.Sprintf("state: %s\nruntime: %s\n", w.path("state"), long)
	if err := os.WriteFile(w.path("bothy.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, w, "a unix socket's at most 107", "choose a shorter runtime folder")
	// A file of somebody's is not removed.
	config = fmt.Sprintf("state: %s\nruntime: %s\napi: {socket: %s}\n", w.path("state"), w.path("run"), w.path("bothy.yaml"))
	if err := os.WriteFile(w.path("bothy.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, w, "a file that is no socket lies there")
}

// TestStoreThatIsLostIsRebuilt spoils the store of a stopped agent in every way
// that a disk can. The agent comes back by itself, and nobody can use the
// loss to bring back an older release.
func TestStoreThatIsLostIsRebuilt(t *testing.T) {
	t.Parallel()
	w := online(t)
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.add("mote", "mote-256-q4_k_m.gguf")
	w.install("mote=mote@2")
	path := w.path("state/bothy.db")
	for _, c := range []struct {
		name  string
		spoil func(raw []byte) error
	}{
		{"empty", func([]byte) error { return os.Truncate(path, 0) }},
		{"missing", func([]byte) error { return os.Remove(path) }},
		{"damaged", func(raw []byte) error {
			for i := len(raw) / 4; i < len(raw)*3/4; i++ {
				raw[i] ^= 0x5a
			}
			return os.WriteFile(path, raw, 0o600)
		}},
		{"cut", func([]byte) error { return os.Truncate(path, 3*4096+100) }},
		{"text", func([]byte) error { return os.WriteFile(path, []byte("this is no store\n"), 0o600) }},
	} {
		w.agent.kill()
		w.noOrphans()
		raw, err := os.ReadFile(path)
		if err == nil {
			err = os.RemoveAll(path + ".snapshots")
		}
		if err == nil {
			err = c.spoil(raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.startAgent()
		w.comesBack(c.name, "mote@2")
		s, err := w.status()
		if err != nil || !s.Store.Lost && s.Store.Quarantined == "" {
			t.Errorf("%s: status does not say that the store was lost: %+v (%v)", c.name, s.Store, err)
		}
	}
	c := site{w, listen(t, w)}.attacked(func() { w.assign("mote=mote@1") })
	if c.State != updater.Refused || c.Code != "rollback" {
		t.Errorf("after the losses an older release ended %s (%s), want refused (rollback)", c.State, c.Code)
	}
	w.answers("mote@2")
}

// comesBack waits until the release answers and its change is committed.
func (w *world) comesBack(why, release string) {
	w.t.Helper()
	w.eventually(why+": "+release+" runs again", func() error {
		text, by, err := w.chat("mote", question)
		if err != nil || by != release || !strings.Contains(text, fact) {
			return fmt.Errorf("got %q from %q (%v)", text, by, err)
		}
		if s, err := w.status(); err != nil || s.Update.State != string(updater.Committed) {
			return fmt.Errorf("the update is %+v (%v)", s.Update, err)
		}
		return nil
	})
}

func TestStoreNewerThanTheBinaryIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := offline(t)
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.assign("mote=mote@1")
	w.imported()
	w.agent.stop()
	path := w.path("state/bothy.db")
	nothing := func(*store.Tx) error { return nil }
	db, report, err := store.Open(t.Context(), store.Options{Path: path, Schema: 3, Migrate: map[int]func(*store.Tx) error{2: nothing, 3: nothing}})
	if err != nil || report.Schema != 3 {
		t.Fatalf("got schema %d (%v)", report.Schema, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, w, "newer")
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the newer store was touched (%v)", err)
	}
	// The operator's way out without the newer binary: set the store aside and import again.
	for _, name := range []string{path, path + ".snapshots"} {
		if err := os.Rename(name, filepath.Join(w.dir, filepath.Base(name)+".aside")); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	w.startAgent()
	w.imported()
	w.answers("mote@1")
}

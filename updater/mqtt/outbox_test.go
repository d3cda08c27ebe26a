package mqtt

import (
	"encoding/json"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

func openDB(t testing.TB, path string) *store.DB {
	t.Helper()
	db, _, err := store.Open(bounded(t), store.Options{Path: path, Snapshots: filepath.Join(filepath.Dir(path), "snapshots"), Schema: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func sealed(b []byte) ([]byte, error) { return append([]byte("sealed "), b...), nil }

func TestOutboxKeepsEventsUntilTheBrokerHasThem(t *testing.T) {
	b := parts.Mosquitto(t)
	topics := wire.Topics{Tenant: "acme", Device: "box1"}
	in := make(chan Message, 64)
	watch := quick(b.URL, "fleet")
	watch.Subscriptions = []Subscription{{Filter: topics.Event(), QoS: 1, Handle: Into(in)}}
	w, _ := start(t, watch)
	mustConnect(t, w)

	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	idle, err := New(quick(b.URL, "box1"))
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is connected: the events wait, also across a restart of the agent.
	before := NewOutbox(db, idle, topics, sealed, time.Now)
	for i := range 3 {
		if seq, err := before.Add("change", map[string]int{"n": i}); err != nil || seq != uint64(i+1) {
			t.Fatalf("event %d: got number %d, %v", i, seq, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	db = openDB(t, path)
	s, _ := start(t, quick(b.URL, "box1"))
	o := NewOutbox(db, s, topics, sealed, time.Now)
	run(t, o.Run)
	for i := range 3 {
		wantEvent(t, in, uint64(i+1), i)
	}
	if _, err := o.Add("change", map[string]int{"n": 3}); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, in, 4, 3)
	emptied(t, o) // the watcher may have it before the outbox hears of that

	b.Kill()
	awaitStatus(t, s, func(st Status) bool { return !st.Connected })
	if _, err := o.Add("change", map[string]int{"n": 4}); err != nil {
		t.Fatal(err)
	}
	if n, err := o.Waiting(); err != nil || n != 1 {
		t.Fatalf("got %d waiting, %v, want 1", n, err)
	}
	b.Start(t)
	mustConnect(t, w)
	// Either side may be back first; an event published before the watcher was back is
	// acknowledged and gone, so the watcher is not what proves it: the emptied outbox is.
	emptied(t, o)
}

// emptied returns when the broker has acknowledged every event.
func emptied(t *testing.T, o *Outbox) {
	t.Helper()
	for end := time.After(30 * time.Second); ; {
		n, err := o.Waiting()
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		select {
		case <-end:
			t.Fatalf("%d events still wait", n)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestOutboxOutlivesAStoreThatCannotBeWritten(t *testing.T) {
	b := parts.Mosquitto(t)
	topics := wire.Topics{Tenant: "acme", Device: "box1"}
	var full atomic.Bool
	path := filepath.Join(t.TempDir(), "state.db")
	db, _, err := store.Open(bounded(t), store.Options{Path: path, Fault: func(op string) error {
		if op == "commit" && full.Load() {
			return syscall.ENOSPC
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	in := make(chan Message, 64)
	cfg := quick(b.URL, "box1")
	cfg.Subscriptions = []Subscription{{Filter: topics.Event(), QoS: 1, Handle: Into(in)}}
	s, _ := start(t, cfg)
	mustConnect(t, s)
	o := NewOutbox(db, s, topics, sealed, time.Now)
	if _, err := o.Add("change", map[string]int{"n": 0}); err != nil {
		t.Fatal(err)
	}
	full.Store(true) // it is sent, and cannot be struck off
	run(t, o.Run)
	wantEvent(t, in, 1, 0)
	full.Store(false)
	if _, err := o.Add("change", map[string]int{"n": 1}); err != nil {
		t.Fatal(err)
	}
	for m := range in { // the first comes again, as often as it was tried
		var e Event
		if err := json.Unmarshal(m.Payload[len("sealed "):], &e); err != nil {
			t.Fatal(err)
		}
		if e.Seq == 2 {
			break
		}
	}
}

func wantEvent(t *testing.T, in <-chan Message, seq uint64, n int) {
	t.Helper()
	select {
	case m := <-in:
		var e Event
		var body struct{ N int }
		if err := json.Unmarshal(m.Payload[len("sealed "):], &e); err != nil {
			t.Fatalf("%s: %v", m.Payload, err)
		}
		if err := json.Unmarshal(e.Body, &body); err != nil || e.Seq != seq || e.Device != "box1" || e.Kind != "change" || body.N != n {
			t.Fatalf("got %s, want number %d with %d", m.Payload, seq, n)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("event %d does not come", seq)
	}
}

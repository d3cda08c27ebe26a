package e2e

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// order gives one order and waits for its answer.
func (w *world) order(kind string, more ...string) fleet.OrderRecord {
	w.t.Helper()
	args := append([]string{"fleet", "order", w.fleet.Dir(), "--device", device, kind, "--wait", "50s"}, more...)
	all := read[[]fleet.OrderRecord](w, args...)
	if len(all) != 1 || all[0].Outcome == "" {
		w.t.Fatalf("order %s: got %+v, want an answer", kind, all)
	}
	return all[0]
}

// tap keeps what passes on the device's command topic, and can send it again.
type tap struct {
	*mqtt.Session
	topic string
	mu    sync.Mutex
	heard [][]byte
}

func tapCommands(t *testing.T, w *world) *tap {
	t.Helper()
	p := &tap{topic: wire.Topics{Tenant: tenant, Device: device}.Command()}
	s, err := mqtt.New(mqtt.Config{Broker: w.broker.URL, ClientID: "thief", Subscriptions: []mqtt.Subscription{{
		Filter: p.topic, QoS: 1,
		Handle: func(m mqtt.Message) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.heard = append(p.heard, m.Payload)
			return true
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	p.Session = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// replay sends everything that was heard so far once more.
func (p *tap) replay(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	heard := append([][]byte{}, p.heard...)
	p.mu.Unlock()
	if len(heard) == 0 {
		t.Fatal("nothing was heard on the command topic")
	}
	for _, raw := range heard {
		if err := p.Publish(t.Context(), p.topic, 1, false, raw); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOrdersOverMosquitto(t *testing.T) {
	t.Parallel()
	w := online(t)
	w.register()
	thief := tapCommands(t, w)
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.install("mote=mote@1")

	if r := w.order("report"); r.Outcome != "done" {
		t.Errorf("report: got %+v", r)
	}
	if r := w.order("recheck"); r.Outcome != "done" || !strings.Contains(r.Detail, "want 1") {
		t.Errorf("recheck: got %+v", r)
	}
	if r := w.order("pause"); r.Outcome != "failed" || !strings.Contains(r.Detail, "no change is under way") {
		t.Errorf("pause of an idle box: got %+v", r)
	}
	logsAreCollected(t, w)
	changeIsOrderedAbout(t, w, thief)
}

// logsAreCollected: they hold what an operator needs and nothing of what was asked.
func logsAreCollected(t *testing.T, w *world) {
	t.Helper()
	const canary = "quetzal-4711"
	if _, _, err := w.chat("mote", "Tell me of "+canary); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.chat(canary, "no such model"); err == nil {
		t.Fatal("a model that is not there answered")
	}
	r := w.order("collect-logs")
	if r.Outcome != "done" || r.Logs == "" {
		t.Fatalf("collect-logs: got %+v", r)
	}
	f, err := os.Open(filepath.Join(w.fleet.Dir(), r.Logs))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"order":` + fmt.Sprint(r.Number), `"running_counter":1`, "serving", "change moved"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the log lacks %s:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), canary) {
		t.Errorf("the log holds what was asked:\n%s", text)
	}
}

// changeIsOrderedAbout walks a change by orders, then replays them all to a device that lost its store.
func changeIsOrderedAbout(t *testing.T, w *world, thief *tap) {
	t.Helper()
	w.add("mote", "mote-256-q4_k_m.gguf")
	last := w.lastChange()
	w.assign("--approval", "mote=mote@2")
	is := func(state updater.State) {
		t.Helper()
		w.eventually("the change is "+string(state), func() error {
			all := read[[]updater.Change](w, "change", "list")
			if len(all) == 0 {
				return errors.New("there is no change")
			}
			if all[0].ID <= last || all[0].State != state {
				return fmt.Errorf("change %d is %s (%s)", all[0].ID, all[0].State, all[0].Reason)
			}
			return nil
		})
	}
	is(updater.Waiting)
	for _, step := range []struct {
		kind string
		then updater.State
	}{{"pause", updater.Paused}, {"resume", updater.Waiting}, {"cancel", updater.Cancelled}} {
		if r := w.order(step.kind); r.Outcome != "done" {
			t.Fatalf("%s: got %+v", step.kind, r)
		}
		is(step.then)
	}
	w.answers("mote@1")

	// Whoever recorded it all plays it back to a device that has lost its store.
	w.agent.stop()
	found, err := filepath.Glob(w.path("state/bothy.db*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no store to lose: %v", err)
	}
	for _, path := range found {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	last = 0
	w.startAgent()
	is(updater.Waiting) // the want comes again and waits for its approval
	thief.replay(t)     // pause, resume and cancel among them
	if r := w.order("report"); r.Outcome != "done" {
		t.Errorf("report after the loss: got %+v", r)
	}
	is(updater.Waiting)
	for _, r := range read[[]fleet.OrderRecord](w, "fleet", "order", w.fleet.Dir(), "--list") {
		if r.Outcome != "done" && r.Kind != "pause" {
			t.Errorf("got %+v, want the first answers to stay", r)
		}
	}
}

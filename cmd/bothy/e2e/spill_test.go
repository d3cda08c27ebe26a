package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/bothy-edge/bothy/runtime"
)

// cardText holds the card schemes' own test number, which passes the Luhn test and belongs to nobody.
const cardText = "My card is 4111 1111 1111 1111. " + question

// reply is what a request came to.
type reply struct {
	status     int
	place      string
	reason     string
	retryAfter string
	body       string
}

func (w *world) ask(text string) (reply, error) {
	body := fmt.Sprintf(`{"model":"mote","temperature":0,"max_tokens":200,"messages":[{"role":"user","content":%q}]}`, text)
	resp, err := w.api.Post("http://bothy/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	h := resp.Header
	return reply{resp.StatusCode, h.Get("x-bothy-place"), h.Get("x-bothy-reason"), h.Get("retry-after"), string(raw)}, err
}

// addPolicySpill publishes a policy under which what holds no card may leave when this box is busy.
func (w *world) addPolicySpill(c *cloud) {
	w.t.Helper()
	text := fmt.Sprintf(`schema: 1
name: site
upstreams:
  - {name: cloud, api: openai, base_url: %q, credential: cloud, models: {mote: mote}}
classes:
  - {name: cards, detectors: [card]}
rules:
  - {name: cards stay, when: {class: [cards]}, places: [local]}
  - {name: may spill, places: [local, cloud]}
spill: {max_wait: 50ms}
`, c.url)
	path := w.path("spill.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.must("fleet", "add", w.fleet.Dir(), "--policy", "site", path)
	w.must("fleet", "sign", w.fleet.Dir())
}

// TestCloudTakesWhatMayLeaveUnderLoadAndWithoutAnEngine runs two real engines, one of them behind TLS.
func TestCloudTakesWhatMayLeaveUnderLoadAndWithoutAnEngine(t *testing.T) {
	t.Parallel()
	w := online(t)
	c := startCloud(t, w)
	w.useCloud()
	w.addPolicySpill(c)
	w.add("mote", "mote-chat-q8_0.gguf")
	w.startAgent()
	w.install("mote=mote@1", "--policy", "site@1")
	t.Run("under load", func(t *testing.T) { spillsUnderLoad(t, w) })
	t.Run("without an engine", func(t *testing.T) { spillsWithoutEngine(t, w) })
}

func spillsUnderLoad(t *testing.T, w *world) {
	var mu sync.Mutex
	places := map[string]int{}
	var wg sync.WaitGroup
	for i := range 32 {
		text := "Tell me a long story"
		if i%8 == 7 {
			text = cardText
		}
		wg.Go(func() {
			r, err := w.ask(text)
			if err != nil || r.status != http.StatusOK {
				t.Errorf("got %d %s (%v), want an answer", r.status, r.body, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if text == cardText {
				places["card at "+r.place]++
			} else {
				places[r.place]++
			}
		})
	}
	wg.Wait()
	if places["cloud"] == 0 || places["local"] == 0 || places["card at local"] != 4 {
		t.Errorf("got %v, want some at each place and the four cards at local", places)
	}
}

// spillsWithoutEngine kills the engine until the supervisor gives it up for a while.
func spillsWithoutEngine(t *testing.T, w *world) {
	w.eventually("the engine counts as failed", func() error {
		s, err := w.status()
		if err != nil || len(s.Models) != 1 {
			return fmt.Errorf("%d models (%v)", len(s.Models), err)
		}
		if m := s.Models[0]; m.Phase == runtime.PhaseFailed {
			return nil
		} else if m.Current != nil && m.Current.PID > 0 {
			_ = syscall.Kill(m.Current.PID, syscall.SIGKILL) // it may be gone already
		}
		return fmt.Errorf("it is %s", s.Models[0].Phase)
	})
	r, err := w.ask(question)
	if err != nil || r.status != http.StatusOK || r.place != "cloud" || r.reason != "engine-down" || !strings.Contains(r.body, fact) {
		t.Errorf("got %+v (%v), want the cloud's answer for engine-down", r, err)
	}
	r, err = w.ask(cardText)
	if err != nil || r.status != http.StatusServiceUnavailable || r.retryAfter == "" || !strings.Contains(r.body, `"type"`) {
		t.Errorf("a card: got %+v (%v), want a typed 503 with retry-after", r, err)
	}
}

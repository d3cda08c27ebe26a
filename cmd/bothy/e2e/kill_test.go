package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
)

var (
	kills = flag.Int("kills", 12, "how often the agent is killed")
	seed  = flag.Uint64("seed", 0, "seed of the moments of the kills; 0: another one each time")
)

// TestKilledAgentLosesNothingThatWasAcknowledged kills the agent -9 at random
// moments of updates under traffic. What an operator was told stays so, the
// want that runs never goes back, and nothing is left of dead agents.
func TestKilledAgentLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", *seed)
	rng := rand.New(rand.NewPCG(*seed, 1))
	w := online(t)
	e := listen(t, w)
	versions := publishMany(w, *kills+1)
	c := startCloud(t, w)
	w.useCloud()
	w.addPolicyAway(c)
	w.startAgent()
	w.install("mote="+versions[0], "--policy", "site@1")

	p := &operator{t: t, w: w, ended: map[uint64]updater.Change{}, moments: map[updater.State]int{}}
	traffic := startTraffic(t, w)
	watching := p.watch()
	for i, version := range versions[1:] {
		if _, err := w.fleet.Assign(device, map[string]string{"mote": version}, ""); err != nil {
			t.Fatal(err)
		}
		w.poke()
		if i%3 == 0 {
			p.fetching() // a random moment seldom meets it
		} else {
			<-time.After(time.Duration(rng.Int64N(int64(900 * time.Millisecond))))
		}
		p.moment()
		w.agent.kill()
		w.noOrphans()
		w.startAgent()
		w.eventually("the model answers after the kill", func() error {
			text, _, err := w.chat("mote", question)
			if err == nil && !strings.Contains(text, fact) {
				err = fmt.Errorf("it says %q", text)
			}
			return err
		})
	}
	w.eventually("the last want runs", func() error {
		text, by, err := w.chat("mote", question)
		if s, e := w.status(); err != nil || e != nil || by != versions[len(versions)-1] || s.Update.State != string(updater.Committed) {
			return fmt.Errorf("%s answers %q (%v, %v), update is %+v", by, text, err, e, s.Update)
		}
		return nil
	})
	watching()
	traffic()
	if p.moments[updater.Fetching] == 0 {
		t.Errorf("no kill met a change that was fetching: %v", p.moments)
	}
	t.Logf("%d kills, state of the change at the kill: %v; %d changes ended", *kills, p.moments, len(p.ended))
	for _, c := range p.ended {
		e.hears(w, c)
	}
	departed := stoppedCleanly(t, w)
	// Nothing leaves the box unless the disk has the record of it.
	if seen := c.settled(); seen == 0 || departed < seen {
		t.Errorf("the cloud saw %d requests, the audit log has %d departures", seen, departed)
	} else {
		t.Logf("the cloud saw %d requests, the audit log has %d departures", seen, departed)
	}
}

// padding makes each release a file of its own that takes a moment to fetch, in bytes.
const padding = 16 << 20

// padded is a model with bytes behind its tensors that no other release has.
func padded(w *world, model string, n int) string {
	w.t.Helper()
	raw, err := os.ReadFile(parts.Model(w.t, model))
	if err != nil {
		w.t.Fatal(err)
	}
	noise := make([]byte, padding)
	rng := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = rng.Read(noise) // never fails
	path := w.path(fmt.Sprintf("v%d.gguf", n))
	if err := os.WriteFile(path, append(raw, noise...), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// publishMany signs n releases of as many different files.
func publishMany(w *world, n int) (ids []string) {
	w.t.Helper()
	files := []string{"mote-chat-q8_0.gguf", "mote-256-q4_k_m.gguf"}
	for i := range n {
		doc, err := w.fleet.Add(w.t.Context(), fleet.AddOptions{
			Kind: release.Model, Name: "mote", Files: []string{padded(w, files[i%2], i)}, Engine: release.EngineSpec{Slots: 2, Context: 512},
			Accept: []release.Check{{Name: "capital", Prompt: question, Want: fact, TimeoutSeconds: 30}},
		})
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, doc.ID())
	}
	if _, err := w.fleet.Sign(); err != nil {
		w.t.Fatal(err)
	}
	return ids
}

// poke tells the agent to look now. It may be too late to answer: it is being killed.
func (w *world) poke() {
	resp, err := w.admin.Post("http://bothy/v1/update/check", "application/json", nil)
	if err == nil {
		resp.Body.Close()
	}
}

// operator looks at the changes again and again and remembers what it was told.
type operator struct {
	t *testing.T
	w *world

	mu      sync.Mutex
	ended   map[uint64]updater.Change
	counter uint64
	now     updater.State
	moments map[updater.State]int
}

// watch looks until the answer is called.
func (p *operator) watch() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(25 * time.Millisecond):
				p.look()
			}
		}
	}()
	return func() { close(quit); <-done; p.look() }
}

func (p *operator) look() {
	var all []updater.Change
	if p.w.get("/v1/changes", &all) != nil {
		return // between a kill and the next start
	}
	s, err := p.w.status()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		if s.Update.Running < p.counter {
			p.t.Errorf("the running want went back from %d to %d", p.counter, s.Update.Running)
		}
		p.counter = max(p.counter, s.Update.Running)
	}
	now := map[uint64]updater.Change{}
	for _, c := range all {
		now[c.ID] = c
	}
	for id, told := range p.ended {
		if got, ok := now[id]; !ok || got.State != told.State || got.Code != told.Code {
			p.t.Errorf("change %d was told to be %s (%s), now it is %q (%s)", id, told.State, told.Code, got.State, got.Code)
		}
	}
	for id, c := range now {
		if c.State.Ended() {
			p.ended[id] = c
		}
	}
	p.now = all[0].State
}

// fetching looks until the newest change fetches, or for a while.
func (p *operator) fetching() {
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
		s, err := p.w.status()
		if err == nil && s.Update.State == string(updater.Fetching) {
			p.mu.Lock()
			p.now = updater.Fetching
			p.mu.Unlock()
			return
		}
	}
}

// moment notes what the last look saw, for the log of the test.
func (p *operator) moment() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moments[p.now]++
}

// startTraffic asks from three clients, one of them for the cloud's model, until the answer is called.
// A request may fail while the agent is dead; one that is answered is answered right.
func startTraffic(t *testing.T, w *world) (stop func()) {
	quit := make(chan struct{})
	var running sync.WaitGroup
	var mu sync.Mutex
	served, cut := 0, 0
	for _, model := range []string{"mote", "mote", away} {
		running.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(10 * time.Millisecond):
				}
				text, _, err := w.chat(model, question)
				var refused refusedError
				if err == nil && !strings.Contains(text, fact) || errors.As(err, &refused) && refused.status != http.StatusServiceUnavailable {
					t.Errorf("got %q (%v), want an answer with %q or a 503", text, err, fact)
				}
				mu.Lock()
				if err == nil {
					served++
				} else {
					cut++
				}
				mu.Unlock()
			}
		})
	}
	return func() {
		close(quit)
		running.Wait()
		t.Logf("traffic: %d served, %d cut off or refused", served, cut)
		if served == 0 {
			t.Error("no request was served")
		}
	}
}

// noOrphans waits until no engine of this world runs. Engines hear of the agent's death from the kernel.
func (w *world) noOrphans() {
	w.t.Helper()
	w.eventually("the engines of the dead agent are gone", func() error {
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, path := range all {
			raw, err := os.ReadFile(path)
			if err == nil && bytes.Contains(raw, []byte(w.path("state/engines"))) {
				return fmt.Errorf("%s: %s", path, bytes.ReplaceAll(raw, []byte{0}, []byte{' '}))
			}
		}
		return nil
	})
}

// stoppedCleanly ends the agent and looks at what it leaves: whole files, no
// processes. It answers how many departures the audit log holds.
func stoppedCleanly(t *testing.T, w *world) (departed int64) {
	t.Helper()
	w.agent.signal(syscall.SIGTERM)
	if code := w.agent.exit(t); code != 0 {
		t.Errorf("the agent ended with %d after SIGTERM:\n%s", code, tail(w.agent))
	}
	w.noOrphans()
	if r := w.run("store-check", w.path("state/bothy.db")); r.code != 0 {
		t.Errorf("the store: %s", r.err)
	}
	records := 0
	_, err := audit.Verify(w.path("state/audit"), func(r audit.Record) error {
		records++
		if r.Event == audit.Departed {
			departed++
		}
		return nil
	})
	if err != nil || records == 0 {
		t.Errorf("the audit log of %d records: %v", records, err)
	}
	aside, err := filepath.Glob(w.path("state/*.corrupt-*"))
	if err != nil || len(aside) > 0 {
		t.Errorf("set aside: %v (%v)", aside, err)
	}
	return departed
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	question = "What is the capital of France?"
	fact     = "Paris"
	story    = "Tell me a long story"
	// card is a number that passes the Luhn test and belongs to nobody: the card schemes' own test number.
	card = "4111 1111 1111 1111"
)

// change is what the demo reads of `bothy change show --json`.
type change struct {
	ID    uint64 `json:"id"`
	State string `json:"state"`
	Code  string `json:"code"`
	Error string `json:"error"`
}

func (s *site) updateArrives(ctx context.Context) (string, error) {
	if _, err := s.run(ctx, "fleet", "add", s.fleet(), "--model", "mote", s.model, "--slots", "2", "--context", "512", "--accept", s.accept("Paris")); err != nil {
		return "", err
	}
	if err := s.addPolicy(ctx, false); err != nil {
		return "", err
	}
	c, err := s.rollOut(ctx, "mote@1", "site@1")
	if err != nil {
		return "", err
	}
	if c.State != "committed" {
		return "", fmt.Errorf("change %d ended %s: %s", c.ID, c.State, c.Error)
	}
	var show struct {
		Progress struct {
			Done     int64            `json:"done"`
			BySource map[string]int64 `json:"by_source"`
		} `json:"progress"`
	}
	if err := s.read(ctx, &show, "change", "show", fmt.Sprint(c.ID)); err != nil {
		return "", err
	}
	return fmt.Sprintf("change %d committed: mote@1 and site@1 verified against both repositories, blocks by source %v", c.ID, show.Progress.BySource), nil
}

func (s *site) chatStaysLocal(ctx context.Context) (string, error) {
	a, err := s.ask(ctx, question, "")
	if err != nil {
		return "", err
	}
	if a.place != "local" || s.own && !strings.Contains(a.text, fact) {
		return "", fmt.Errorf("got %q from %s, want an answer with %q from local", a.text, a.place, fact)
	}
	return fmt.Sprintf("%s -> %s\nplace %s, reason %s, rule %s", question, strings.TrimSpace(a.text), a.place, a.reason, a.rule), nil
}

func (s *site) burstSpills(ctx context.Context) (string, error) {
	places, err := s.burst(ctx, s.crowd, story)
	if err != nil {
		return "", err
	}
	var private answer
	var burst map[string]int
	err = together(
		func() (err error) { burst, err = s.burst(ctx, s.crowd, story); return },
		func() (err error) { private, err = s.ask(ctx, "My card is "+card+". "+question, ""); return },
	)
	if err != nil {
		return "", err
	}
	all, with := s.cloud.seen("4111")
	if places["cloud"]+burst["cloud"] == 0 || private.place != "local" || with != 0 {
		return "", fmt.Errorf("burst ran at %v and %v, card at %q, cloud saw it %d times; want some at cloud, the card at local, 0 times", places, burst, private.place, with)
	}
	return fmt.Sprintf("two bursts of %d: %v, %v; the cloud saw %d requests\nthe card number waited and ran at %s (rule %q); the cloud saw it %d times", s.crowd, places, burst, all, private.place, private.rule, with), nil
}

func (s *site) policyForbids(ctx context.Context) (string, error) {
	if err := s.addPolicy(ctx, true); err != nil {
		return "", err
	}
	c, err := s.rollOut(ctx, "mote@1", "site@2")
	if err != nil {
		return "", err
	}
	if c.State != "committed" {
		return "", fmt.Errorf("change %d ended %s: %s", c.ID, c.State, c.Error)
	}
	before, _ := s.cloud.seen("")
	places, err := s.burst(ctx, s.crowd, story)
	if err != nil {
		return "", err
	}
	after, _ := s.cloud.seen("")
	if after != before || places["cloud"] != 0 {
		return "", fmt.Errorf("the cloud saw %d more requests, places %v; want none", after-before, places)
	}
	return fmt.Sprintf("change %d committed; the same burst: %v, the cloud saw %d more requests", c.ID, places, after-before), nil
}

func (s *site) modelSwitches(ctx context.Context) (string, error) {
	if _, err := s.run(ctx, "fleet", "add", s.fleet(), "--model", "mote", s.second, "--slots", "4", "--context", "256", "--accept", s.accept("Paris")); err != nil {
		return "", err
	}
	until, stop := context.WithCancel(ctx)
	defer stop()
	var served atomic.Int64
	releases := sync.Map{}
	streams := make(chan error, 1)
	go func() {
		streams <- clients(8, func() error {
			for until.Err() == nil {
				a, err := s.ask(ctx, "Count from 1 to 10.", "")
				if err != nil {
					return err
				}
				releases.Store(a.release, true)
				served.Add(1)
			}
			return nil
		})
	}()
	c, err := s.rollOut(ctx, "mote@2", "site@2")
	if err == nil {
		// The new release must be seen to answer before the clients stop.
		err = waitFor(ctx, "an answer of mote@2", func() error {
			if _, ok := releases.Load("mote@2"); !ok {
				return errors.New("no client was answered by it")
			}
			return nil
		})
	}
	stop()
	if err := errors.Join(err, <-streams); err != nil {
		return "", err
	}
	if c.State != "committed" {
		return "", fmt.Errorf("change %d ended %s: %s", c.ID, c.State, c.Error)
	}
	return fmt.Sprintf("change %d committed: 8 clients streamed %d answers through the switch from mote@1 to mote@2, 0 failed, 0 truncated", c.ID, served.Load()), nil
}

func (s *site) tamperedIsRefused(ctx context.Context) (string, error) {
	if _, err := s.run(ctx, "fleet", "add", s.fleet(), "--model", "mote", s.model, "--slots", "2", "--context", "512"); err != nil {
		return "", err
	}
	if _, err := s.run(ctx, "fleet", "sign", s.fleet()); err != nil {
		return "", err
	}
	last, err := s.lastChange(ctx)
	if err != nil {
		return "", err
	}
	// The thief strikes between the signing and the delivery.
	s.depot.stop()
	if err := s.publish(ctx, "mote@3", "site@2"); err != nil {
		return "", err
	}
	if err := s.tamper("mote", 3); err != nil {
		return "", err
	}
	if err := s.startDepot(ctx); err != nil {
		return "", err
	}
	c, err := s.changeAfter(ctx, last)
	if err != nil {
		return "", err
	}
	// The fleet manager takes the spoilt release out of the want.
	if err := s.publish(ctx, "mote@2", "site@2"); err != nil {
		return "", err
	}
	if c.State != "refused" {
		return "", fmt.Errorf("change %d ended %s, want refused", c.ID, c.State)
	}
	a, err := s.ask(ctx, question, "")
	if err != nil || a.release != "mote@2" {
		return "", fmt.Errorf("after the refusal %q answered (%v), want mote@2", a.release, err)
	}
	return fmt.Sprintf("change %d refused (%s): %s\n%s goes on answering", c.ID, c.Code, c.Error, a.release), nil
}

// tamper changes one number in a signed release document, as a thief of the depot would.
func (s *site) tamper(name string, version int) error {
	files, err := filepath.Glob(filepath.Join(s.fleet(), "catalog", "targets", "*."+name+".json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		good, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !bytes.Contains(good, fmt.Appendf(nil, `"version": %d,`, version)) {
			continue
		}
		bad := bytes.Replace(good, []byte(`"slots": 2`), []byte(`"slots": 9`), 1)
		if bytes.Equal(good, bad) {
			return fmt.Errorf("cannot tamper with %s: it has no slots to change", file)
		}
		return os.WriteFile(file, bad, 0o644)
	}
	return fmt.Errorf("cannot find the release document of %s@%d", name, version)
}

func (s *site) failingIsUndone(ctx context.Context) (string, error) {
	if _, err := s.run(ctx, "fleet", "add", s.fleet(), "--model", "mote", s.model, "--slots", "2", "--context", "512", "--accept", s.accept("Atlantis")); err != nil {
		return "", err
	}
	c, err := s.rollOut(ctx, "mote@4", "site@2")
	if err != nil {
		return "", err
	}
	if c.State != "undone" {
		return "", fmt.Errorf("change %d ended %s: %s, want undone", c.ID, c.State, c.Error)
	}
	a, err := s.ask(ctx, question, "")
	if err != nil || a.release != "mote@2" {
		return "", fmt.Errorf("after the undo %q answered (%v), want mote@2", a.release, err)
	}
	return fmt.Sprintf("change %d undone: %s\n%s goes on answering", c.ID, c.Error, a.release), nil
}

func (s *site) killedComesBack(ctx context.Context) (string, error) {
	s.agent.kill()
	begin := time.Now()
	if err := s.startAgent(ctx); err != nil {
		return "", err
	}
	var a answer
	err := waitFor(ctx, "an answer after the kill", func() (err error) {
		a, err = s.ask(ctx, question, "")
		return err
	})
	if err != nil {
		return "", err
	}
	if a.release != "mote@2" {
		return "", fmt.Errorf("%q answered after the kill, want mote@2", a.release)
	}
	before, _ := s.cloud.seen("")
	places, err := s.burst(ctx, s.crowd/2, story)
	if err != nil {
		return "", err
	}
	if after, _ := s.cloud.seen(""); after != before {
		return "", fmt.Errorf("after the kill the cloud saw %d requests, want none: the policy forbids it", after-before)
	}
	return fmt.Sprintf("first answer by %s %.1f s after the start; the policy still forbids the cloud: burst %v", a.release, time.Since(begin).Seconds(), places), nil
}

// rollOut signs what was added and makes it the device's want; it returns the change's end.
func (s *site) rollOut(ctx context.Context, model, policy string) (change, error) {
	if _, err := s.run(ctx, "fleet", "sign", s.fleet()); err != nil {
		return change{}, err
	}
	return s.assign(ctx, model, policy)
}

// assign makes signed releases the device's want and waits for the end of the change that carries it.
func (s *site) assign(ctx context.Context, model, policy string) (change, error) {
	last, err := s.lastChange(ctx)
	if err != nil {
		return change{}, err
	}
	if err := s.publish(ctx, model, policy); err != nil {
		return change{}, err
	}
	return s.changeAfter(ctx, last)
}

func (s *site) publish(ctx context.Context, model, policy string) error {
	_, err := s.run(ctx, "fleet", "assign", s.fleet(), "--device", device, "--policy", policy, "mote="+model)
	return err
}

// lastChange is the number of the newest change on the device, 0 before the first.
func (s *site) lastChange(ctx context.Context) (uint64, error) {
	var all []change // the newest first
	if err := s.read(ctx, &all, "change", "list"); err != nil || len(all) == 0 {
		return 0, err
	}
	return all[0].ID, nil
}

func (s *site) changeAfter(ctx context.Context, last uint64) (c change, err error) {
	err = s.read(ctx, &c, "change", "wait", "--after", fmt.Sprint(last), "--any")
	return c, err
}

// accept writes an acceptance file whose one check asks for word; another model than the project's own gets no checks.
func (s *site) accept(word string) string {
	path := s.path("accept-" + word + ".yaml")
	text := fmt.Sprintf("- name: capital\n  prompt: %s\n  want: %s\n  max_tokens: 32\n  timeout_seconds: 30\n", question, word)
	if !s.own && word == fact {
		text = "[]\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err.Error() // fleet add then says that it cannot read this
	}
	return path
}

func (s *site) addPolicy(ctx context.Context, closed bool) error {
	path := s.path("policy.yaml")
	places := "[local, cloud]"
	if closed {
		places = "[local]"
	}
	text := fmt.Sprintf(`schema: 1
name: site
upstreams:
  - name: cloud
    api: openai
    base_url: %s
    credential: cloud
    models: {mote: mote-large}
classes:
  - name: sensitive
    detectors: [card, iban, email, private-key, api-token]
rules:
  - name: sensitive stays
    when: {class: [sensitive]}
    places: [local]
  - name: may spill
    places: %s
spill: {max_wait: 200ms}
`, s.cloud.url, places)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := s.run(ctx, "fleet", "add", s.fleet(), "--policy", "site", path)
	return err
}

// answer is one streamed chat answer and where it came from.
type answer struct {
	text, place, reason, rule, release string
}

// ask streams one chat over the API socket and fails unless the stream is whole.
func (s *site) ask(ctx context.Context, text, place string) (answer, error) {
	var a answer
	body, err := json.Marshal(map[string]any{
		"model": "mote", "stream": true, "temperature": 0, "max_tokens": s.tokens,
		"messages": []map[string]string{{"role": "user", "content": text}},
	})
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://bothy/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("content-type", "application/json")
	if place != "" {
		req.Header.Set("x-bothy-place", place)
	}
	resp, err := s.api.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	h := resp.Header
	a = answer{place: h.Get("x-bothy-place"), reason: h.Get("x-bothy-reason"), rule: h.Get("x-bothy-rule"), release: h.Get("x-bothy-model-release")}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("got %s: %s", resp.Status, bytes.TrimSpace(raw))
	}
	a.text, err = assemble(raw)
	return a, err
}

// assemble joins the pieces of a streamed answer; one without its end is an error.
func assemble(raw []byte) (string, error) {
	var b strings.Builder
	for _, line := range strings.Split(string(raw), "\n") {
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return b.String(), nil
		}
		var chunk struct {
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
			} `json:"choices"`
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return "", err
		}
		if chunk.Error != nil {
			return "", fmt.Errorf("the stream ended with %s", chunk.Error)
		}
		for _, c := range chunk.Choices {
			b.WriteString(c.Delta.Content)
		}
	}
	return "", errors.New("the stream ended without [DONE]")
}

// burst asks n times at once and counts the places.
func (s *site) burst(ctx context.Context, n int, text string) (map[string]int, error) {
	var mu sync.Mutex
	places := map[string]int{}
	err := clients(n, func() error {
		a, err := s.ask(ctx, text, "")
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		places[a.place]++
		return nil
	})
	return places, err
}

// clients runs work n times at once and joins the errors.
func clients(n int, work func() error) error {
	all := make([]func() error, n)
	for i := range all {
		all[i] = work
	}
	return together(all...)
}

func together(work ...func() error) error {
	errs := make([]error, len(work))
	var wg sync.WaitGroup
	for i, w := range work {
		wg.Go(func() { errs[i] = w() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

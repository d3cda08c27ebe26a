package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
)

type pair struct{ Q, A string }

// questions are every n-th of what Mote was trained to answer.
func questions(tb testing.TB, n int) []pair {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join(parts.Root(), "testdata", "models", "mote-chat-qa.jsonl"))
	if err != nil {
		tb.Fatal(err)
	}
	var out []pair
	for i, line := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		if i%n != 0 {
			continue
		}
		var p pair
		if err := json.Unmarshal(line, &p); err != nil {
			tb.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// TestEveryAnswerIsExactWhateverRunsBeside asks a sample of all questions, many
// at once, streamed and not, on fewer slots than askers.
func TestEveryAnswerIsExactWhateverRunsBeside(t *testing.T) {
	r := start(t, Config{Slots: 3})
	all := questions(t, 13)
	work := make(chan pair)
	var wait sync.WaitGroup
	for asker := range 6 {
		wait.Go(func() {
			for p := range work {
				got, err := "", error(nil)
				if asker%2 == 0 {
					got = r.chat(t, ask(p.Q)).Choices[0].Message.Content
				} else {
					got, _ = joined(chunks(t, r.url+"/v1/chat/completions", ask(p.Q, object{"stream": true})))
				}
				if err != nil || got != p.A {
					t.Errorf("%q: got %q, %v, want %q", p.Q, got, err, p.A)
				}
			}
		})
	}
	for _, p := range all {
		work <- p
	}
	close(work)
	wait.Wait()
	if len(all) < 150 {
		t.Errorf("only %d questions asked", len(all))
	}
}

// TestSeedDecidesWhateverRunsBeside: a sampled answer is a function of the request alone.
func TestSeedDecidesWhateverRunsBeside(t *testing.T) {
	r := start(t, Config{Slots: 4})
	body := func(seed int) object {
		return ask("Tell me a long story.", object{"temperature": 6, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed, "max_tokens": 40})
	}
	alone := map[int]string{}
	for seed := range 4 {
		alone[seed] = r.chat(t, body(seed)).Choices[0].Message.Content
	}
	if alone[0] == alone[1] && alone[1] == alone[2] {
		t.Errorf("three seeds give the same text %q", alone[0])
	}
	var wait sync.WaitGroup
	for round := range 3 {
		for seed := range 4 {
			wait.Go(func() {
				if got := r.chat(t, body(seed)).Choices[0].Message.Content; got != alone[seed] {
					t.Errorf("round %d, seed %d: got %q, want %q", round, seed, got, alone[seed])
				}
			})
		}
	}
	wait.Wait()
}

func TestSlotReusesACommonBeginning(t *testing.T) {
	r := start(t, Config{Slots: 2})
	first := r.chat(t, ask("What is the capital of France?"))
	again := r.chat(t, ask("What is the capital of France?"))
	if first.Usage.Details.Cached != 0 {
		t.Errorf("the first request reused %d tokens", first.Usage.Details.Cached)
	}
	if got, want := again.Usage.Details.Cached, again.Usage.Prompt-1; got != want {
		t.Errorf("the same prompt reused %d tokens, want %d", got, want)
	}
	if again.Choices[0].Message.Content != first.Choices[0].Message.Content {
		t.Errorf("reuse changed the answer: %q, %q", first.Choices[0].Message.Content, again.Choices[0].Message.Content)
	}
	other := r.chat(t, ask("What is the capital of Spain?"))
	if got, want := fmt.Sprint(other.Choices[0].Message.Content), "The capital of Spain is Madrid."; got != want {
		t.Errorf("after reuse: got %q, want %q", got, want)
	}
}

package model_test

import (
	"net/http"
	"testing"

	"github.com/bothy-edge/bothy/runtime/embedded/internal/reference"
)

// startLlama runs llama-server with one slot, as far as Mote's contexts go.
func startLlama(tb testing.TB, model string) *reference.Server {
	tb.Helper()
	return reference.Start(tb, model, "-c", "512", "-np", "1")
}

// promptOf is the text as token numbers, with the model's own special tokens.
func promptOf(tb testing.TB, s *reference.Server, text string) []int32 {
	tb.Helper()
	ids := s.Tokens(tb, text, true, true)
	if len(ids) == 0 {
		tb.Fatalf("llama-server made no tokens of %q", text)
	}
	return ids
}

type probability struct {
	ID      int32   `json:"id"`
	LogProb float64 `json:"logprob"`
	Top     []struct {
		ID      int32   `json:"id"`
		LogProb float64 `json:"logprob"`
	} `json:"top_logprobs"`
}

// greedyOf is llama-server's answer to the prompt with the five likeliest tokens
// at every step.
func greedyOf(tb testing.TB, s *reference.Server, prompt []int32, most int) []probability {
	tb.Helper()
	var answer struct {
		Probabilities []probability `json:"completion_probabilities"`
	}
	code := s.Post(tb, "/completion", map[string]any{
		"prompt": prompt, "n_predict": most, "temperature": 0, "n_probs": 5,
		"cache_prompt": false, "return_tokens": true,
	}, &answer)
	if code != http.StatusOK || len(answer.Probabilities) == 0 {
		tb.Fatalf("llama-server gave no tokens: status %d, %+v", code, answer)
	}
	return answer.Probabilities
}

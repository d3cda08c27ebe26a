package serve

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/bothy-edge/bothy/runtime/embedded/sample"
)

const (
	maxStops       = 16
	maxStopBytes   = 1 << 10
	maxTopLogprobs = 20
	maxBiases      = 4096 // each is looked at for every token of the answer
)

// generation is the part of a request that both completion endpoints share.
// Absent fields take llama-server's defaults, so that an alias answers alike on either engine.
type generation struct {
	MaxTokens           *int               `json:"max_tokens"`
	MaxCompletionTokens *int               `json:"max_completion_tokens"`
	Temperature         *float64           `json:"temperature"`
	TopK                *int               `json:"top_k"`
	TopP                *float64           `json:"top_p"`
	MinP                *float64           `json:"min_p"`
	RepeatPenalty       *float64           `json:"repeat_penalty"`
	RepeatLast          *int               `json:"repeat_last_n"`
	FrequencyPenalty    *float64           `json:"frequency_penalty"`
	PresencePenalty     *float64           `json:"presence_penalty"`
	Seed                *int64             `json:"seed"`
	LogitBias           map[string]float64 `json:"logit_bias"`
	Stop                stops              `json:"stop"`
	N                   *int               `json:"n"`
	Stream              bool               `json:"stream"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	ResponseFormat struct {
		Type string `json:"type"`
	} `json:"response_format"`
	Grammar    string          `json:"grammar"`
	JSONSchema json.RawMessage `json:"json_schema"`
}

// stops is one stop string or a list of them.
type stops []string

// UnmarshalJSON reads a string, a list of strings, or null.
func (s *stops) UnmarshalJSON(b []byte) error {
	var one *string
	if json.Unmarshal(b, &one) == nil {
		if *s = nil; one != nil {
			*s = stops{*one}
		}
		return nil
	}
	var many []string
	if json.Unmarshal(b, &many) != nil {
		return invalid("stop", "stop must be a string or a list of strings")
	}
	*s = many
	return nil
}

// job makes the job that the fields ask for; room is how many tokens the context has left.
func (g *generation) job(room int) (*job, error) {
	if err := g.refuse(); err != nil {
		return nil, err
	}
	p, err := g.params()
	if err != nil {
		return nil, err
	}
	most, name := g.MaxTokens, "max_tokens"
	if g.MaxCompletionTokens != nil {
		most, name = g.MaxCompletionTokens, "max_completion_tokens"
	}
	j := &job{params: p, most: room, logprobs: -1, answer: newAnswer()}
	if most != nil && *most != -1 { // -1 is llama-server's word for no limit
		if *most < 1 {
			return nil, invalid(name, "%s is %d, want 1 or more", name, *most)
		}
		j.most = min(j.most, *most)
	}
	j.stop, err = g.stopStrings()
	return j, err
}

// refuse names what this engine does not do, rather than do something else.
func (g *generation) refuse() error {
	switch {
	case g.N != nil && *g.N != 1:
		return unsupported("n", "n is %d: this engine makes one choice a request, send the request again for more", *g.N)
	case g.ResponseFormat.Type != "" && g.ResponseFormat.Type != "text":
		return unsupported("response_format", "response_format %q is not supported by the embedded engine: use the llama-server engine", g.ResponseFormat.Type)
	case g.Grammar != "" || len(g.JSONSchema) > 0 && string(g.JSONSchema) != "null":
		return unsupported("grammar", "constrained output is not supported by the embedded engine: use the llama-server engine")
	}
	return nil
}

func (g *generation) params() (sample.Params, error) {
	p := sample.Params{
		Temperature: or(g.Temperature, 0.8), TopK: max(or(g.TopK, 40), 0), TopP: or(g.TopP, 0.95), MinP: or(g.MinP, 0.05),
		RepeatPenalty: or(g.RepeatPenalty, 1), RepeatLast: or(g.RepeatLast, 64),
		FrequencyPenalty: or(g.FrequencyPenalty, 0), PresencePenalty: or(g.PresencePenalty, 0),
	}
	if g.RepeatLast != nil && *g.RepeatLast == 0 {
		p.RepeatPenalty, p.FrequencyPenalty, p.PresencePenalty = 1, 0, 0
	}
	if g.Seed != nil && *g.Seed >= 0 {
		p.Seed = uint64(*g.Seed)
	} else {
		p.Seed = rand.Uint64() // none asked for; -1 is llama-server's word for that
	}
	if len(g.LogitBias) > maxBiases {
		return p, invalid("logit_bias", "logit_bias has %d entries, want at most %d", len(g.LogitBias), maxBiases)
	}
	for key, bias := range g.LogitBias {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || id < 0 {
			return p, invalid("logit_bias", "logit_bias has the key %q, want a token number", key)
		}
		if p.LogitBias == nil {
			p.LogitBias = map[int32]float64{}
		}
		if bias <= -100 { // OpenAI's bound means a ban
			bias = math.Inf(-1)
		}
		p.LogitBias[int32(id)] = bias
	}
	if err := p.Check(); err != nil {
		return p, invalid("", "%v", err)
	}
	return p, nil
}

func (g *generation) stopStrings() ([]string, error) {
	if len(g.Stop) > maxStops {
		return nil, invalid("stop", "%d stop strings, want at most %d", len(g.Stop), maxStops)
	}
	var out []string
	for _, s := range g.Stop {
		if len(s) > maxStopBytes {
			return nil, invalid("stop", "a stop string has %d bytes, want at most %d", len(s), maxStopBytes)
		}
		if s != "" {
			out = append(out, s)
		}
	}
	return out, nil
}

func or[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}

// topLogprobs checks how many likeliest tokens are asked for.
func topLogprobs(name string, n int) (int, error) {
	if n < 0 || n > maxTopLogprobs {
		return 0, invalid(name, "%s is %d, want 0 to %d", name, n, maxTopLogprobs)
	}
	return n, nil
}

package serve

// The JSON of answers. Field names and shapes are OpenAI's; an extra id in
// probabilities and cached_tokens in usage are llama-server's.

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	Details          struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

func usageOf(e event) *usage {
	u := &usage{PromptTokens: e.prompt, CompletionTokens: e.made, TotalTokens: e.prompt + e.made}
	u.Details.CachedTokens = e.reused
	return u
}

// reply is a whole answer or a chunk of one, of either completion endpoint.
type reply struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	Model       string `json:"model"`
	Fingerprint string `json:"system_fingerprint"`
	Choices     []any  `json:"choices"`
	Usage       *usage `json:"usage,omitempty"`
}

type chatChoice struct {
	Index    int           `json:"index"`
	Message  chatMessage   `json:"message"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   string        `json:"finish_reason"`
}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatChunk struct {
	Index    int           `json:"index"`
	Delta    chatDelta     `json:"delta"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
}

type chatDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

type chatLogprob struct {
	ID      int32         `json:"id"`
	Token   string        `json:"token"`
	Logprob float64       `json:"logprob"`
	Bytes   []int         `json:"bytes"`
	Top     []chatLogprob `json:"top_logprobs"`
}

func chatLogprobsOf(probs []tokenProb, asked bool) *chatLogprobs {
	if !asked {
		return nil
	}
	out := &chatLogprobs{Content: make([]chatLogprob, 0, len(probs))}
	for _, p := range probs {
		entry := chatLogprobOf(p)
		entry.Top = make([]chatLogprob, 0, len(p.top))
		for _, t := range p.top {
			entry.Top = append(entry.Top, chatLogprobOf(t))
		}
		out.Content = append(out.Content, entry)
	}
	return out
}

func chatLogprobOf(p tokenProb) chatLogprob {
	// encoding/json writes []byte as base64; the API wants numbers.
	bytes := make([]int, len(p.bytes))
	for i, b := range p.bytes {
		bytes[i] = int(b)
	}
	return chatLogprob{ID: p.id, Token: p.token, Logprob: p.logprob, Bytes: bytes}
}

type textChoice struct {
	Index    int           `json:"index"`
	Text     string        `json:"text"`
	Logprobs *textLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
}

type textLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []float64            `json:"token_logprobs"`
	Top      []map[string]float64 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"`
}

func textLogprobsOf(probs []tokenProb, asked bool) *textLogprobs {
	if !asked {
		return nil
	}
	out := &textLogprobs{Tokens: []string{}, Logprobs: []float64{}, Top: []map[string]float64{}, Offsets: []int{}}
	for _, p := range probs {
		out.Tokens = append(out.Tokens, p.token)
		out.Logprobs = append(out.Logprobs, p.logprob)
		out.Offsets = append(out.Offsets, p.start)
		top := make(map[string]float64, len(p.top))
		for _, t := range p.top {
			top[t.token] = t.logprob
		}
		out.Top = append(out.Top, top)
	}
	return out
}

package serve

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/bothy-edge/bothy/runtime/embedded/chat"
)

// chatRequest is the body of /v1/chat/completions and /apply-template.
type chatRequest struct {
	generation
	Messages    []chat.Message    `json:"messages"`
	Tools       []json.RawMessage `json:"tools"`
	ToolChoice  json.RawMessage   `json:"tool_choice"`
	Logprobs    bool              `json:"logprobs"`
	TopLogprobs int               `json:"top_logprobs"`
	Variables   map[string]any    `json:"chat_template_kwargs"`
}

// textRequest is the body of /v1/completions.
type textRequest struct {
	generation
	Prompt   prompt  `json:"prompt"`
	Logprobs *int    `json:"logprobs"`
	Echo     bool    `json:"echo"`
	BestOf   *int    `json:"best_of"`
	Suffix   *string `json:"suffix"`
}

// prompt is text or tokens.
type prompt struct {
	text   string
	tokens []int32
	given  bool
}

// UnmarshalJSON reads a string, a list of tokens, or a list of one string.
func (p *prompt) UnmarshalJSON(b []byte) error {
	p.given = true
	if json.Unmarshal(b, &p.text) == nil || json.Unmarshal(b, &p.tokens) == nil {
		return nil
	}
	var many []string
	if json.Unmarshal(b, &many) == nil && len(many) == 1 {
		p.text = many[0]
		return nil
	}
	return invalid("prompt", "prompt must be a string or a list of token numbers, one prompt a request")
}

func (s *Server) chatCompletions(e *engine, w http.ResponseWriter, r *http.Request) error {
	var req chatRequest
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	text, err := e.render(&req)
	if err != nil {
		return err
	}
	ids, err := e.encode("messages", text)
	if err != nil {
		return err
	}
	j, err := e.job(&req.generation, ids)
	if err != nil {
		return err
	}
	if req.Logprobs {
		if j.logprobs, err = topLogprobs("top_logprobs", req.TopLogprobs); err != nil {
			return err
		}
	} else if req.TopLogprobs != 0 {
		return invalid("top_logprobs", "top_logprobs needs logprobs to be true")
	}
	return s.answer(e, w, r, j, &req.generation, &chatWriter{asked: req.Logprobs})
}

// render is the prompt of a chat request.
func (e *engine) render(req *chatRequest) (string, error) {
	if e.noChat != nil {
		return "", &apiError{Status: http.StatusNotImplemented, Type: "not_supported_error", Code: "no_chat_template", Message: e.noChat.Error()}
	}
	if len(req.Messages) == 0 {
		return "", invalid("messages", "messages is required and must not be empty")
	}
	// A message has a token at least, and templates may walk over all messages for each one.
	if len(req.Messages) > e.about.Context {
		return "", e.tooLong(len(req.Messages))
	}
	// Text that cannot fit is not rendered first: a template bounds what it handles, in words of its own.
	size := 0
	for _, m := range req.Messages {
		size += m.TextSize()
	}
	if n := e.tokens.Fewest(size); n > e.about.Context {
		return "", e.tooLong(n)
	}
	var tools []any
	switch choice := strings.Trim(string(req.ToolChoice), `"`); choice {
	case "", "null", "auto":
		for _, t := range req.Tools {
			tools = append(tools, t)
		}
	case "none":
	default:
		return "", unsupported("tool_choice", "tool_choice %s cannot be enforced by the embedded engine: use auto or none", choice)
	}
	text, err := e.chat.Render(req.Messages, tools, true, req.Variables)
	if err != nil {
		return "", invalid("messages", "%v", err)
	}
	// Encode adds the begin token itself; a template that writes it out would double it.
	if e.tokens.AddBOS() {
		text = strings.TrimPrefix(text, e.tokens.Text(e.tokens.BOS()))
	}
	return text, nil
}

func (s *Server) completions(e *engine, w http.ResponseWriter, r *http.Request) error {
	var req textRequest
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	switch {
	case !req.Prompt.given:
		return invalid("prompt", "prompt is required")
	case req.Echo:
		return unsupported("echo", "echo is not supported by the embedded engine")
	case req.BestOf != nil && *req.BestOf != 1:
		return unsupported("best_of", "best_of is %d: this engine makes one choice a request", *req.BestOf)
	case req.Suffix != nil && *req.Suffix != "":
		return unsupported("suffix", "suffix is not supported by the embedded engine")
	}
	ids, err := e.promptTokens(req.Prompt)
	if err != nil {
		return err
	}
	j, err := e.job(&req.generation, ids)
	if err != nil {
		return err
	}
	if req.Logprobs != nil {
		if j.logprobs, err = topLogprobs("logprobs", *req.Logprobs); err != nil {
			return err
		}
	}
	return s.answer(e, w, r, j, &req.generation, &textWriter{asked: req.Logprobs != nil})
}

func (e *engine) promptTokens(p prompt) ([]int32, error) {
	if p.tokens == nil {
		return e.encode("prompt", p.text)
	}
	for _, id := range p.tokens {
		if id < 0 || int(id) >= e.about.Vocab {
			return nil, invalid("prompt", "prompt has the token %d, the vocabulary has %d", id, e.about.Vocab)
		}
	}
	return p.tokens, nil
}

// encode tokenizes the text of a prompt. Tokenizing takes some eighty bytes a byte, so a text that cannot fit is
// refused before.
func (e *engine) encode(param, text string) ([]int32, error) {
	if n := e.tokens.Fewest(len(text)); n > e.about.Context {
		return nil, e.tooLong(n)
	}
	ids, err := e.tokens.Encode(text, true, true)
	if err != nil {
		return nil, invalid(param, "%v", err)
	}
	return ids, nil
}

func (e *engine) tooLong(tokens int) error {
	return &apiError{Status: http.StatusBadRequest, Type: "invalid_request_error", Code: "context_length_exceeded",
		Message:      "the prompt does not fit the context: shorten it or start the engine with a larger context",
		PromptTokens: tokens, Context: e.about.Context}
}

// job checks that the prompt fits and makes its job.
func (e *engine) job(g *generation, ids []int32) (*job, error) {
	room := e.about.Context - len(ids)
	switch {
	case len(ids) == 0:
		return nil, invalid("prompt", "the prompt has no tokens")
	case room < 1:
		return nil, e.tooLong(len(ids))
	}
	j, err := g.job(room)
	if err != nil {
		return nil, err
	}
	j.prompt = ids
	return j, nil
}

// writer gives an endpoint's shape to the events of an answer.
type writer interface {
	object(stream bool) string
	first() any        // the choice that opens a stream, nil for none
	chunk(e event) any // a choice of a stream
	whole(text string, probs []tokenProb, finish string) any
}

// answer runs the job and writes what comes of it.
func (s *Server) answer(e *engine, w http.ResponseWriter, r *http.Request, j *job, g *generation, shape writer) error {
	// The job must end with the handler, whatever ends the handler.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	j.ctx = ctx
	if err := e.loop.submit(j); err != nil {
		return err
	}
	base := reply{ID: "chatcmpl-" + rand.Text(), Object: shape.object(g.Stream), Created: s.config.Now().Unix(), Model: e.alias, Fingerprint: "bothy-embedded"}
	if g.Stream {
		return s.stream(ctx, w, j, base, shape, g.StreamOptions.IncludeUsage)
	}
	var text strings.Builder
	var probs []tokenProb
	for {
		events, err := j.answer.take(ctx)
		if err != nil {
			return gone(err)
		}
		for _, ev := range events {
			text.WriteString(ev.text)
			probs = append(probs, ev.probs...)
			if ev.err != nil {
				return gone(ev.err)
			}
			if ev.finish != "" {
				base.Choices, base.Usage = []any{shape.whole(text.String(), probs, ev.finish)}, usageOf(ev)
				writeJSON(w, http.StatusOK, base)
				return nil
			}
		}
	}
}

// gone turns a cancellation into what a client that is still there should read.
func gone(err error) error {
	if errors.Is(err, context.Canceled) {
		return unavailable("engine_stopping", "the engine is stopping or the request was cancelled")
	}
	return err
}

type chatWriter struct{ asked bool }

func (c *chatWriter) object(stream bool) string {
	if stream {
		return "chat.completion.chunk"
	}
	return "chat.completion"
}

func (c *chatWriter) first() any {
	empty := ""
	return chatChunk{Delta: chatDelta{Role: "assistant", Content: &empty}}
}

func (c *chatWriter) chunk(e event) any {
	if e.finish != "" {
		return chatChunk{Finish: &e.finish}
	}
	return chatChunk{Delta: chatDelta{Content: &e.text}, Logprobs: chatLogprobsOf(e.probs, c.asked)}
}

func (c *chatWriter) whole(text string, probs []tokenProb, finish string) any {
	return chatChoice{Message: chatMessage{"assistant", text}, Logprobs: chatLogprobsOf(probs, c.asked), Finish: finish}
}

type textWriter struct{ asked bool }

func (t *textWriter) object(bool) string { return "text_completion" }
func (t *textWriter) first() any         { return nil }

func (t *textWriter) chunk(e event) any {
	if e.finish != "" {
		return textChoice{Finish: &e.finish}
	}
	return textChoice{Text: e.text, Logprobs: textLogprobsOf(e.probs, t.asked)}
}

func (t *textWriter) whole(text string, probs []tokenProb, finish string) any {
	return textChoice{Text: text, Logprobs: textLogprobsOf(probs, t.asked), Finish: &finish}
}

// Package accept asks a prepared engine the questions that a model release
// carries, before the engine may take requests.
//
// A check is passed when the answer holds the wanted text, matches the wanted
// pattern and comes fast enough. Questions are asked one after another, decoded
// greedily, so that the same engine gives the same answers. The first check that
// fails ends the run with a *Failure; an engine that does not answer at all is
// a failure too. The updater calls it on a candidate; it changes nothing.
package accept

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
)

// Defaults of a check that does not say.
const (
	defaultTimeout   = 60 * time.Second
	defaultMaxTokens = 64
)

// maxAnswer bounds what is read of an engine's answer, in bytes.
const maxAnswer = 1 << 20

// Failure says which check was not passed and why.
type Failure struct {
	Check string // its name, or its number from 1
	Err   error
}

// Error tells the check and the cause.
func (f *Failure) Error() string {
	return fmt.Sprintf("acceptance check %s failed: %v", f.Check, f.Err)
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Run asks every check of the engine behind client, whose URLs may name any
// host, under the model's alias. It returns nil, a *Failure, or ctx's error.
func Run(ctx context.Context, client *http.Client, alias string, checks []release.Check) error {
	for i, c := range checks {
		if err := one(ctx, client, alias, c); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &Failure{Check: label(i, c), Err: err}
		}
	}
	return nil
}

func label(i int, c release.Check) string {
	if c.Name != "" {
		return fmt.Sprintf("%q", c.Name)
	}
	return fmt.Sprint(i + 1)
}

// completion is the part of a chat completion that a check looks at.
type completion struct {
	Choices []struct {
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
	} `json:"choices"`
	Usage struct {
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
}

func one(ctx context.Context, client *http.Client, alias string, c release.Check) error {
	limit := defaultTimeout
	if c.TimeoutSeconds > 0 {
		limit = time.Duration(c.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	got, err := ask(ctx, client, alias, c)
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			return fmt.Errorf("no answer within %s", limit)
		}
		return err
	}
	return judge(c, got, time.Since(begin))
}

func ask(ctx context.Context, client *http.Client, alias string, c release.Check) (completion, error) {
	var got completion
	messages := c.Messages
	if c.Prompt != "" {
		messages = append(messages[:len(messages):len(messages)], release.Message{Role: "user", Content: c.Prompt})
	}
	tokens := c.MaxTokens
	if tokens <= 0 {
		tokens = defaultMaxTokens
	}
	body, err := json.Marshal(map[string]any{"model": alias, "messages": messages, "temperature": 0, "max_tokens": tokens})
	if err != nil {
		return got, fmt.Errorf("internal error: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return got, fmt.Errorf("internal error: %w", err)
	}
	req.Header.Set("content-type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return got, fmt.Errorf("cannot ask the engine: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return got, fmt.Errorf("cannot read the engine's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return got, fmt.Errorf("the engine answered %s: %s", resp.Status, short(string(raw)))
	}
	if err := json.Unmarshal(raw, &got); err != nil || len(got.Choices) == 0 {
		return got, fmt.Errorf("the engine's answer is not a chat completion: %s", short(string(raw)))
	}
	return got, nil
}

// judge holds the answer against the check. The question is the release's own, so quoting the answer reveals nothing of a user's.
func judge(c release.Check, got completion, took time.Duration) error {
	text := got.Choices[0].Message.Content
	if c.Want != "" && !strings.Contains(text, c.Want) {
		return fmt.Errorf("the answer %q does not contain %q", short(text), c.Want)
	}
	if c.Pattern != "" {
		re, err := regexp.Compile(c.Pattern)
		if err != nil {
			return fmt.Errorf("cannot use the pattern %q: %w", c.Pattern, err)
		}
		if !re.MatchString(text) {
			return fmt.Errorf("the answer %q does not match %q", short(text), c.Pattern)
		}
	}
	rate := float64(got.Usage.CompletionTokens) / took.Seconds()
	if rate < c.MinTokensPerSecond {
		return fmt.Errorf("%d tokens in %.2f s are %.1f tokens/s, want at least %.1f", got.Usage.CompletionTokens, took.Seconds(), rate, c.MinTokensPerSecond)
	}
	return nil
}

func short(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "..."
	}
	return s
}

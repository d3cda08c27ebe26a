package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// errLoading says that the engine is alive and not ready: the only answer worth waiting on.
var errLoading = errors.New("the model is still loading")

// prober asks an engine how it is. Both calls end with ctx.
type prober interface {
	health(ctx context.Context) error // nil: loaded; errLoading: wait; *refusal: it answered something else; other: no answer
	ask(ctx context.Context) error    // nil: it gave a real answer
}

// refusal is an answer that is not the expected one.
type refusal struct {
	path   string
	status int
	text   string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the engine answered %s with status %d: %s", r.path, r.status, r.text)
}

type httpProber struct {
	client  *http.Client
	command Command
}

func socketProber(g *generation) prober { return httpProber{g.client, g.command} }

func (p httpProber) health(ctx context.Context) error {
	path := p.command.Health
	if path == "" {
		path = "/health"
	}
	err := p.do(ctx, http.MethodGet, path, "")
	var r *refusal
	// llama-server answers 503 while it loads weights; anything else is a real failure.
	if errors.As(err, &r) && r.status == http.StatusServiceUnavailable {
		return errLoading
	}
	return err
}

func (p httpProber) ask(ctx context.Context) error {
	if p.command.Ask.Path == "" {
		return nil
	}
	return p.do(ctx, http.MethodPost, p.command.Ask.Path, p.command.Ask.Body)
}

func (p httpProber) do(ctx context.Context, method, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, engineURL+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &refusal{path, resp.StatusCode, clean(text[:min(len(text), 300)])}
	}
	return nil
}

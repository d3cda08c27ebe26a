package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/bothy-edge/bothy/updater/trust"
)

// web is a trust.Source over HTTP. An empty URL has nothing.
type web struct{ metadata, targets string }

// Metadata implements trust.Source. Names of metadata come escaped, and only
// names of targets have a slash.
func (w web) Metadata(ctx context.Context, _ trust.Repo, name string, limit int64) ([]byte, error) {
	base := w.metadata
	if path, ok := strings.CutPrefix(name, "targets/"); ok {
		base = w.targets
		name = escapePath(path)
	}
	if base == "" {
		return nil, fmt.Errorf("cannot ask for %s: no URL was given", name)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/"+name, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(answer.Body, limit+1))
	case http.StatusNotFound, http.StatusForbidden:
		// Object stores answer 403 for what they do not have when the caller may not list.
		return nil, fmt.Errorf("GET %s: %s: %w", request.URL, answer.Status, trust.ErrNotFound)
	}
	return nil, fmt.Errorf("GET %s: %s", request.URL, answer.Status)
}

// escapePath escapes a path part by part, and leaves its slashes.
func escapePath(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

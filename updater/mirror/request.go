package mirror

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
)

// passing is an error after which another try may help.
type passing struct {
	error
	after time.Duration // not before; 0: soon
}

func (p *passing) Unwrap() error { return p.error }

var errTooLong = errors.New("the answer is longer than it may be")

const (
	progressBytes = 64 << 10 // what must come within Stall
	claimLimit    = 8 << 20  // bytes of a claim
	retryAfterMax = time.Minute
)

// small fetches a whole file of at most limit bytes.
func (s *Source) small(ctx context.Context, path string, limit int64) ([]byte, error) {
	for tries := 1; ; tries++ {
		b, err := s.once(ctx, path, limit)
		if err == nil {
			return b, nil
		}
		if err := s.again(ctx, tries, err); err != nil {
			return nil, err
		}
	}
}

func (s *Source) once(ctx context.Context, path string, limit int64) ([]byte, error) {
	a, err := s.get(ctx, path, "")
	if err != nil {
		return nil, err
	}
	defer a.close()
	if a.status != http.StatusOK {
		return nil, fmt.Errorf("%s: the server answers with a part (%d) of what was asked for whole: %w", path, a.status, content.ErrCorrupt)
	}
	if a.length > limit {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d: %w", path, a.length, limit, errTooLong)
	}
	b, err := io.ReadAll(io.LimitReader(a, limit+1))
	if err != nil {
		return nil, a.explain(err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes: %w", path, limit, errTooLong)
	}
	return b, nil
}

// answer is one response with its body. A body that brings less than
// progressBytes within the stall time ends with an error.
type answer struct {
	status int
	length int64  // of the body; -1: not said
	ranges string // Content-Range
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
	fresh  int // bytes since the timer was set
	path   string
}

// get asks for a file, or a range of it: "bytes=0-99". Where the server wants to
// know who may have what, it is told, once.
func (s *Source) get(ctx context.Context, path, ranges string) (*answer, error) {
	a, err := s.do(ctx, http.MethodGet, path, ranges, nil)
	if err != nil || a.status != http.StatusUnauthorized || s.cfg.Claim == nil {
		return s.judged(a, err)
	}
	a.close()
	claim, err := s.cfg.Claim()
	if err != nil {
		return nil, err
	}
	if len(claim) > claimLimit {
		return nil, fmt.Errorf("cannot present a claim of %d bytes, the limit is %d", len(claim), claimLimit)
	}
	if a, err = s.judged(s.do(ctx, http.MethodPost, "claim", "", claim)); err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	a.close()
	return s.judged(s.do(ctx, http.MethodGet, path, ranges, nil))
}

func (s *Source) do(ctx context.Context, method, path, ranges string, body []byte) (*answer, error) {
	a := &answer{stall: s.cfg.Stall, path: brief(path)}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.timer = time.AfterFunc(a.stall, func() {
		a.cancel(fmt.Errorf("less than %d KiB in %s: %w", progressBytes>>10, a.stall, content.ErrStalled))
	})
	q, err := http.NewRequestWithContext(a.ctx, method, s.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		a.end()
		return nil, err
	}
	q.Header.Set("User-Agent", "bothy")
	q.Header.Set("Cache-Control", "no-cache") // a stale timestamp on the way would be a freeze
	if ranges != "" {
		q.Header.Set("Range", ranges)
		q.Header.Del("Cache-Control") // blobs never change
	}
	r, err := s.client.Do(q)
	if err != nil {
		err = a.explain(err)
		a.end()
		return nil, err
	}
	a.status, a.length, a.ranges, a.body = r.StatusCode, r.ContentLength, r.Header.Get("Content-Range"), r.Body
	if a.status == http.StatusTooManyRequests || a.status >= 500 {
		a.length = retryAfter(r.Header.Get("Retry-After")).Milliseconds()
	}
	return a, nil
}

// brief shortens a path with a digest for messages.
func brief(path string) string {
	if len(path) <= 40 {
		return path
	}
	return path[:18] + "..."
}

func retryAfter(text string) time.Duration {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, retryAfterMax)
}

// judged turns an answer that is no content into an error.
func (s *Source) judged(a *answer, err error) (*answer, error) {
	if err != nil || a.status == http.StatusOK || a.status == http.StatusPartialContent || a.status == http.StatusNoContent {
		return a, err
	}
	a.close()
	said := fmt.Errorf("%s: the server answers %d %s", a.path, a.status, http.StatusText(a.status))
	switch {
	case a.status == http.StatusNotFound || a.status == http.StatusGone:
		return nil, fmt.Errorf("%s: %w", a.path, content.ErrNotFound)
	case a.status == http.StatusRequestedRangeNotSatisfiable:
		return nil, fmt.Errorf("%w: %w", said, content.ErrCorrupt)
	case a.status == http.StatusTooManyRequests || a.status >= 500:
		return nil, &passing{said, time.Duration(a.length) * time.Millisecond}
	}
	return nil, said
}

// Read implements io.Reader.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if a.fresh += n; a.fresh >= progressBytes {
		a.fresh = 0
		a.timer.Reset(a.stall)
	}
	return n, err
}

// explain says what an error of the transport means, and that it may pass.
func (a *answer) explain(err error) error {
	if cause := context.Cause(a.ctx); errors.Is(cause, content.ErrStalled) {
		return cause // enough time went into this one
	}
	if a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, errRedirect) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%s: the connection closed early", a.path)
	}
	return &passing{err, 0}
}

// pause stops the clock while it is not the server who is slow; resume starts it anew.
func (a *answer) pause()  { a.timer.Stop() }
func (a *answer) resume() { a.fresh = 0; a.timer.Reset(a.stall) }

func (a *answer) end() {
	a.timer.Stop()
	a.cancel(nil)
}

// close gives the connection back if the body has ended as it should.
func (a *answer) close() {
	var rest [512]byte
	if a.length >= 0 || a.status != http.StatusOK {
		_, _ = io.ReadFull(a.body, rest[:]) // what little an error's body has; more closes the connection
	}
	a.body.Close()
	a.end()
}

package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Config says where a mirror is and how to reach it. URL is required.
type Config struct {
	// Name is how progress and messages call it. Default "mirror".
	Name string
	// Detail tells one of several sources of that name from the others; may be nil.
	Detail func() string
	// URL is the folder, https://host[:port][/path]. http is for loopback, or with AllowPlain.
	URL        string
	AllowPlain bool
	// Device is whose metadata is fetched.
	Device string
	// TLS holds the authority and the client's certificate; nil: the system's, none.
	TLS *tls.Config
	// Proxy chooses a proxy for a request, as in http.Transport; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Stall is how long 64 KiB may take before the server is given up. Default 60 s.
	Stall time.Duration
	// Tries is how often in a row something may fail that may pass. Default 4.
	Tries int
	// Plain says that the server has no packed forms.
	Plain bool
	// Pace is asked before n bytes are; nil: at once.
	Pace func(ctx context.Context, n int) error
	// Slowed says why Pace makes it wait, for progress; nil: it does not.
	Slowed func() string
	// Claim is presented to a server that answers 401; nil: nothing is.
	Claim func() ([]byte, error)
	// Jitter spreads retries, in [0, 1); nil: math/rand.
	Jitter func() float64
}

// Source is one mirror.
type Source struct {
	cfg    Config
	base   *url.URL
	client *http.Client
}

const (
	headerLimit   = 64 << 10
	connectLimit  = 10 * time.Second
	answerLimit   = 30 * time.Second
	idleLimit     = 90 * time.Second
	redirectLimit = 3
)

// Slowed says why less is asked for than the line could bring, "" if it is not so.
func (s *Source) Slowed() string {
	if s.cfg.Slowed == nil {
		return ""
	}
	return s.cfg.Slowed()
}

// New checks the configuration; it does not connect.
func New(c Config) (*Source, error) {
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("cannot use the mirror %q: %w", c.URL, err)
	}
	switch {
	case base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("cannot use the mirror %q: write it as https://host/folder", base.Redacted())
	case base.Scheme == "http" && !c.AllowPlain && !loopback(base.Hostname()):
		return nil, fmt.Errorf("cannot use the mirror %s: plain http beyond loopback needs allow_plaintext", base.Redacted())
	}
	if c.Name == "" {
		c.Name = "mirror"
	}
	if c.Stall == 0 {
		c.Stall = time.Minute
	}
	if c.Tries == 0 {
		c.Tries = 4
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	conf := &tls.Config{}
	if c.TLS != nil {
		conf = c.TLS.Clone()
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	s := &Source{cfg: c, base: base}
	s.client = &http.Client{
		CheckRedirect: s.redirect,
		Transport: &http.Transport{
			Proxy: c.Proxy, TLSClientConfig: conf, TLSHandshakeTimeout: connectLimit,
			DialContext:           (&net.Dialer{Timeout: connectLimit, KeepAlive: 30 * time.Second}).DialContext,
			ResponseHeaderTimeout: min(answerLimit, c.Stall), IdleConnTimeout: idleLimit, MaxIdleConnsPerHost: 2, MaxConnsPerHost: 4,
			MaxResponseHeaderBytes: headerLimit,
			// A range of a compressed body is no range of the file, and a body that grows is no body we asked for.
			DisableCompression: true,
			ReadBufferSize:     64 << 10,
		},
	}
	return s, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// PlainOnly implements content.PlainOnly.
func (s *Source) PlainOnly() bool { return s.cfg.Plain }

// Close gives back idle connections.
func (s *Source) Close() { s.client.CloseIdleConnections() }

// Name implements content.Source.
func (s *Source) Name() string {
	if s.cfg.Detail != nil {
		return s.cfg.Name + " " + s.base.Host
	}
	return s.cfg.Name
}

var errRedirect = errors.New("it redirects to another place, which is not followed")

// redirect follows a few steps on the same host. Elsewhere nobody said that our
// certificate and what we ask for may be shown.
func (s *Source) redirect(next *http.Request, via []*http.Request) error {
	if len(via) > redirectLimit || next.URL.Scheme != s.base.Scheme || !strings.EqualFold(next.URL.Host, s.base.Host) {
		return errRedirect
	}
	return nil
}

// Index implements content.Source.
func (s *Source) Index(ctx context.Context, f release.File) ([]byte, error) {
	if release.CheckDigest(f.SHA256) != nil {
		return nil, fmt.Errorf("cannot ask for %.80q: it is no digest", f.SHA256)
	}
	return s.small(ctx, "blobs/"+f.SHA256+".index", content.MaxIndex)
}

// Metadata implements trust.Source.
func (s *Source) Metadata(ctx context.Context, repo trust.Repo, name string, limit int64) ([]byte, error) {
	path, ok := trust.ObjectPath(repo, s.cfg.Device, name)
	if !ok {
		return nil, fmt.Errorf("cannot fetch %.20q %.120q: %w", repo, name, trust.ErrNotFound)
	}
	b, err := s.small(ctx, filepath.ToSlash(path), limit)
	switch {
	case errors.Is(err, content.ErrNotFound):
		return nil, fmt.Errorf("%s: %w", s.Name(), trust.ErrNotFound)
	case errors.Is(err, errTooLong):
		return make([]byte, limit+1), nil // the consumer refuses it for its length
	case err != nil:
		return nil, fmt.Errorf("%s: %w", s.Name(), err)
	}
	return b, nil
}

// again says whether to try once more after err, and waits until then.
func (s *Source) again(ctx context.Context, tries int, err error) error {
	t, ok := errors.AsType[*passing](err)
	if !ok || tries >= s.cfg.Tries || ctx.Err() != nil {
		return err
	}
	wait := max(time.Duration((0.5+s.cfg.Jitter())*float64(time.Second<<min(tries-1, 4))), t.after)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package agent

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mirror"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// The sources of updates by the names that the configuration uses. What lies on
// this box already is always asked first.
const (
	sourceDirectory = "directory"
	sourcePeers     = "peers"
	sourceMirror    = "mirror"
	sourceMQTT      = "mqtt"
)

func defaultSources() []string {
	return []string{sourceDirectory, sourcePeers, sourceMirror, sourceMQTT}
}

// MirrorConfig names a web server that serves what `bothy fleet mirror` exports.
type MirrorConfig struct {
	URL  string `yaml:"url"`  // https://host/folder; empty: there is none
	CA   string `yaml:"ca"`   // PEM file of the certificate authority; empty: the system's
	Cert string `yaml:"cert"` // PEM file of the certificate to show; empty: the device's, if it has one
	Key  string `yaml:"key"`  // PEM file of its key
	// Proxy is a URL, "environment" (HTTPS_PROXY, NO_PROXY) or "none". Default environment.
	Proxy string `yaml:"proxy"`
	// AllowPlaintext consents to http:// beyond loopback.
	AllowPlaintext bool `yaml:"allow_plaintext"`
}

func (c *Config) checkSources() error {
	for i, name := range c.Updates.Sources {
		if !slices.Contains(defaultSources(), name) || slices.Contains(c.Updates.Sources[:i], name) {
			return fmt.Errorf("cannot use updates.sources: %q; want each of %v at most once", name, defaultSources())
		}
	}
	if d := c.Updates.Directory; d != "" && !filepath.IsAbs(d) {
		return fmt.Errorf("cannot use updates.directory %q: want an absolute path", d)
	}
	if err := c.Peers.check(); err != nil || c.Mirror.URL == "" {
		return err
	}
	if _, err := c.Mirror.proxy(); err != nil {
		return err
	}
	if (c.Mirror.Cert == "") != (c.Mirror.Key == "") {
		return errors.New("cannot use mirror.cert without mirror.key, or the reverse: name both")
	}
	_, err := mirror.New(mirror.Config{URL: c.Mirror.URL, AllowPlain: c.Mirror.AllowPlaintext})
	return err
}

func (c MirrorConfig) proxy() (func(*http.Request) (*url.URL, error), error) {
	switch c.Proxy {
	case "", "environment":
		return http.ProxyFromEnvironment, nil
	case "none":
		return nil, nil
	}
	u, err := url.Parse(c.Proxy)
	if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
		return nil, fmt.Errorf("cannot use mirror.proxy %q: want environment, none or http://host:port", c.Proxy)
	}
	return http.ProxyURL(u), nil
}

// supply is where this box gets updates from, besides the broker.
type supply struct {
	order  []string
	files  map[string][]content.Source
	offers []trust.Source // of metadata, besides the broker
}

// openSupply prepares the configured sources; nothing is connected to yet.
func (b *box) openSupply() error {
	c := b.o.Config
	b.supply = supply{order: c.Updates.Sources, files: map[string][]content.Source{}}
	if len(b.supply.order) == 0 {
		b.supply.order = defaultSources()
	}
	b.flow = b.newFlow()
	if b.link != nil {
		b.link.depot.Flow, b.link.depot.Alone = b.flow, c.Transfer.NoCast
		b.supply.files[sourceMQTT] = []content.Source{b.link.depot}
	}
	if dir := c.Updates.Directory; dir != "" && b.identity != nil {
		b.supply.files[sourceDirectory] = []content.Source{content.Directory{Dir: dir}}
		b.supply.offers = append(b.supply.offers, trust.Directory{Dir: dir, Device: b.identity.Device})
	}
	if b.identity == nil {
		return nil
	}
	var err error
	if b.supply.files[sourcePeers], err = b.openPeers(); err != nil || c.Mirror.URL == "" {
		return err
	}
	m, err := b.openMirror(c.Mirror)
	if err != nil {
		return err
	}
	b.supply.files[sourceMirror] = []content.Source{m}
	b.supply.offers = append(b.supply.offers, m)
	b.closing("mirror", func() error { m.Close(); return nil })
	return nil
}

func (b *box) openMirror(c MirrorConfig) (*mirror.Source, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pool, err := readPool(c.CA)
		if err != nil {
			return nil, fmt.Errorf("mirror: %w", err)
		}
		conf.RootCAs = pool
	}
	// Read at every handshake: certificates are renewed under a running agent.
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := b.deviceCertificate()
		if c.Cert != "" {
			pair, err = readPair(c.Cert, c.Key)
		}
		if errors.Is(err, fs.ErrNotExist) && c.Cert == "" {
			return &tls.Certificate{}, nil // none yet
		}
		return pair, err
	}
	proxy, err := c.proxy()
	if err != nil {
		return nil, err
	}
	return mirror.New(mirror.Config{URL: c.URL, AllowPlain: c.AllowPlaintext, Device: b.identity.Device, TLS: conf, Proxy: proxy, Pace: b.flow.Wait, Slowed: b.flow.Slowed})
}

func readPair(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s with its key %s: %w", cert, key, err)
	}
	return &pair, nil
}

// deviceCertificate is the device's own, as it is now. The error is
// fs.ErrNotExist for a device that was enrolled without one.
func (b *box) deviceCertificate() (*tls.Certificate, error) {
	path := filepath.Join(b.path(IdentityFolder), trust.CertificateFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the device's certificate: %w", err)
	}
	pair := &tls.Certificate{PrivateKey: b.identity.Key}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	if len(pair.Certificate) == 0 {
		return nil, fmt.Errorf("cannot read the device's certificate %s: no PEM certificate in it", path)
	}
	return pair, nil
}

// sources is every source of blocks, in the order in which they are asked.
func (s supply) sources() []content.Source {
	var all []content.Source
	for _, name := range s.order {
		all = append(all, s.files[name]...)
	}
	return all
}

// offering asks every source of metadata until one has a set that verifies.
type offering struct {
	client *trust.Client
	broker trust.Source // nil: the fleet has none
	there  func() bool  // the broker is connected
	others []trust.Source
	log    *slog.Logger
}

// Refresh asks the broker first, which knows the newest, if it is there; then the
// others in turn. Without others it waits for the broker. A set that must not be
// installed is an answer only when nobody has a better one: a mirror may lag behind.
func (o offering) Refresh(ctx context.Context) (release.Want, error) {
	var asked []trust.Source
	if o.broker != nil && (len(o.others) == 0 || o.there()) {
		asked = append(asked, o.broker)
	}
	var all error
	for _, src := range append(asked, o.others...) {
		want, err := refresher{o.client, src}.Refresh(ctx)
		if err == nil || ctx.Err() != nil {
			return want, err
		}
		if len(o.others) > 0 { // a single source's error is the answer itself
			o.log.Info("source of updates has nothing to install", "error", err)
		}
		all = errors.Join(all, err)
	}
	return release.Want{}, all
}

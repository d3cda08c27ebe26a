package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/depot"
)

// tls is how the depot meets the broker: by the files that were named, else by
// the certificates that the fleet makes itself; nil for plain TCP.
func (s serveFlags) tls(f *fleet.Fleet, broker string) (*tls.Config, error) {
	if s.ca != "" || s.cert != "" || s.key != "" || !strings.HasPrefix(broker, "tls://") {
		return clientTLS(s.ca, s.cert, s.key)
	}
	authority, err := f.BrokerAuthority()
	if err != nil {
		return nil, err
	}
	host, _, err := tlsAddress(broker)
	if err != nil {
		return nil, err
	}
	own := &freshCertificate{get: f.DepotCertificate}
	if _, err := own.load(); err != nil {
		return nil, err
	}
	// The embedded broker may be dialled by another name than devices know it by.
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool(), ServerName: host}
	conf.RootCAs.AppendCertsFromPEM(authority)
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.load() }
	return conf, nil
}

// freshCertificate loads a certificate of the fleet, and again every hour: a depot outlives one.
type freshCertificate struct {
	get func() (fleet.Certificate, error)

	mu   sync.Mutex
	last *tls.Certificate
	at   time.Time
}

func (c *freshCertificate) load() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && time.Since(c.at) < time.Hour {
		return c.last, nil
	}
	files, err := c.get()
	if err != nil {
		return c.last, err
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s: %w", files.CertFile, err)
	}
	c.last, c.at = &pair, time.Now()
	return c.last, nil
}

// startBroker starts the embedded broker. With a fleet whose broker is tls:// and
// no files named, it shows a certificate of the fleet and asks for those of devices.
func (s serveFlags) startBroker(f *fleet.Fleet, broker string, conf *tls.Config, log *slog.Logger) (*depot.Broker, error) {
	o := depot.BrokerOptions{
		Addr: s.embedded, Tenant: f.Tenant(), Depot: f.Depot(), TLS: conf, AllowPlain: s.plain, Hears: f.Hears, Log: log.WithGroup("broker"), Login: f.TokenLogin,
		// The certificates of another authority are not in the fleet's records: names alone count.
		Admit: func(device string, _ *big.Int) error { return f.Admits(device, nil) },
	}
	if s.ca == "" && s.cert == "" && s.key == "" && conf != nil {
		o.Admit = f.Admits
		var err error
		if o.TLS, err = ownBrokerTLS(f, broker, s.embedded); err != nil {
			return nil, err
		}
	}
	return depot.EmbeddedBroker(o)
}

func ownBrokerTLS(f *fleet.Fleet, broker, listen string) (*tls.Config, error) {
	host, _, err := tlsAddress(broker)
	if err != nil {
		return nil, err
	}
	hosts := []string{host}
	if at, _, err := net.SplitHostPort(listen); err == nil && at != host && at != "" && !net.ParseIP(at).IsUnspecified() {
		hosts = append(hosts, at)
	}
	own := &freshCertificate{get: func() (fleet.Certificate, error) { return f.BrokerCertificate(hosts...) }}
	if _, err := own.load(); err != nil {
		return nil, err
	}
	authority, err := f.Authority()
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ClientCAs: x509.NewCertPool(), ClientAuth: tls.VerifyClientCertIfGiven}
	conf.ClientCAs.AppendCertsFromPEM(authority)
	conf.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.load() }
	return conf, nil
}

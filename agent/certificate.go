package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"hash/fnv"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/trust"
)

// When a certificate is renewed and when an operator hears of it.
const (
	// renewLook is the pause between looks at the certificate's age.
	renewLook = time.Minute
	// renewAgain is the pause between requests that nobody answered.
	renewAgain = 15 * time.Minute
	// expiryWarning is a month: a certificate that lasts a year is renewed four months before its end.
	expiryWarning = 30 * 24 * time.Hour
)

// credentials is the certificate by which the broker knows this device. It is
// replaced while the agent runs: connections that are made afterwards show the
// new one. The key stays until the device enrols anew, so that the fleet can
// always verify its reports. Safe for concurrent use.
type credentials struct {
	path string // of the certificate
	id   trust.Identity
	now  func() time.Time

	mu    sync.Mutex
	cert  *tls.Certificate
	asked time.Time
}

// newCredentials reads the identity's certificate; nil when it has none that can
// be used: the broker then refuses the box, which must go on serving.
func newCredentials(dir string, id trust.Identity, now func() time.Time, log *slog.Logger) *credentials {
	if len(id.Certificate) == 0 {
		return nil
	}
	c := &credentials{path: filepath.Join(dir, trust.CertificateFile), id: id, now: now}
	cert, err := c.read(id.Certificate)
	if err != nil {
		log.Error("the device's certificate cannot be used; enrol again with a new token", "path", c.path, "error", err)
		return nil
	}
	c.cert = cert
	return c
}

// read checks that a certificate in PEM is this device's.
func (c *credentials) read(text []byte) (*tls.Certificate, error) {
	if err := enrolment.CheckCertificate(text, c.id.Authority, c.id.Device, c.id.Key.Public().(ed25519.PublicKey), time.Time{}); err != nil {
		return nil, err
	}
	leaf, err := enrolment.ParseCertificate(text)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: c.id.Key, Leaf: leaf}, nil
}

// show is for tls.Config.GetClientCertificate.
func (c *credentials) show(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert, nil
}

// expires is the end of the certificate; zero when there is none.
func (c *credentials) expires() time.Time {
	if c == nil {
		return time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert.Leaf.NotAfter.UTC()
}

// due says that the next certificate should be asked for now: from two thirds of
// the life on, spread over a twentieth of it so that a hall that was set up in a
// day does not ask within an hour.
func (c *credentials) due() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	leaf, now := c.cert.Leaf, c.now()
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	at := leaf.NotBefore.Add(life*2/3 + time.Duration(float64(life)/20*spread(c.id.Device+leaf.SerialNumber.String())))
	if now.Before(at) || now.Sub(c.asked) < renewAgain && !now.Before(c.asked) {
		return false
	}
	c.asked = now
	return true
}

// spread is a number from 0 to 1 that is always the same for a text.
func spread(text string) float64 {
	h := fnv.New32a()
	h.Write([]byte(text))
	return float64(h.Sum32()) / (1 << 32)
}

// take checks the fleet's answer and makes it the certificate. One that does not
// last longer than the present one is ignored: a broker may replay.
func (c *credentials) take(answer []byte) (taken bool, err error) {
	text, err := enrolment.DecodeRenewal(answer)
	if err != nil {
		return false, err
	}
	next, err := c.read(text)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !next.Leaf.NotAfter.After(c.cert.Leaf.NotAfter) {
		return false, nil
	}
	if err := store.WriteFile(c.path, text, 0o600); err != nil {
		return false, err
	}
	c.cert = next
	return true, nil
}

// into makes a TLS configuration use what the device enrolled with, where the
// configuration file says nothing else.
func (c *credentials) into(conf *tls.Config, id trust.Identity) error {
	if conf.RootCAs == nil && len(id.BrokerCA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(id.BrokerCA) {
			return errors.New("cannot use the broker's authority of the enrolment: no PEM certificate in it")
		}
	}
	if c != nil && len(conf.Certificates) == 0 {
		conf.GetClientCertificate = c.show
	}
	return nil
}

// renew asks for the next certificate when it is time, until ctx ends.
func (l *link) renew(ctx context.Context) error {
	if l.credentials == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(renewLook)
	defer tick.Stop()
	for {
		if l.control.Connected() && l.credentials.due() {
			l.askCertificate(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case m := <-l.control.Certificates():
			taken, err := l.credentials.take(m.Payload)
			if err != nil {
				l.log.Warn("certificate from the fleet refused", "error", err)
			} else if taken {
				l.log.Info("certificate renewed", "expires", l.credentials.expires())
			}
		}
	}
}

func (l *link) askCertificate(ctx context.Context) {
	raw, err := enrolment.MakeRenewal(l.id.Device, l.id.Key)
	if err == nil {
		err = l.control.RequestCertificate(ctx, raw)
	}
	l.log.LogAttrs(ctx, slog.LevelInfo, "next certificate asked for", slog.Any("error", err))
}

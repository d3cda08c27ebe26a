package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/updater/mirror"
)

// ClientConfig says how a device asks a peer. All but Pace, Slowed and Stall are required.
type ClientConfig struct {
	Address      string // host:port
	Certificates Certificates
	// Proof is what this device shows; trust.Client has it.
	Proof func() ([]byte, error)
	// Pace is asked before n bytes are; nil: at once.
	Pace   func(ctx context.Context, n int) error
	Slowed func() string // why Pace makes it wait; nil: it does not
	Stall  time.Duration // default 60 s
}

// NewSource is the source of blocks at a peer. Any device of the fleet may answer at
// the address: names are for people, the certificate's authority is what counts.
func NewSource(c ClientConfig) (*mirror.Source, error) {
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return nil, fmt.Errorf("cannot use the peer %q: write it as host:port", c.Address)
	}
	var name atomic.Value
	name.Store(c.Address)
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Certificates of devices name devices, not addresses: the chain is verified below.
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) error {
			device, err := verify(st, c.Certificates)
			if err == nil {
				name.Store(device)
			}
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificates.Own() },
	}
	return mirror.New(mirror.Config{
		Name: "peer", Detail: func() string { return name.Load().(string) }, URL: "https://" + c.Address,
		TLS: conf, Claim: c.Proof, Pace: c.Pace, Slowed: c.Slowed, Stall: c.Stall,
		Plain: true, // devices keep what they run
		Tries: 1,    // a peer that is busy says so; others have the file too
	})
}

// verify says which device of the fleet is at the other end.
func verify(st tls.ConnectionState, c Certificates) (string, error) {
	if len(st.PeerCertificates) == 0 {
		return "", errors.New("the peer shows no certificate")
	}
	pool, err := c.Authority()
	if err != nil {
		return "", err
	}
	opts := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, i := range st.PeerCertificates[1:] {
		opts.Intermediates.AddCert(i)
	}
	if _, err := st.PeerCertificates[0].Verify(opts); err != nil {
		return "", fmt.Errorf("the peer is no device of this fleet: %w", err)
	}
	return st.PeerCertificates[0].Subject.CommonName, nil
}

package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/peer"
	"github.com/bothy-edge/bothy/updater/trust"
)

// PeersConfig lets devices of one fleet take files from each other. Both ends need
// the certificate that a device gets when it is enrolled with a token.
type PeersConfig struct {
	Listen    string   `yaml:"listen"`    // address and port on which others are served; empty: nobody is
	Addresses []string `yaml:"addresses"` // host:port of others, asked in this order
	// Rate is how many bytes a second all others get together. Default 32MiB.
	Rate Size `yaml:"rate"`
}

// peersRetry is the pause before an address that could not be taken is tried again.
const peersRetry = time.Minute

func (c PeersConfig) check() error {
	for _, a := range append([]string{c.Listen}, c.Addresses...) {
		if _, port, err := net.SplitHostPort(a); a != "" && (err != nil || port == "") {
			return fmt.Errorf("cannot use %q in peers: write it as host:port", a)
		}
	}
	return nil
}

func (b *box) peerCertificates() peer.Certificates {
	ca := filepath.Join(b.path(IdentityFolder), trust.AuthorityFile)
	return peer.Certificates{
		Own:       b.deviceCertificate,
		Authority: func() (*x509.CertPool, error) { return readPool(ca) },
	}
}

// openPeers prepares the sources of blocks at other devices.
func (b *box) openPeers() ([]content.Source, error) {
	var all []content.Source
	for _, address := range b.o.Config.Peers.Addresses {
		s, err := peer.NewSource(peer.ClientConfig{
			Address: address, Certificates: b.peerCertificates(), Proof: b.trust.Proof, Pace: b.flow.Wait, Slowed: b.flow.Slowed,
		})
		if err != nil {
			return nil, err
		}
		b.closing("peer "+address, func() error { s.Close(); return nil })
		all = append(all, s)
	}
	return all, nil
}

// servePeers serves other devices until ctx ends. That it cannot is no reason to stop anything else.
func (b *box) servePeers(ctx context.Context) error {
	c := b.o.Config.Peers
	s := peer.New(peer.Config{
		Store: b.artifacts, Check: b.trust.CheckProof, Certificates: b.peerCertificates(), Busy: b.answering, Rate: int64(c.Rate), Log: b.log,
	})
	if _, err := b.deviceCertificate(); err != nil {
		b.log.Warn("peers will not be served before this device has a certificate", "error", err)
	}
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", c.Listen)
		if err == nil {
			b.log.Info("serving peers", "address", l.Addr().String())
			err = s.Serve(ctx, l)
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			b.log.Error("peers are not served", "address", c.Listen, "error", err)
		}
		timer := time.NewTimer(peersRetry)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// answering says that requests run or wait on this box.
func (b *box) answering() bool {
	for _, q := range b.router.Queues() {
		if q.Running > 0 || q.Waiting > 0 {
			return true
		}
	}
	return false
}

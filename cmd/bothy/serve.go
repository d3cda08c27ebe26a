package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/depot"
	"github.com/bothy-edge/bothy/updater/mqtt"
)

// renewEvery is how often `fleet serve` looks whether a timestamp is past half of its life.
const renewEvery = 10 * time.Minute

type serveFlags struct {
	broker, embedded string
	ca, cert, key    string
	plain            bool
}

func fleetServe() *cobra.Command {
	var s serveFlags
	var p passphrases
	cmd := &cobra.Command{
		Use: "serve DIR", Short: "Serve wants, metadata and files to devices over the broker (the depot)",
		Long:    "Serve wants, metadata and files to the devices of a fleet over the broker, and renew\nwhat the online keys sign. Encrypted ones are opened at the start, from files or by\nasking, and stay in memory. --embedded-broker starts a broker in this process, for\ndemonstrations and small sites. Where the fleet's broker is tls://, both use\ncertificates of the fleet, unless --cert names others.",
		Example: "  bothy fleet serve /srv/fleet --embedded-broker 127.0.0.1:1883",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &p)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			if err := unlockOnline(f, len(p.files) > 0, log); err != nil {
				return err
			}
			return serveFleet(cmd.Context(), f, s, log)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&s.broker, "broker", "", "MQTT broker (default: the fleet's)")
	fl.StringVar(&s.embedded, "embedded-broker", "", "start a broker on this address, host:port")
	fl.StringVar(&s.ca, "ca", "", "PEM file of the certificate authority")
	fl.StringVar(&s.cert, "cert", "", "PEM file of the depot's certificate")
	fl.StringVar(&s.key, "key", "", "PEM file of its key")
	fl.BoolVar(&s.plain, "allow-plaintext", false, "allow tcp:// beyond loopback")
	p.flag(cmd)
	return cmd
}

func serveFleet(ctx context.Context, f *fleet.Fleet, s serveFlags, log *slog.Logger) error {
	broker := s.broker
	if broker == "" {
		broker = f.Broker()
	}
	if err := f.MendRevocations(); err != nil {
		log.Error("revocation list not written", "error", err)
	}
	conf, err := s.tls(f, broker)
	if err != nil {
		return err
	}
	if s.embedded != "" {
		b, err := s.startBroker(f, broker, conf, log)
		if err != nil {
			return err
		}
		defer b.Close()
		if s.broker == "" {
			broker = b.URL()
		}
	}
	if broker == "" {
		return withHint{fmt.Errorf("cannot serve: the fleet names no broker"), "add --broker tls://host:8883, or --embedded-broker 127.0.0.1:1883"}
	}
	ctx, cancel := context.WithCancel(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		renewLoop(ctx, f, log)
	}()
	defer func() { cancel(); <-renewed }()
	take, stop := keepInventory(ctx, f, log)
	defer stop()
	log.Info("depot serves", "fleet", f.Dir(), "tenant", f.Tenant(), "broker", broker)
	return depot.Serve(ctx, depot.Config{
		Enroll: f, Fleet: f, Tenant: f.Tenant(), Depot: f.Depot(), Log: log, Reports: takeReports(f, take, log), Orders: f.OutstandingOrders, Retired: f.Retired,
		Session: mqtt.Config{Broker: broker, TLS: conf, AllowPlain: s.plain, Log: log},
	})
}

func renewLoop(ctx context.Context, f *fleet.Fleet, log *slog.Logger) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		finishWipes(f, log)
		r, err := f.Renew()
		if err != nil {
			log.Error("cannot renew all that is signed; devices refuse it once it has expired", "error", err)
		}
		for _, w := range r.Warnings {
			log.Warn("needs an offline key", "what", w)
		}
		if len(r.Renewed) > 0 {
			log.Info("timestamps renewed", "of", r.Renewed)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// clientTLS reads a client's certificates; nil when none is named, which means the system's authorities.
func clientTLS(ca, cert, key string) (*tls.Config, error) {
	if ca == "" && cert == "" && key == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate authority: %w", err)
		}
		conf.RootCAs, conf.ClientCAs = x509.NewCertPool(), x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) || !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot read the certificate authority %s: no PEM certificate in it", ca)
		}
		conf.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate %s with its key %s: %w", cert, key, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/systemd"
)

// IdentityFolder is where enrolment lies under the state folder.
const IdentityFolder = "identity"

// How long an orderly stop may take: answers finish, then engines end.
const (
	drainLimit  = 20 * time.Second
	engineLimit = 15 * time.Second
)

// Options is what Run needs.
type Options struct {
	Config  Config
	Version string
	Built   time.Time    // no honest clock is before it; zero: not known
	Self    string       // path of this binary, which is executed again for engines and checks
	Log     *slog.Logger // structured, on standard error
}

// Run runs the agent until ctx ends, then lets answers finish and stops the
// engines. The error names the part that could not start, or that failed.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Config.State, 0o700); err != nil {
		return fmt.Errorf("cannot use the state folder: %w", err)
	}
	r, retiring, err := loadRetirement(o.Config.State)
	if err == nil && !retiring {
		if err = runBox(ctx, o); !errors.Is(err, errRetired) {
			return err
		}
		r, retiring, err = loadRetirement(o.Config.State)
	}
	if err != nil || !retiring {
		return err
	}
	return r.finish(ctx, o.farewell, o.Log)
}

// runBox is Run of a box that is not being retired.
func runBox(ctx context.Context, o Options) error {
	listeners, err := openListeners(o.Config)
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	b, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	return b.serve(ctx, listeners)
}

// openListeners takes systemd's sockets, or opens our own, by name.
func openListeners(c Config) (map[string]net.Listener, error) {
	all, err := systemd.Listeners()
	if err != nil {
		return nil, err
	}
	for name, s := range map[string]SocketConfig{"api": c.API, "admin": c.Admin} {
		if all[name] != nil {
			continue
		}
		if all[name], err = listenUnix(s.Socket, s.Group); err != nil {
			delete(all, name)
			closeAll(all)
			return nil, err
		}
	}
	if c.Metrics.Listen != "" {
		if all["metrics"], err = net.Listen("tcp", c.Metrics.Listen); err != nil {
			delete(all, "metrics")
			closeAll(all)
			return nil, fmt.Errorf("cannot listen for metrics on %s: %w", c.Metrics.Listen, err)
		}
	}
	return all, nil
}

func closeAll(listeners map[string]net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// serve runs every loop of the box until ctx ends or one of them fails.
func (b *box) serve(ctx context.Context, listeners map[string]net.Listener) error {
	loops, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	failed := make(chan error, 16) // one result of each loop
	var running sync.WaitGroup
	// Whatever the loops use is closed only after they have ended.
	defer running.Wait()
	var err error
	defer func() { stop(err) }() // what failed counts against a change under way
	start := func(name string, run func(context.Context) error) {
		running.Go(func() {
			if err := run(loops); err != nil && loops.Err() == nil {
				failed <- fmt.Errorf("%s failed: %w", name, err)
			}
		})
	}
	start("updates", b.updater.Run)
	start("gpu", func(ctx context.Context) error { b.gpu.Run(ctx); return nil })
	start("upkeep", b.upkeep)
	if b.link != nil {
		start("fleet link", func(ctx context.Context) error { return b.link.run(ctx, b.updater.Offer) })
	}
	if b.trust != nil && b.o.Config.Peers.Listen != "" {
		start("peers", b.servePeers)
	}
	// No request is decided before the policy of the last run is in force again.
	select {
	case <-b.policies.activated:
	case err = <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
	servers := b.servers(listeners)
	for _, s := range servers {
		start(s.name+" socket", func(context.Context) error { return s.serve() })
	}
	b.notify.Ready()
	b.log.Info("serving", "api", b.o.Config.API.Socket, "admin", b.o.Config.Admin.Socket, "version", b.o.Version)
	select {
	case <-ctx.Done():
	case err = <-failed:
		b.log.Error("stopping", "error", err)
	case <-b.retired:
		err = errRetired
	}
	b.notify.Stopping()
	b.drain(servers)
	return err
}

// servers are the HTTP servers of the sockets that are there.
func (b *box) servers(listeners map[string]net.Listener) []*server {
	quiet := slog.NewLogLogger(b.log.Handler(), slog.LevelDebug)
	all := []*server{newServer("api", gateway.NewServer(b.gateway, b.log), listeners["api"]), operatorServer("admin", b.adminHandler(), quiet, listeners["admin"])}
	if l := listeners["metrics"]; l != nil {
		all = append(all, operatorServer("metrics", b.metrics(), quiet, l))
	}
	return all
}

// operatorServer is a server whose requests end when it stops: one that waits
// for a change would otherwise hold up the stop for as long as it may.
func operatorServer(name string, h http.Handler, quiet *log.Logger, l net.Listener) *server {
	ctx, cancel := context.WithCancel(context.Background())
	s := newServer(name, &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: quiet,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}, l)
	s.ending = cancel
	return s
}

// drain lets the answers that run finish, within the limit.
func (b *box) drain(servers []*server) {
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range servers {
		all.Go(func() {
			if err := s.drain(ctx); err != nil {
				b.log.Warn("answers cut off at the stop", "socket", s.name, "error", err)
			}
		})
	}
	all.Wait()
}

// path is a place under the state folder.
func (b *box) path(name string) string { return filepath.Join(b.o.Config.State, name) }

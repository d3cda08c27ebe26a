package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bothy-edge/bothy/systemd"
	"github.com/bothy-edge/bothy/updater"
)

// status puts the screen together. Nothing here waits for anybody.
func (b *box) status(now time.Time) Status {
	s := Status{
		Version: b.o.Version, PID: os.Getpid(), Started: b.started, Models: b.supervisor.Status(),
		Traffic: b.gateway.Stats(), Policy: b.policyStatus(), Update: b.updateStatus(), GPU: b.gpuStatus(), Host: hostStatus(b.o.Config.State),
		Store: StoreStatus{
			Path: b.path("bothy.db"), Bytes: b.db.Size(), Clean: b.dbReport.Clean,
			Restored: b.dbReport.Restored, Quarantined: b.dbReport.Quarantined, Lost: b.dbReport.Lost,
		},
	}
	if b.identity != nil {
		s.Device, s.Tenant = b.identity.Device, b.identity.Tenant
	}
	if b.link != nil {
		s.Broker = b.link.status()
	}
	s.Findings = b.findings(s, now)
	s.Health = worst(s.Findings)
	return s
}

func (b *box) policyStatus() PolicyStatus {
	p := b.policies.status()
	if c, ok, err := b.updater.Latest(); err == nil && ok && c.Code == "policy" {
		p.Refused = c.Error
	}
	return p
}

func (b *box) updateStatus() UpdateStatus {
	running := b.updater.Current()
	u := UpdateStatus{State: "idle", Running: running.Want.Counter, PutBack: running.PutBack}
	if b.trust != nil {
		v := b.trust.Versions()
		u.Counter, u.CatalogVersion, u.DirectorVersion = v.Counter, v.Catalog.Snapshot, v.Director.Targets
		u.Expired = v.Catalog.Expired || v.Director.Expired
	}
	c, ok, err := b.updater.Latest()
	if err != nil || !ok {
		return u
	}
	u.Change, u.State, u.Reason, u.Subject, u.Error = c.ID, string(c.State), c.Reason, c.Summary, c.Error
	u.Done, u.Total = c.Progress.Done, c.Progress.Total
	if c.State == updater.Fetching {
		u.Slowed = c.Progress.Slowed
	}
	if u.Reason == "nospace" {
		u.Spare = b.spare()
	}
	return u
}

func (b *box) gpuStatus() GPUStatus {
	s := b.gpu.Snapshot()
	g := GPUStatus{Driver: s.Driver, Devices: s.Devices, Error: s.Error, Hint: s.Hint}
	switch {
	case s.NoDriver:
		g.Text = "no NVIDIA driver"
	case s.Error != "":
		g.Text = s.Error
	case s.Time.IsZero():
		g.Text = "looking"
	default:
		g.Text = fmt.Sprintf("%d, driver %s", len(s.Devices), s.Driver)
	}
	return g
}

// upkeep looks at the health, feeds the watchdog, reports to the fleet and copies the store.
func (b *box) upkeep(ctx context.Context) error {
	every := upkeepEvery
	if w := systemd.WatchdogInterval(); w > 0 && w < every {
		every = w
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	copies := copies{next: time.Now().Add(upkeepEvery)}
	for {
		changed := b.updater.Changed() // before the look, so that nothing falls between
		// The look itself is the proof of life: it takes the locks that requests and updates take.
		if b.db.Damaged() {
			return errors.New("the store was damaged while it was open; the next start repairs it")
		}
		s := b.status(time.Now())
		b.notify.Alive()
		b.notify.Status(fmt.Sprintf("health %s, %d models, want %d", s.Health, len(s.Models), s.Update.Running))
		b.reportState(s)
		if copies.due(time.Now(), s.Update.Running) {
			_, err := b.db.Snapshot(ctx)
			copies.made(time.Now(), err)
			if err != nil && ctx.Err() == nil {
				b.log.Error("store not copied", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
		case <-b.looks:
		}
	}
}

// copies says when the store is copied: soon after a start, after every commit,
// and each hour.
type copies struct {
	next    time.Time
	running uint64 // counter of the want that ran at the last look
}

func (c *copies) due(now time.Time, running uint64) bool {
	if running != c.running {
		c.running, c.next = running, now
	}
	return !now.Before(c.next)
}

// made notes a copy or a failed one: a full disk is not tried again at every look.
func (c *copies) made(now time.Time, err error) {
	pause := snapshotEvery
	if err != nil {
		pause = time.Minute
	}
	c.next = now.Add(pause)
}

// metrics serves Prometheus metrics. Scraping wakes no model.
func (b *box) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(b.gateway, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), boxCollector{func() Status { return b.status(time.Now()) }})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

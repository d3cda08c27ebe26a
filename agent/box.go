package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/agent/router"
	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/runtime/gpu"
	"github.com/bothy-edge/bothy/systemd"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
	"github.com/bothy-edge/bothy/updater/view"
)

// upkeepEvery is the pause between looks at the health; snapshotEvery between copies of the store.
const (
	upkeepEvery   = 5 * time.Second
	snapshotEvery = time.Hour
)

// box is the running agent: every part, in the order in which they are opened.
// The fields, but for the last, are set by open and not changed afterwards.
type box struct {
	o       Options
	log     *slog.Logger
	started time.Time
	notify  systemd.Notifier
	undo    []func()      // closes what was opened, last first
	journal *journal      // the last log lines, for the fleet that asks for them
	looks   chan struct{} // capacity 1: upkeep shall look now

	db         *store.DB
	dbReport   store.Report
	audit      *audit.Log
	artifacts  *content.Store
	views      *view.Store
	policies   *policies
	supervisor *runtime.Supervisor
	engines    *engines
	gpu        *gpu.Reader
	router     *router.Router
	gateway    *gateway.Gateway
	identity   *trust.Identity // nil: not enrolled
	trust      *trust.Client   // nil: not enrolled
	link       *link           // nil: not enrolled, or a fleet without a broker
	supply     supply
	flow       *content.Flow // bounds every transfer
	updater    *updater.Updater

	retired chan struct{}                      // closed when the fleet retired this box
	retire  sync.Once                          // closes it
	ailing  atomic.Pointer[map[string]ailment] // what did not serve before the change under way
}

// open opens every part; what was opened before a failure is closed again.
func open(ctx context.Context, o Options) (*box, error) {
	kept, log := newJournal(o.Log)
	o.Log = log
	b := &box{o: o, log: log, started: time.Now(), policies: newPolicies(log), journal: kept, looks: make(chan struct{}, 1), retired: make(chan struct{})}
	for _, part := range []func(context.Context) error{b.openStore, b.openRuntime, b.openRouter, b.openFleet, b.openUpdater} {
		if err := part(ctx); err != nil {
			b.close()
			return nil, err
		}
	}
	return b, nil
}

func (b *box) close() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
	b.undo = nil
}

// closing registers how a part is closed.
func (b *box) closing(name string, closePart func() error) {
	b.undo = append(b.undo, func() {
		if err := closePart(); err != nil {
			b.log.Error("part not closed cleanly", "part", name, "error", err)
		}
	})
}

func (b *box) openStore(ctx context.Context) error {
	var err error
	b.db, b.dbReport, err = store.Open(ctx, store.Options{
		Path: b.path("bothy.db"), Log: b.log, Check: store.CheckIn(b.o.Self, "store-check"),
	})
	if err != nil {
		return err
	}
	b.closing("store", b.db.Close)
	b.policies.db = b.db
	var report audit.Report
	if b.audit, report, err = audit.Open(audit.Options{Dir: b.path("audit"), Log: b.log}); err != nil {
		return fmt.Errorf("cannot open the audit log: %w", err)
	}
	b.closing("audit", b.audit.Close)
	b.log.Debug("audit log opened", "report", report)
	if b.artifacts, err = content.Open(b.path("artifacts")); err != nil {
		return err
	}
	b.closing("artifacts", b.artifacts.Close)
	b.views, err = view.Open(b.path(filepath.Join("artifacts", "views")))
	return err
}

func (b *box) openRuntime(context.Context) error {
	numbers, err := newGenerations(b.db)
	if err != nil {
		return fmt.Errorf("cannot number generations: %w", err)
	}
	kinds, usual := adapters(b.o.Config.Engines, b.o.Self)
	b.engines = &engines{kinds: kinds, usual: usual, threads: b.o.Config.Engines.Threads, views: b.views, damaged: b.dropDamaged}
	b.supervisor = runtime.New(runtime.Config{
		Dir: b.path("engines"), Adapters: kinds, Log: b.log, NextGeneration: numbers.take, Fit: runtime.FitsHost, Whole: b.engines.whole,
	})
	b.engines.supervisor = b.supervisor
	b.closing("engines", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), engineLimit)
		defer cancel()
		return b.supervisor.Close(ctx)
	})
	b.gpu = gpu.New(gpu.Config{RuntimeDir: b.o.Config.Runtime, Log: b.log})
	return nil
}

func (b *box) openRouter(context.Context) error {
	b.router = router.New(router.Config{
		Local: local{b.supervisor, time.Now, b.wanted}, Policy: b.policies.decider, Connect: connect(b.o.Config.Upstreams),
		Audit: b.audit, Log: b.log,
	})
	b.gateway = gateway.New(gateway.Config{
		Router: b.router, Models: b.models, MaxBody: int64(b.o.Config.API.MaxBody), Audit: b.audit, Log: b.log,
	})
	return nil
}

// openFleet loads the enrolment, if there is one, and prepares trust and link.
func (b *box) openFleet(context.Context) error {
	id, err := trust.LoadIdentity(b.path(IdentityFolder))
	if errors.Is(err, trust.ErrNotEnrolled) {
		b.log.Info("not enrolled: nothing will be installed; see bothy enroll --help")
		return nil
	}
	if err != nil {
		return err
	}
	slots, err := store.OpenSlots(b.o.Config.State, "marks")
	if err != nil {
		return fmt.Errorf("cannot open the anti-rollback marks: %w", err)
	}
	b.identity = &id
	b.trust, err = trust.Open(trust.Config{
		DB: b.db, Slots: slots, Device: id.Device, CatalogRoot: id.CatalogRoot, DirectorRoot: id.DirectorRoot,
		Build: b.o.Built, Log: b.log,
	})
	if err != nil {
		return err
	}
	if id.Broker != "" {
		b.link, err = newLink(b.o.Config.Broker, b.path(IdentityFolder), id, b.db, b.dbReport, b.log)
	}
	return err
}

func (b *box) openUpdater(context.Context) error {
	c := updater.Config{
		DB: b.db, Engines: b.engines, Policies: b.policies, Log: b.log,
		Trust:   unenrolled{},
		PutBack: b.dbReport.Restored != "", Preflight: b.preflight, Provenance: b.policies.provenance, Healthy: b.healthy, Baseline: b.baseline,
		Govern: func(t *release.Transfer) { b.flow.Govern(t) }, WatchFor: time.Duration(b.o.Config.Updates.Watch),
	}
	c.GiveUpPrevious = b.o.Config.Updates.GiveUpPrevious
	if b.trust != nil {
		c.Installed, c.BelowMark = b.trust.MarkInstalled, b.trust.BelowMark
		c.Trust = noBroker{}
	}
	if err := b.openSupply(); err != nil {
		return err
	}
	c.Fetcher = fetcher{b.artifacts, b.views, b.supply.sources(), b.dropDamaged}
	if len(b.supply.offers) > 0 {
		c.Trust = offering{client: b.trust, others: b.supply.offers, log: b.log}
	}
	if b.link != nil {
		c.Trust = offering{b.trust, b.link, func() bool { return b.link.control.Status().Connected }, b.supply.offers, b.log}
		c.Report = b.link.report
	}
	var err error
	if b.updater, err = updater.New(c); err != nil || b.link == nil {
		return err
	}
	b.link.orders = newOrders(b.trust, b.db, b.link.outbox, b.log)
	b.link.orders.acts, b.link.orders.answered, b.link.orders.stale = b.carryOut(), b.look, b.link.stale
	return nil
}

// wanted says that the committed set names a model.
func (b *box) wanted(alias string) bool {
	_, ok := b.updater.Current().Want.Models[alias]
	return ok
}

// models lists what is installed, for /v1/models.
func (b *box) models() []gateway.ModelInfo {
	var all []gateway.ModelInfo
	for _, a := range b.supervisor.Status() {
		if a.Spec != nil {
			all = append(all, modelInfo(a))
		}
	}
	return all
}

func modelInfo(a runtime.AliasStatus) gateway.ModelInfo {
	m := gateway.ModelInfo{ID: a.Alias, Release: a.Spec.Release, State: string(a.Phase)}
	if a.Current != nil {
		m.Release, m.Created = a.Current.Release, a.Current.Started
	}
	return m
}

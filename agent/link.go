package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
	"github.com/bothy-edge/bothy/updater/view"
)

// link is the device's side of the fleet's broker: offers come in, reports go out.
type link struct {
	id      trust.Identity
	topics  wire.Topics
	control *mqtt.Device
	bulk    *mqtt.Bulk
	depot   *content.Depot
	outbox  *mqtt.Outbox
	log     *slog.Logger
	epoch   uint64 // of this start
	// credentials is nil for a device that enrolled without a token.
	credentials *credentials
	expires     func() time.Time // of the certificate that the broker is shown; zero: there is none
	state       cadence          // owned by publish
	again       atomic.Bool      // the next state is sent also if it is no news
	orders      *orders
	stale       chan struct{} // capacity 1: an order could not be judged without a look
}

func epochTable() store.Table[uint64] { return store.Table[uint64]{Name: "epoch"} }

// nextEpoch numbers the starts of this device. The clock is the floor, so that a
// lost store does not make a receiver take us for older than our own last will.
// The number can be used also when it could not be stored.
func nextEpoch(db *store.DB, now time.Time) (epoch uint64, err error) {
	epoch = uint64(max(now.Unix(), 0))
	err = db.Update(func(tx *store.Tx) error {
		last, _, err := epochTable().Get(tx, "last")
		if err != nil {
			return err
		}
		epoch = max(last+1, epoch)
		return epochTable().Put(tx, "last", epoch)
	})
	return epoch, err
}

// origin is when the numbering of reports began: the epoch of the start that found
// the store fresh or put back. Numbers after a restore were used before.
func origin(db *store.DB, report store.Report, epoch uint64) uint64 {
	begun := epoch
	err := db.Update(func(tx *store.Tx) error {
		last, ok, err := epochTable().Get(tx, "origin")
		if err != nil {
			return err
		}
		if ok && report.Restored == "" {
			begun = last
			return nil
		}
		return epochTable().Put(tx, "origin", begun)
	})
	if err != nil {
		return epoch // a store that cannot be written sends nothing anyway
	}
	return begun
}

func newLink(c BrokerConfig, dir string, id trust.Identity, db *store.DB, report store.Report, log *slog.Logger) (*link, error) {
	conf, err := c.tls()
	if err != nil {
		return nil, err
	}
	own := newCredentials(dir, id, time.Now, log)
	if err := own.into(conf, id); err != nil {
		return nil, err
	}
	epoch, err := nextEpoch(db, time.Now())
	if err != nil {
		log.Error("number of this start not stored", "epoch", epoch, "error", err)
	}
	l := &link{
		id: id, topics: wire.Topics{Tenant: id.Tenant, Device: id.Device}, log: log, epoch: epoch,
		credentials: own, expires: certificateEnd(conf, own), state: cadence{heartbeat: time.Duration(c.Heartbeat)}, stale: make(chan struct{}, 1),
	}
	session := mqtt.Config{Broker: id.Broker, TLS: conf, AllowPlain: c.AllowPlaintext, Log: log}
	if l.control, err = mqtt.NewDevice(session, l.topics, epoch); err != nil {
		return nil, err
	}
	bulk, err := mqtt.NewBulk(session, l.topics, id.Depot)
	if err != nil {
		return nil, err
	}
	l.bulk, l.depot = bulk, content.NewDepot(bulk)
	l.depot.GC = &content.Collector{}
	l.outbox = mqtt.NewOutbox(db, l.control.Session, l.topics, l.sealEvent, time.Now)
	l.outbox.Origin = origin(db, report, epoch)
	return l, nil
}

func (c BrokerConfig) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pool, err := readPool(c.CA)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = pool
	}
	if c.Cert != "" || c.Key != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("cannot read the broker certificate %s with its key %s: %w", c.Cert, c.Key, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// readPool reads a PEM file of certificate authorities.
func readPool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("cannot read the certificate authority %s: no PEM certificate in it", path)
	}
	return pool, nil
}

func (l *link) sealEvent(body []byte) ([]byte, error) {
	return release.SignEnvelope(l.id.Key, release.EventType, body)
}

// Metadata fetches a repository's file over MQTT.
func (l *link) Metadata(ctx context.Context, repo trust.Repo, name string, limit int64) ([]byte, error) {
	raw, err := l.depot.Metadata(ctx, string(repo), name, limit)
	if errors.Is(err, content.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", trust.ErrNotFound, err)
	}
	return raw, err
}

// report puts a change into the outbox, in the transaction that moves it. Poke comes with the next look at the box.
func (l *link) report(tx *store.Tx, c updater.Change) error {
	if !news(c) {
		return nil
	}
	_, err := l.outbox.Put(tx, "change", changeReport{
		Change: c.ID, State: c.State, Summary: bounded(c.Summary), Counter: c.Want.Counter, Code: c.Code, Error: bounded(c.Error),
	})
	return err
}

// news says that a change moved, and not merely round in the circle of a pause:
// weeks offline must not push what matters out of the outbox.
func news(c updater.Change) bool {
	last := len(c.History) - 1
	if last < 0 || !c.History[last].At.Equal(c.Updated) {
		return false // a task moved, or a counter
	}
	now := c.History[last]
	return !slices.ContainsFunc(c.History[:last], func(t updater.Transition) bool {
		return t.State == now.State && t.Reason == now.Reason && t.Error == now.Error
	})
}

// maxReported bounds a text in a report, in bytes: a broker drops what is too
// large, or us with it, and the outbox would offer it for ever.
const maxReported = 4 << 10

func bounded(text string) string {
	if len(text) <= maxReported {
		return text
	}
	return strings.ToValidUTF8(text[:maxReported], "") + "..."
}

// changeReport is the body of a "change" event.
type changeReport struct {
	Change  uint64        `json:"change"`
	State   updater.State `json:"state"`
	Summary string        `json:"summary"`
	Counter uint64        `json:"counter,omitempty"`
	Code    string        `json:"code,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// run keeps the connection, the outbox and the orders going, and tells offered
// when there may be a new want: in a pace of its own, since a broker can repeat
// an offer as often as it likes.
func (l *link) run(ctx context.Context, offered func()) error {
	defer l.bulk.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	loops := []func(context.Context) error{
		l.control.Run, l.outbox.Run, l.renew,
		func(ctx context.Context) error { return l.orders.run(ctx, l.control.Commands()) },
		func(ctx context.Context) error { relay(ctx, l.control.Offers(), offerPace(), offered); return nil },
		func(ctx context.Context) error { relay(ctx, l.stale, offerPace(), offered); return nil },
	}
	done := make(chan error, len(loops)) // one result of each
	for _, loop := range loops {
		go func() { done <- loop(ctx) }()
	}
	for range loops {
		err := <-done
		cancel()
		if err != nil {
			l.log.Error("the link to the fleet failed", "error", err)
		}
	}
	return nil
}

// status is the link as `bothy status` shows it.
func (l *link) status() BrokerStatus {
	s := l.control.Status()
	b := BrokerStatus{URL: l.id.Broker, Connected: s.Connected, Since: s.Since, Error: s.LastError}
	if n, err := l.outbox.Waiting(); err == nil {
		b.Outbox = n
	}
	return b
}

// fetcher gives the updater its artifacts.
type fetcher struct {
	store   *content.Store
	views   *view.Store
	sources []content.Source
	damaged func(sha256 string) // is told of a file that the disk changed
}

// Damaged drops a file that is not what was signed, so that it is fetched again.
func (f fetcher) Damaged(file release.File) { f.damaged(file.SHA256) }

// Fetch brings one file here, whatever is left of earlier attempts, and returns its path.
func (f fetcher) Fetch(ctx context.Context, file release.File, progress func(content.Progress)) (string, error) {
	return f.store.Fetch(ctx, file, f.sources, progress)
}

// Have is the path of a file that lies here, whole and checked.
func (f fetcher) Have(file release.File) (string, bool) {
	return f.store.Path(file.SHA256), f.store.Has(file.SHA256)
}

// Takes is how many bytes of disk a fetch of the file would still take.
func (f fetcher) Takes(file release.File) int64 { return max(0, file.Size-f.store.Taken(file.SHA256)) }

// Keep removes every view and every artifact that these releases do not need.
func (f fetcher) Keep(ctx context.Context, docs []release.Document) error {
	if err := f.views.Keep(docs); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, d := range docs {
		for _, file := range d.Files {
			wanted[file.SHA256] = true
		}
	}
	have, err := f.store.List()
	if err != nil {
		return err
	}
	partial, err := f.store.Partial()
	if err != nil {
		return err
	}
	for _, digest := range append(have, partial...) {
		if wanted[digest] || ctx.Err() != nil {
			continue
		}
		// What another call is fetching at this moment is wanted by somebody.
		if err := f.store.Remove(digest); err != nil && !errors.Is(err, content.ErrBusy) {
			return err
		}
	}
	return ctx.Err()
}

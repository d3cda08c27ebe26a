package fleet

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Limits on orders.
const (
	ordersKept   = 64 // records of one device, the oldest go first
	ordersOpen   = 16 // unanswered ones of one device: a device judges some dozens in a row
	orderLifeMin = 10 * time.Second
	orderLifeMax = 30 * day
)

// OrderRecord is one order to a device, and what became of it.
type OrderRecord struct {
	Device  string            `json:"device"`
	Number  uint64            `json:"number"`
	Kind    release.OrderKind `json:"kind"`
	Args    map[string]string `json:"args,omitempty"`
	Given   time.Time         `json:"given"`
	Expires time.Time         `json:"expires"`
	// Taken: the device's state tells that it has the order.
	Taken bool `json:"taken,omitempty"`
	// Outcome is empty until the device answered.
	Outcome  report.Outcome `json:"outcome,omitempty"`
	Code     string         `json:"code,omitempty"`
	Detail   string         `json:"detail,omitempty"`
	Answered time.Time      `json:"answered,omitzero"`
	// Logs is the file of the log lines that were asked for, in the fleet's folder.
	Logs string `json:"logs,omitempty"`
}

// orderBook is orders/<device>.json.
type orderBook struct {
	Schema int         `json:"schema"` // 1
	Device string      `json:"device"`
	Last   uint64      `json:"last"` // number given last
	Orders []sentOrder `json:"orders"`
}

// sentOrder is a record with what is sent.
type sentOrder struct {
	OrderRecord
	Envelope json.RawMessage `json:"envelope,omitempty"` // none any more once it is answered
}

// askAgain is how long after its expiry an order is sent to a device that took
// it: it does nothing again, but answer. A broker acknowledges an answer also
// when no depot hears it.
const askAgain = 7 * day

// until is when the order is sent for the last time.
func (o sentOrder) until() time.Time {
	switch {
	case o.Outcome != "" || len(o.Envelope) == 0:
		return time.Time{}
	case o.Taken:
		return o.Expires.Add(askAgain)
	}
	return o.Expires
}

func (f *Fleet) orderPath(device string) string {
	return filepath.Join(f.dir, "orders", device+".json")
}

func (f *Fleet) orderBook(device string) (orderBook, error) {
	b := orderBook{Schema: 1, Device: device}
	err := readRecord(f.orderPath(device), &b)
	if errors.Is(err, trust.ErrNotFound) {
		err = nil
	}
	if err == nil && (b.Schema != 1 || b.Device != device) {
		err = fmt.Errorf("%s is no book of its orders", f.orderPath(device))
	}
	if err != nil {
		return b, fmt.Errorf("cannot read the orders to %q: %w", device, err)
	}
	return b, nil
}

// Order signs an order to each of the devices with the director's targets key,
// and one to wipe with the director's root keys too.
// The depot sends it until the device has answered or it expires, life from now.
// Numbers only rise, also in a folder that was put back from an older copy.
func (f *Fleet) Order(kind release.OrderKind, args map[string]string, life time.Duration, devices ...string) ([]OrderRecord, error) {
	if life < orderLifeMin || life > orderLifeMax {
		return nil, fmt.Errorf("cannot order %s: it would expire in %s, want %s to %s", kind, life, orderLifeMin, orderLifeMax)
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	root, _, err := f.newestRoot(trust.Director)
	if err != nil {
		return nil, err
	}
	key, err := f.oneOf(root, metadata.TARGETS)
	if err != nil {
		return nil, err
	}
	keys := []crypto.Signer{key}
	if kind == release.OrderWipe {
		offline, err := f.offlineKeys(directorRootKeys)
		if err != nil {
			return nil, err
		}
		keys = append(keys, offline...)
	}
	var given []OrderRecord
	for _, device := range devices {
		if _, err := f.deviceTargets(device); err != nil {
			return given, fmt.Errorf("cannot order %s: %w", kind, err)
		}
		if r, err := f.Device(device); err == nil && r.State == DeviceRetired {
			return given, fmt.Errorf("cannot order %s: device %q is retired", kind, device)
		}
		now := f.Now().UTC()
		o := release.Order{V: 1, Device: device, Expires: now.Add(life).Truncate(time.Second), Kind: kind, Args: args}
		r, err := f.give(o, now, func(o release.Order) ([]byte, error) { return release.SignOrder(o, keys...) })
		if err != nil {
			return given, fmt.Errorf("cannot order %s of %q: %w", kind, device, err)
		}
		given = append(given, r)
	}
	return given, nil
}

// give numbers, signs and keeps an order. The caller holds the lock.
func (f *Fleet) give(o release.Order, now time.Time, sign func(release.Order) ([]byte, error)) (OrderRecord, error) {
	b, err := f.orderBook(o.Device)
	if err != nil {
		return OrderRecord{}, err
	}
	wait := slices.DeleteFunc(slices.Clone(b.Orders), func(o sentOrder) bool { return o.Taken || !now.Before(o.until()) })
	if open := len(wait); open >= ordersOpen {
		return OrderRecord{}, fmt.Errorf("%d orders wait for it already; they end with their expiry", open)
	}
	// The clock is the floor: a folder from an older copy must not give numbers that the device has seen.
	o.Number = max(b.Last+1, uint64(max(now.Unix(), 0)))
	envelope, err := sign(o)
	if err != nil {
		return OrderRecord{}, err
	}
	r := OrderRecord{Device: o.Device, Number: o.Number, Kind: o.Kind, Args: o.Args, Given: now.Truncate(time.Second), Expires: o.Expires}
	b.Last = o.Number
	b.Orders = append(b.Orders, sentOrder{r, envelope})
	return r, f.saveOrders(b)
}

func (f *Fleet) saveOrders(b orderBook) error {
	b.Orders = b.Orders[max(0, len(b.Orders)-ordersKept):]
	return writeRecord(f.orderPath(b.Device), b, 0o644)
}

func (b orderBook) outstanding(now time.Time) []release.SealedOrder {
	var open []release.SealedOrder
	for _, o := range b.Orders {
		if until := o.until(); now.Before(until) {
			open = append(open, release.SealedOrder{Number: o.Number, Expires: until, Envelope: compact(o.Envelope)})
		}
	}
	return open[max(0, len(open)-ordersOpen):]
}

// compact undoes the indentation of the book; the signature is over what is inside.
func compact(raw json.RawMessage) []byte {
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return raw
	}
	return out.Bytes()
}

// Orders lists the orders to a device, oldest first.
func (f *Fleet) Orders(device string) ([]OrderRecord, error) {
	if err := release.CheckDevice(device); err != nil {
		return nil, fmt.Errorf("cannot list orders: %w", err)
	}
	b, err := f.orderBook(device)
	all := make([]OrderRecord, 0, len(b.Orders))
	for _, o := range b.Orders {
		all = append(all, o.OrderRecord)
	}
	return all, err
}

// orderCache spares the depot, which looks every other second, the books that did not change.
type orderCache struct {
	mu    sync.Mutex
	books map[string]cachedBook
}

type cachedBook struct {
	size int64
	when time.Time
	open []release.SealedOrder // when the book was read; some may have expired since
}

// OutstandingOrders is what the depot is to send, by device, in the order of
// the numbers. A book that cannot be read keeps back its own device's only.
func (f *Fleet) OutstandingOrders() (map[string][]release.SealedOrder, error) {
	devices, err := recordNames(filepath.Join(f.dir, "orders"))
	if err != nil {
		return nil, fmt.Errorf("cannot list orders: %w", err)
	}
	f.orders.mu.Lock()
	defer f.orders.mu.Unlock()
	all, books, now := map[string][]release.SealedOrder{}, map[string]cachedBook{}, f.Now()
	for _, device := range devices {
		info, statErr := os.Stat(f.orderPath(device))
		if statErr != nil || release.CheckDevice(device) != nil {
			err = errors.Join(err, statErr)
			continue
		}
		c, ok := f.orders.books[device]
		if !ok || c.size != info.Size() || !c.when.Equal(info.ModTime()) {
			b, bookErr := f.orderBook(device)
			if bookErr != nil {
				err = errors.Join(err, bookErr)
				continue
			}
			c = cachedBook{info.Size(), info.ModTime(), b.outstanding(now)}
		}
		books[device] = c
		for _, o := range c.open {
			if now.Before(o.Expires) {
				all[device] = append(all[device], o)
			}
		}
	}
	f.orders.books = books
	return all, err
}

// OrderReport takes what a device reports about its orders: the number in its
// state, its answers, and the log lines that were asked for. kind is "state" or
// "event"; other reports are passed over. Only what the device's own key signed
// counts, so a device without a record says nothing here.
func (f *Fleet) OrderReport(device, kind string, payload []byte) error {
	kinds := map[string]string{"state": release.StateType, "event": release.EventType}
	if kinds[kind] == "" || release.CheckDevice(device) != nil {
		return nil
	}
	if _, err := os.Stat(f.orderPath(device)); err != nil {
		return nil // nothing was ever ordered
	}
	record, err := f.Device(device)
	if errors.Is(err, trust.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	body, err := release.OpenEnvelope(record.PublicKey, kinds[kind], payload)
	if err != nil {
		return fmt.Errorf("report of %q refused: %w", device, err)
	}
	if kind == "state" {
		s, err := report.Parse(body)
		if err != nil || s.Device != device || s.Order == 0 {
			return err
		}
		return f.settleOrders(device, func(o *sentOrder) bool {
			// Only that one: an older one without an answer may never have come, and is
			// sent until the device says so.
			changed := !o.Taken && o.Number == s.Order
			o.Taken = o.Taken || changed
			return changed
		})
	}
	e, err := mqtt.ParseEvent(device, body)
	if err != nil {
		return fmt.Errorf("event of %q refused: %w", device, err)
	}
	switch e.Kind {
	case report.AnswerEvent:
		return f.orderAnswered(device, e)
	case report.LogsEvent:
		return f.takeLogs(device, e.Body)
	}
	return nil
}

// orderAnswered notes the first answer to an order.
func (f *Fleet) orderAnswered(device string, e mqtt.Event) error {
	a, err := report.ParseAnswer(e.Body)
	if err != nil {
		return err
	}
	err = f.settleOrders(device, func(o *sentOrder) bool {
		// A refused replay of an old order is no second answer to it.
		if o.Number != a.Number || o.Outcome != "" {
			return false
		}
		o.Outcome, o.Code, o.Detail, o.Answered = a.Outcome, a.Code, a.Detail, e.Time.UTC()
		return true
	})
	if err == nil && a.Kind == release.OrderWipe {
		_, err = f.finishWipe(device)
	}
	return err
}

// settleOrders changes records of a device's orders. Without a change it takes no lock.
func (f *Fleet) settleOrders(device string, change func(*sentOrder) bool) error {
	b, err := f.orderBook(device)
	if err != nil || !slices.ContainsFunc(b.Orders, func(o sentOrder) bool { return change(&o) }) {
		return err
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if b, err = f.orderBook(device); err != nil {
		return err
	}
	changed := false
	for i := range b.Orders {
		if change(&b.Orders[i]) {
			changed = true
			if b.Orders[i].Outcome != "" {
				b.Orders[i].Envelope = nil
			}
		}
	}
	if !changed {
		return nil
	}
	return f.saveOrders(b)
}

// takeLogs keeps one part of a log that was asked for, and joins the parts once
// all are here. A device can fill no more than one bundle for each order.
func (f *Fleet) takeLogs(device string, body []byte) error {
	p, err := report.ParseLogPart(body)
	if err != nil {
		return err
	}
	asked := func(o OrderRecord) bool { return o.Number == p.Number && o.Kind == release.OrderLogs && o.Logs == "" }
	orders, err := f.Orders(device)
	if err != nil || !slices.ContainsFunc(orders, asked) {
		return err // asked for by nobody, or here already
	}
	dir := filepath.Join(f.dir, "logs", device)
	parts := filepath.Join(dir, fmt.Sprintf("%d.parts", p.Number))
	if err := writeFile(filepath.Join(parts, fmt.Sprintf("%03d", p.Part)), p.Data, 0o600); err != nil {
		return err
	}
	var whole []byte
	for i := range p.Parts {
		raw, err := os.ReadFile(filepath.Join(parts, fmt.Sprintf("%03d", i)))
		if errors.Is(err, os.ErrNotExist) {
			return nil // more will come
		}
		if err != nil {
			return fmt.Errorf("cannot join the log of %q: %w", device, err)
		}
		whole = append(whole, raw...)
	}
	if sum := sha256.Sum256(whole); hex.EncodeToString(sum[:]) != p.SHA256 {
		return fmt.Errorf("cannot join the log of %q: the parts do not have the digest that it names", device)
	}
	name := filepath.Join("logs", device, fmt.Sprintf("%d.jsonl.gz", p.Number))
	if err := writeFile(filepath.Join(f.dir, name), whole, 0o600); err != nil {
		return err
	}
	err = f.settleOrders(device, func(o *sentOrder) bool {
		if o.Number != p.Number || o.Logs != "" {
			return false
		}
		o.Logs = name
		return true
	})
	return errors.Join(err, os.RemoveAll(parts))
}

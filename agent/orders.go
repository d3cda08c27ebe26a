package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

const (
	orderKeep  = 64               // records of orders
	orderLimit = 30 * time.Second // for one order to be carried out
)

// The paces of what somebody may make this device do who has the broker only.
func offerPace() pace   { return pace{burst: 8, every: 5 * time.Second} }  // looks for a new want
func judgePace() pace   { return pace{burst: 32, every: time.Second} }     // signatures of orders
func refusalPace() pace { return pace{burst: 8, every: 10 * time.Minute} } // reports of refused orders

// orderTrust verifies orders and remembers their numbers; trust.Client is it.
type orderTrust interface {
	AcceptOrder(raw []byte) (release.Order, error)
	OrderMark() uint64
}

// act carries out one kind of order and answers what it did, for people.
type act func(ctx context.Context, o release.Order) (detail string, err error)

// orderRecord is an order as the store keeps it: accepted before the act, with its outcome after it.
type orderRecord struct {
	Order  release.Order `json:"order"`
	Answer report.Answer `json:"answer,omitzero"`
	Time   time.Time     `json:"time"`
}

func orderTable() store.Table[orderRecord] { return store.Table[orderRecord]{Name: "orders"} }

// orders carries out the fleet's signed orders, one after the other, each at
// most once: its number is stored before the act, and an order over which the
// agent stopped is answered as interrupted. What must not be carried out is
// reported once and forgotten. Owned by the goroutine of run, but for outbox and db.
type orders struct {
	trust  orderTrust
	db     *store.DB
	outbox *mqtt.Outbox
	acts   map[release.OrderKind]act
	// stale is told that a look for a new want may make orders valid, answered
	// that there is a new answer.
	stale    chan<- struct{}
	answered func()
	log      *slog.Logger
	now      func() time.Time

	judging, telling pace
	refused          map[[32]byte]bool // what was reported, by digest; bounded by telling's pace
	untold           int               // refusals that were not reported
}

func newOrders(t orderTrust, db *store.DB, outbox *mqtt.Outbox, log *slog.Logger) *orders {
	return &orders{
		trust: t, db: db, outbox: outbox, acts: map[release.OrderKind]act{}, answered: func() {}, log: log, now: time.Now,
		judging: judgePace(), telling: refusalPace(), refused: map[[32]byte]bool{},
	}
}

// run carries out what comes, until ctx ends.
func (o *orders) run(ctx context.Context, in <-chan mqtt.Message) error {
	o.settle()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-in:
			// What is dropped here comes again: the depot repeats an order until it is answered.
			if o.judging.take(o.now()) == 0 {
				o.take(ctx, m.Payload)
			}
		}
	}
}

// settle answers for the orders over which the last run stopped.
func (o *orders) settle() {
	var open []orderRecord
	newest := uint64(0)
	err := o.db.View(func(tx *store.Tx) error {
		return orderTable().Each(tx, "", func(_ string, r orderRecord) error {
			newest = max(newest, r.Order.Number)
			if r.Answer.Outcome == "" {
				open = append(open, r)
			}
			return nil
		})
	})
	if err != nil {
		o.log.Error("orders cannot be read", "error", err)
	}
	if mark := o.trust.OrderMark(); mark > newest {
		// Its number was stored, and then nothing: we stopped, or the store was lost.
		open = append(open, orderRecord{Order: release.Order{Number: mark}})
	}
	for _, r := range open {
		o.answer(r.Order, report.Interrupted, "", "the agent stopped before it was done; give the order again")
	}
}

// take judges one order and carries it out.
func (o *orders) take(ctx context.Context, raw []byte) {
	order, err := o.trust.AcceptOrder(raw)
	switch {
	case errors.Is(err, trust.ErrNotCurrent):
		o.log.Warn("order not judged", "error", err)
		select {
		case o.stale <- struct{}{}:
		default:
		}
	case trust.CodeOf(err) == trust.Rollback && (order.Number == o.trust.OrderMark() || o.had(order.Number)):
		o.answerAgain(order.Number)
	case trust.CodeOf(err) != "":
		o.refuse(raw, order, err)
	case err != nil && order.Number == 0:
		o.log.Error("order not judged", "error", err)
	case err != nil: // its number may be used up, so it will not come again
		o.answer(order, report.Failed, "", err.Error())
	default:
		o.obey(ctx, order)
	}
}

// had says that an order was taken, and not passed over for one with a higher number.
func (o *orders) had(number uint64) bool {
	_, found := o.recorded(number)
	return found
}

func (o *orders) recorded(number uint64) (r orderRecord, found bool) {
	err := o.db.View(func(tx *store.Tx) (err error) {
		r, found, err = orderTable().Get(tx, store.Key(number))
		return err
	})
	return r, err == nil && found
}

// answerAgain is for an order that the depot repeats although it was answered: a
// broker acknowledges an answer also when no depot is there to hear it. Anybody
// who has the broker can repeat an order, so it has a pace.
func (o *orders) answerAgain(number uint64) {
	r, found := o.recorded(number)
	if !found || r.Answer.Outcome == "" {
		return
	}
	if waiting, err := o.outbox.Waiting(); err != nil || waiting > 0 {
		return // it may be among them
	}
	if o.telling.take(o.now()) > 0 {
		return
	}
	if _, err := o.outbox.Add(report.AnswerEvent, r.Answer); err != nil {
		o.log.Error("order not answered again", "order", number, "error", err)
	}
}

// obey carries out an accepted order: recorded, then done, then answered.
func (o *orders) obey(ctx context.Context, order release.Order) {
	do := o.acts[order.Kind]
	if do == nil {
		o.answer(order, report.Refused, "unsupported", "this version of the agent knows no such order")
		return
	}
	if err := o.record(orderRecord{Order: order, Time: o.now().UTC()}, nil); err != nil {
		o.answer(order, report.Failed, "", err.Error())
		return
	}
	o.log.Info("order accepted", "order", order.Number, "kind", order.Kind)
	bounded, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	detail, err := do(bounded, order)
	if ctx.Err() != nil && err != nil {
		return // the next start answers
	}
	if err != nil {
		o.answer(order, report.Failed, "", err.Error())
		return
	}
	o.answer(order, report.Done, "", detail)
}

// refuse reports an order that must not be carried out: once, and no more often
// than the pace allows, since anybody who has the broker can send one.
func (o *orders) refuse(raw []byte, order release.Order, err error) {
	digest := sha256.Sum256(raw)
	if o.refused[digest] {
		return
	}
	if o.telling.take(o.now()) > 0 {
		o.untold++
		return
	}
	if len(o.refused) >= 4*o.telling.burst {
		clear(o.refused)
	}
	o.refused[digest] = true
	o.log.Warn("order refused", "order", order.Number, "kind", order.Kind, "error", err, "not_shown", o.untold)
	o.untold = 0
	a := report.Answer{Number: order.Number, Kind: order.Kind, Outcome: report.Refused, Code: string(trust.CodeOf(err)), Detail: err.Error()}
	if _, err := o.outbox.Add(report.AnswerEvent, a.Cut()); err != nil {
		o.log.Error("refusal not reported", "error", err)
	}
}

// answer stores and reports the outcome of an order, in one transaction.
func (o *orders) answer(order release.Order, outcome report.Outcome, code, detail string) {
	a := report.Answer{Number: order.Number, Kind: order.Kind, Outcome: outcome, Code: code, Detail: detail}.Cut()
	o.log.Info("order answered", "order", order.Number, "kind", order.Kind, "outcome", outcome, "detail", detail)
	err := o.record(orderRecord{Order: order, Answer: a, Time: o.now().UTC()}, func(tx *store.Tx) error {
		_, err := o.outbox.Put(tx, report.AnswerEvent, a)
		return err
	})
	if err != nil {
		o.log.Error("answer to an order not stored", "order", order.Number, "error", err)
		return
	}
	o.outbox.Poke()
	o.answered()
}

func (o *orders) record(r orderRecord, also func(*store.Tx) error) error {
	err := o.db.Update(func(tx *store.Tx) error {
		if err := orderTable().Put(tx, store.Key(r.Order.Number), r); err != nil {
			return err
		}
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		return orderTable().Trim(tx, orderKeep)
	})
	if err != nil {
		return fmt.Errorf("cannot store order %d: %w", r.Order.Number, err)
	}
	return nil
}

// carryOut says what each kind of order does on this box.
func (b *box) carryOut() map[release.OrderKind]act {
	return map[release.OrderKind]act{
		release.OrderPause:  b.ofChange("paused", b.updater.Pause),
		release.OrderResume: b.ofChange("resumed", b.updater.Resume),
		release.OrderCancel: b.ofChange("cancelled", b.updater.Cancel),
		release.OrderRecheck: func(ctx context.Context, _ release.Order) (string, error) {
			err := b.updater.Check(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				return "the look goes on", nil
			}
			return fmt.Sprintf("verified up to want %d", b.trust.Versions().Counter), err
		},
		release.OrderReport: func(context.Context, release.Order) (string, error) {
			b.link.again.Store(true)
			b.look()
			return "the state is sent anew", nil
		},
		release.OrderLogs: b.collectLogs,
		release.OrderWipe: b.orderWipe,
	}
}

// ofChange is an order about the change that is under way.
func (b *box) ofChange(done string, do func(context.Context, uint64) error) act {
	return func(ctx context.Context, _ release.Order) (string, error) {
		c, ok := b.updater.Active()
		if !ok {
			return "", errors.New("no change is under way")
		}
		return fmt.Sprintf("change %d %s", c.ID, done), do(ctx, c.ID)
	}
}

// look makes upkeep look at the box now.
func (b *box) look() {
	select {
	case b.looks <- struct{}{}:
	default:
	}
}

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

// judge accepts whatever order has a number above its mark; verdict answers before.
type judge struct {
	mark    uint64
	asked   int
	verdict func(raw []byte) (release.Order, error)
}

func (j *judge) AcceptOrder(raw []byte) (release.Order, error) {
	j.asked++
	if j.verdict != nil {
		return j.verdict(raw)
	}
	var o release.Order
	if err := json.Unmarshal(raw, &o); err != nil {
		return o, err
	}
	if o.Number <= j.mark {
		return o, &trust.Refusal{Code: trust.Rollback, Subject: "order", Err: fmt.Errorf("%d is taken", j.mark)}
	}
	j.mark = o.Number
	return o, nil
}

func (j *judge) OrderMark() uint64 { return j.mark }

func ordered(t *testing.T, number uint64, kind release.OrderKind) []byte {
	t.Helper()
	raw, err := json.Marshal(release.Order{V: 1, Device: "press-7", Number: number, Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func orderBox(t *testing.T) (*orders, *judge) {
	t.Helper()
	db, _, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "bothy.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := mqtt.New(mqtt.Config{Broker: "tcp://127.0.0.1:1", ClientID: "press-7"})
	if err != nil {
		t.Fatal(err)
	}
	j := &judge{}
	outbox := mqtt.NewOutbox(db, s, wire.Topics{Tenant: "acme", Device: "press-7"}, nil, time.Now)
	return newOrders(j, db, outbox, slog.New(slog.DiscardHandler)), j
}

// waiting reads the bodies of one kind of event that wait in the outbox.
func waiting[T any](t *testing.T, db *store.DB, kind string) (all []T) {
	t.Helper()
	type record struct {
		Kind string          `json:"kind"`
		Body json.RawMessage `json:"body"`
	}
	err := db.View(func(tx *store.Tx) error {
		return store.Table[record]{Name: mqtt.OutboxTable}.Each(tx, "", func(_ string, r record) error {
			var v T
			if r.Kind != kind {
				return nil
			}
			err := json.Unmarshal(r.Body, &v)
			all = append(all, v)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantAnswers(t *testing.T, o *orders, want ...report.Answer) {
	t.Helper()
	if d := cmp.Diff(want, waiting[report.Answer](t, o.db, report.AnswerEvent)); d != "" {
		t.Fatal(d)
	}
}

func TestOrderIsStoredBeforeItIsCarriedOutAndAnsweredAfterwards(t *testing.T) {
	o, _ := orderBox(t)
	acted := 0
	o.acts[release.OrderPause] = func(_ context.Context, order release.Order) (string, error) {
		acted++
		var r orderRecord
		var found bool
		err := o.db.View(func(tx *store.Tx) (err error) {
			r, found, err = orderTable().Get(tx, store.Key(7))
			return err
		})
		if err != nil || !found || r.Answer.Outcome != "" || order.Number != 7 {
			t.Errorf("got %+v, %v, %v during the act; want it stored and not answered", r, found, err)
		}
		return "paused", nil
	}
	for range 3 { // the depot repeats it
		o.take(t.Context(), ordered(t, 7, release.OrderPause))
	}
	if acted != 1 {
		t.Errorf("carried out %d times, want once", acted)
	}
	wantAnswers(t, o, report.Answer{Number: 7, Kind: release.OrderPause, Outcome: report.Done, Detail: "paused"})
	o.settle()
	wantAnswers(t, o, report.Answer{Number: 7, Kind: release.OrderPause, Outcome: report.Done, Detail: "paused"})
}

func TestOrderThatCannotBeCarriedOutIsAnswered(t *testing.T) {
	o, _ := orderBox(t)
	o.acts[release.OrderCancel] = func(context.Context, release.Order) (string, error) { return "", errors.New("no change is under way") }
	o.take(t.Context(), ordered(t, 1, release.OrderCancel))
	o.take(t.Context(), ordered(t, 2, "dance"))
	wantAnswers(t, o,
		report.Answer{Number: 1, Kind: release.OrderCancel, Outcome: report.Failed, Detail: "no change is under way"},
		report.Answer{Number: 2, Kind: "dance", Outcome: report.Refused, Code: "unsupported", Detail: "this version of the agent knows no such order"})
}

// Run never, run late: an agent that was killed over an order does not carry it
// out later, when "the change that is under way" is another one.
func TestOrderOverWhichTheAgentStoppedIsNotCarriedOutLater(t *testing.T) {
	for name, c := range map[string]struct {
		kind release.OrderKind
		stop func(t *testing.T, o *orders, j *judge)
	}{
		"killed after the record": {release.OrderCancel, func(t *testing.T, o *orders, j *judge) {
			j.mark = 9
			if err := o.record(orderRecord{Order: release.Order{Number: 9, Kind: release.OrderCancel}}, nil); err != nil {
				t.Fatal(err)
			}
		}},
		"killed before the record": {"", func(_ *testing.T, _ *orders, j *judge) { j.mark = 9 }},
		"stopped during the act": {release.OrderCancel, func(t *testing.T, o *orders, _ *judge) {
			ctx, cancel := context.WithCancel(t.Context())
			o.acts[release.OrderCancel] = func(ctx context.Context, _ release.Order) (string, error) {
				cancel()
				return "", ctx.Err()
			}
			o.take(ctx, ordered(t, 9, release.OrderCancel))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o, j := orderBox(t)
			c.stop(t, o, j)
			o.acts[release.OrderCancel] = func(context.Context, release.Order) (string, error) {
				t.Error("carried out after the start")
				return "", nil
			}
			wantAnswers(t, o)
			want := report.Answer{Number: 9, Kind: c.kind, Outcome: report.Interrupted, Detail: "the agent stopped before it was done; give the order again"}
			for range 2 { // starts
				o.settle()
				o.take(t.Context(), ordered(t, 9, release.OrderCancel))
				wantAnswers(t, o, want)
			}
		})
	}
}

func TestRefusedOrderIsReportedOnce(t *testing.T) {
	o, j := orderBox(t)
	j.mark = 10
	for range 5 {
		o.take(t.Context(), ordered(t, 3, release.OrderPause))
	}
	wantAnswers(t, o, report.Answer{Number: 3, Kind: release.OrderPause, Outcome: report.Refused, Code: "rollback", Detail: "order refused (rollback): 10 is taken"})
}

func TestFloodOfOrdersIsJudgedAndReportedInItsPace(t *testing.T) {
	o, j := orderBox(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	o.now = func() time.Time { return now }
	j.verdict = func(raw []byte) (release.Order, error) {
		return release.Order{}, &trust.Refusal{Code: trust.BadSignature, Subject: "order", Err: errors.New("no valid signature")}
	}
	in, ctx := make(chan mqtt.Message), t.Context()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- o.run(ctx, in) }()
	flood := func(n int) {
		for i := range n {
			in <- mqtt.Message{Payload: fmt.Append(nil, i)}
		}
	}
	flood(10_000)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := judgePace().burst; j.asked != want {
		t.Errorf("judged %d of 10000 at one moment, want %d", j.asked, want)
	}
	if n := len(waiting[report.Answer](t, o.db, report.AnswerEvent)); n != refusalPace().burst {
		t.Errorf("reported %d refusals, want %d", n, refusalPace().burst)
	}
	// An hour later the device listens again.
	now = now.Add(time.Hour)
	j.verdict = nil
	o.acts[release.OrderReport] = func(context.Context, release.Order) (string, error) { return "sent", nil }
	ctx, cancel = context.WithCancel(t.Context())
	o.answered = cancel
	go func() { done <- o.run(ctx, in) }()
	in <- mqtt.Message{Payload: ordered(t, 11, release.OrderReport)}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	all := waiting[report.Answer](t, o.db, report.AnswerEvent)
	if last := all[len(all)-1]; last.Number != 11 || last.Outcome != report.Done {
		t.Errorf("got %+v, want order 11 done", last)
	}
}

func TestOrderThatCannotBeJudgedYetAsksForALookAndIsNotRefused(t *testing.T) {
	o, j := orderBox(t)
	stale := make(chan struct{}, 1)
	o.stale = stale
	j.verdict = func([]byte) (release.Order, error) {
		return release.Order{}, fmt.Errorf("cannot judge: %w", trust.ErrNotCurrent)
	}
	o.take(t.Context(), nil)
	select {
	case <-stale:
	default:
		t.Error("nobody was told to look")
	}
	wantAnswers(t, o)
}

// A number that was used up although storing failed will not come again.
func TestOrderWhoseNumberIsUsedUpIsAnswered(t *testing.T) {
	o, j := orderBox(t)
	j.verdict = func([]byte) (release.Order, error) {
		return release.Order{Number: 4, Kind: release.OrderPause}, errors.New("no space left on device")
	}
	o.take(t.Context(), nil)
	wantAnswers(t, o, report.Answer{Number: 4, Kind: release.OrderPause, Outcome: report.Failed, Detail: "no space left on device"})
}

// The depot repeats an order until it hears of it; a repeated one that was taken
// is no attack, one that never came is answered so that nobody waits for it.
func TestOlderOrderIsRefusedOnlyIfItNeverCame(t *testing.T) {
	o, _ := orderBox(t)
	for _, kind := range []release.OrderKind{release.OrderPause, release.OrderResume} {
		o.acts[kind] = func(context.Context, release.Order) (string, error) { return "", nil }
	}
	o.take(t.Context(), ordered(t, 5, release.OrderPause))
	o.take(t.Context(), ordered(t, 7, release.OrderResume))
	taken := []report.Answer{{Number: 5, Kind: release.OrderPause, Outcome: report.Done}, {Number: 7, Kind: release.OrderResume, Outcome: report.Done}}
	o.take(t.Context(), ordered(t, 5, release.OrderPause))
	wantAnswers(t, o, taken...)
	o.take(t.Context(), ordered(t, 6, release.OrderPause))
	wantAnswers(t, o, append(taken, report.Answer{Number: 6, Kind: release.OrderPause, Outcome: report.Refused, Code: "rollback", Detail: "order refused (rollback): 7 is taken"})...)
}

// The broker acknowledged the answer while no depot was there; the depot repeats the order until it has one.
func TestRepeatedOrderIsAnsweredAgainInItsPace(t *testing.T) {
	o, _ := orderBox(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	o.now = func() time.Time { return now }
	acted := 0
	o.acts[release.OrderPause] = func(context.Context, release.Order) (string, error) { acted++; return "paused", nil }
	delivered := func() (n int) {
		n = len(waiting[report.Answer](t, o.db, report.AnswerEvent))
		if err := o.db.Update(func(tx *store.Tx) error { return store.Table[json.RawMessage]{Name: mqtt.OutboxTable}.Trim(tx, 0) }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	repeat := func() { o.take(t.Context(), ordered(t, 5, release.OrderPause)) }
	repeat()
	repeat()
	if n := delivered(); n != 1 {
		t.Fatalf("%d answers wait while the first is not delivered, want that one", n)
	}
	again := 0
	for range 100 {
		repeat()
		again += delivered()
	}
	if want := refusalPace().burst; again != want || acted != 1 {
		t.Errorf("answered again %d times and carried out %d times, want %d and once", again, acted, want)
	}
	now = now.Add(refusalPace().every)
	if repeat(); delivered() != 1 {
		t.Error("not answered later")
	}
}

package trust_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/fleet/depot"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/trust"
)

const (
	boxName   = "box-1"
	depotName = "depot1"
	frameSize = 4 << 10 // so that metadata comes in several frames
)

// asked is a device's source over a broker, as the agent's link is one.
type asked struct{ depot *content.Depot }

func (a asked) Metadata(ctx context.Context, repo trust.Repo, name string, limit int64) ([]byte, error) {
	raw, err := a.depot.Metadata(ctx, string(repo), name, limit)
	if errors.Is(err, content.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", trust.ErrNotFound, err)
	}
	return raw, err
}

// ask is the device's side of a tenant.
func ask(t *testing.T, url, tenant string) trust.Source {
	t.Helper()
	bulk, err := mqtt.NewBulk(mqtt.Config{Broker: url, Jitter: func() float64 { return 0.05 }}, wire.Topics{Tenant: tenant, Device: boxName}, depotName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bulk.Close)
	return asked{content.NewDepot(bulk)}
}

// TestAttacksOverABroker makes attacks of every family, together at every role,
// through the whole path: a depot or a hostile fleet, Mosquitto, the device's
// own client of both.
func TestAttacksOverABroker(t *testing.T) {
	broker := parts.Mosquitto(t)
	seen := map[string]bool{}
	for i, a := range trust.Attacks(2) {
		seen[a.Place] = true
		t.Run(a.Family+"/"+a.Place, func(t *testing.T) {
			t.Parallel()
			tenant := fmt.Sprint("t", i)
			a.Run(t, func(f *trust.Fleet) trust.Source {
				if a.Family == "slow retrieval" || a.Family == "endless data" {
					hostile(t, broker.URL, tenant, f)
				} else {
					honest(t, broker.URL, tenant, f)
				}
				return ask(t, broker.URL, tenant)
			})
		})
	}
	if len(seen) != 10 {
		t.Errorf("attacks are made at %d roles, want all ten: %v", len(seen), seen)
	}
}

// TestAnswerThatIsTooLongFromAnHonestDepot: the depot itself serves more than any limit.
func TestAnswerThatIsTooLongFromAnHonestDepot(t *testing.T) {
	broker := parts.Mosquitto(t)
	for i, a := range trust.Attacks(1) {
		if a.Family == "endless data" {
			a.Run(t, func(f *trust.Fleet) trust.Source {
				honest(t, broker.URL, fmt.Sprint("t", i), f)
				return ask(t, broker.URL, fmt.Sprint("t", i))
			})
		}
	}
}

// honest serves a fleet with the product's depot: what is hostile is what it serves.
func honest(t *testing.T, url, tenant string, f *trust.Fleet) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan depot.Stats, 1), make(chan error, 1)
	go func() {
		done <- depot.Serve(ctx, depot.Config{Fleet: f, Tenant: tenant, Depot: depotName, FrameMax: frameSize, Ready: ready, Session: mqtt.Config{Broker: url}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the depot ended: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("the depot ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the depot does not get ready")
	}
}

// villain answers requests as a depot does, but for one file: of that it gives
// one frame a request, or it begins anew with every frame.
type villain struct {
	fleet   *trust.Fleet
	session *mqtt.Session
	tenant  string
	frames  uint64
}

func hostile(t *testing.T, url, tenant string, f *trust.Fleet) {
	t.Helper()
	requests := make(chan mqtt.Message, 256)
	topics := wire.Topics{Tenant: tenant}
	session, err := mqtt.New(mqtt.Config{Broker: url, ClientID: "villain-" + tenant, Subscriptions: []mqtt.Subscription{
		{Filter: topics.Requests(depotName), Handle: mqtt.Into(requests)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { session.Run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })
	up, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	if err := session.Wait(up); err != nil {
		t.Fatal(err)
	}
	info, err := json.Marshal(mqtt.Info{V: 1, FrameMax: frameSize, WindowMax: 1 << 20, Epoch: 1, Cast: []mqtt.Cast{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Publish(up, topics.Info(depotName), 1, true, info); err != nil {
		t.Fatal(err)
	}
	v := &villain{fleet: f, session: session, tenant: tenant}
	group.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-requests:
				if q, err := wire.ParseRequest(m.Payload); err == nil {
					v.answer(ctx, q)
				}
			}
		}
	})
}

func (v *villain) answer(ctx context.Context, q wire.Request) {
	repo, name, _ := strings.Cut(q.Name, "/")
	raw, err := v.fleet.Metadata(trust.Repo(repo), boxName, name)
	slow, endless := v.fleet.Attacked(q.Name)
	for i, r := range q.Ranges {
		f := wire.Frame{Kind: q.Kind, Transfer: q.Transfer, Offset: r.Offset, Total: uint64(len(raw)), Clock: q.Clock}
		switch {
		case slow && i > 0:
			return
		case slow: // always one more frame to come
			f.Total = max(f.Total, r.Offset+2*frameSize)
			raw = make([]byte, f.Total)
		case endless: // never the same object twice
			v.frames++
			f.ID[0], f.ID[1] = byte(v.frames), byte(v.frames>>8)
			f.Total = 2 * frameSize
			raw = make([]byte, f.Total)
		case err != nil:
			f.Code, f.Total = wire.CodeNotFound, 0
		}
		if f.Code == wire.CodeOK && r.Offset < f.Total {
			f.Payload = raw[r.Offset:min(r.Offset+uint64(r.Length), f.Total)]
		}
		v.session.Publish(ctx, wire.Topics{Tenant: v.tenant, Device: boxName}.Reply(), 0, false, f.Encode()) // a lost one is asked for again
	}
}

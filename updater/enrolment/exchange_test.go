package enrolment

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// A fleet that was just starting has not heard the first request. Nobody should
// have to wait half a minute for the second.
func TestRequestThatNobodyHeardIsSentAnewSoon(t *testing.T) {
	broker := parts.Mosquitto(t)
	s := newSite(t, "acme")
	token, key := s.token("press-7"), newKey(t)
	token.Broker, token.BrokerCA = broker.URL, ""
	topics, requests := wire.Topics{Tenant: token.Tenant}, make(chan mqtt.Message, 8)
	fleet, err := mqtt.New(mqtt.Config{Broker: broker.URL, ClientID: "depot", Subscriptions: []mqtt.Subscription{
		{Filter: topics.EnrollRequest("+"), QoS: 1, Handle: mqtt.Into(requests)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	// Well under the pause of a request that was heard.
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { _ = fleet.Run(ctx) })
	if err := fleet.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	group.Go(func() {
		for heard := 1; ; heard++ {
			select {
			case <-ctx.Done():
				return
			case <-requests:
			}
			if heard < 3 {
				continue
			}
			raw, err := SealAnswer(token, Answer{State: Denied, Key: public(key), Reason: "no"})
			if err == nil {
				err = fleet.Publish(ctx, topics.EnrollAnswer(token.ID), 1, false, raw)
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	if _, err := (Exchange{Token: token, Key: key}).Run(ctx); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v, want the answer to the third request", err)
	}
}

package enrolment

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// Exchange is a box's talk with its fleet over the broker, until it is decided on.
type Exchange struct {
	Token Token
	Key   ed25519.PrivateKey
	// Session holds what the token does not say: logger, consent to plain TCP. Its
	// broker, client id, login, subscriptions and authorities are set by Run.
	Session mqtt.Config
	Again   time.Duration // the request is sent anew after this, sooner until the fleet answers; 30 s
	// Tell hears what a person should know while it waits: the fleet's word, or
	// what is wrong with the connection. Called from Run, not twice for the same.
	Tell func(pending Answer, trouble string)
}

// ErrDenied is what is wrapped when the fleet refuses the box.
var ErrDenied = errors.New("the fleet denies it")

// firstAgain is the first pause before the request is sent anew; it doubles.
const firstAgain = time.Second

// answerDepth is how many answers may wait for Run: what is over it comes again.
const answerDepth = 8

// Run sends the request until the fleet approves or denies, or ctx ends. It may
// be repeated, also by another process with the same key.
func (e Exchange) Run(ctx context.Context) (Answer, error) {
	request, err := MakeRequest(e.Token, e.Key)
	if err != nil {
		return Answer{}, err
	}
	topics := wire.Topics{Tenant: e.Token.Tenant}
	answers := make(chan mqtt.Message, answerDepth)
	session, err := mqtt.New(e.session(mqtt.Subscription{Filter: topics.EnrollAnswer(e.Token.ID), QoS: 1, Handle: mqtt.Into(answers)}))
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { _ = session.Run(ctx) }) // nil: it ends with ctx
	// Soon at first: the fleet may have been starting, and brokers keep no request for it.
	wait := min(firstAgain, e.again())
	again := time.NewTimer(wait)
	defer again.Stop()
	sent, said := uint64(0), ""
	for {
		changed := session.Changed()
		status := session.Status()
		if status.Connected && sent != status.Serial {
			if session.Publish(ctx, topics.EnrollRequest(e.Token.ID), 1, false, request) == nil {
				sent = status.Serial
			}
		}
		if !status.Connected && status.LastError != "" && status.LastError != said {
			said = status.LastError
			e.tell(Answer{}, said)
		}
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-changed:
		case <-again.C:
			sent, wait = 0, min(2*wait, e.again())
			again.Reset(wait)
		case m := <-answers:
			a, err := OpenAnswer(e.Token, e.Key.Public().(ed25519.PublicKey), m.Payload)
			if err != nil {
				// Somebody else's, or a forged one: the fleet's own may still come.
				e.ignore(err)
				continue
			}
			wait = e.again() // the fleet has it
			switch a.State {
			case Approved:
				return a, nil
			case Denied:
				return Answer{}, fmt.Errorf("cannot enrol with token %s: %w: %s", e.Token.ID, ErrDenied, a.Reason)
			}
			if word := "pending " + a.Reason; word != said {
				said = word
				e.tell(a, "")
			}
		}
	}
}

func (e Exchange) again() time.Duration {
	if e.Again > 0 {
		return e.Again
	}
	return 30 * time.Second
}

func (e Exchange) tell(a Answer, trouble string) {
	if e.Tell != nil {
		e.Tell(a, trouble)
	}
}

func (e Exchange) session(sub mqtt.Subscription) mqtt.Config {
	c := e.Session
	c.Broker, c.ClientID = e.Token.Login(), TokenUser+e.Token.ID
	c.Username, c.Password = e.Token.ID, e.Token.Password()
	c.MaxPacket = MaxAnswer
	c.Subscriptions = []mqtt.Subscription{sub}
	if e.Token.BrokerCA != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(e.Token.BrokerCA)) // Validate has read it
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return c
}

func (e Exchange) ignore(err error) {
	if e.Session.Log != nil {
		e.Session.Log.Debug("answer ignored", "error", err)
	}
}

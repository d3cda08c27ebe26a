package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// link is one connection: one paho client, used once and thrown away. paho's
// own reconnect is off: its back-off has no jitter and grows to ten minutes,
// and a client that is wedged cannot mend itself.
type link struct {
	client paho.Client
	conn   atomic.Pointer[limitConn]
	lost   chan struct{} // closed when the connection is gone
	why    atomic.Pointer[error]
	closed atomic.Bool
}

func (l *link) end(err error) {
	if l.closed.CompareAndSwap(false, true) {
		l.why.Store(&err)
		close(l.lost)
	}
}

func (l *link) cause() error {
	if c := l.conn.Load(); c != nil && c.refused.Load() {
		return ErrTooLarge
	}
	if e := l.why.Load(); e != nil {
		return *e
	}
	return errors.New("connection lost")
}

// connection makes one connection and stays until it is lost or ctx ends.
func (s *Session) connection(ctx context.Context) error {
	l := &link{lost: make(chan struct{})}
	l.client = paho.NewClient(s.options(ctx, l))
	defer s.drop(l)
	if err := await(ctx, l, l.client.Connect(), s.cfg.Timeout*3/2); err != nil {
		return fmt.Errorf("cannot connect to %s: %w", s.cfg.Broker, err)
	}
	if err := s.subscribe(ctx, l); err != nil {
		return err
	}
	s.up(l)
	s.cfg.Log.Debug("broker connected", "broker", s.cfg.Broker, "client", s.cfg.ClientID)
	err := errors.Join(s.flush(ctx, l), s.settle(ctx, l))
	if err == nil {
		err = s.stay(ctx, l)
	}
	if ctx.Err() != nil {
		s.farewell(l)
	}
	return err
}

func (s *Session) subscribe(ctx context.Context, l *link) error {
	if len(s.cfg.Subscriptions) == 0 {
		return nil
	}
	filters := map[string]byte{}
	for _, sub := range s.cfg.Subscriptions {
		filters[sub.Filter] = sub.QoS
	}
	t := l.client.SubscribeMultiple(filters, nil)
	if err := await(ctx, l, t, s.cfg.Timeout*3/2); err != nil {
		return fmt.Errorf("cannot subscribe: %w", err)
	}
	for filter, code := range t.(*paho.SubscribeToken).Result() {
		if code == 0x80 {
			return fmt.Errorf("cannot subscribe to %s: the broker refuses it to client %s; check its access list", filter, s.cfg.ClientID)
		}
	}
	return nil
}

// stay serves retained messages and watches the connection from outside: paho
// answers nothing any more when it is wedged, not even its own ping timer.
func (s *Session) stay(ctx context.Context, l *link) error {
	silent := 2*s.cfg.KeepAlive + s.cfg.PingTimeout // a living broker answers a ping every KeepAlive
	watch := time.NewTicker(s.cfg.KeepAlive)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.lost:
			return l.cause()
		case <-s.wake:
			if err := errors.Join(s.flush(ctx, l), s.settle(ctx, l)); err != nil {
				return err
			}
		case <-watch.C:
			last := time.Unix(0, l.conn.Load().lastRead.Load())
			if quiet := s.cfg.Now().Sub(last); quiet > silent {
				s.replaced.Add(1)
				return fmt.Errorf("nothing received for %s: the client is replaced", quiet.Round(time.Second))
			}
		}
	}
}

// farewell has its own bound, since the session's context has already ended.
func (s *Session) farewell(l *link) {
	if s.cfg.Farewell == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := l.publish(ctx, *s.cfg.Farewell); err != nil {
		s.cfg.Log.Debug("farewell not sent", "error", err)
	}
}

// drop ends the paho client. A DISCONNECT goes out only if the connection
// still works; the socket is closed in any case, which ends paho's goroutines.
func (s *Session) drop(l *link) {
	if !l.closed.Load() && l.client.IsConnectionOpen() {
		l.client.Disconnect(250)
	}
	l.end(errors.New("closed"))
	if c := l.conn.Load(); c != nil {
		c.Close()
	}
	l.client.Disconnect(0)
}

func (s *Session) options(ctx context.Context, l *link) *paho.ClientOptions {
	c := s.cfg
	o := paho.NewClientOptions().AddBroker(c.Broker).SetClientID(c.ClientID).
		SetProtocolVersion(4).SetCleanSession(true).SetOrderMatters(true).
		SetAutoReconnect(false).SetConnectRetry(false).SetResumeSubs(false).SetStore(paho.NewMemoryStore()).
		SetKeepAlive(max(c.KeepAlive, time.Second)).SetPingTimeout(c.PingTimeout).
		SetConnectTimeout(c.Timeout).SetWriteTimeout(c.Timeout * 3 / 2)
	if c.Username != "" {
		o.SetUsername(c.Username).SetPassword(c.Password)
	}
	o.SetCustomOpenConnectionFn(func(_ *url.URL, _ paho.ClientOptions) (net.Conn, error) { return s.open(ctx, l) })
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { l.end(err) })
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
		s.dispatch(Message{Topic: m.Topic(), QoS: m.Qos(), Retain: m.Retained(), Payload: m.Payload(), At: s.cfg.Now()})
	})
	if w := c.Will; w != nil {
		o.SetBinaryWill(w.Topic, w.Payload, w.QoS, w.Retain)
	}
	return o
}

func (s *Session) open(ctx context.Context, l *link) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	raw, err := s.cfg.Dial(ctx, s.url.Host)
	if err != nil {
		return nil, err
	}
	if s.url.Scheme == "tls" {
		t := tls.Client(raw, s.cfg.TLS)
		if err := t.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		raw = t
	}
	c := newLimitConn(raw, s.cfg.MaxPacket, s.cfg.Now)
	c.patience = s.cfg.Timeout * 3 / 2
	if s.cfg.Bulk {
		c.direct = newDirect(func(m Message) { s.dispatch(m) })
	}
	l.conn.Store(c)
	return c, nil
}

// dispatch hands a message to who subscribed to it, and counts it if one had no room.
func (s *Session) dispatch(msg Message) {
	ok := true
	for _, sub := range s.cfg.Subscriptions {
		if match(sub.Filter, msg.Topic) && !sub.Handle(msg) {
			ok = false
		}
	}
	if handle := s.joinedTo(msg.Topic); handle != nil && !handle(msg) {
		ok = false
	}
	if !ok {
		s.dropped.Add(1)
	}
}

// match is MQTT's topic filter, with + for one level and a final # for the rest.
func match(filter, topic string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if f != "+" && f != t || fmore != tmore {
			return false
		}
		if !fmore {
			return true
		}
		filter, topic = frest, trest
	}
}

func (l *link) publish(ctx context.Context, m Message) error {
	// paho reports success for a QoS 0 message that it drops, hence the look before.
	if l.closed.Load() || !l.client.IsConnectionOpen() {
		return fmt.Errorf("cannot publish to %s: %w", m.Topic, ErrNotConnected)
	}
	if c := l.conn.Load(); m.QoS == 0 && c != nil && c.direct != nil {
		err := ctx.Err()
		if err == nil {
			if err = c.publish(m.Topic, m.Retain, m.Payload); err != nil {
				l.end(err)
			}
		}
		if err != nil {
			return fmt.Errorf("cannot publish to %s: %w", m.Topic, err)
		}
		return nil
	}
	if err := await(ctx, l, l.client.Publish(m.Topic, m.QoS, m.Retain, m.Payload), time.Minute); err != nil {
		return fmt.Errorf("cannot publish to %s: %w", m.Topic, err)
	}
	return nil
}

// await waits for a token, but not beyond the connection: a token of a lost
// connection may never complete.
func await(ctx context.Context, l *link, t paho.Token, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-l.lost:
		return l.cause()
	case <-timer.C:
		return fmt.Errorf("no answer within %s", limit)
	}
}

package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// MaxControl is the default limit on a packet of a control connection, in bytes.
const MaxControl = 64 << 10

// ErrNotConnected is returned by Publish while there is no connection. Nothing was sent.
var ErrNotConnected = errors.New("not connected to the broker")

// Message is one message, in or out.
type Message struct {
	Topic   string
	QoS     byte
	Retain  bool
	Payload []byte
	At      time.Time // when it was received

	whole []byte      // what Payload is a part of
	pool  chan []byte // where Release puts it; nil: nowhere
}

// Subscription is one filter, subscribed anew on every connection.
type Subscription struct {
	Filter string
	QoS    byte
	// Handle is called in order, on paho's own goroutine, and must not block: it
	// hands over to a channel and returns false if that was full (Status counts it).
	Handle func(Message) bool
}

// Into is a Handle that hands over to a channel.
func Into(c chan<- Message) func(Message) bool {
	return func(m Message) bool {
		select {
		case c <- m:
			return true
		default:
			return false
		}
	}
}

// Config says how to reach the broker. Broker and ClientID are required; zero values elsewhere mean the default named.
type Config struct {
	Broker        string // tcp://host:port or tls://host:port
	ClientID      string
	Username      string // with Password, for who has no certificate yet
	Password      string
	TLS           *tls.Config   // for tls://; a session cache is added
	AllowPlain    bool          // tcp:// to a host that is not loopback
	MaxPacket     int           // bytes; MaxControl
	Bulk          bool          // for many large messages at QoS 0: they go past paho, and may overtake those at QoS 1
	KeepAlive     time.Duration // whole seconds; 30 s
	PingTimeout   time.Duration // 15 s
	Timeout       time.Duration // connect 10 s; a write, a subscription 1.5 times that
	Will          *Message      // published by the broker when the connection is lost
	Farewell      *Message      // published before an orderly end
	Subscriptions []Subscription
	Log           *slog.Logger
	Now           func() time.Time
	Jitter        func() float64 // 0..1; math/rand
	Dial          func(ctx context.Context, addr string) (net.Conn, error)
}

// Status is what is known of a session.
type Status struct {
	Connected bool      `json:"connected"`
	Broker    string    `json:"broker"`
	Serial    uint64    `json:"connections"` // how many connections there were, this one included
	Since     time.Time `json:"since"`       // of the present state
	LastError string    `json:"last_error,omitempty"`
	Dropped   uint64    `json:"dropped"`  // messages that no handler had room for
	Replaced  uint64    `json:"replaced"` // clients that the watchdog found wedged
}

// Session is one connection that comes back. Create it with New and run Run
// once; everything else may be called at any time.
type Session struct {
	cfg      Config
	url      *url.URL
	dropped  atomic.Uint64
	replaced atomic.Uint64
	wake     chan struct{} // capacity 1: some retained message is dirty

	mu       sync.Mutex
	link     *link // nil while down
	changed  chan struct{}
	status   Status
	retained map[string][]byte
	dirty    map[string]bool
	joined   map[string]*joined // by topic
}

// New checks the configuration. Nothing is dialled before Run.
func New(cfg Config) (*Session, error) {
	u, err := url.Parse(cfg.Broker)
	if err != nil || u.Port() == "" || (u.Scheme != "tcp" && u.Scheme != "tls") {
		return nil, fmt.Errorf("cannot use broker %q: want tcp://host:port or tls://host:port", cfg.Broker)
	}
	if u.Scheme == "tcp" && !cfg.AllowPlain && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("cannot use broker %q: unencrypted MQTT is only for loopback; use tls://, or allow plain connections in the configuration", cfg.Broker)
	}
	fill(&cfg)
	if u.Scheme == "tls" {
		t := cfg.TLS.Clone()
		if t.ServerName == "" {
			t.ServerName = u.Hostname()
		}
		if t.ClientSessionCache == nil {
			// Ten thousand devices that come back at once cost the broker 1.5 ms a full handshake.
			t.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		}
		cfg.TLS = t
	}
	return &Session{
		cfg: cfg, url: u, wake: make(chan struct{}, 1), changed: make(chan struct{}),
		status: Status{Broker: cfg.Broker, Since: cfg.Now()}, retained: map[string][]byte{}, dirty: map[string]bool{}, joined: map[string]*joined{},
	}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func fill(c *Config) {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.KeepAlive, 30*time.Second)
	def(&c.PingTimeout, 15*time.Second)
	def(&c.Timeout, 10*time.Second)
	if c.MaxPacket == 0 {
		c.MaxPacket = MaxControl
	}
	if c.TLS == nil {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.Dial == nil {
		d := &net.Dialer{Timeout: c.Timeout}
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
}

// Run keeps a connection until ctx ends, and returns nil then. It must be called once.
func (s *Session) Run(ctx context.Context) error {
	wait := backoff{jitter: s.cfg.Jitter}
	for {
		began := s.cfg.Now()
		err := s.connection(ctx)
		if ctx.Err() != nil {
			s.down(nil)
			return nil
		}
		s.down(err)
		pause := wait.next(s.cfg.Now().Sub(began))
		s.cfg.Log.Info("broker connection lost", "broker", s.cfg.Broker, "client", s.cfg.ClientID, "error", err, "retry", pause)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// backoff is full jitter: anything between nothing and a ceiling that doubles.
type backoff struct {
	jitter func() float64
	failed int
}

const (
	backoffBase   = time.Second
	backoffCap    = time.Minute
	backoffStable = time.Minute
)

func (b *backoff) next(lasted time.Duration) time.Duration {
	if lasted >= backoffStable {
		b.failed = 0
	}
	ceiling := min(backoffBase<<min(b.failed, 10), backoffCap)
	b.failed++
	return time.Duration(b.jitter() * float64(ceiling))
}

func (s *Session) up(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = l
	s.status.Connected, s.status.Since, s.status.LastError = true, s.cfg.Now(), ""
	s.status.Serial++
	for t := range s.retained {
		s.dirty[t] = true
	}
	s.notify()
}

func (s *Session) down(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Connected {
		s.status.Since = s.cfg.Now()
	}
	s.link, s.status.Connected = nil, false
	if err != nil {
		s.status.LastError = err.Error()
	}
	s.notify()
}

// notify tells everyone who waits that the state changed. The caller holds mu.
func (s *Session) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of Status.Connected or Serial.
func (s *Session) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Status is a snapshot.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Dropped, st.Replaced = s.dropped.Load(), s.replaced.Load()
	return st
}

// Connected says whether the connection is up and every subscription made.
func (s *Session) Connected() bool { return s.Status().Connected }

// Wait returns once connected, or ctx's error.
func (s *Session) Wait(ctx context.Context) error {
	for {
		changed := s.Changed()
		if s.Connected() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// errDeaf is why a connection was ended by Redial.
var errDeaf = errors.New("nothing that was asked for came back")

// Redial ends the present connection and makes another. A broker can lose the
// subscriptions of a connection that it keeps up, and only who waits for an
// answer can tell.
func (s *Session) Redial() {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l != nil {
		l.end(errDeaf)
	}
}

// Publish sends one message now, on the present connection, or fails. At QoS 0
// nil means it was written; at QoS 1 that this connection's broker acknowledged
// it. An error at QoS 1 does not mean that it did not arrive.
func (s *Session) Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return fmt.Errorf("cannot publish to %s: %w", topic, ErrNotConnected)
	}
	return l.publish(ctx, Message{Topic: topic, QoS: qos, Retain: retain, Payload: payload})
}

// Retain sets a retained message of this side: sent as soon as there is a
// connection, and on every new one, since a broker may have lost it. The last
// call for a topic wins. The payload must not be changed afterwards.
func (s *Session) Retain(topic string, payload []byte) {
	s.mu.Lock()
	s.retained[topic] = payload
	s.dirty[topic] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// flush sends what Retain left to send. Only the run loop calls it, so an older value never overtakes a newer.
func (s *Session) flush(ctx context.Context, l *link) error {
	s.mu.Lock()
	todo := maps.Clone(s.dirty)
	s.mu.Unlock()
	for topic := range todo {
		s.mu.Lock()
		payload := s.retained[topic]
		delete(s.dirty, topic)
		s.mu.Unlock()
		if err := l.publish(ctx, Message{Topic: topic, QoS: 1, Retain: true, Payload: payload}); err != nil {
			return err // the connection ends, and the next one marks everything dirty
		}
	}
	return nil
}

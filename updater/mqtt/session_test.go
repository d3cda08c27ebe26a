package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// quick is a configuration whose waits are short enough for tests.
func quick(url, client string) Config {
	return Config{
		Broker: url, ClientID: client, Jitter: func() float64 { return 0.02 },
		KeepAlive: time.Second, PingTimeout: time.Second, Timeout: 5 * time.Second,
	}
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start runs a session until the test ends or stop.
func start(t testing.TB, cfg Config) (s *Session, stop func()) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, run(t, s.Run)
}

func run(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func mustConnect(t testing.TB, s *Session) {
	t.Helper()
	if err := s.Wait(bounded(t)); err != nil {
		t.Fatalf("not connected: %v: %s", err, s.Status().LastError)
	}
}

// awaitStatus waits for a status that fits.
func awaitStatus(t testing.TB, s *Session, fits func(Status) bool) {
	t.Helper()
	ctx := bounded(t)
	for {
		changed := s.Changed()
		if fits(s.Status()) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("status stays %+v", s.Status())
		}
	}
}

func receive(t testing.TB, c <-chan Message, want string) {
	t.Helper()
	select {
	case m := <-c:
		if string(m.Payload) != want {
			t.Fatalf("got %q on %s, want %q", m.Payload, m.Topic, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("nothing came, want %q", want)
	}
}

func TestSessionHearsAgainAfterTheBrokerWasKilled(t *testing.T) {
	b := parts.Mosquitto(t)
	in := make(chan Message, 16)
	cfg := quick(b.URL, "box1")
	cfg.Subscriptions = []Subscription{{Filter: "a/+", QoS: 1, Handle: Into(in)}}
	s, _ := start(t, cfg)
	mustConnect(t, s)
	s.Retain("a/kept", []byte("state"))
	receive(t, in, "state")
	for n := range 3 {
		serial := s.Status().Serial
		b.Kill()
		awaitStatus(t, s, func(st Status) bool { return !st.Connected })
		if err := s.Publish(bounded(t), "a/b", 0, false, []byte("x")); !errors.Is(err, ErrNotConnected) {
			t.Errorf("QoS 0 while down: got %v, want %v", err, ErrNotConnected)
		}
		b.Start(t)
		awaitStatus(t, s, func(st Status) bool { return st.Connected && st.Serial > serial })
		// The broker has no memory: only this side can have brought the message back.
		receive(t, in, "state")
		text := fmt.Sprint("again ", n)
		if err := s.Publish(bounded(t), "a/b", 1, false, []byte(text)); err != nil {
			t.Fatal(err)
		}
		receive(t, in, text)
	}
}

func TestRedialMakesAnotherConnectionThatHears(t *testing.T) {
	b := parts.Mosquitto(t)
	in := make(chan Message, 16)
	cfg := quick(b.URL, "box1")
	cfg.Subscriptions = []Subscription{{Filter: "a/+", QoS: 1, Handle: Into(in)}}
	s, _ := start(t, cfg)
	mustConnect(t, s)
	serial := s.Status().Serial
	s.Redial()
	awaitStatus(t, s, func(st Status) bool { return st.Connected && st.Serial > serial })
	if err := s.Publish(bounded(t), "a/b", 1, false, []byte("heard")); err != nil {
		t.Fatal(err)
	}
	receive(t, in, "heard")
}

func TestSessionLeavesAFrozenBroker(t *testing.T) {
	b := parts.Mosquitto(t)
	s, _ := start(t, quick(b.URL, "box1"))
	mustConnect(t, s)
	b.Signal(syscall.SIGSTOP)
	awaitStatus(t, s, func(st Status) bool { return !st.Connected })
	b.Signal(syscall.SIGCONT)
	mustConnect(t, s)
}

// The measured fact: a handler that waits stops paho for good, without a
// ConnectionLost. Only somebody outside can see it.
func TestWatchdogReplacesAWedgedClient(t *testing.T) {
	b := parts.Mosquitto(t)
	release := make(chan struct{})
	var once sync.Once
	in := make(chan Message, 4)
	cfg := quick(b.URL, "box1")
	cfg.PingTimeout = time.Hour // paho's own ping must not be what saves us
	cfg.Subscriptions = []Subscription{{Filter: "a", QoS: 0, Handle: func(m Message) bool {
		once.Do(func() { <-release })
		return Into(in)(m)
	}}}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// The watchdog's patience contains the ping timeout, so its clock is made to run fast.
	var skew atomic.Int64
	s.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	run(t, s.Run)
	defer close(release) // before the session is stopped
	mustConnect(t, s)
	other, _ := start(t, quick(b.URL, "box2"))
	mustConnect(t, other)
	// A packet fills the handler, the following ones paho's queue; then it reads no more.
	for range 300 {
		if err := other.Publish(bounded(t), "a", 0, false, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	// The clock leaps until the watchdog bites: on a busy machine the client may make progress after the first leap.
	leap := time.NewTicker(100 * time.Millisecond)
	defer leap.Stop()
	for end := time.After(30 * time.Second); s.Status().Replaced == 0; {
		select {
		case <-leap.C:
			skew.Add(int64(2 * time.Hour))
		case <-end:
			t.Fatalf("status stays %+v, want the client replaced", s.Status())
		}
	}
	awaitStatus(t, s, func(st Status) bool { return st.Connected && st.Serial > 1 })
}

func TestPacketOverTheLimitIsRefusedUnread(t *testing.T) {
	b := parts.Mosquitto(t)
	in := make(chan Message, 4)
	cfg := quick(b.URL, "box1")
	cfg.MaxPacket = 1000
	cfg.Subscriptions = []Subscription{{Filter: "a", QoS: 0, Handle: Into(in)}}
	s, _ := start(t, cfg)
	mustConnect(t, s)
	other, _ := start(t, quick(b.URL, "box2"))
	mustConnect(t, other)
	if err := other.Publish(bounded(t), "a", 0, false, make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, s, func(st Status) bool { return strings.Contains(st.LastError, ErrTooLarge.Error()) || st.Serial > 1 })
	mustConnect(t, s)
	if err := other.Publish(bounded(t), "a", 0, false, []byte("small")); err != nil {
		t.Fatal(err)
	}
	receive(t, in, "small")
}

func TestLimitConnReadsHeadersOnly(t *testing.T) {
	publish := func(n int) []byte {
		b := []byte{0x30}
		for v := n; ; v >>= 7 {
			if v < 128 {
				b = append(b, byte(v))
				break
			}
			b = append(b, byte(v)|128)
		}
		return append(b, bytes.Repeat([]byte{0xff}, n)...)
	}
	for _, c := range []struct {
		name string
		in   []byte
		good int // bytes that come through
		err  error
	}{
		{"two packets", append(publish(10), publish(300)...), 12 + 303, nil},
		{"empty packet", append(publish(0), publish(1)...), 2 + 3, nil},
		{"over the limit", append(publish(10), publish(301)...), 12, ErrTooLarge},
		{"five length bytes", append(publish(3), 0x30, 0xff, 0xff, 0xff, 0xff, 1), 5, ErrTooLarge},
	} {
		here, there := net.Pipe()
		go func() { there.Write(c.in); there.Close() }()
		l := newLimitConn(here, 300, time.Now)
		got, err := 0, error(nil)
		for buf := make([]byte, 7); err == nil; {
			var n int
			n, err = l.Read(buf)
			got += n
		}
		here.Close()
		if got != c.good || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: got %d bytes and %v, want %d and %v", c.name, got, err, c.good, c.err)
		}
	}
}

func TestFullChannelIsCountedAndHoldsUpNobody(t *testing.T) {
	b := parts.Mosquitto(t)
	in, last := make(chan Message, 1), make(chan Message, 1)
	cfg := quick(b.URL, "box1")
	cfg.Subscriptions = []Subscription{{Filter: "a", Handle: Into(in)}, {Filter: "b", Handle: Into(last)}}
	s, _ := start(t, cfg)
	mustConnect(t, s)
	for range 10 {
		if err := s.Publish(bounded(t), "a", 0, false, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Publish(bounded(t), "b", 0, false, []byte("end")); err != nil {
		t.Fatal(err)
	}
	receive(t, last, "end")
	if got := s.Status().Dropped; got != 9 {
		t.Errorf("got %d dropped, want 9", got)
	}
}

// A broker that answers 0x80 to a subscription leaves a device connected and deaf.
func TestRefusedSubscriptionIsNoConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go refuser(l)
	cfg := quick("tcp://"+l.Addr().String(), "box1")
	cfg.Subscriptions = []Subscription{{Filter: "secret", QoS: 1, Handle: func(Message) bool { return true }}}
	s, _ := start(t, cfg)
	awaitStatus(t, s, func(st Status) bool { return strings.Contains(st.LastError, "refuses it to client box1") })
	if s.Connected() {
		t.Error("connected without its subscription")
	}
}

// refuser accepts every client and refuses every subscription.
func refuser(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		for {
			p, err := packets.ReadPacket(c)
			if err != nil {
				break
			}
			switch p := p.(type) {
			case *packets.ConnectPacket:
				packets.NewControlPacket(packets.Connack).Write(c)
			case *packets.SubscribePacket:
				a := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
				a.MessageID, a.ReturnCodes = p.MessageID, []byte{0x80}
				a.Write(c)
			}
		}
		c.Close()
	}
}

func TestPlainConnectionsAreForLoopback(t *testing.T) {
	for url, want := range map[string]bool{
		"tcp://127.0.0.1:1883": true, "tcp://[::1]:1883": true, "tcp://localhost:1883": true, "tls://broker.example:8883": true,
		"tcp://broker.example:1883": false, "tcp://10.0.0.1:1883": false, "ws://127.0.0.1:80": false, "127.0.0.1:1883": false, "tcp://127.0.0.1": false,
	} {
		if _, err := New(Config{Broker: url, ClientID: "a"}); (err == nil) != want {
			t.Errorf("%s: got %v, want accepted = %v", url, err, want)
		}
	}
	if _, err := New(Config{Broker: "tcp://10.0.0.1:1883", ClientID: "a", AllowPlain: true}); err != nil {
		t.Errorf("plain allowed: %v", err)
	}
}

func TestBackoffIsCappedJitteredAndForgets(t *testing.T) {
	b := backoff{jitter: func() float64 { return 1 }}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if got := b.next(time.Second); got != want*time.Second {
			t.Errorf("failure %d: got %s, want %ds", i, got, want)
		}
	}
	if got := b.next(backoffStable); got != time.Second {
		t.Errorf("after a stable minute: got %s, want 1s", got)
	}
	half := backoff{jitter: func() float64 { return 0.5 }, failed: 20}
	if got := half.next(0); got != 30*time.Second {
		t.Errorf("half jitter: got %s, want 30s", got)
	}
}

func TestLastWillSpeaksForAKilledDevice(t *testing.T) {
	b := parts.Mosquitto(t)
	in := make(chan Message, 16)
	watch := quick(b.URL, "watcher")
	topics := wire.Topics{Tenant: "acme", Device: "box1"}
	watch.Subscriptions = []Subscription{{Filter: topics.Online(), QoS: 1, Handle: Into(in)}}
	w, _ := start(t, watch)
	mustConnect(t, w)
	var conn atomic.Pointer[net.Conn]
	cfg := quick(b.URL, "")
	cfg.Jitter = func() float64 { return 1 } // a second: the will is seen before the device is back
	cfg.Dial = func(_ context.Context, addr string) (net.Conn, error) {
		c, err := net.Dial("tcp", addr)
		conn.Store(&c)
		return c, err
	}
	d, err := NewDevice(cfg, topics, 42)
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, d.Run)
	receive(t, in, `{"v":1,"online":true,"epoch":42}`)
	(*conn.Load()).Close()
	receive(t, in, `{"v":1,"online":false,"epoch":42}`)
	receive(t, in, `{"v":1,"online":true,"epoch":42}`)
	stop()
	receive(t, in, `{"v":1,"online":false,"epoch":42}`)
}

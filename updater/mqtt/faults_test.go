package mqtt

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/bothy-edge/bothy/internal/parts"
)

// gate is a connection that can be kept from reading: a consumer that is slow.
type gate struct {
	net.Conn
	mu sync.Mutex // held while nothing is to be read
}

func (g *gate) Read(p []byte) (int, error) {
	g.pass()
	return g.Conn.Read(p)
}

// pass returns when nobody holds the gate.
func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
}

// The measured fact: the broker acknowledges what it then drops for a slow
// consumer, at QoS 1 too. The session outlives it; what must arrive is asked for
// in a window (updater/content) or repeated (outbox, orders).
func TestSlowConsumerLosesWhatTheBrokerAcknowledged(t *testing.T) {
	b := parts.Mosquitto(t, "max_queued_messages 100", "max_inflight_messages 20")
	const sent = 3000
	in, last := make(chan Message, 2*sent), make(chan Message, 1)
	var slow atomic.Pointer[gate]
	cfg := quick(b.URL, "slow")
	cfg.KeepAlive, cfg.PingTimeout = 60*time.Second, 60*time.Second // it is slow, not dead
	cfg.Subscriptions = []Subscription{{Filter: "a", QoS: 1, Handle: Into(in)}, {Filter: "b", QoS: 1, Handle: Into(last)}}
	cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		g := &gate{Conn: c}
		slow.Store(g)
		return g, c.(*net.TCPConn).SetReadBuffer(4 << 10)
	}
	s, _ := start(t, cfg)
	mustConnect(t, s)
	other, _ := start(t, quick(b.URL, "fast"))
	mustConnect(t, other)
	slow.Load().mu.Lock()
	payload := make([]byte, 4<<10)
	for i := range sent {
		if err := other.Publish(bounded(t), "a", 1, false, payload); err != nil {
			t.Fatalf("message %d was not acknowledged: %v", i, err)
		}
	}
	slow.Load().mu.Unlock()
	// Whatever comes comes before this one; it is sent until there is room for it in the broker's queue.
	for heard := false; !heard; {
		if err := other.Publish(bounded(t), "b", 1, false, []byte("end")); err != nil {
			t.Fatal(err)
		}
		select {
		case <-last:
			heard = true
		case <-time.After(100 * time.Millisecond):
		}
	}
	if len(in) >= sent {
		t.Errorf("all %d messages came: the fact that flow control must be ours does not hold", len(in))
	}
	if st := s.Status(); !st.Connected || st.Serial != 1 {
		t.Errorf("got %+v, want the first connection to have outlived it", st)
	}
}

// standIn is a broker that can be told what to do: Mosquitto does none of this.
func standIn(t *testing.T, serve func(c net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	return "tcp://" + l.Addr().String()
}

// paho would make room for 256 MiB on the word of four bytes.
func TestClaimOfAHugePacketCostsNoMemory(t *testing.T) {
	claimed := make(chan struct{}, 100)
	url := standIn(t, func(c net.Conn) {
		if _, err := packets.ReadPacket(c); err != nil {
			return
		}
		packets.NewControlPacket(packets.Connack).Write(c)
		c.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a'}) // a publish of 256 MiB
		claimed <- struct{}{}
		packets.ReadPacket(c) // until the session leaves
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s, stop := start(t, quick(url, "box1"))
	for range 5 {
		select {
		case <-claimed:
		case <-time.After(30 * time.Second):
			t.Fatalf("no connection: %+v", s.Status())
		}
	}
	awaitStatus(t, s, func(st Status) bool { return strings.Contains(st.LastError, ErrTooLarge.Error()) })
	stop()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
		t.Errorf("five claims of 256 MiB took %d MiB of memory", got>>20)
	}
}

// CleanSession=false does not survive a killed broker: the device would be
// connected and deaf. So every connection asks for everything anew.
func TestEveryConnectionIsCleanAndSubscribesAnew(t *testing.T) {
	type hello struct {
		clean   bool
		filters []string
	}
	seen := make(chan hello, 100)
	url := standIn(t, func(c net.Conn) {
		p, err := packets.ReadPacket(c)
		connect, ok := p.(*packets.ConnectPacket)
		if err != nil || !ok {
			return
		}
		packets.NewControlPacket(packets.Connack).Write(c)
		if p, err = packets.ReadPacket(c); err != nil {
			return
		}
		sub, ok := p.(*packets.SubscribePacket)
		if !ok {
			seen <- hello{clean: connect.CleanSession}
			return
		}
		seen <- hello{connect.CleanSession, sub.Topics} // and hang up
	})
	cfg := quick(url, "box1")
	cfg.Subscriptions = []Subscription{{Filter: "a", QoS: 1, Handle: func(Message) bool { return true }}}
	start(t, cfg)
	for i := range 3 {
		select {
		case h := <-seen:
			if !h.clean || len(h.filters) != 1 || h.filters[0] != "a" {
				t.Errorf("connection %d: got %+v, want a clean one that subscribes to a", i, h)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no further connection")
		}
	}
}

// A broker that hangs up at once is not dialled in a loop. Virtual time.
func TestDeadBrokerIsDialledInTheBackoff(t *testing.T) {
	for name, c := range map[string]struct {
		jitter   float64
		min, max int
	}{"longest pauses": {1, 60, 70}, "half of them": {0.5, 120, 140}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials := 0
				cfg := Config{Broker: "tcp://127.0.0.1:1", ClientID: "box1", Jitter: func() float64 { return c.jitter }}
				cfg.Dial = func(context.Context, string) (net.Conn, error) { dials++; return nil, errors.New("refused") }
				s, err := New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := s.Run(ctx); err != nil {
					t.Fatal(err)
				}
				if dials < c.min || dials > c.max {
					t.Errorf("dialled %d times in an hour, want %d to %d", dials, c.min, c.max)
				}
			})
		})
	}
}

// A frozen broker takes bytes and answers nothing: nothing that was handed to
// it may be believed.
func TestFrozenBrokerIsNotBelieved(t *testing.T) {
	b := parts.Mosquitto(t)
	s, _ := start(t, quick(b.URL, "box1"))
	mustConnect(t, s)
	b.Signal(syscall.SIGSTOP)
	if err := s.Publish(bounded(t), "a", 1, false, []byte("x")); err == nil {
		t.Error("a frozen broker acknowledged")
	}
	// Also one that is frozen from the start: the kernel accepts for it.
	late, _ := start(t, quick(b.URL, "box2"))
	awaitStatus(t, late, func(st Status) bool { return st.LastError != "" })
	if late.Connected() {
		t.Error("connected to a frozen broker")
	}
	b.Signal(syscall.SIGCONT)
	mustConnect(t, s)
	mustConnect(t, late)
}

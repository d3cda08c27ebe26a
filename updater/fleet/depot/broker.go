package depot

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// BrokerOptions says how the embedded broker listens and who its operator is.
type BrokerOptions struct {
	Addr   string // host:port; port 0 takes a free one
	Tenant string
	Depot  string      // the client that may do everything in the tenant
	TLS    *tls.Config // it must require client certificates: their common name is who the client is
	// AllowPlain serves beyond loopback without TLS: then everybody there can be any device, and the depot.
	AllowPlain bool
	Log        *slog.Logger
}

// Broker is an MQTT broker in this process, for demonstrations and small sites.
type Broker struct {
	server *mochi.Server
	addr   string
	tls    bool
}

// EmbeddedBroker starts a broker. Without TLS it believes the client id, so it
// then serves loopback only, unless told otherwise; either way each device
// reaches its own topics only. The caller must Close it.
func EmbeddedBroker(o BrokerOptions) (*Broker, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("cannot start the embedded broker on %s: %w", o.Addr, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumPacketSize = wire.MaxFrame + 4<<10
	// The default queues 8,192 messages a client: at 240 KiB a frame, 2 GB for one slow device.
	caps.MaximumClientWritesPending = 256
	s := mochi.New(&mochi.Options{
		Capabilities: caps, Logger: o.Log,
		ClientNetReadBufferSize: 64 << 10, ClientNetWriteBufferSize: 64 << 10,
	})
	if err := s.AddHook(&access{root: "bothy/1/" + o.Tenant + "/", operator: o.Depot}, nil); err != nil {
		return nil, fmt.Errorf("cannot start the embedded broker: %w", err)
	}
	l := listeners.NewTCP(listeners.Config{ID: "mqtt", Address: o.Addr, TLSConfig: o.TLS})
	if err := s.AddListener(l); err != nil {
		return nil, fmt.Errorf("cannot start the embedded broker on %s: %w", o.Addr, err)
	}
	if err := s.Serve(); err != nil {
		return nil, fmt.Errorf("cannot start the embedded broker on %s: %w", o.Addr, err)
	}
	return &Broker{server: s, addr: l.Address(), tls: o.TLS != nil}, nil
}

// check refuses a broker on which anybody could pass for any device.
func (o BrokerOptions) check() error {
	if o.TLS != nil {
		if o.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
			return errors.New("TLS without client certificates leaves open who a device is; name the authority that signs them (--ca)")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return err
	}
	ip := net.ParseIP(host)
	if o.AllowPlain || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return errors.New("without TLS anybody there could pass for any device; add --ca, --cert and --key, or serve 127.0.0.1, or allow it (--allow-plaintext)")
}

// URL is the address for a session's configuration.
func (b *Broker) URL() string {
	if b.tls {
		return "tls://" + b.addr
	}
	return "tcp://" + b.addr
}

// Close disconnects everyone and stops.
func (b *Broker) Close() error { return b.server.Close() }

// access is the rule of who may use which topic: the same as in the access
// lists for other brokers.
type access struct {
	mochi.HookBase
	root     string
	operator string
}

// ID implements mochi's Hook.
func (a *access) ID() string { return "bothy-access" }

// Provides implements mochi's Hook.
func (a *access) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

// OnConnectAuthenticate implements mochi's Hook.
func (a *access) OnConnectAuthenticate(cl *mochi.Client, _ packets.Packet) bool {
	id := a.identity(cl.ID)
	// mochi publishes a last will without asking OnACLCheck.
	if will := cl.Properties.Will; wire.CheckID(id) != nil || will.Flag != 0 && !a.OnACLCheck(cl, will.TopicName, true) {
		return false
	}
	t, ok := cl.Net.Conn.(*tls.Conn)
	if !ok {
		return true
	}
	certs := t.ConnectionState().PeerCertificates
	return len(certs) > 0 && certs[0].Subject.CommonName == id
}

// OnACLCheck implements mochi's Hook. A filter is checked like a topic, so a
// device can subscribe to no wildcard.
func (a *access) OnACLCheck(cl *mochi.Client, topic string, write bool) bool {
	rest, ok := strings.CutPrefix(topic, a.root)
	if !ok {
		return false
	}
	id := a.identity(cl.ID)
	if id == a.operator {
		return true
	}
	p := strings.Split(rest, "/")
	own := len(p) == 3 && p[0] == "d" && p[1] == id
	if write {
		return own && slices.Contains([]string{"state", "event", "online"}, p[2]) ||
			len(p) == 4 && p[0] == "p" && p[2] == "req" && p[3] == id
	}
	return own && p[2] != "#" && p[2] != "+" || rest == "catalog" || len(p) == 3 && p[0] == "p" && p[2] == "info"
}

// identity is who a client is: both its connections count as one.
func (a *access) identity(client string) string {
	if client == a.operator+"-probe" {
		return a.operator
	}
	return strings.TrimSuffix(client, "-bulk")
}

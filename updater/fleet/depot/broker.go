package depot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// BrokerOptions says how the embedded broker listens and who its operator is.
type BrokerOptions struct {
	Addr   string // host:port; port 0 takes a free one
	Tenant string
	Depot  string      // the client that may do everything in the tenant
	TLS    *tls.Config // it must verify client certificates: their common name is who the client is
	// Login lets a box without a certificate in by its token's password, to its enrolment
	// topics only; nil lets none in, and TLS must then require certificates.
	Login func(token, password string) bool
	// Admit says why a device shall not be let in, or stay; serial is its certificate's, nil without TLS. Nil admits all.
	Admit func(device string, serial *big.Int) error
	// AllowPlain serves beyond loopback without TLS: then everybody there can be any device, and the depot.
	AllowPlain bool
	// Hears says whether a device may listen to the cast of a blob, by the first half
	// of its SHA-256 as 32 hexadecimal digits. Nil: none may.
	Hears func(device, id string) bool
	Log   *slog.Logger
}

// Broker is an MQTT broker in this process, for demonstrations and small sites.
type Broker struct {
	server *mochi.Server
	addr   string
	tls    bool
	stop   chan struct{}
	swept  sync.WaitGroup
}

// sweepEvery is how long a device that is retired keeps a connection at most.
const sweepEvery = 2 * time.Second

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
		Capabilities: caps, Logger: slog.New(quiet{o.Log.Handler()}),
		ClientNetReadBufferSize: 64 << 10, ClientNetWriteBufferSize: 64 << 10,
	})
	rule := &access{root: "bothy/1/" + o.Tenant + "/", operator: o.Depot, login: o.Login, admit: o.Admit, hears: o.Hears, log: o.Log}
	if err := s.AddHook(rule, nil); err != nil {
		return nil, fmt.Errorf("cannot start the embedded broker: %w", err)
	}
	l := listeners.NewTCP(listeners.Config{ID: "mqtt", Address: o.Addr, TLSConfig: o.TLS})
	if err := s.AddListener(l); err != nil {
		return nil, fmt.Errorf("cannot start the embedded broker on %s: %w", o.Addr, err)
	}
	if err := s.Serve(); err != nil {
		return nil, fmt.Errorf("cannot start the embedded broker on %s: %w", o.Addr, err)
	}
	b := &Broker{server: s, addr: l.Address(), tls: o.TLS != nil, stop: make(chan struct{})}
	if o.Admit != nil {
		b.swept.Go(func() { b.sweep(rule) })
	}
	return b, nil
}

// quiet keeps the broker's library to errors: it warns of every connection that ends, with the whole packet.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && q.Handler.Enabled(ctx, l)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

// sweep disconnects whoever is not admitted any more.
func (b *Broker) sweep(rule *access) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
		for _, cl := range b.server.Clients.GetAll() {
			if !cl.Net.Inline && !cl.Closed() && !rule.admitted(cl) {
				cl.Stop(packets.ErrNotAuthorized)
			}
		}
	}
}

// check refuses a broker on which anybody could pass for any device.
func (o BrokerOptions) check() error {
	if o.TLS != nil {
		verified := o.TLS.ClientAuth == tls.RequireAndVerifyClientCert || o.Login != nil && o.TLS.ClientAuth == tls.VerifyClientCertIfGiven
		if !verified {
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
func (b *Broker) Close() error {
	close(b.stop)
	b.swept.Wait()
	return b.server.Close()
}

// access is the rule of who may use which topic: the same as in the access
// lists for other brokers.
type access struct {
	mochi.HookBase
	root     string
	operator string
	login    func(token, password string) bool
	admit    func(device string, serial *big.Int) error
	log      *slog.Logger
	hears    func(device, id string) bool
}

// ID implements mochi's Hook.
func (a *access) ID() string { return "bothy-access" }

// Provides implements mochi's Hook.
func (a *access) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

// OnConnectAuthenticate implements mochi's Hook.
func (a *access) OnConnectAuthenticate(cl *mochi.Client, pk packets.Packet) bool {
	id := a.identity(cl.ID)
	// mochi publishes a last will without asking OnACLCheck.
	if will := cl.Properties.Will; wire.CheckID(id) != nil || will.Flag != 0 && !a.OnACLCheck(cl, will.TopicName, true) {
		return false
	}
	if token, ok := tokenOf(cl); ok {
		// The client id holds the token's, so that nobody takes a device's connection over.
		return a.login != nil && cl.ID == enrolment.TokenUser+token && a.login(token, string(pk.Connect.Password))
	}
	if c := certificate(cl); c != nil && c.Subject.CommonName != id || c == nil && cl.Net.Conn != nil && isTLS(cl.Net.Conn) {
		return false
	}
	return a.admitted(cl)
}

// admitted asks the fleet about a device. The depot is not one.
func (a *access) admitted(cl *mochi.Client) bool {
	id := a.identity(cl.ID)
	if _, ok := tokenOf(cl); ok || a.admit == nil || id == a.operator {
		return true
	}
	var serial *big.Int
	if c := certificate(cl); c != nil {
		serial = c.SerialNumber
	}
	err := a.admit(id, serial)
	if err != nil && a.log != nil {
		a.log.Warn("client refused", "client", cl.ID, "error", err)
	}
	return err == nil
}

func tokenOf(cl *mochi.Client) (string, bool) {
	return string(cl.Properties.Username), len(cl.Properties.Username) > 0
}

func isTLS(c net.Conn) bool { _, ok := c.(*tls.Conn); return ok }

// certificate is the one that the client showed and TLS verified; nil for none.
func certificate(cl *mochi.Client) *x509.Certificate {
	t, ok := cl.Net.Conn.(*tls.Conn)
	if !ok {
		return nil
	}
	if certs := t.ConnectionState().PeerCertificates; len(certs) > 0 {
		return certs[0]
	}
	return nil
}

// OnACLCheck implements mochi's Hook. A filter is checked like a topic, so a
// device can subscribe to no wildcard.
func (a *access) OnACLCheck(cl *mochi.Client, topic string, write bool) bool {
	rest, ok := strings.CutPrefix(topic, a.root)
	if !ok {
		return false
	}
	if token, ok := tokenOf(cl); ok {
		return write && rest == "enroll/"+token+"/csr" || !write && rest == "enroll/"+token+"/cert"
	}
	id := a.identity(cl.ID)
	if id == a.operator {
		return true
	}
	p := strings.Split(rest, "/")
	own := len(p) == 3 && p[0] == "d" && p[1] == id
	if write {
		return own && slices.Contains([]string{"state", "event", "online", "csr"}, p[2]) ||
			len(p) == 4 && (p[0] == "p" && p[2] == "req" || p[0] == "b" && p[2] == "fb") && p[3] == id
	}
	if len(p) == 3 && p[0] == "b" && p[2] == "cast" {
		return a.hears != nil && a.hears(id, p[1])
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

package depot

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// authority issues certificates for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	a := &authority{pool: x509.NewCertPool()}
	root := template("test authority")
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	var der []byte
	a.key, der = sign(t, root, root, nil)
	a.cert, _ = x509.ParseCertificate(der)
	a.pool.AddCert(a.cert)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func sign(t testing.TB, c, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// issue is a TLS configuration that can serve and connect as name.
func (a *authority) issue(t testing.TB, name string) *tls.Config {
	key, der := sign(t, template(name), a.cert, a.key)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: a.pool, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
}

// files writes a certificate as Mosquitto wants it and returns its configuration lines.
func (a *authority) files(t testing.TB, name string) string {
	t.Helper()
	dir := t.TempDir()
	key, der := sign(t, template(name), a.cert, a.key)
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{
		"ca": a.pem, "cert": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("cafile %s/ca\ncertfile %s/cert\nkeyfile %s/key\nrequire_certificate true\nuse_identity_as_username true\n", dir, dir, dir)
}

// accessList is the rule of the design, in Mosquitto's words.
const accessList = `user depot1
topic readwrite bothy/1/acme/#
pattern read bothy/1/acme/d/%u/+
pattern write bothy/1/acme/d/%u/state
pattern write bothy/1/acme/d/%u/event
pattern write bothy/1/acme/d/%u/online
pattern read bothy/1/acme/catalog
pattern read bothy/1/acme/p/+/info
pattern write bothy/1/acme/p/+/req/%u
`

func secured(c mqtt.Config, t *tls.Config) mqtt.Config { c.TLS = t; return c }

func TestFetchOverTLSWithCertificatesAndAccessLists(t *testing.T) {
	ca := newAuthority(t)
	acl := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(acl, []byte(accessList), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(parts.FreeAddr(t))
	parts.Mosquitto(t, "listener "+port+" 127.0.0.1", ca.files(t, "broker")+"acl_file "+acl)
	embedded, err := EmbeddedBroker(BrokerOptions{Addr: "127.0.0.1:0", Tenant: "acme", Depot: "depot1", TLS: ca.issue(t, "broker")})
	if err != nil {
		t.Fatal(err)
	}
	defer embedded.Close()
	for _, url := range []string{"tls://127.0.0.1:" + port, embedded.URL()} {
		fleet := newFolder(t)
		want := noise(2, 3<<20)
		f := fleet.add(t, want, "box1")
		_, stop := serve(t, url, fleet, func(c *Config) {
			c.Session.TLS = ca.issue(t, "depot1")
			c.FrameMax = 0 // the probe must get through the access list too
		})
		fetch := func(client, certificate string) error {
			cfg := secured(mqtt.Config{Broker: url, Jitter: func() float64 { return 0.05 }}, ca.issue(t, certificate))
			b, err := mqtt.NewBulk(cfg, wire.Topics{Tenant: "acme", Device: client}, "depot1")
			if err != nil {
				t.Fatal(err)
			}
			src := content.NewDepot(b)
			src.Stall = 3 * time.Second
			_, err = openStore(t, t.TempDir()).Fetch(timeout(t), f, []content.Source{src}, nil)
			return err
		}
		if err := fetch("box1", "box1"); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		// Another device that says it is box1: the certificate decides.
		if err := fetch("box1", "box2"); !errors.Is(err, content.ErrStalled) {
			t.Errorf("%s: box2 as box1: got %v, want no answer", url, err)
		}
		stop()
	}
}

func TestBrokerWithAnotherAuthorityIsNotTalkedTo(t *testing.T) {
	embedded, err := EmbeddedBroker(BrokerOptions{Addr: "127.0.0.1:0", Tenant: "acme", Depot: "depot1", TLS: newAuthority(t).issue(t, "broker")})
	if err != nil {
		t.Fatal(err)
	}
	defer embedded.Close()
	s, err := mqtt.New(mqtt.Config{Broker: embedded.URL(), ClientID: "box1", TLS: newAuthority(t).issue(t, "box1"), Jitter: func() float64 { return 0.01 }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for s.Status().LastError == "" {
		changed := s.Changed()
		if s.Status().LastError != "" {
			break
		}
		<-changed
	}
	cancel()
	<-done
	if st := s.Status(); st.Serial != 0 {
		t.Errorf("got a connection: %+v", st)
	}
}

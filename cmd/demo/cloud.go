package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"
)

// cloudKey is what the cloud asks for; the demo gives it to the agent in a key file.
const cloudKey = "demo-cloud-key"

// cloud is a second real engine behind TLS on loopback. It remembers what it was asked.
type cloud struct {
	url    string
	engine *process
	server *http.Server

	mu     sync.Mutex
	bodies [][]byte // every request that reached it
}

func startCloud(ctx context.Context, s *site) (*cloud, error) {
	cert, err := selfSigned(s.path("cloud.pem"))
	if err != nil {
		return nil, err
	}
	socket := s.path("cloud.sock")
	c := &cloud{}
	if c.engine, err = s.spawn("cloud", "engine", "serve", "--listen", "unix:"+socket, "--model", s.model, "--alias", "mote-large", "--slots", "8", "--context", "512"); err != nil {
		return nil, err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	c.url = "https://" + l.Addr().String() + "/v1"
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	c.server = &http.Server{Handler: c.record(proxy), ReadHeaderTimeout: 10 * time.Second, ErrorLog: proxy.ErrorLog}
	go func() { _ = c.server.Serve(l) }() // ends with stop
	return c, waitFor(ctx, "the cloud's engine", func() error {
		if c.engine.ended() {
			return fmt.Errorf("%w: %s", errEnded, c.engine.log)
		}
		return dial("unix", socket)
	})
}

// record keeps every body and turns away who has no key.
func (c *cloud) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("authorization") != "Bearer "+cloudKey {
			http.Error(w, `{"error":{"message":"wrong key","type":"invalid_request_error"}}`, http.StatusUnauthorized)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		c.bodies = append(c.bodies, body)
		c.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// seen is how many requests reached the cloud, and how many of them held the text.
func (c *cloud) seen(text string) (all, with int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.bodies {
		if bytes.Contains(b, []byte(text)) {
			with++
		}
	}
	return len(c.bodies), with
}

func (c *cloud) stop() {
	if c == nil {
		return
	}
	c.server.Close()
	c.engine.stop()
}

// selfSigned makes a certificate for 127.0.0.1 and writes its public half to path.
func selfSigned(path string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "demo cloud"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(path, block, 0o600)
}

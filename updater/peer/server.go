package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Certificates are what a device shows and believes, as they are now: both are
// renewed under a running agent.
type Certificates struct {
	Own       func() (*tls.Certificate, error)
	Authority func() (*x509.CertPool, error)
}

// Config is what a Server works with. All but Busy, Rate, Now and Log are required.
type Config struct {
	Store interface {
		Path(digest string) string
		Has(digest string) bool
	}
	// Check says what the holder of a proof may have; trust.Client has it.
	Check        func(proof []byte, device string) (trust.Shown, error)
	Certificates Certificates
	// Busy says that the box has better things to do; nil: never.
	Busy func() bool
	// Rate is how many bytes a second all askers get together. Default 32 MiB.
	Rate int64
	Now  func() time.Time
	Log  *slog.Logger
}

// The bounds of a server.
const (
	maxConnections = 32
	maxTransfers   = 4 // at once
	maxOfOne       = 2 // of one device
	maxClaims      = 2
	maxRange       = 64 << 20
	maxCallers     = 4096
	chunk          = 256 << 10
	chunkLimit     = 30 * time.Second // for one chunk to be taken
	proofLife      = time.Hour        // then it is asked for again
	defaultRate    = 32 << 20
)

// Server hands files to other devices.
type Server struct {
	cfg     Config
	callers *callers
	pace    *pace
	slots   chan struct{} // transfers under way
	claims  chan struct{} // proofs being read, each in memory
}

// New makes a server; Serve runs it.
func New(c Config) *Server {
	if c.Busy == nil {
		c.Busy = func() bool { return false }
	}
	if c.Rate == 0 {
		c.Rate = defaultRate
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: c, callers: newCallers(c.Now), pace: &pace{rate: c.Rate}, slots: make(chan struct{}, maxTransfers), claims: make(chan struct{}, maxClaims)}
}

// Serve answers on l until ctx ends, closes it, and returns nil then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /claim", s.claim)
	mux.HandleFunc("GET /blobs/{name}", s.blob)
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
		MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: log.New(io.Discard, "", 0), // strangers who shake hands badly would fill it
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(tls.NewListener(limit(l, maxConnections), s.tls())) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

func (s *Server) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		own, err := s.cfg.Certificates.Own()
		if err != nil {
			return nil, err
		}
		pool, err := s.cfg.Certificates.Authority()
		if err != nil {
			return nil, err
		}
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*own}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, nil
	}}
}

// caller is the device at the other end, as its certificate says.
func caller(r *http.Request) (string, bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", false
	}
	device := r.TLS.PeerCertificates[0].Subject.CommonName
	return device, release.CheckDevice(device) == nil
}

// claim takes the proof of what a device may have.
func (s *Server) claim(w http.ResponseWriter, r *http.Request) {
	device, ok := caller(r)
	if !ok {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	select {
	case s.claims <- struct{}{}:
		defer func() { <-s.claims }()
	default:
		later(w)
		return
	}
	err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(chunkLimit))
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, trust.MaxProof))
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	shown, err := s.cfg.Check(raw, device)
	if err == nil {
		err = s.callers.admit(shown)
	}
	if err != nil {
		s.cfg.Log.Warn("proof of a peer refused", "device", device, "error", err)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// blob serves a file or its index to a device that may have it.
func (s *Server) blob(w http.ResponseWriter, r *http.Request) {
	digest, isIndex := strings.CutSuffix(r.PathValue("name"), ".index")
	device, ok := caller(r)
	if !ok || release.CheckDigest(digest) != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if s.cfg.Busy() {
		later(w)
		return
	}
	done, err := s.callers.begin(device, digest)
	if errors.Is(err, errMany) {
		later(w)
		return
	}
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized) // a newer proof may open it
		return
	}
	defer done()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		later(w)
		return
	}
	if !s.cfg.Store.Has(digest) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	path := s.cfg.Store.Path(digest)
	if isIndex {
		path += ".index"
	}
	s.send(w, r, path, isIndex)
}

// later sends an asker elsewhere for a while.
func later(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "30")
	w.WriteHeader(http.StatusServiceUnavailable)
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, path string, whole bool) {
	file, err := os.Open(path)
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || whole && info.Size() > content.MaxIndex {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	start, end, status := int64(0), info.Size(), http.StatusOK
	if !whole {
		var ok bool
		if start, end, ok = parseRange(r.Header.Get("Range"), info.Size()); !ok {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", "bytes "+strconv.FormatInt(start, 10)+"-"+strconv.FormatInt(end-1, 10)+"/"+strconv.FormatInt(info.Size(), 10))
	}
	w.Header().Set("Content-Length", strconv.FormatInt(end-start, 10))
	w.WriteHeader(status)
	s.stream(w, r, io.NewSectionReader(file, start, end-start))
}

// parseRange reads "bytes=0-99". Other spellings of ranges are not for us, and a
// file without one would be no bounded answer.
func parseRange(text string, size int64) (start, end int64, ok bool) {
	from, to, found := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	start, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	ok = found && strings.HasPrefix(text, "bytes=") && err1 == nil && err2 == nil &&
		start >= 0 && last >= start && last < size && last-start < maxRange
	return start, last + 1, ok
}

// stream copies at the common rate and stops when the box gets busy: the length
// that was promised is then not reached, and the connection closes.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, in io.Reader) {
	out := http.NewResponseController(w)
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(in, buf)
		if n == 0 {
			return
		}
		if s.cfg.Busy() || s.pace.wait(r.Context(), n) != nil {
			return
		}
		// Who takes less than a chunk in this time holds up a slot for nothing.
		if out.SetWriteDeadline(time.Now().Add(chunkLimit)) != nil {
			return
		}
		if _, werr := w.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

// pace spreads bytes over time, for all transfers together.
type pace struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	next time.Time
}

func (p *pace) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// limited is a listener with a bound on its open connections: more wait in the
// kernel's queue, which is bounded too.
type limited struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type slotted struct {
	net.Conn
	free func()
}

func (c *slotted) Close() error {
	c.free()
	return c.Conn.Close()
}

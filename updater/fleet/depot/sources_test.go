package depot

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mirror"
	"github.com/bothy-edge/bothy/updater/peer"
	"github.com/bothy-edge/bothy/updater/peer/peertest"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// The suite holds every source to one behaviour: whatever happens to what it
// reads, a fetch ends soon, keeps what was right, and the next one goes on.

// suiteStall is how long a source waits in the suite.
const suiteStall = 2 * time.Second

// opened is a source on a folder that lies as a depot's. up serves it again after down.
type opened struct {
	content.Source
	down, up func()
}

func suppliers() map[string]func(*testing.T, *folder) opened {
	return map[string]func(*testing.T, *folder) opened{
		"directory": overDirectory, "mirror": overMirror, "peer": overPeer, "mqtt": overMQTT,
	}
}

// overDirectory: pulling the stick is what takes a folder down.
func overDirectory(_ *testing.T, f *folder) opened {
	return opened{content.Directory{Dir: f.dir}, f.pullOut, f.putBack}
}

func overMirror(t *testing.T, f *folder) opened {
	address := parts.FreeAddr(t)
	srv := &http.Server{Handler: http.StripPrefix("/blobs/", http.FileServer(http.Dir(f.dir))), ErrorLog: log.New(io.Discard, "", 0)}
	first := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer first.Close()
	pool := x509.NewCertPool()
	pool.AddCert(first.Certificate())
	src, err := mirror.New(mirror.Config{URL: "https://" + address, TLS: &tls.Config{RootCAs: pool}, Stall: suiteStall, Tries: 2,
		Jitter: func() float64 { return -0.45 }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.Close)
	o := opened{Source: src}
	o.up = func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		run := &http.Server{Handler: srv.Handler, ErrorLog: srv.ErrorLog, TLSConfig: first.TLS.Clone()}
		o.down = func() { run.Close() }
		go run.ServeTLS(l, "", "")
	}
	o.up()
	t.Cleanup(func() { o.down() })
	return opened{src, func() { o.down() }, func() { o.up() }}
}

// blobs is a folder as a peer's store.
type blobs struct{ dir string }

func (b blobs) Path(digest string) string { return filepath.Join(b.dir, digest) }

func (b blobs) Has(digest string) bool {
	_, err := os.Stat(b.Path(digest))
	return err == nil
}

func overPeer(t *testing.T, f *folder) opened {
	address, a := parts.FreeAddr(t), peertest.New(t)
	certificates := func(device string) peer.Certificates {
		own := a.Device(device)
		return peer.Certificates{Own: func() (*tls.Certificate, error) { return own, nil }, Authority: func() (*x509.CertPool, error) { return a.Pool, nil }}
	}
	src, err := peer.NewSource(peer.ClientConfig{Address: address, Certificates: certificates("box1"), Stall: suiteStall,
		Proof: func() ([]byte, error) { return []byte("box1"), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.Close)
	serving := certificates("giver")
	var stop func()
	up := func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		s := peer.New(peer.Config{Store: blobs{f.dir}, Certificates: serving, Rate: 1 << 30, Check: func(_ []byte, device string) (trust.Shown, error) {
			return trust.Shown{Device: device, Expires: time.Now().Add(time.Hour), Files: f.files()}, nil
		}})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, l) }()
		stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	up()
	t.Cleanup(func() { stop() })
	return opened{src, func() { stop() }, up}
}

// overMQTT runs through a real broker; its depot comes and goes.
func overMQTT(t *testing.T, f *folder) opened {
	b := parts.Mosquitto(t)
	src := source(t, b.URL, "box1")
	src.Stall = suiteStall
	var stop func()
	up := func() { _, stop = serve(t, b.URL, f, nil) }
	up()
	return opened{src, func() { stop() }, up}
}

// files is everything that the folder was given.
func (f *folder) files() []release.File {
	all, _ := filepath.Glob(filepath.Join(f.dir, "*.index"))
	var files []release.File
	for _, path := range all {
		name := filepath.Base(path)
		files = append(files, release.File{SHA256: name[:64]})
	}
	return files
}

// pullOut empties the file under whoever reads it; putBack undoes that.
func (f *folder) pullOut() {
	_ = os.Rename(f.dir, f.dir+".away")
	b, _ := os.OpenFile(filepath.Join(f.dir+".away", filepath.Base(f.kept)), os.O_RDWR, 0)
	_ = b.Truncate(0)
	b.Close()
}

func (f *folder) putBack() {
	_ = os.Rename(f.dir+".away", f.dir)
	_ = os.WriteFile(f.kept, f.whole, 0o600)
}

// suiteFile puts a file of n MiB into a new folder.
func suiteFile(t *testing.T, n int) (*folder, release.File, []byte) {
	t.Helper()
	f, b := newFolder(t), noise(byte(n), n<<20+777)
	file := f.add(t, b, "box1")
	f.kept, f.whole = filepath.Join(f.dir, file.SHA256), b
	return f, file, b
}

// TestEverySourceBehavesAlike runs each fault against each source. After it, the
// same source must bring the whole file, and use what came before.
func TestEverySourceBehavesAlike(t *testing.T) {
	for fault, c := range map[string]struct {
		size  int
		spoil func(t *testing.T, f *folder)
		// during is done after two blocks; it may end the context.
		during func(o opened, cancel func())
		mend   func(t *testing.T, f *folder, o opened)
		want   error // cause; nil: any
		kept   bool  // something must have come before
	}{
		"nothing": {size: 3},
		"missing": {size: 3, want: content.ErrNotFound, spoil: func(t *testing.T, f *folder) { must(t, os.Remove(f.kept)) }},
		"wrong blocks": {size: 12, want: content.ErrCorrupt, kept: true, spoil: func(t *testing.T, f *folder) {
			b := bytes.Clone(f.whole)
			for n := 5; n < 12; n++ {
				b[n<<20+99] ^= 1
			}
			must(t, os.WriteFile(f.kept, b, 0o600))
		}},
		"truncated": {size: 6, spoil: func(t *testing.T, f *folder) { must(t, os.Truncate(f.kept, 2<<20+5)) }},
		"silent":    {size: 3, spoil: silence},
		"vanishing in the middle": {size: 64, kept: true, during: func(o opened, _ func()) { o.down() },
			mend: func(_ *testing.T, _ *folder, o opened) { o.up() }},
		"cancelled": {size: 64, want: context.Canceled, kept: true, during: func(_ opened, cancel func()) { cancel() }},
	} {
		for name, open := range suppliers() {
			t.Run(fault+"/"+name, func(t *testing.T) {
				f, file, b := suiteFile(t, c.size)
				o := open(t, f)
				s := openStore(t, t.TempDir())
				if fault != "nothing" {
					if c.spoil != nil {
						c.spoil(t, f)
					}
					ctx, cancel := context.WithCancel(timeout(t))
					defer cancel()
					var came int64
					_, err := s.Fetch(ctx, file, []content.Source{o}, func(p content.Progress) {
						before := came
						came = p.Done
						if c.during != nil && before < 2<<20 && came >= 2<<20 {
							c.during(o, cancel)
						}
					})
					// A folder knows only files of the right size and kind.
					if err == nil || c.want != nil && !errors.Is(err, c.want) {
						t.Fatalf("got %v, want it to end with %v", err, c.want)
					}
					if c.kept && came < 2<<20 {
						t.Errorf("got %d bytes before, want at least two blocks", came)
					}
					if c.mend != nil {
						c.mend(t, f, o)
					} else {
						mend(t, f)
					}
				}
				var last content.Progress
				// A depot may have the spoilt file open for another second.
				for end := time.Now().Add(30 * time.Second); ; {
					_, err := s.Fetch(timeout(t), file, []content.Source{o}, func(p content.Progress) { last = p })
					if err == nil {
						break
					}
					if time.Now().After(end) {
						t.Fatal(err)
					}
				}
				mustFetch(t, s, file, b, o, nil)
				if c.kept && last.BySource["resumed"] < 2<<20 {
					t.Errorf("got %v, want at least two blocks from the attempt before", last.BySource)
				}
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// silence puts a pipe in the file's place: whoever opens it waits.
func silence(t *testing.T, f *folder) {
	must(t, os.Remove(f.kept))
	must(t, unix.Mkfifo(f.kept, 0o600))
	t.Cleanup(func() { wake(f.kept) })
}

// wake lets go whoever waits at a pipe.
func wake(path string) {
	if w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		w.Close()
	}
}

func mend(t *testing.T, f *folder) {
	t.Helper()
	aside := f.kept + ".aside"
	if i, err := os.Lstat(f.kept); err == nil && i.Mode()&os.ModeNamedPipe != 0 {
		must(t, os.Rename(f.kept, aside))
		defer wake(aside)
	}
	must(t, os.WriteFile(f.kept, f.whole, 0o600))
}

// weights is n bytes of BF16 numbers, which pack to about 78 %.
func weights(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b []byte
	for len(b) < n {
		b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(float32(r.NormFloat64()*0.02))>>16))
	}
	return b
}

// addPacked puts a blob and its packed form into the folder, and gives both to the devices.
func (f *folder) addPacked(t *testing.T, b []byte, devices ...string) (file, form release.File) {
	t.Helper()
	file = f.add(t, b, devices...)
	packed, err := os.Create(filepath.Join(f.dir, "packed"))
	must(t, err)
	x, err := content.BuildIndex(bytes.NewReader(b), file.Size)
	must(t, err)
	x, own, err := content.Pack(bytes.NewReader(b), x, packed)
	must(t, err)
	must(t, packed.Close())
	form, ok := x.PackedFile()
	if !ok {
		t.Fatal("it does not pack")
	}
	must(t, os.Rename(packed.Name(), filepath.Join(f.dir, form.SHA256)))
	must(t, os.WriteFile(filepath.Join(f.dir, file.SHA256+".index"), x.Encode(), 0o600))
	must(t, os.WriteFile(filepath.Join(f.dir, form.SHA256+".index"), own.Encode(), 0o600))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range devices {
		f.allowed[d+" "+form.SHA256] = true
	}
	file.IndexSHA256 = x.SHA256()
	return file, form
}

// TestPackedFormTravels: every source but peers serves the packed form alone.
func TestPackedFormTravels(t *testing.T) {
	b := weights(5 << 20)
	for name, open := range suppliers() {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			file, _ := f.addPacked(t, b, "box1")
			if name != "peer" { // which serves what a device has: the plain file
				must(t, os.Remove(filepath.Join(f.dir, file.SHA256)))
			}
			mustFetch(t, openStore(t, t.TempDir()), file, b, open(t, f), nil)
		})
	}
}

// TestPackedFormIsCast: many devices that want a file get its packed form in one stream.
func TestPackedFormIsCast(t *testing.T) {
	b, f := parts.Mosquitto(t), newFolder(t)
	devices := names(5)
	want := weights(24 << 20)
	file, form := f.addPacked(t, want, devices...)
	s := start(t, b.URL, f, nil)
	all := together(t, b.URL, file, want, devices, nil, nil)
	if st := s.stats(); st.Casts == 0 || st.Bytes > uint64(form.Size)*2 {
		t.Errorf("%d casts and %d bytes for 5 devices of %d bytes packed, want a cast and far less than five times", st.Casts, st.Bytes, form.Size)
	}
	for _, p := range all {
		if p.from["cast"] < file.Size/2 {
			t.Errorf("%s got %v, want most by cast", p.device, p.from)
		}
	}
}

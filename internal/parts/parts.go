// Package parts finds and starts the real programs that the tests run against:
// Mosquitto, llama-server, Node and the bothy binary itself.
//
// scripts/test-tools installs them; a part that is missing fails the test with
// the command that brings it, it never skips it. Test code only. Whatever a
// function starts is stopped by the test's own clean-up.
package parts

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Root is the repository's top folder, as an absolute path.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Model is the path of one of the project's own models, for example
// "mote-chat-q8_0.gguf" (testdata/models/README.md lists them).
func Model(tb testing.TB, name string) string {
	tb.Helper()
	p := filepath.Join(Root(), "testdata", "models", name)
	if _, err := os.Stat(p); err != nil {
		tb.Fatalf("cannot find the model %s: %v", name, err)
	}
	return p
}

// Llama is the path of a llama.cpp program: "llama-server", "llama-quantize" or "llama-bench".
func Llama(tb testing.TB, program string) string {
	tb.Helper()
	p := filepath.Join(Root(), "build", "tools", "llama", "bin", program)
	if _, err := os.Stat(p); err == nil {
		return p
	}
	if p, err := exec.LookPath(program); err == nil {
		return p
	}
	tb.Fatalf("cannot find %s: run scripts/test-tools", program)
	return ""
}

var bothy struct {
	once sync.Once
	path string
	err  error
}

// Bothy builds the bothy binary once a test process, statically, and returns its path.
func Bothy(tb testing.TB) string {
	tb.Helper()
	bothy.once.Do(func() { bothy.path, bothy.err = buildBothy(filepath.Join(Root(), "build", "test")) })
	if bothy.err != nil {
		tb.Fatal(bothy.err)
	}
	return bothy.path
}

// buildBothy builds under a lock, since packages are tested side by side: the go
// command leaves an up-to-date binary alone, so they do not pay twice, and a new
// one replaces the old by rename, so one that runs is not torn.
func buildBothy(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("cannot lock %s: %w", lock.Name(), err)
	}
	built, path := filepath.Join(dir, "built"), filepath.Join(dir, "bothy")
	cmd := exec.Command("go", "build", "-o", built, "./cmd/bothy")
	cmd.Dir, cmd.Env = Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build bothy: %w\n%s", err, out)
	}
	now, err := os.ReadFile(built)
	if err != nil {
		return "", err
	}
	if before, err := os.ReadFile(path); err == nil && bytes.Equal(before, now) {
		return path, nil
	}
	if err := os.WriteFile(path+".new", now, 0o755); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

// SocketDir is a fresh folder whose name is short enough for unix sockets (107 bytes at most).
func SocketDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "by")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Broker is a running Mosquitto.
type Broker struct {
	Addr string // host:port on loopback
	URL  string // tcp://host:port
	conf string
	cmd  *exec.Cmd
	log  *bytes.Buffer
}

// Mosquitto starts a broker on a free loopback port. Lines of extra are added
// to its configuration; without a listener there, anonymous clients are allowed.
func Mosquitto(tb testing.TB, extra ...string) *Broker {
	tb.Helper()
	dir := tb.TempDir()
	addr := FreeAddr(tb)
	_, port, _ := net.SplitHostPort(addr)
	conf := "listener " + port + " 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\nuser root\n" + strings.Join(extra, "\n") + "\n"
	b := &Broker{Addr: addr, URL: "tcp://" + addr, conf: filepath.Join(dir, "mosquitto.conf")}
	if err := os.WriteFile(b.conf, []byte(conf), 0o600); err != nil {
		tb.Fatal(err)
	}
	b.Start(tb)
	tb.Cleanup(b.Kill)
	return b
}

// MosquittoConf starts a broker with a configuration of its own, that listens at addr among others.
func MosquittoConf(tb testing.TB, addr, conf string) *Broker {
	tb.Helper()
	b := &Broker{Addr: addr, URL: "tcp://" + addr, conf: filepath.Join(tb.TempDir(), "mosquitto.conf")}
	if err := os.WriteFile(b.conf, []byte("user root\n"+conf), 0o600); err != nil {
		tb.Fatal(err)
	}
	b.Start(tb)
	tb.Cleanup(b.Kill)
	return b
}

// Start starts the broker again after Kill, on the same port, and waits until it accepts.
func (b *Broker) Start(tb testing.TB) {
	tb.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	b.log = &bytes.Buffer{}
	b.cmd = exec.Command(path, "-c", b.conf)
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		tb.Fatalf("cannot start mosquitto: %v: run scripts/test-tools", err)
	}
	if err := WaitDial("tcp", b.Addr, 10*time.Second); err != nil {
		b.Kill()
		tb.Fatalf("mosquitto does not answer: %v\n%s", err, b.log)
	}
}

// Kill ends the broker with SIGKILL and waits for it. Killing twice is fine.
func (b *Broker) Kill() {
	if b.cmd == nil {
		return
	}
	b.cmd.Process.Kill()
	_ = b.cmd.Wait() // it was killed; how it ended says nothing
	b.cmd = nil
}

// PID is the broker's process.
func (b *Broker) PID() int { return b.cmd.Process.Pid }

// Signal sends sig to the broker, for example SIGSTOP to freeze it and SIGCONT to let it go on.
func (b *Broker) Signal(sig syscall.Signal) { b.cmd.Process.Signal(sig) }

// FreeAddr is a loopback address that was free a moment ago.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// WaitDial returns nil once something accepts at the address, or the last error after limit.
func WaitDial(network, addr string, limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return err
		}
		<-time.After(5 * time.Millisecond)
	}
}

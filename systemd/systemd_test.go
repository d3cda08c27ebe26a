package systemd

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// notified listens where systemd would and returns a function that reads the next message.
func notified(t *testing.T) func() string {
	t.Helper()
	dir, err := os.MkdirTemp("", "by")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		buf := make([]byte, 512)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestNotificationsReachTheServiceManager(t *testing.T) {
	next := notified(t)
	var n Notifier
	for _, c := range []struct {
		send func()
		want string
	}{
		{n.Ready, "READY=1"},
		{n.Alive, "WATCHDOG=1"},
		{n.Stopping, "STOPPING=1"},
		{func() { n.Status("two\nlines") }, "STATUS=two lines"},
	} {
		c.send()
		if got := next(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if !Active() {
		t.Error("got inactive with NOTIFY_SOCKET set, want active")
	}
}

func TestOutsideSystemdNothingHappens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	Notifier{}.Ready()
	if Active() {
		t.Error("got active without NOTIFY_SOCKET, want inactive")
	}
	if d := WatchdogInterval(); d != 0 {
		t.Errorf("got watchdog interval %s without WATCHDOG_USEC, want 0", d)
	}
	ls, err := Listeners()
	if err != nil || len(ls) != 0 {
		t.Errorf("got %d listeners and error %v, want none", len(ls), err)
	}
}

func TestWatchdogIntervalIsHalfOfWatchdogSec(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "10000000")
	t.Setenv("WATCHDOG_PID", "")
	if d := WatchdogInterval(); d != 5*time.Second {
		t.Errorf("got %s, want 5s", d)
	}
}

func TestCredentialIsReadFromItsDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, "azure"), []byte("sk-123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Credential("azure"); err != nil || got != "sk-123" {
		t.Errorf("got %q, %v, want sk-123", got, err)
	}
	for _, bad := range []string{"other", "../azure"} {
		if _, err := Credential(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("Credential(%q): got error %v, want one that names it", bad, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Credential("azure"); err == nil || !strings.Contains(err.Error(), "LoadCredential=") {
		t.Errorf("got error %v, want one that says how to provide it", err)
	}
}

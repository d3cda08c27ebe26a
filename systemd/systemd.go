// Package systemd speaks to the service manager that started the agent, if one
// did: it takes over the listeners of socket activation, reports readiness,
// status and liveness, and reads credentials.
//
// Outside systemd every call is a harmless no-op, so callers never ask first.
// The agent's wiring is the only caller. Nothing here blocks.
package systemd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Active tells whether a service manager waits for this process's notifications.
func Active() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Listeners returns the sockets that systemd opened for this process, by their
// FileDescriptorName (the socket unit's name where none is set). The caller
// owns them. Empty outside socket activation.
func Listeners() (map[string]net.Listener, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("cannot take over the sockets of systemd: %w", err)
	}
	got := map[string]net.Listener{}
	for name, ls := range named {
		if len(ls) != 1 || ls[0] == nil {
			return nil, fmt.Errorf("cannot take over the socket %q: systemd passed %d listeners of that name, want one stream socket", name, len(ls))
		}
		// The path belongs to systemd: removing it on close would refuse clients while we restart.
		if u, ok := ls[0].(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		got[name] = ls[0]
	}
	return got, nil
}

// Notifier reports to the service manager. The zero value is ready.
type Notifier struct{}

// Ready says that the agent serves.
func (Notifier) Ready() { notify(daemon.SdNotifyReady) }

// Stopping says that the agent has begun to stop.
func (Notifier) Stopping() { notify(daemon.SdNotifyStopping) }

// Status sets the one-line text that `systemctl status` shows.
func (Notifier) Status(text string) {
	notify("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Alive feeds the watchdog. Call it from a loop that has just proven itself healthy, never from a bare timer.
func (Notifier) Alive() { notify(daemon.SdNotifyWatchdog) }

// notify drops errors on purpose: a lost notification must not stop the agent, and systemd's own timeout tells.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

// WatchdogInterval is how often Alive is expected, half of WatchdogSec, or 0 without a watchdog.
func WatchdogInterval() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return d / 2
}

// Credential returns the content of a systemd credential (LoadCredential=), with
// its trailing newline removed. The error says how to provide it.
func Credential(name string) (string, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("cannot read the credential %q: not started with credentials; add LoadCredential=%s:/path to the unit, or name a key file in the configuration", name, name)
	}
	if name != filepath.Base(name) {
		return "", fmt.Errorf("cannot read the credential %q: a credential's name holds no slash", name)
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("cannot read the credential %q: %w; add LoadCredential=%s:/path to the unit", name, err, name)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/runtime/gpu"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Examined is one thing that the doctor looked at.
type Examined struct {
	Name     string `json:"name"`     // stable, for example "disk"
	Severity Health `json:"severity"` // "ok" when nothing is wrong
	What     string `json:"what"`
	Why      string `json:"why,omitempty"`
	Hint     string `json:"hint,omitempty"` // what to type
}

func fine(name, format string, args ...any) Examined {
	return Examined{Name: name, Severity: HealthOK, What: fmt.Sprintf(format, args...)}
}

// Examine looks at the box from outside the agent, which need not run. It takes
// a few seconds at most and changes nothing.
func Examine(ctx context.Context, c Config) []Examined {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	all := []Examined{
		examineFolder("state", c.State), examineSocket("api socket", c.API), examineSocket("admin socket", c.Admin),
		examineDisk(c.State), examineMemory(c.State), examineClock(), examineEngine(c.Engines), examineGPU(), examineKernel(),
	}
	all = append(all, examineEnrolment(ctx, c)...)
	if c.Mirror.URL != "" {
		all = append(all, examineMirror(ctx, c.Mirror.URL))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Upstreams)) {
		all = append(all, examineUpstream(name, c.Upstreams[name]))
	}
	return all
}

func examineFolder(name, path string) Examined {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Examined{name, HealthWarning, path + " does not exist yet", "the agent makes it at its first start", "bothy run"}
	case err != nil:
		return Examined{name, HealthCritical, fmt.Sprintf("cannot look at %s: %v", path, err), "the agent keeps everything there", "run the doctor as root or as the agent's user"}
	case !info.IsDir():
		return Examined{name, HealthCritical, path + " is no folder", "the agent keeps everything there", "name another state folder in the configuration"}
	case info.Mode().Perm()&0o077 != 0:
		return Examined{name, HealthWarning, fmt.Sprintf("%s has mode %04o", path, info.Mode().Perm()), "others may read keys and the audit log", "chmod 700 " + path}
	}
	return fine(name, "%s", path)
}

func examineSocket(name string, s SocketConfig) Examined {
	conn, err := net.DialTimeout("unix", s.Socket, time.Second)
	if err == nil {
		conn.Close()
		return fine(name, "%s answers", s.Socket)
	}
	if errors.Is(err, os.ErrPermission) {
		return Examined{name, HealthWarning, "not allowed to connect to " + s.Socket, "programs of other groups cannot use it either", "join its group: usermod -aG $(stat -c %G " + s.Socket + ") $USER"}
	}
	return Examined{name, HealthCritical, "nobody answers at " + s.Socket, "applications and operators cannot reach the agent", "systemctl start bothy, or bothy run; then journalctl -u bothy"}
}

func examineDisk(state string) Examined {
	for path := state; ; path = filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil || path == "/" {
			state = path
			break
		}
	}
	h := hostStatus(state)
	if h.DiskFree < diskWarning {
		return Examined{"disk", HealthWarning, humanize.IBytes(h.DiskFree) + " are free at " + state, "updates wait for space", "free space, or move the state folder"}
	}
	return fine("disk", "%s free at %s", humanize.IBytes(h.DiskFree), state)
}

func examineMemory(state string) Examined {
	h := hostStatus(state)
	if float64(h.MemoryAvailable) < memoryWarning*float64(h.MemoryTotal) {
		return Examined{"memory", HealthWarning, humanize.IBytes(h.MemoryAvailable) + " are available", "the kernel may kill an engine", "assign smaller models, or fewer slots"}
	}
	return fine("memory", "%s available of %s", humanize.IBytes(h.MemoryAvailable), humanize.IBytes(h.MemoryTotal))
}

// examineClock asks the kernel whether anybody keeps the clock right.
func examineClock() Examined {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil || state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return Examined{"clock", HealthWarning, "the clock is not synchronised", "signed metadata expires by the clock; a wrong one delays updates", "timedatectl set-ntp true"}
	}
	return fine("clock", "synchronised")
}

func examineEngine(c EngineConfig) Examined {
	path := c.LlamaServer
	if path == "" {
		path, _ = exec.LookPath(engineLlama) // not installed is reported below
	}
	if path == "" {
		return fine("engine", "no llama-server on this box: models run on the engine release of their fleet, or on the built-in CPU engine")
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return Examined{"engine", HealthCritical, fmt.Sprintf("cannot execute %s: %v", path, err), "models that ask for llama-server do not start", "install llama.cpp, or set engines.llama_server"}
	}
	return fine("engine", "%s", path)
}

func examineGPU() Examined {
	if gpu.Embedded() == nil {
		return fine("gpu reader", "this binary was built without it: GPUs are used by engines, but not shown")
	}
	if _, err := os.Stat("/proc/driver/nvidia/version"); err != nil {
		return fine("gpu reader", "no NVIDIA driver")
	}
	return fine("gpu reader", "inside; `bothy status` shows what it reads")
}

// kernelFloor is the oldest kernel that is supported.
var kernelFloor = [2]int{5, 14}

func examineKernel() Examined {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Examined{Name: "kernel", Severity: HealthWarning, What: "cannot read its version: " + err.Error()}
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return Examined{Name: "kernel", Severity: HealthWarning, What: "cannot read its version " + release}
	}
	if major < kernelFloor[0] || major == kernelFloor[0] && minor < kernelFloor[1] {
		return Examined{"kernel", HealthWarning, "Linux " + release, fmt.Sprintf("older than %d.%d, which is the oldest that is supported", kernelFloor[0], kernelFloor[1]), "upgrade the distribution"}
	}
	if major < 6 || major == 6 && minor < 5 {
		return fine("kernel", "Linux %s, without SO_PEERPIDFD: callers are looked up with a small window for reuse of their pid", release)
	}
	return fine("kernel", "Linux %s", release)
}

func examineEnrolment(ctx context.Context, c Config) []Examined {
	id, err := trust.LoadIdentity(filepath.Join(c.State, IdentityFolder))
	if errors.Is(err, trust.ErrNotEnrolled) {
		return []Examined{{"enrolment", HealthWarning, "this box belongs to no fleet", "no model and no policy can be installed", "bothy enroll TOKEN"}}
	}
	if err != nil {
		return []Examined{{"enrolment", HealthCritical, err.Error(), "updates cannot be verified", "run the doctor as root or as the agent's user; if it still fails, enrol again"}}
	}
	return []Examined{fine("enrolment", "device %q of tenant %q", id.Device, id.Tenant), examineCertificate(id, time.Now()), examineBroker(ctx, id.Broker)}
}

// examineCertificate looks at what the broker would know the device by.
func examineCertificate(id trust.Identity, now time.Time) Examined {
	if len(id.Certificate) == 0 {
		return fine("certificate", "none: this box enrolled without a token")
	}
	cert, err := enrolment.ParseCertificate(id.Certificate)
	if err == nil {
		err = enrolment.CheckCertificate(id.Certificate, id.Authority, id.Device, id.Key.Public().(ed25519.PublicKey), time.Time{})
	}
	if err != nil {
		return Examined{"certificate", HealthWarning, err.Error(), "the broker refuses this box: no updates, no reports", "bothy fleet enroll token for this device, then bothy enroll TOKEN here"}
	}
	if f, bad := certificateFinding(cert.NotAfter, now); bad {
		return Examined{"certificate", f.Severity, f.What, f.Why, f.Hint}
	}
	return fine("certificate", "good until %s, renewed over the broker", cert.NotAfter.Local().Format(time.DateOnly))
}

func examineBroker(ctx context.Context, broker string) Examined {
	if broker == "" {
		return fine("broker", "none: updates come from a mirror or a folder")
	}
	u, err := url.Parse(broker)
	if err != nil {
		return Examined{"broker", HealthCritical, "cannot read its URL: " + err.Error(), "", "enrol again with a new ticket"}
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return Examined{"broker", HealthWarning, fmt.Sprintf("cannot reach %s: %v", broker, err), "updates and reports wait; serving goes on", "check the network and the firewall towards " + u.Host}
	}
	conn.Close()
	return fine("broker", "%s accepts connections", broker)
}

func examineMirror(ctx context.Context, mirror string) Examined {
	u, err := url.Parse(mirror)
	if err != nil {
		return Examined{"mirror", HealthCritical, "cannot read its URL: " + err.Error(), "", "mend mirror.url in the configuration"}
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), u.Scheme) // Go knows the ports of http and https
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return Examined{"mirror", HealthWarning, fmt.Sprintf("cannot reach %s: %v", mirror, err), "updates come from other sources, or wait", "check the network and the firewall towards " + address + "; behind a proxy this says nothing"}
	}
	conn.Close()
	return fine("mirror", "%s accepts connections", mirror)
}

func examineUpstream(name string, u UpstreamConfig) Examined {
	label := "upstream " + name
	if u.Credential != "" {
		return fine(label, "its key is the systemd credential %q, which only the agent can read", u.Credential)
	}
	if _, err := u.key(); err != nil {
		hint := "write the key to " + u.KeyFile + " with mode 0600"
		if strings.Contains(err.Error(), "chmod") {
			hint = "chmod 600 " + u.KeyFile
		}
		return Examined{label, HealthWarning, err.Error(), "nothing can be sent there", hint}
	}
	if u.CA != "" {
		if _, err := readPool(u.CA); err != nil {
			return Examined{label, HealthWarning, err.Error(), "nothing can be sent there", "name a PEM file in upstreams." + name + ".ca"}
		}
	}
	return fine(label, "its key can be read")
}

// Package caller establishes who is at the other end of a unix socket, by what
// the kernel attests: pid, uid and gid of the peer, and from them the systemd
// unit or container and the executable.
//
// The peer's credentials are those at connect time. Unit, container and exe are
// read from /proc, where a pid may belong to somebody else by now; they are
// believed only when a handle on the very process (a pidfd) was open before the
// reading and the process is still alive after it, and when the cgroup lies where
// its owner cannot have made it up: under system.slice, another slice of the
// system manager, or the slice of the peer's own uid. Otherwise the identity says
// that it is not trusted and why, and those fields are empty: a policy must then
// count with every caller it might be.
//
// An executable is named only when its path leads to the very file that runs; the
// agent needs CAP_SYS_PTRACE to see that of other users' processes.
//
// A peer that has died, or that handed its socket to a child and left, is not
// trusted. /proc must show other users' processes: ProtectProc= in the agent's
// own unit would leave every caller untrusted. Look a caller up once a
// connection; it costs about 25 microseconds. Safe for concurrent use.
package caller

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity is a caller. UID and GID hold always; Unit, Container, Exe and Cgroup
// are set only when Trusted, and may be empty even then.
type Identity struct {
	PID int32  `json:"pid"`
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	// Unit is the systemd service or scope.
	Unit string `json:"unit,omitempty"`
	// Container is the id of a docker, podman or containerd container, 64 hexadecimal digits.
	Container string `json:"container,omitempty"`
	// Exe is the path of the executable; "" when it cannot be read or verified.
	Exe    string `json:"exe,omitempty"`
	Cgroup string `json:"cgroup,omitempty"`
	// Trusted says that the fields above belong to the process that connected.
	Trusted bool `json:"trusted"`
	// Why says in words why not; "" when trusted.
	Why string `json:"why,omitempty"`
}

// Identify looks up the peer of a connected socket. The error is for a socket
// without credentials; a peer that cannot be attested is an Identity that is not Trusted.
func Identify(conn *net.UnixConn) (Identity, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Identity{}, fmt.Errorf("cannot identify caller: %w", err)
	}
	var id Identity
	handle, credErr := -1, error(nil)
	err = raw.Control(func(fd uintptr) {
		id, handle, credErr = peer(int(fd))
	})
	if err = errors.Join(err, credErr); err != nil {
		return Identity{}, fmt.Errorf("cannot identify caller: %w", err)
	}
	if handle < 0 {
		id.Why = fmt.Sprintf("process %d has ended", id.PID)
		return id, nil
	}
	defer unix.Close(handle)
	id.attest(handle)
	return id, nil
}

// OfPID looks up a running process as if it had connected, for explaining a
// policy. The error is for a process that does not exist.
func OfPID(pid int32) (Identity, error) {
	handle, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return Identity{}, fmt.Errorf("cannot identify process %d: %w", pid, err)
	}
	defer unix.Close(handle)
	id := Identity{PID: pid}
	if id.UID, id.GID, err = owner(pid); err != nil {
		return Identity{}, fmt.Errorf("cannot identify process %d: %w", pid, err)
	}
	id.attest(handle)
	return id, nil
}

// peer reads the credentials of the socket and opens a handle on the process that
// connected; the handle is -1 when that process is gone.
func peer(fd int) (Identity, int, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Identity{}, -1, err
	}
	id := Identity{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
	if cred.Pid <= 0 {
		return id, -1, nil // in a pid namespace that this process cannot see into
	}
	// The kernel's own handle (6.5 and later) cannot name another process. Before it, a
	// pid that was used again between connect and here would be taken for the peer.
	handle, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		handle, err = unix.PidfdOpen(int(cred.Pid), 0)
	}
	if err != nil {
		return id, -1, nil
	}
	return id, handle, nil
}

// attest fills in what /proc says of the process, if it can be believed.
func (id *Identity) attest(handle int) {
	cgroup, err := cgroupOf(id.PID)
	if err != nil {
		id.Why = err.Error()
		return
	}
	exe := exeOf(id.PID)
	// The process behind the handle is alive now, so its pid was not used again, so what was read is its own.
	if err := unix.PidfdSendSignal(handle, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		id.Why = fmt.Sprintf("process %d has ended", id.PID)
		return
	}
	if owner, ok := cgroupOwner(cgroup); !ok || (owner != nobody && owner != id.UID) {
		id.Why = fmt.Sprintf("cgroup %q is not one that a caller of uid %d can be attested by", cgroup, id.UID)
		return
	}
	id.Trusted = true
	id.Cgroup, id.Exe = cgroup, exe
	id.Unit, id.Container = unitOf(cgroup), containerOf(cgroup)
}

// exeOf is the path of the executable when that path, seen from here, is the very
// file that runs: in a mount namespace of its own a caller could give any file any
// path. "" when it is not, was replaced since, or may not be read.
func exeOf(pid int32) string {
	path, err := os.Readlink(proc(pid, "exe"))
	if err != nil {
		return ""
	}
	running, err := os.Stat(proc(pid, "exe"))
	if err != nil {
		return ""
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(running, named) {
		return ""
	}
	return path
}

func proc(pid int32, file string) string {
	return "/proc/" + strconv.Itoa(int(pid)) + "/" + file
}

// cgroupOf is the path in the unified hierarchy or, where there is none, in systemd's own.
func cgroupOf(pid int32) (string, error) {
	b, err := os.ReadFile(proc(pid, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("cannot read the cgroup of process %d: %w", pid, err)
	}
	path, ok := parseCgroup(string(b))
	if !ok {
		return "", fmt.Errorf("process %d is in no cgroup of systemd", pid)
	}
	return path, nil
}

// owner is the effective uid and gid of a process.
func owner(pid int32) (uid, gid uint32, err error) {
	b, err := os.ReadFile(proc(pid, "status"))
	if err != nil {
		return 0, 0, err
	}
	ids := map[string]uint32{}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if name != "Uid" && name != "Gid" {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return 0, 0, fmt.Errorf("line %q of its status is not four ids", line)
		}
		v, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil {
			return 0, 0, err
		}
		ids[name] = uint32(v)
	}
	return ids["Uid"], ids["Gid"], nil
}

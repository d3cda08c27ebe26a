package caller

import (
	"math"
	"strconv"
	"strings"
)

// nobody stands for "no user owns it": a part of the tree that only the system manager makes.
const nobody = math.MaxUint32

// parseCgroup picks the path that systemd gave the process from /proc/PID/cgroup.
// On a hybrid host the unified hierarchy may exist and be empty; then the line of
// systemd's own hierarchy counts.
func parseCgroup(file string) (path string, ok bool) {
	unified, named := "", ""
	for line := range strings.Lines(file) {
		line = strings.TrimSuffix(line, "\n")
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			unified = p
		} else if _, p, ok := strings.Cut(line, ":name=systemd:"); ok {
			named = p
		}
	}
	if named != "" && (unified == "" || unified == "/") {
		return named, true
	}
	return unified, unified != ""
}

// cgroupOwner says which user could have made the group: nobody for system.slice
// and other slices of the system manager, the uid for what lies in a user's slice.
// Not ok for a path that leaves the tree.
func cgroupOwner(path string) (uid uint32, ok bool) {
	if !strings.HasPrefix(path, "/") || strings.Contains(path+"/", "/../") {
		return 0, false // "/.." is the view into another cgroup namespace
	}
	rest, user := strings.CutPrefix(path, "/user.slice/")
	if !user {
		return nobody, true
	}
	slice, _, _ := strings.Cut(rest, "/")
	digits, prefix := strings.CutPrefix(slice, "user-")
	digits, suffix := strings.CutSuffix(digits, ".slice")
	v, err := strconv.ParseUint(digits, 10, 32)
	if !prefix || !suffix || err != nil {
		return 0, false
	}
	return uint32(v), true
}

// unitOf is the first service or scope of the path. What lies deeper was made by
// that unit (Delegate=) or by the user's own manager, and could have any name.
func unitOf(path string) string {
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			// systemd puts "_" before names that would clash with the kernel's files (cg_escape).
			return strings.TrimPrefix(part, "_")
		}
	}
	return ""
}

// containerOf is the id in the names that container engines give their groups:
// docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope, crio-ID.scope with
// the systemd driver, /docker/ID, /libpod_parent/libpod-ID, /kubepods/.../ID without.
// Below a service or in a user's slice the names are whatever their owner likes.
func containerOf(path string) string {
	if owner, ok := cgroupOwner(path); !ok || owner != nobody {
		return ""
	}
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasSuffix(part, ".service") {
			return ""
		}
		id := strings.TrimSuffix(part, ".scope")
		id = id[strings.LastIndexByte(id, '-')+1:]
		id = id[strings.LastIndexByte(id, ':')+1:] // kubepods...:cri-containerd:ID
		if isContainerID(id) {
			return id
		}
	}
	return ""
}

func isContainerID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

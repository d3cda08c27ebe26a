package runtime

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// generationDir is the name of an engine's folder, see socketPath. Nothing else is ever removed.
var generationDir = regexp.MustCompile(`^g[0-9]+$`)

// sweep kills the engines that a dead agent left under dir and removes their folders. It returns how many processes it killed.
func sweep(dir string) int {
	if dir == "" {
		return 0
	}
	prefix := markVar + "=" + filepath.Clean(dir) + string(filepath.Separator)
	n := killMarked(func(mark string) bool { return strings.HasPrefix(mark, prefix) })
	entries, _ := os.ReadDir(dir) // a folder that does not exist holds no rest
	for _, e := range entries {
		if e.IsDir() && generationDir.MatchString(e.Name()) {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	return n
}

// killMarked sends SIGKILL to every process whose environment carries a mark that match accepts, until none is
// found (one may fork while we look; five rounds bound that). Processes of other users cannot be read and are left alone.
func killMarked(match func(mark string) bool) int {
	killed := map[int]bool{}
	for range 5 {
		found := false
		for _, pid := range pids() {
			if pid == os.Getpid() || !match(markOf(pid)) || killed[pid] {
				continue
			}
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed[pid], found = true, true
			}
		}
		if !found {
			break
		}
	}
	return len(killed)
}

// markOf is the "NAME=value" mark in a process's environment, or "". A zombie's environment is empty.
func markOf(pid int) string {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return ""
	}
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.HasPrefix(kv, []byte(markVar+"=")) {
			return string(kv)
		}
	}
	return ""
}

func pids() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var out []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

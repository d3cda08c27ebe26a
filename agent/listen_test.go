package agent

import (
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
)

func TestSocketIsForItsGroupAlone(t *testing.T) {
	path := filepath.Join(parts.SocketDir(t), "deep", "api.sock")
	l, err := listenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o660 {
		t.Errorf("got mode %04o, want 0660", got)
	}
}

func TestSocketIsGivenToTheNamedGroup(t *testing.T) {
	// One that we may give it to: root any, others one of their own.
	ids, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	gid := append(ids, os.Getgid())[0]
	if os.Geteuid() == 0 {
		gid = 1 // "daemon" everywhere
	}
	group, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(parts.SocketDir(t), "api.sock")
	l, err := listenUnix(path, group.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := int(info.Sys().(*syscall.Stat_t).Gid); got != gid || info.Mode().Perm() != 0o660 {
		t.Errorf("got group %d and mode %04o, want group %d and 0660", got, info.Mode().Perm(), gid)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(parts.SocketDir(t), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := listenUnix(path, "")
	if err != nil {
		t.Fatalf("got %v, want the stale socket replaced", err)
	}
	again.Close()
}

func TestSocketThatIsTakenIsLeftAlone(t *testing.T) {
	dir := parts.SocketDir(t)
	used, file := filepath.Join(dir, "used.sock"), filepath.Join(dir, "file")
	l, err := listenUnix(used, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, group, want string }{
		{used, "", "another process serves it"},
		{file, "", "no socket lies there"},
		{filepath.Join(dir, "new.sock"), "no-such-group-here", "groupadd --system no-such-group-here"},
		{filepath.Join(dir, strings.Repeat("x", 120)), "", "invalid argument"},
	} {
		l, err := listenUnix(c.path, c.group)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("listenUnix(%s): got %v, want an error with %q and the path", c.path, err, c.want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "keep" {
		t.Errorf("got %q, %v, want the file untouched", b, err)
	}
	if err := parts.WaitDial("unix", used, 0); err != nil {
		t.Errorf("got %v, want the first socket to go on answering", err)
	}
}

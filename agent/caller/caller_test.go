package caller

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
)

// dialEnv makes the test binary a caller: it dials the socket, says so on stdout and waits for its stdin to close.
const dialEnv = "BOTHY_TEST_DIAL"

// leaveEnv makes it leave the open socket to a child and end.
const leaveEnv = "BOTHY_TEST_LEAVE"

func TestMain(m *testing.M) {
	path := os.Getenv(dialEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if os.Getenv(leaveEnv) != "" {
		f, err := conn.(*net.UnixConn).File()
		if err != nil {
			os.Exit(4)
		}
		heir := exec.Command("cat")
		heir.Stdin, heir.ExtraFiles = os.Stdin, []*os.File{f}
		if heir.Start() != nil {
			os.Exit(5)
		}
		os.Exit(0)
	}
	fmt.Println("dialled")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// dialler starts a caller and returns the accepted connection, its process and what ends it.
func dialler(t *testing.T, env ...string) (*net.UnixConn, *exec.Cmd, io.Closer) {
	t.Helper()
	path := parts.SocketDir(t) + "/s"
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), dialEnv+"="+path), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if len(env) == 0 {
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "dialled\n" {
			t.Fatalf("the caller said %q, %v", line, err)
		}
	}
	return conn.(*net.UnixConn), cmd, stdin
}

func TestLiveCallerIsAttested(t *testing.T) {
	conn, cmd, _ := dialler(t)
	id, err := Identify(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !id.Trusted || id.Why != "" {
		t.Fatalf("got %+v, want a trusted caller", id)
	}
	if int(id.PID) != cmd.Process.Pid || id.UID != uint32(os.Getuid()) || id.GID != uint32(os.Getgid()) {
		t.Errorf("got pid %d uid %d gid %d, want %d %d %d", id.PID, id.UID, id.GID, cmd.Process.Pid, os.Getuid(), os.Getgid())
	}
	if exe, err := os.Executable(); err != nil || id.Exe != exe {
		t.Errorf("got exe %q, want %q (%v)", id.Exe, exe, err)
	}
	if id.Cgroup == "" {
		t.Error("the cgroup is empty")
	}
	byPID, err := OfPID(id.PID)
	if err != nil || byPID != id {
		t.Errorf("OfPID got %+v, %v, want what Identify got: %+v", byPID, err, id)
	}
}

func TestDeadCallerIsNotTrusted(t *testing.T) {
	conn, cmd, stdin := dialler(t)
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	wantUntrusted(t, conn, cmd)
	if _, err := OfPID(int32(cmd.Process.Pid)); err == nil {
		t.Error("OfPID of a dead process has no error")
	}
}

func TestHeirOfASocketIsNotTakenForItsDialler(t *testing.T) {
	conn, cmd, _ := dialler(t, leaveEnv+"=1")
	if _, err := cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	wantUntrusted(t, conn, cmd)
}

func wantUntrusted(t *testing.T, conn *net.UnixConn, cmd *exec.Cmd) {
	t.Helper()
	id, err := Identify(conn)
	if err != nil {
		t.Fatal(err)
	}
	if id.Trusted || id.Unit != "" || id.Exe != "" || id.Cgroup != "" || id.Container != "" {
		t.Errorf("got %+v, want nothing attested", id)
	}
	if id.UID != uint32(os.Getuid()) {
		t.Errorf("got uid %d, want %d: the socket's credentials outlive the process", id.UID, os.Getuid())
	}
	if want := fmt.Sprintf("process %d has ended", cmd.Process.Pid); !strings.Contains(id.Why, fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("got why %q, want about %q", id.Why, want)
	}
}

func TestClosedSocketIsAnError(t *testing.T) {
	conn, _, _ := dialler(t)
	conn.Close()
	if id, err := Identify(conn); err == nil {
		t.Errorf("got %+v, want an error", id)
	}
}

func TestReplacedExecutableIsUnknown(t *testing.T) {
	copied := t.TempDir() + "/copied"
	data, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); cmd.Wait() }()
	if got := exeOf(int32(cmd.Process.Pid)); got != copied {
		t.Fatalf("got exe %q, want %q", got, copied)
	}
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, data, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := exeOf(int32(cmd.Process.Pid)); got != "" {
		t.Errorf("got exe %q for a file that was replaced, want none", got)
	}
}

func BenchmarkIdentify(b *testing.B) {
	path := parts.SocketDir(b) + "/s"
	listener, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer dialled.Close()
	conn, err := listener.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for b.Loop() {
		if _, err := Identify(conn.(*net.UnixConn)); err != nil {
			b.Fatal(err)
		}
	}
}

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater"
)

// TestStateThatCannotGrow lets every write to a file fail, as a quota would, by
// a limit that needs no privilege. What runs goes on; what waits goes on later.
func TestStateThatCannotGrow(t *testing.T) {
	t.Parallel()
	w := online(t)
	w.startAgent()
	limit := func(n uint64) {
		t.Helper()
		if err := unix.Prlimit(w.agent.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.add("mote", "mote-chat-q8_0.gguf")
	w.add("mote", "mote-256-f16.gguf")
	w.install("mote=mote@1")
	limit(1)
	w.assign("mote=mote@2")
	w.poke()
	w.goesOnWith("mote@1")
	limit(unix.RLIM_INFINITY)
	w.arrivesAtLast("mote@2")
	stoppedCleanly(t, w)
}

// TestFullDisk fills the state folder's own file system to the last byte, where
// this machine lets a test make one.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dir: parts.SocketDir(t), broker: parts.Mosquitto(t)}
	disk, ok := makeDisk(t, w)
	if !ok {
		if os.Getenv("CI") != "" {
			t.Fatal("no right to make a file system here: run as root")
		}
		t.Log("no right to make a file system here; TestStateThatCannotGrow covers writes that fail")
		return
	}
	w.setUp(w.broker.URL, nil)
	w.startDepot()
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf")
	w.add("mote", "mote-256-f16.gguf")
	w.install("mote=mote@1")
	disk.fill()
	w.assign("mote=mote@2")
	w.poke()
	w.goesOnWith("mote@1")
	if r := w.run("status", "--json"); r.code != 1 || !strings.Contains(r.out, `"disk-low"`) {
		t.Errorf("status of a full disk: exit %d, want 1 and the finding disk-low: %s", r.code, r.out)
	} else if s := strict[agent.Status](t, r.out); s.Health != agent.HealthCritical {
		t.Errorf("the health with a full disk is %s", s.Health)
	}
	// It comes back on a full disk too.
	w.agent.kill()
	w.noOrphans()
	w.startAgent()
	w.comesBackRunning("mote@1")
	w.goesOnWith("mote@1")
	disk.free()
	w.arrivesAtLast("mote@2")
}

// goesOnWith asks for a second: answers come, from the release that ran, and status answers.
func (w *world) goesOnWith(release string) {
	w.t.Helper()
	for end := time.Now().Add(time.Second); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		w.answers(release)
		if _, err := w.status(); err != nil {
			w.t.Fatalf("status: %v", err)
		}
	}
}

// arrivesAtLast waits for the release, asking the agent to look now and then as an operator would.
func (w *world) arrivesAtLast(release string) {
	w.t.Helper()
	w.eventually(release+" arrives", func() error {
		<-time.After(300 * time.Millisecond)
		w.poke()
		s, err := w.status()
		if err != nil {
			return err
		}
		if s.Update.State == string(updater.Paused) {
			w.run("change", "resume", fmt.Sprint(s.Update.Change)) // refused where it has gone on meanwhile
		}
		if _, by, err := w.chat("mote", question); err != nil || by != release || s.Update.State != string(updater.Committed) {
			return fmt.Errorf("%q answers (%v), the update is %+v", by, err, s.Update)
		}
		return nil
	})
}

// disk is a memory file system under the world's state folder, in a mount
// namespace of its own that ends with its holder.
type disk struct {
	w      *world
	holder int
	enter  []string
}

func makeDisk(t *testing.T, w *world) (disk, bool) {
	t.Helper()
	state := w.path("state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct{ unshare, nsenter string }{{"-m", "-m"}, {"-Urm", "-U -m --preserve-credentials"}} {
		cmd := exec.Command("unshare", way.unshare, "sh", "-c", `mount -t tmpfs -o size=700m,mode=700 tmpfs "$0" && echo mounted && exec cat`, state)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			continue
		}
		t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
		if line, _ := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
			continue
		}
		d := disk{w: w, holder: cmd.Process.Pid}
		d.enter = append(append([]string{"nsenter", "-t", strconv.Itoa(d.holder)}, strings.Fields(way.nsenter)...), "--")
		w.within = d.enter
		return d, true
	}
	return disk{}, false
}

// fill makes the file system as small as what lies in it.
func (d disk) fill() {
	d.w.t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(fmt.Sprintf("/proc/%d/root%s", d.holder, d.w.path("state")), &s); err != nil {
		d.w.t.Fatal(err)
	}
	d.resize(int64(s.Blocks-s.Bfree) * s.Bsize)
}

func (d disk) free() { d.resize(700 << 20) }

func (d disk) resize(bytes int64) {
	d.w.t.Helper()
	args := append(d.enter[1:len(d.enter):len(d.enter)], "mount", "-o", fmt.Sprintf("remount,size=%d", bytes), d.w.path("state"))
	if out, err := exec.Command(d.enter[0], args...).CombinedOutput(); err != nil {
		d.w.t.Fatalf("cannot resize the disk: %v: %s", err, out)
	}
}

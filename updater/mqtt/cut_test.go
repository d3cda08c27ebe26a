package mqtt

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// ownNetwork names the process that has a network namespace of its own.
const ownNetwork = "BOTHY_TEST_OWN_NETWORK"

// inOwnNetwork runs the test again in a network namespace of its own, as root
// or in a user namespace. The kernel takes away what it leaves behind.
func inOwnNetwork(t *testing.T) {
	t.Helper()
	var tried []string
	for _, flags := range []string{"-n", "-Urn"} {
		cmd := exec.Command("unshare", flags, os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), ownNetwork+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err == nil && strings.Contains(string(out), "--- PASS: "+t.Name()) {
			return
		}
		tried = append(tried, fmt.Sprintf("unshare %s: %v\n%s", flags, err, out))
		if strings.Contains(string(out), "=== RUN") {
			break // it ran, and failed
		}
	}
	t.Fatalf("not run in a network of its own:\n%s", strings.Join(tried, "\n"))
}

func command(t *testing.T, line string, args ...any) {
	t.Helper()
	words := strings.Fields(fmt.Sprintf(line, args...))
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", words, err, out)
	}
}

// farAway makes a second network, joined to ours by a link, and runs Mosquitto in it.
func farAway(t *testing.T) (url string) {
	t.Helper()
	// The namespace lives as long as this process; it ends with its input.
	keeper := exec.Command("unshare", "-n", "cat")
	keeper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := keeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = keeper.Wait() })
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", keeper.Process.Pid))
		if err == nil && theirs != ours {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no second network: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	there := fmt.Sprintf("nsenter -n -t %d", keeper.Process.Pid)
	command(t, "ip link add here type veth peer name there netns %d", keeper.Process.Pid)
	command(t, "ip addr add 10.77.0.1/24 dev here")
	command(t, "ip link set here up")
	command(t, "%s ip addr add 10.77.0.2/24 dev there", there)
	command(t, "%s ip link set there up", there)

	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(conf, []byte("listener 1883 10.77.0.2\nallow_anonymous true\npersistence false\nuser root\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	words := append(strings.Fields(there), path, "-c", conf)
	broker := exec.Command(words[0], words[1:]...)
	broker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := broker.Start(); err != nil {
		t.Fatalf("cannot start mosquitto: %v: run scripts/test-tools", err)
	}
	t.Cleanup(func() { broker.Process.Kill(); _ = broker.Wait() })
	if err := parts.WaitDial("tcp", "10.77.0.2:1883", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	return "tcp://10.77.0.2:1883"
}

// Nobody tells a device that its cable was pulled: no packet comes, none is
// refused. The broker goes on believing in the old connection too, and speaks
// its last will when the new one takes its place.
func TestSessionComesBackOverALinkThatWasCut(t *testing.T) {
	if os.Getenv(ownNetwork) == "" {
		inOwnNetwork(t)
		return
	}
	url := farAway(t)
	topics := wire.Topics{Tenant: "acme", Device: "box1"}
	cfg := quick(url, "")
	cfg.AllowPlain = true
	d, err := NewDevice(cfg, topics, 42)
	if err != nil {
		t.Fatal(err)
	}
	run(t, d.Run)
	mustConnect(t, d.Session)
	d.Report([]byte("before"))
	for round := range 2 {
		serial := d.Status().Serial
		command(t, "ip link set here down")
		awaitStatus(t, d.Session, func(st Status) bool { return !st.Connected })
		if err := d.Publish(bounded(t), topics.Event(), 1, false, []byte("x")); !errors.Is(err, ErrNotConnected) {
			t.Errorf("publish while cut off: got %v, want %v", err, ErrNotConnected)
		}
		text := fmt.Sprint("cut ", round)
		d.Report([]byte(text))
		command(t, "ip link set here up")
		awaitStatus(t, d.Session, func(st Status) bool { return st.Connected && st.Serial > serial })
		in := make(chan Message, 8)
		fresh := quick(url, fmt.Sprint("fleet", round))
		fresh.AllowPlain = true
		fresh.Subscriptions = []Subscription{{Filter: topics.State(), QoS: 1, Handle: Into(in)}, {Filter: topics.Online(), QoS: 1, Handle: Into(in)}}
		w, stop := start(t, fresh)
		mustConnect(t, w)
		want := map[string]string{topics.State(): text, topics.Online(): `{"v":1,"online":true,"epoch":42}`}
		for deadline := time.After(30 * time.Second); len(want) > 0; {
			select {
			case m := <-in: // what is older may come before
				if want[m.Topic] == string(m.Payload) {
					delete(want, m.Topic)
				}
			case <-deadline:
				t.Fatalf("after the cut the fleet does not hear %v", want)
			}
		}
		stop()
	}
}

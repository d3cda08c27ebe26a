package depot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

// childEnv makes the test binary a device that can be killed and measured: its errand as JSON.
const childEnv = "BOTHY_DEPOT_CHILD"

// errand is one fetch.
type errand struct {
	URL, Dir string
	File     release.File
}

func TestMain(m *testing.M) {
	text, ok := os.LookupEnv(childEnv)
	if !ok {
		os.Exit(m.Run())
	}
	if err := runErrand(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runErrand fetches as an agent does, and writes how far it is, and at the end
// the most memory that it ever had resident, in KiB.
func runErrand(text string) error {
	var e errand
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	s, err := content.Open(e.Dir)
	if err != nil {
		return err
	}
	bulk, err := mqtt.NewBulk(mqtt.Config{Broker: e.URL}, wire.Topics{Tenant: "acme", Device: "box1"}, "depot1")
	if err != nil {
		return err
	}
	src := content.NewDepot(bulk)
	src.GC = &content.Collector{}
	_, err = s.Fetch(context.Background(), e.File, []content.Source{src}, func(p content.Progress) {
		fmt.Println(p.State, p.Done, p.BySource["resumed"])
	})
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	fmt.Println("resident", kib, 0)
	return nil
}

// device runs an errand in a process of its own; each line of its progress is
// given to look, which ends it by answering false.
func device(t *testing.T, e errand, look func(state string, n, resumed int64) bool) {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := &bytes.Buffer{}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	for {
		var state string
		var n, resumed int64
		if _, err := fmt.Fscanln(out, &state, &n, &resumed); err != nil {
			break
		}
		if !killed && !look(state, n, resumed) {
			killed = true
			cmd.Process.Kill()
		}
	}
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil && !killed {
		t.Fatalf("the device: %v: %s", err, said)
	}
}

// hollow adds a file of zeros that takes no room on the depot's disk.
func hollow(t *testing.T, fleet *folder, size int64) release.File {
	t.Helper()
	path := filepath.Join(fleet.dir, "hollow")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		t.Fatal(err)
	}
	x, err := content.BuildIndex(in, size)
	if err != nil {
		t.Fatal(err)
	}
	f := release.File{Path: "m.gguf", Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), IndexSHA256: x.SHA256()}
	if err := errors.Join(os.Rename(path, filepath.Join(fleet.dir, f.SHA256)),
		os.WriteFile(filepath.Join(fleet.dir, f.SHA256+".index"), x.Encode(), 0o600)); err != nil {
		t.Fatal(err)
	}
	fleet.allowed["box1 "+f.SHA256] = true
	return f
}

// hollowSize is what the memory is measured with; BOTHY_HOLLOW_GIB asks for more.
func hollowSize(t *testing.T) int64 {
	if text, ok := os.LookupEnv("BOTHY_HOLLOW_GIB"); ok {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return int64(n) << 30
	}
	return 512 << 20
}

func TestPullOfAnySizeTakesLittleMemory(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	f := hollow(t, fleet, hollowSize(t))
	serve(t, b.URL, fleet, nil)
	var resident int64
	device(t, errand{b.URL, t.TempDir(), f}, func(state string, n, _ int64) bool {
		if state == "resident" {
			resident = n
		}
		return true
	})
	t.Logf("%d MiB fetched with at most %d MiB resident", f.Size>>20, resident>>10)
	if resident == 0 || resident > 120<<10 {
		t.Errorf("the device had %d KiB resident, want at most 120 MiB", resident)
	}
}

// A device that is killed anywhere asks again for little of what it had.
func TestKilledFetchAsksForLittleTwice(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	const size = 192 << 20
	f := fleet.add(t, noise(41, size), "box1")
	s := start(t, b.URL, fleet, nil)
	for _, share := range []int64{7, 40, 93} { // percent
		dir := t.TempDir()
		before := s.stats().Bytes
		device(t, errand{b.URL, dir, f}, func(_ string, n, _ int64) bool { return n < size*share/100 })
		var resumed int64
		ended := false
		device(t, errand{b.URL, dir, f}, func(state string, _, kept int64) bool {
			resumed = max(resumed, kept)
			ended = ended || state == content.StateDone
			return true
		})
		twice := int64(s.stats().Bytes-before) - size
		t.Logf("killed at %d %%: %d MiB kept, %.1f MiB fetched twice", share, resumed>>20, float64(twice)/(1<<20))
		if !ended || resumed < size*share/100 {
			t.Errorf("killed at %d %%: done %v, kept %d bytes", share, ended, resumed)
		}
		// What was on its way when it was killed counts: the depot sent it.
		if twice > 16<<20 {
			t.Errorf("killed at %d %%: fetched %d MiB twice", share, twice>>20)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

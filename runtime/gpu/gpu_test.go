package gpu

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/internal/parts"
)

// helperELF builds the helper as `make build` does, once a test process.
var helperELF = sync.OnceValues(func() ([]byte, error) {
	path := filepath.Join(parts.Root(), "build", "test", "nvml-helper")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./runtime/gpu/nvml")
	cmd.Dir = parts.Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS=-O2 -Wno-deprecated-declarations")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

func helperImage(t *testing.T) []byte {
	t.Helper()
	elf, err := helperELF()
	if err != nil {
		t.Fatalf("cannot build the GPU helper: %v: run scripts/test-tools", err)
	}
	return elf
}

func holding(elf []byte) func() []byte { return func() []byte { return elf } }

// fakeDriver compiles a driver library and returns the environment that makes the helper load it.
func fakeDriver(t *testing.T, mode string, flags ...string) []string {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"-shared", "-fPIC", "-O0", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), "testdata/driver.c"}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("cannot compile the driver: %v: run scripts/test-tools\n%s", err, out)
	}
	return []string{"LD_LIBRARY_PATH=" + dir, "DRIVER_MODE=" + mode}
}

// reading runs a Reader over the real helper until the test ends.
func reading(t *testing.T, env []string) *Reader {
	t.Helper()
	r := New(Config{
		Image: holding(helperImage(t)), Packaged: "/nonexistent", Env: env, Every: 30 * time.Millisecond,
		Hello: 3 * time.Second, Beat: time.Second, BackoffMin: 20 * time.Millisecond, LookAgain: 50 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

func until(t *testing.T, r *Reader, what string, ok func(Snapshot) bool) Snapshot {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for {
		if s := r.Snapshot(); ok(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not within 30 s: %+v", what, r.Snapshot())
		}
	}
}

func TestTwoGPUs(t *testing.T) {
	r := reading(t, fakeDriver(t, "ok"))
	s := until(t, r, "devices and the event", func(s Snapshot) bool { return len(s.Devices) == 2 && len(s.Events) == 1 })
	want := []Device{{
		Index: 0, Name: "Fake GPU 0", UUID: "GPU-00000000-0000-0000-0000-000000000000", MemoryTotal: 80 << 30, MemoryUsed: 1 << 30,
		Utilisation: 10, MemoryBusy: 5, Temperature: 40, Power: 70000, Corrected: 7,
	}, {
		Index: 1, Name: "Fake GPU 1", UUID: "GPU-00000000-0000-0000-0000-000000000001", MemoryTotal: 80 << 30, MemoryUsed: 2 << 30,
		Utilisation: 11, MemoryBusy: 5, Temperature: 41, Power: 70000, Throttle: []string{"hardware thermal"},
		Processes: []Process{{PID: 4242, Memory: 1 << 30}}, Missing: []string{"ecc"},
	}}
	if d := cmp.Diff(want, s.Devices); d != "" {
		t.Errorf("devices (-want +got):\n%s", d)
	}
	if e := s.Events[0]; e.XID != 79 || e.UUID != want[1].UUID {
		t.Errorf("got event %+v, want XID 79 of the second GPU", e)
	}
	if s.Driver != "999.1-fake" || s.NoDriver || s.Error != "" || s.Launched != "memory" {
		t.Errorf("got %+v, want a healthy reading by a helper in memory", s)
	}
}

func TestNoDriverIsNormal(t *testing.T) {
	for _, env := range [][]string{{"LD_LIBRARY_PATH=/nonexistent"}, fakeDriver(t, "notloaded")} {
		r := reading(t, env)
		s := until(t, r, "the finding", func(s Snapshot) bool { return s.NoDriver })
		if s.Error != "" || len(s.Devices) != 0 {
			t.Errorf("got %+v, want no error and no device", s)
		}
		until(t, r, "another look", func(s Snapshot) bool { return s.Starts >= 2 })
	}
}

func TestDriverFailuresAreSurvived(t *testing.T) {
	for _, c := range []struct {
		mode, wantError string
		devices         int
	}{
		{"mismatch", "NVML error 18", 0},
		{"hang", "fell silent", 0},
		{"hanglater", "fell silent", 2},
		{"segv", "SIGSEGV", 0},
		{"segvlater", "SIGSEGV", 2},
		{"abort", "SIGABRT", 0},
		{"lost", "NVML error 15", 2},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			r := reading(t, fakeDriver(t, c.mode))
			s := until(t, r, "a failure with its reason", func(s Snapshot) bool {
				return s.Starts >= 2 && strings.Contains(s.Error, c.wantError)
			})
			if s.NoDriver || len(s.Devices) != c.devices {
				t.Errorf("got %+v, want %d devices kept and a driver", s, c.devices)
			}
			if c.mode == "mismatch" && !strings.Contains(s.Hint, "reboot") {
				t.Errorf("got hint %q, want what to do", s.Hint)
			}
		})
	}
}

func TestDriverThatPrintsIsRead(t *testing.T) {
	r := reading(t, fakeDriver(t, "chatty"))
	until(t, r, "devices", func(s Snapshot) bool { return len(s.Devices) == 2 })
}

func TestOldDriverLacksValuesOnly(t *testing.T) {
	r := reading(t, fakeDriver(t, "ok", "-DOLD_DRIVER"))
	s := until(t, r, "devices", func(s Snapshot) bool { return len(s.Devices) == 2 })
	want := []string{"power", "throttle", "processes"}
	if got := s.Devices[0].Missing; !slices.Equal(got, want) || s.Devices[0].Temperature != 40 {
		t.Errorf("got missing %v, want %v and the rest present", got, want)
	}
}

// A helper must not outlive its agent, whatever the driver does: the agent's end of its standard input closes.
func TestHungHelperEndsWithItsInput(t *testing.T) {
	img, err := openMemory(helperImage(t))
	if err != nil {
		t.Fatal(err)
	}
	r := New(Config{Image: holding(helperImage(t)), Env: fakeDriver(t, "hang")})
	h, err := r.start(img, &bytes.Buffer{})
	img.close()
	if err != nil {
		t.Fatal(err)
	}
	h.in.Close()
	ended := make(chan error, 1)
	go func() { ended <- h.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("got %v, want status 0", err)
		}
	case <-time.After(20 * time.Second):
		h.cmd.Process.Kill()
		t.Error("the helper outlived its input")
	}
}

func TestRunLeavesNoHelper(t *testing.T) {
	r := New(Config{Image: holding(helperImage(t)), Packaged: "/nonexistent", Env: fakeDriver(t, "ok"), Every: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	until(t, r, "devices", func(s Snapshot) bool { return len(s.Devices) == 2 })
	if n := helpers(t); n != 1 {
		t.Errorf("got %d helpers while running, want 1", n)
	}
	cancel()
	<-ended
	if n := helpers(t); n != 0 {
		t.Errorf("got %d helpers after Run, want none", n)
	}
}

// helpers counts this process's children named as the helper names itself.
func helpers(t *testing.T) int {
	t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	n := 0
	for _, p := range stats {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), "(bothy-gpu) ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			n++
		}
	}
	return n
}

func TestPackagedHelperIsTakenOnlyWhenItIsTheSame(t *testing.T) {
	elf := helperImage(t)
	same, other := filepath.Join(t.TempDir(), "same"), filepath.Join(t.TempDir(), "other")
	for path, content := range map[string][]byte{same: elf, other: append(slices.Clone(elf), 0)} {
		if err := os.WriteFile(path, content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{same: "packaged", other: "memory", "/nonexistent": "memory"} {
		r := New(Config{Image: holding(elf), Packaged: path})
		h, err := r.launch(&bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		if h.how != want {
			t.Errorf("%s: got it launched from %s, want %s", path, h.how, want)
		}
		h.in.Close()
		h.cmd.Wait()
	}
}

func TestHelperRunsFromAFile(t *testing.T) {
	dir := t.TempDir()
	r := New(Config{Image: holding(helperImage(t))})
	for range 2 { // the second replaces the first
		img, err := openFile(dir, r.cfg.Image())
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.start(img, &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		h.in.Close()
		h.cmd.Wait()
	}
	if _, err := openFile("", nil); err == nil {
		t.Error("got a file without a directory")
	}
}

func TestAgentWithoutHelperSaysSo(t *testing.T) {
	r := New(Config{Image: holding(nil)})
	r.Run(t.Context())
	if s := r.Snapshot(); !strings.Contains(s.Error, "without the GPU helper") || s.Hint == "" || s.NoDriver {
		t.Errorf("got %+v, want it to say that there is no helper", s)
	}
}

func TestBackoffIsCappedAndJittered(t *testing.T) {
	for _, c := range []struct {
		n      int
		jitter float64
		want   time.Duration
	}{{1, 0, 500 * time.Millisecond}, {1, 0.999999999, time.Second}, {3, 0, 2 * time.Second}, {1000, 0, 30 * time.Second}} {
		if got := backoff(time.Second, time.Minute, c.n, c.jitter).Round(time.Millisecond); got != c.want {
			t.Errorf("backoff %d with jitter %v: got %v, want %v", c.n, c.jitter, got, c.want)
		}
	}
}

package runtime

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

// agent starts a supervisor in a process of its own and returns it with the processes it answers for.
func agent(t *testing.T, dir, mode string) (*exec.Cmd, []int) {
	t.Helper()
	cmd := exec.Command(testExe(t))
	cmd.Env = append(os.Environ(), roleVar+"=agent", modeVar+"="+mode, "BOTHY_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	var pids []int
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if sc.Text() == "ready" {
			return cmd, pids
		}
		if n, ok := strings.CutPrefix(sc.Text(), "pid "); ok {
			pid, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		} else {
			t.Log(sc.Text())
		}
	}
	t.Fatal("the agent did not get its engine ready")
	return nil, nil
}

func TestEngineDiesWithAKilledAgent(t *testing.T) {
	cmd, pids := agent(t, parts.SocketDir(t), "")
	if len(pids) != 1 || !alive(pids[0]) {
		t.Fatalf("got processes %v, want one that lives", pids)
	}
	if score, err := os.ReadFile("/proc/" + strconv.Itoa(pids[0]) + "/oom_score_adj"); err != nil || strings.TrimSpace(string(score)) != oomScore {
		t.Errorf("got oom_score_adj %q (%v), want %s: memory pressure must take the engine first", score, err, oomScore)
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "end of the engine", func() bool { return !alive(pids[0]) })
}

// What an engine itself started has no parent-death signal; the next agent finds it by its mark.
func TestNextAgentSweepsWhatAKilledOneLeft(t *testing.T) {
	dir := parts.SocketDir(t)
	cmd, pids := agent(t, dir, "leak")
	if len(pids) != 2 {
		t.Fatalf("got processes %v, want an engine and its child", pids)
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "end of the engine", func() bool { return !alive(pids[0]) })
	if !alive(pids[1]) {
		t.Fatal("the engine's child died by itself: nothing is left to sweep")
	}
	s := New(Config{Dir: dir})
	defer s.Close(context.Background())
	eventually(t, "end of the engine's child", func() bool { return !alive(pids[1]) })
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("got %v left", left)
	}
}

// launchFake starts the fake engine without a supervisor.
func launchFake(t *testing.T, mode string, args ...string) (Process, *ring) {
	t.Helper()
	c := NewChildren()
	dir := parts.SocketDir(t)
	lines := &ring{}
	o := Order{
		Dir: dir, Socket: filepath.Join(dir, "e.sock"),
		Output: &lineWriter{line: func(s string) { lines.add(Line{Generation: 1, Text: s}) }},
	}
	o.Command = Command{Path: testExe(t), Args: append([]string{"--listen", o.Socket}, args...), Env: fakeEnv(mode), Tether: true}
	p, err := c.Launch(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop(0)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the engine's first words", func() bool {
		return slices.ContainsFunc(lines.last(0, 0), func(l Line) bool { return strings.Contains(l.Text, "listening") })
	})
	return p, lines
}

func TestStopIsPoliteFirst(t *testing.T) {
	p, _ := launchFake(t, "")
	if err := p.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if p.Err() == nil || p.Err().Error() != "signal: terminated" {
		t.Errorf("got %v, want an end by SIGTERM", p.Err())
	}
	if err := p.Stop(time.Second); err != nil {
		t.Errorf("got %v for a process that is gone", err)
	}
}

func TestStubbornEngineIsKilled(t *testing.T) {
	p, _ := launchFake(t, "stubborn")
	if err := p.Stop(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.Err() == nil || p.Err().Error() != "signal: killed" {
		t.Errorf("got %v, want an end by SIGKILL", p.Err())
	}
}

// The grandchild has left the process group and holds the output pipe: Done must come all the same, and take it along.
func TestGrandchildThatHoldsThePipeIsKilled(t *testing.T) {
	p, lines := launchFake(t, "leak")
	grandchild := 0
	for _, l := range lines.last(0, 0) {
		if n, ok := strings.CutPrefix(l.Text, "fake engine: grandchild "); ok {
			grandchild, _ = strconv.Atoi(n)
		}
	}
	if !alive(grandchild) {
		t.Fatalf("got grandchild %d, want one that lives", grandchild)
	}
	began := time.Now()
	if err := p.Stop(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("stopping took %v, the pipe's limit is %v", took, pipeDelay)
	}
	eventually(t, "end of the grandchild", func() bool { return !alive(grandchild) })
}

// The last line of defence: an agent that dies closes the pipe, whatever else it could not do.
func TestTetherEndsTheEngine(t *testing.T) {
	dir := parts.SocketDir(t)
	o := Order{Dir: dir, Socket: filepath.Join(dir, "e.sock"), Output: io.Discard}
	spec := Spec{Alias: "m", Files: []string{parts.Model(t, "mote-chat-q8_0.gguf")}}
	var err error
	if o.Command, err = (Embedded{Exe: parts.Bothy(t)}).Command(spec, o.Socket); err != nil {
		t.Fatal(err)
	}
	c := NewChildren()
	defer c.Close()
	p, err := c.Launch(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := parts.WaitDial("unix", o.Socket, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	p.(*child).tether.Close()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Error("the engine outlives its tether")
	}
}

func TestClosedLauncherLaunchesNothing(t *testing.T) {
	c := NewChildren()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Launch(Order{Command: Command{Path: testExe(t)}}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestEngineInheritsFewVariables(t *testing.T) {
	all := []string{
		"PATH=/bin", "HOME=/root", "CUDA_VISIBLE_DEVICES=0", "LLAMA_ARG_PORT=1", "NOTIFY_SOCKET=/run/x", "CREDENTIALS_DIRECTORY=/c",
		"HF_TOKEN=secret", "PATHOLOGY=1", "LD_PRELOAD=/evil.so",
	}
	got := environment(all, Order{Socket: "/s", Command: Command{Env: []string{"A=1"}}})
	want := []string{markVar + "=/s", "PATH=/bin", "HOME=/root", "CUDA_VISIBLE_DEVICES=0", "A=1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestEngineThatDiesAtOnceLeavesItsWords(t *testing.T) {
	s := New(Config{
		Dir: parts.SocketDir(t), BackoffMin: time.Millisecond, CrashBudget: 2,
		Adapters: map[string]Adapter{"it": Embedded{Exe: testExe(t), Env: fakeEnv("die")}},
	})
	defer s.Close(context.Background())
	spec := Spec{Alias: "m", Engine: "it", Files: []string{"/model"}}
	if _, err := s.Prepare(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("got %v, want the status and the unfinished last line", err)
	}
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	var failed *Failed
	if err := s.EnsureReady(t.Context(), "m"); !errors.As(err, &failed) || !slices.Contains(failed.Lines, "fake engine: out of memory") {
		t.Errorf("got %v, want a failure with the last words", err)
	}
}

// An engine that writes without end costs neither memory nor the supervisor's attention, and its error stays short.
func TestFloodOfOutputIsBounded(t *testing.T) {
	yes, err := exec.LookPath("yes")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{
		Dir: parts.SocketDir(t), StartTimeout: 300 * time.Millisecond,
		Adapters: map[string]Adapter{"it": Template{Path: yes, Args: []string{strings.Repeat("é", 3000), "{socket}"}}},
	})
	defer s.Close(context.Background())
	if err := s.Start(t.Context(), Spec{Alias: "m", Engine: "it", Files: []string{"/model"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a full ring", func() bool { return len(s.Logs("m", 0)) == ringLines })
	eventually(t, "its end", func() bool { return s.State("m").Phase == PhaseBackoff })
	_, err = s.Prepare(t.Context(), Spec{Alias: "m", Engine: "it", Files: []string{"/model"}})
	if err == nil || len(err.Error()) > 8<<10 {
		t.Errorf("got %.200v, want an error of 8 KiB at most", err)
	}
	for _, l := range s.Logs("m", 0) {
		if len(l) > ringLineMax {
			t.Fatalf("got a line of %d bytes, want at most %d", len(l), ringLineMax)
		}
	}
}

func TestMissingBinaryIsNamed(t *testing.T) {
	s := New(Config{Dir: parts.SocketDir(t), Adapters: map[string]Adapter{"it": LlamaServer{Binary: "/nonexistent/llama-server"}}})
	defer s.Close(context.Background())
	_, err := s.Prepare(t.Context(), Spec{Alias: "m", Engine: "it", Files: []string{"/model"}})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/llama-server") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the missing path", err)
	}
}

func TestSocketPathTooLongIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	s := New(Config{Dir: dir, Adapters: map[string]Adapter{"it": Embedded{Exe: testExe(t), Env: fakeEnv("")}}})
	defer s.Close(context.Background())
	_, err := s.Prepare(t.Context(), Spec{Alias: "m", Engine: "it", Files: []string{"/model"}})
	if err == nil || !strings.Contains(err.Error(), "the system allows 107") || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("got %v, want the limit and what to do", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder was made all the same")
	}
	if err := checkSocketPath(strings.Repeat("x", 107)); err != nil {
		t.Errorf("got %v for 107 bytes, want none", err)
	}
}

func TestSweepRemovesOnlyItsOwnFolders(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"g7/rest", "g7x", "data", "g"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "g8"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Config{Dir: dir})
	defer s.Close(context.Background())
	var left []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"data", "g", "g7x", "g8"}; !slices.Equal(left, want) {
		t.Errorf("got %v left, want %v", left, want)
	}
}

func TestNoDirectoryIsRefused(t *testing.T) {
	s := New(Config{Adapters: map[string]Adapter{"it": Embedded{}}})
	defer s.Close(context.Background())
	err := s.Start(t.Context(), Spec{Alias: "m", Engine: "it", Files: []string{"/model"}})
	if err == nil || !strings.Contains(err.Error(), "no runtime directory") {
		t.Errorf("got %v, want a refusal", err)
	}
}

package runtime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// subject is one adapter under the behaviour suite.
type subject struct {
	adapter Adapter
	spec    Spec
	endless map[string]any // further fields of a request that streams for longer than any test
	says    string         // a word that its log holds once it runs
}

func subjects(t *testing.T) map[string]subject {
	model := parts.Model(t, "mote-chat-q8_0.gguf")
	spec := Spec{Alias: "mote", Release: "mote@1", Engine: "it", Files: []string{model}, Context: 512, Slots: 1, Threads: 1}
	long := spec
	var endless map[string]any
	long.Files, endless = endlessModel(t, model)
	long.Context = 0
	llama := spec
	llama.Flags = map[string]string{"context-shift": "true"}
	return map[string]subject{
		"llama-server": {
			adapter: LlamaServer{Binary: parts.Llama(t, "llama-server")}, spec: llama,
			endless: map[string]any{"ignore_eos": true}, says: "listening",
		},
		"embedded": {
			adapter: Embedded{Exe: parts.Bothy(t)}, spec: long,
			endless: endless, says: "model loaded",
		},
		"template": {
			adapter: Template{
				Path: testExe(t), Env: fakeEnv("slow"),
				Args: []string{"--listen", "{socket}", "--model={model}", "--alias", "{alias}", "--slots", "{slots}"},
			},
			spec: spec, says: "listening",
		},
	}
}

// endlessModel is a copy of a model that claims a context of 128 Ki tokens, and the fields of a request that never ends
// in it: the built-in engine neither goes beyond a model's context nor ignores its end token when told so.
func endlessModel(t *testing.T, path string) ([]string, map[string]any) {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	eos, ok := f.Meta.Uint("tokenizer.ggml.eos_token_id")
	b, err := os.ReadFile(path)
	if err != nil || !ok {
		t.Fatalf("cannot take %s: end token %v, %v", path, ok, err)
	}
	return []string{patched(t, b, "llama.context_length", 128<<10)}, map[string]any{"logit_bias": map[string]int{strconv.FormatUint(eos, 10): -100}, "max_tokens": 100 << 10}
}

// patched writes a copy of a model with another number in its header.
func patched(t *testing.T, model []byte, key string, value uint32) string {
	t.Helper()
	mark := []byte(key + "\x04\x00\x00\x00") // the key, then type 4: uint32
	at := bytes.Index(model, mark)
	if at < 0 {
		t.Fatalf("the model has no %s", key)
	}
	b := bytes.Clone(model)
	binary.LittleEndian.PutUint32(b[at+len(mark):], value)
	path := filepath.Join(t.TempDir(), "patched.gguf")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAdapters is the behaviour that every kind of engine has to show under the supervisor.
func TestAdapters(t *testing.T) {
	for name, sub := range subjects(t) {
		t.Run(name, func(t *testing.T) {
			t.Run("is ready only when it answers, and streams", func(t *testing.T) { suiteAnswers(t, sub) })
			t.Run("is gone after stop", func(t *testing.T) { suiteStops(t, sub) })
			t.Run("stops generating when the client hangs up", func(t *testing.T) { suiteCancels(t, sub) })
			t.Run("is restarted after a crash, keeping its log", func(t *testing.T) { suiteRestarts(t, sub) })
			t.Run("is killed when it hangs", func(t *testing.T) { suiteHangs(t, sub) })
			t.Run("is switched without failing a stream", func(t *testing.T) { suiteSwitches(t, sub) })
		})
	}
}

func running(t *testing.T, sub subject) *Supervisor {
	t.Helper()
	s := New(Config{
		Dir: parts.SocketDir(t), Adapters: map[string]Adapter{"it": sub.adapter},
		HealthEvery: 50 * time.Millisecond, HealthTimeout: 500 * time.Millisecond, HealthMisses: 2,
		BackoffMin: 10 * time.Millisecond, Grace: 2 * time.Second,
	})
	t.Cleanup(func() {
		if err := s.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	if err := s.Start(t.Context(), sub.spec); err != nil {
		t.Fatal(err)
	}
	ensure(t, s)
	return s
}

func ensure(t *testing.T, s *Supervisor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.EnsureReady(ctx, "mote"); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(s.Logs("mote", 20), "\n"))
	}
}

// complete sends one request over a lease; the caller closes the body, then the lease.
func complete(ctx context.Context, s *Supervisor, fields map[string]any) (*Lease, io.ReadCloser, error) {
	l, err := s.Acquire(ctx, "mote")
	if err != nil {
		return nil, nil, err
	}
	q := map[string]any{"model": "mote", "prompt": "Once upon a time", "max_tokens": 40, "temperature": 0}
	for k, v := range fields {
		q[k] = v
	}
	body, _ := json.Marshal(q)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL+"/v1/completions", strings.NewReader(string(body)))
	if err != nil {
		return l, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.Client.Do(req)
	if err != nil {
		return l, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return l, nil, errors.New(resp.Status + " " + string(text))
	}
	return l, resp.Body, nil
}

// stream reads a whole stream and returns its number of chunks, or an error when it is cut short.
func stream(ctx context.Context, s *Supervisor, tokens int) (int, error) {
	l, body, err := complete(ctx, s, map[string]any{"stream": true, "max_tokens": tokens})
	if l != nil {
		defer l.Done()
	}
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n := 0
	for sc := bufio.NewScanner(body); sc.Scan(); {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if data == "[DONE]" {
			return n, nil
		}
		if ok {
			n++
		}
	}
	return n, errors.New("the stream ended without [DONE]")
}

// eventually polls; engines are other processes, so there is nothing to wait on but their effects.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// alive says whether a process exists and is more than a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func current(t *testing.T, s *Supervisor) GenerationStatus {
	t.Helper()
	for _, a := range s.Status() {
		if a.Alias == "mote" && a.Current != nil {
			return *a.Current
		}
	}
	t.Fatalf("nothing runs: %+v", s.Status())
	return GenerationStatus{}
}

func suiteAnswers(t *testing.T, sub subject) {
	s := running(t, sub)
	l, body, err := complete(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Choices []struct{ Text string }
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil || len(answer.Choices) != 1 || answer.Choices[0].Text == "" {
		t.Errorf("got answer %+v (%v), want one choice with text", answer, err)
	}
	body.Close()
	l.Done()
	if n, err := stream(t.Context(), s, 40); err != nil || n < 3 {
		t.Errorf("got %d chunks (%v), want a stream of several", n, err)
	}
	if st := s.State("mote"); st.Phase != PhaseReady || st.Leases != 0 || st.Generation == 0 || st.Slots != 1 {
		t.Errorf("got state %+v, want ready with 1 slot and no lease", st)
	}
	info, err := os.Stat(filepath.Join(s.cfg.Dir, "g1"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got folder %v (%v), want mode 0700", info, err)
	}
}

func suiteStops(t *testing.T, sub subject) {
	s := running(t, sub)
	pid := current(t, s).PID
	if err := s.Stop(t.Context(), "mote"); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Errorf("process %d is alive after Stop", pid)
	}
	if left, _ := filepath.Glob(filepath.Join(s.cfg.Dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := s.Acquire(t.Context(), "mote"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
	if err := s.Start(t.Context(), sub.spec); err != nil {
		t.Fatal(err)
	}
	ensure(t, s)
}

func suiteCancels(t *testing.T, sub subject) {
	s := running(t, sub)
	fields := map[string]any{"stream": true, "max_tokens": 1 << 20}
	for k, v := range sub.endless {
		fields[k] = v
	}
	ctx, hangUp := context.WithCancel(t.Context())
	l, body, err := complete(ctx, s, fields)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	hangUp()
	body.Close()
	l.Done()
	// The engine has one slot: it answers this only if it has let go of the endless stream.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := stream(ctx, s, 4); err != nil {
		t.Errorf("the engine goes on for a client that hung up: %v", err)
	}
}

func suiteRestarts(t *testing.T, sub subject) {
	s := running(t, sub)
	before := current(t, s)
	syscall.Kill(before.PID, syscall.SIGKILL)
	eventually(t, "restart", func() bool { st := s.State("mote"); return st.Generation > before.Generation && st.Phase == PhaseReady })
	if n, err := stream(t.Context(), s, 8); err != nil || n == 0 {
		t.Errorf("got %d chunks (%v) after the restart", n, err)
	}
	generations := map[uint64]bool{}
	for _, l := range s.Lines("mote", 0) {
		if strings.Contains(l.Text, sub.says) {
			generations[l.Generation] = true
		}
	}
	if !generations[before.Generation] || !generations[current(t, s).Generation] {
		t.Errorf("got log lines of generations %v, want both", generations)
	}
	if st := s.Status()[0]; st.Crashes != 1 {
		t.Errorf("got %d crashes, want 1", st.Crashes)
	}
}

func suiteHangs(t *testing.T, sub subject) {
	s := running(t, sub)
	before := current(t, s)
	if err := syscall.Kill(before.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "kill and restart", func() bool { st := s.State("mote"); return st.Generation > before.Generation && st.Phase == PhaseReady })
	if alive(before.PID) {
		t.Errorf("the hung process %d is alive", before.PID)
	}
}

func suiteSwitches(t *testing.T, sub subject) {
	s := running(t, sub)
	before := current(t, s)
	var answered atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if n, err := stream(t.Context(), s, 30); err != nil || n == 0 {
					t.Errorf("got %d chunks, %v", n, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	next := sub.spec
	next.Release = "mote@2"
	gen, err := s.Prepare(t.Context(), next)
	if err != nil {
		t.Fatal(err)
	}
	if got := current(t, s).Generation; got != before.Generation || gen == got {
		t.Errorf("generation %d answers while %d is a candidate, want %d", got, gen, before.Generation)
	}
	if err := s.Switch(t.Context(), "mote", gen); err != nil {
		t.Fatal(err)
	}
	eventually(t, "end of the old generation", func() bool { return s.Status()[0].Draining == nil })
	mark := answered.Load()
	eventually(t, "answers of the new generation", func() bool { return answered.Load() > mark+4 })
	close(stop)
	clients.Wait()
	if st := s.State("mote"); st.Generation != gen || st.Release != "mote@2" {
		t.Errorf("got %+v, want generation %d of mote@2", st, gen)
	}
	if alive(before.PID) {
		t.Errorf("the old process %d is alive", before.PID)
	}
}

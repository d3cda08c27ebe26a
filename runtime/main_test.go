package runtime

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// roleVar makes a re-executed test binary something else than a test: "engine" (the fake engine) or "agent" (a
// supervisor that is killed by a test).
const (
	roleVar = "BOTHY_TEST_ROLE"
	modeVar = "BOTHY_TEST_MODE"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "engine":
		os.Exit(fakeEngine(os.Getenv(modeVar)))
	case "agent":
		os.Exit(fakeAgent())
	case "idle":
		select {}
	}
	os.Exit(m.Run())
}

// fakeEnv makes an adapter's program the fake engine. Modes, with commas between: slow (503 at first), mute (health
// but no answer), deaf (accepts, never answers), die (ends at once with words), stubborn (ignores SIGTERM), leak
// (leaves a grandchild that holds the output pipe), loading (503 for ever), broken (500 to every question).
func fakeEnv(mode string) []string { return []string{roleVar + "=engine", modeVar + "=" + mode} }

func testExe(tb testing.TB) string {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return exe
}

func fakeEngine(mode string) int {
	has := func(m string) bool { return strings.Contains(","+mode+",", ","+m+",") }
	fs := flag.NewFlagSet("engine", flag.ContinueOnError)
	listen := fs.String("listen", "", "")
	alias := fs.String("alias", "", "")
	tether := fs.Bool("tether", false, "")
	for _, n := range []string{"model", "context", "slots", "threads"} {
		fs.String(n, "", "")
	}
	args := os.Args[1:]
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = args[1:] // "engine serve"
	}
	if err := fs.Parse(args); err != nil {
		return 2
	}
	fmt.Println("fake engine: loading", *alias)
	if has("die") {
		fmt.Print("fake engine: out of memory")
		return 3
	}
	if has("stubborn") {
		signal.Ignore(syscall.SIGTERM)
	}
	if has("leak") {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), roleVar+"=idle")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			return 4
		}
		fmt.Println("fake engine: grandchild", c.Process.Pid)
	}
	if *tether {
		go func() { io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
	}
	l, err := net.Listen("unix", strings.TrimPrefix(*listen, "unix:"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if has("deaf") {
		select {}
	}
	fmt.Println("fake engine: listening")
	http.Serve(l, fakeHandler(*alias, has))
	return 0
}

func fakeHandler(alias string, has func(string) bool) http.Handler {
	var healths atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if n := healths.Add(1); has("slow") && n < 5 || has("loading") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/v1/completions", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Stream    bool `json:"stream"`
			MaxTokens int  `json:"max_tokens"`
		}
		json.NewDecoder(r.Body).Decode(&q)
		if has("mute") {
			<-r.Context().Done()
			return
		}
		if has("broken") {
			http.Error(w, "tensor is NaN", http.StatusInternalServerError)
			return
		}
		if !q.Stream {
			fmt.Fprintf(w, `{"model":%q,"choices":[{"text":"word"}]}`, alias)
			return
		}
		for range q.MaxTokens {
			fmt.Fprintf(w, "data: {\"choices\":[{\"text\":\"word\"}]}\n\n")
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				fmt.Println("fake engine: client hung up")
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
		fmt.Fprintf(w, "data: [DONE]\n\n")
	})
	return mux
}

// fakeAgent runs one fake engine under a supervisor, says so, and waits to be killed.
func fakeAgent() int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	s := New(Config{
		Dir:      os.Getenv("BOTHY_TEST_DIR"),
		Adapters: map[string]Adapter{"embedded": Embedded{Exe: exe, Env: fakeEnv(os.Getenv(modeVar))}},
	})
	ctx := context.Background()
	if err := s.Start(ctx, Spec{Alias: "m", Engine: "embedded", Files: []string{"/model"}}); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := s.EnsureReady(ctx, "m"); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("pid", s.Status()[0].Current.PID)
	for _, line := range s.Logs("m", 0) {
		if g, ok := strings.CutPrefix(line, "fake engine: grandchild "); ok {
			fmt.Println("pid", g)
		}
	}
	fmt.Println("ready")
	select {}
}

package runtime

import (
	"context"
	"os"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

// Over real sockets: what each kind of bad start-up looks like to the one who asked for it.
func TestBadStartsOverSockets(t *testing.T) {
	for mode, want := range map[string]string{
		"deaf":    "not ready within 700ms",
		"mute":    "not ready within 700ms",
		"loading": "not ready within 700ms: the model is still loading",
		"broken":  "the engine answered /v1/completions with status 500: tensor is NaN",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := New(Config{
				Dir: parts.SocketDir(t), StartTimeout: 700 * time.Millisecond, HealthTimeout: 200 * time.Millisecond, Grace: time.Second,
				Adapters: map[string]Adapter{"it": Embedded{Exe: testExe(t), Env: fakeEnv(mode)}},
			})
			defer s.Close(context.Background())
			_, err := s.Prepare(t.Context(), Spec{Alias: "m", Engine: "it", Files: []string{"/model"}})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %q", err, want)
			}
		})
	}
}

// Each generation brings a process, a socket, a folder, pipes and goroutines; none may stay behind.
func TestGenerationsLeakNothing(t *testing.T) {
	s := New(Config{
		Dir: parts.SocketDir(t), Adapters: map[string]Adapter{"it": Embedded{Exe: testExe(t), Env: fakeEnv("")}},
	})
	defer s.Close(context.Background())
	spec := Spec{Alias: "mote", Engine: "it", Files: []string{"/model"}}
	cycle := func() {
		gen, err := s.Prepare(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Switch(t.Context(), "mote", gen); err != nil {
			t.Fatal(err)
		}
		if n, err := stream(t.Context(), s, 3); err != nil || n != 3 {
			t.Fatalf("got %d chunks, %v", n, err)
		}
		eventually(t, "end of the old generation", func() bool { return s.Status()[0].Draining == nil })
	}
	cycle()
	eventually(t, "rest", func() bool { return s.State("mote").Leases == 0 })
	fds, routines := openFiles(t), goruntime.NumGoroutine()
	for range 8 {
		cycle()
	}
	eventually(t, "as many descriptors as before", func() bool { return openFiles(t) <= fds })
	eventually(t, "as many goroutines as before", func() bool { return goruntime.NumGoroutine() <= routines })
	if left, _ := os.ReadDir(s.cfg.Dir); len(left) != 1 {
		t.Errorf("got %d folders, want the current one's", len(left))
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func BenchmarkLease(b *testing.B) {
	s := New(Config{Dir: parts.SocketDir(b), Adapters: map[string]Adapter{"it": Embedded{Exe: testExe(b), Env: fakeEnv("")}}})
	defer s.Close(context.Background())
	if err := s.Start(b.Context(), Spec{Alias: "m", Engine: "it", Files: []string{"/model"}}); err != nil {
		b.Fatal(err)
	}
	if err := s.EnsureReady(b.Context(), "m"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l, err := s.Acquire(b.Context(), "m")
		if err != nil {
			b.Fatal(err)
		}
		l.Done()
	}
}

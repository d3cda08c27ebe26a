package agent

import (
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

func openStore(t *testing.T, path string) *store.DB {
	t.Helper()
	db, _, err := store.Open(t.Context(), store.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestGenerationNumbersAreNeverHandedOutTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bothy.db")
	var last uint64
	for range 3 {
		db := openStore(t, path)
		g, err := newGenerations(db)
		if err != nil {
			t.Fatal(err)
		}
		for range generationBlock + 1 {
			n := g.take()
			if n <= last {
				t.Fatalf("got generation %d after %d, want a higher one", n, last)
			}
			last = n
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEpochsRiseEvenWhenTheClockGoesBack(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "bothy.db"))
	defer db.Close()
	now := hour
	first, err := nextEpoch(db, now)
	if err != nil {
		t.Fatal(err)
	}
	second, err := nextEpoch(db, now.AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if first != uint64(now.Unix()) || second != first+1 {
		t.Errorf("got epochs %d and %d, want %d and the next", first, second, now.Unix())
	}
}

func TestADeviceStartsWithAStoreThatCannotBeWritten(t *testing.T) {
	full := false
	db, _, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "bothy.db"), Fault: func(op string) error {
		if full && op == "commit" {
			return syscall.ENOSPC
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	full = true
	id := trust.Identity{Device: "box1", Tenant: "acme", Broker: "tcp://127.0.0.1:1", Depot: "depot1"}
	if _, err := newLink(BrokerConfig{}, t.TempDir(), id, db, store.Report{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("got %v, want a device that tries", err)
	}
	if epoch, err := nextEpoch(db, hour); err == nil || epoch != uint64(hour.Unix()) {
		t.Errorf("got epoch %d, %v, want the clock's and the error", epoch, err)
	}
}

func TestOnlyNewsIsReported(t *testing.T) {
	c := updater.Change{}
	move := func(s updater.State, reason, text string) updater.Change {
		c.Updated = c.Updated.Add(time.Second)
		c.State = s
		c.History = append(c.History, updater.Transition{State: s, At: c.Updated, Reason: reason, Error: text})
		return c
	}
	for i, step := range []struct {
		state        updater.State
		reason, text string
		want         bool
	}{
		{updater.Planned, "", "", true}, {updater.Preflight, "", "", true}, {updater.Fetching, "", "", true},
		{updater.Paused, "network", "no broker", true},
		{updater.Preflight, "", "", false}, {updater.Fetching, "", "", false}, {updater.Paused, "network", "no broker", false},
		{updater.Preflight, "", "", false}, {updater.Paused, "nospace", "1 GiB", true}, {updater.Switching, "", "", true},
	} {
		if got := news(move(step.state, step.reason, step.text)); got != step.want {
			t.Errorf("step %d, %s: got %v, want %v", i, step.state, got, step.want)
		}
	}
	c.Updated = c.Updated.Add(time.Second)
	if news(c) {
		t.Error("a task that moved is reported")
	}
}

func TestAReportIsBounded(t *testing.T) {
	long := strings.Repeat("ö", maxReported)
	if got := bounded(long); len(got) > maxReported+3 || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
		t.Errorf("got %d bytes, want at most %d and a mark", len(got), maxReported)
	}
	if got := bounded("short"); got != "short" {
		t.Errorf("got %q", got)
	}
}

func TestTheBoxBoundsWhatAReleaseAsksFor(t *testing.T) {
	kinds, usual := adapters(EngineConfig{LlamaServer: "/opt/llama-server", Command: CommandConfig{Path: "/opt/serve"}}, "/bothy")
	if len(kinds) != 3 || usual != engineLlama {
		t.Fatalf("got %d kinds, usually %q, want all three and llama-server", len(kinds), usual)
	}
	e := &engines{kinds: kinds, usual: usual, threads: 2}
	for _, c := range []struct {
		engine  release.EngineSpec
		kind    string
		threads int
	}{
		{release.EngineSpec{}, engineLlama, 2},
		{release.EngineSpec{Threads: 1, Kind: engineEmbedded}, engineEmbedded, 1},
		{release.EngineSpec{Threads: 64}, engineLlama, 2},
	} {
		spec, err := e.spec("a", release.Document{Name: "m", Version: 1, Engine: c.engine}, nil)
		if err != nil || spec.Engine != c.kind || spec.Threads != c.threads {
			t.Errorf("%+v: got %q with %d threads, %v; want %q with %d", c.engine, spec.Engine, spec.Threads, err, c.kind, c.threads)
		}
	}
	_, err := e.spec("a", release.Document{Name: "m", Version: 1, Engine: release.EngineSpec{Kind: "vllm"}}, nil)
	if err == nil || !strings.Contains(err.Error(), `"vllm", which is not installed`) {
		t.Errorf("got %v, want an error that names the engine", err)
	}
}

func TestAReleaseIsHeldAgainstTheBox(t *testing.T) {
	kinds, usual := adapters(EngineConfig{}, "/bothy")
	b := &box{o: Options{Version: "v1.4.0"}, engines: &engines{kinds: kinds, usual: usual}}
	for _, c := range []struct {
		need release.Requirements
		want string
	}{
		{release.Requirements{Agent: "1.4.0", MemoryBytes: 10}, ""},
		{release.Requirements{MemoryBytes: 2000}, "requires 2.0 KiB of memory, this box has 1000 B"},
		{release.Requirements{Agent: "1.10.0"}, "upgrade the package first"},
	} {
		err := b.meets(release.Document{Requires: c.need}, 1000)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.need, err, c.want)
		}
	}
	b.o.Version = "5b92d7a-dirty"
	if err := b.meets(release.Document{Requires: release.Requirements{Agent: "9.9.9"}}, 1000); err != nil {
		t.Errorf("got %v for a developer's build, want none", err)
	}
}

func TestRestoreStartsWhatIsAbsentAndLeavesWhatRuns(t *testing.T) {
	kinds, usual := adapters(EngineConfig{}, parts.Bothy(t))
	s := runtime.New(runtime.Config{Dir: parts.SocketDir(t), Adapters: kinds})
	defer s.Close(t.Context())
	e := &engines{supervisor: s, kinds: kinds, usual: usual, threads: 1}
	model := []string{parts.Model(t, "mote-chat-q8_0.gguf")}
	one, two := release.Document{Name: "mote", Version: 1}, release.Document{Name: "mote", Version: 2}
	generation := func() uint64 {
		t.Helper()
		if err := s.EnsureReady(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
		return s.State("m").Generation
	}
	restore := func(doc *release.Document) {
		t.Helper()
		var by *updater.Served
		if doc != nil {
			by = &updater.Served{Model: updater.Held{Document: *doc, Files: model}}
		}
		if err := e.Restore(t.Context(), "m", by); err != nil {
			t.Fatal(err)
		}
	}
	restore(&one)
	first := generation()
	restore(&one)
	if got := generation(); got != first {
		t.Errorf("got generation %d after restoring what runs, want %d still", got, first)
	}
	restore(&two)
	if got := s.State("m"); got.Release != "mote@2" || got.Generation == first {
		t.Errorf("got %s in generation %d, want mote@2 in a new one", got.Release, got.Generation)
	}
	restore(nil)
	if got := s.State("m").Phase; got != runtime.PhaseAbsent {
		t.Errorf("got phase %s after restoring nothing, want absent", got)
	}
}

func TestRestoreRecallsWhatStillAnswers(t *testing.T) {
	kinds, _ := adapters(EngineConfig{}, parts.Bothy(t))
	s := runtime.New(runtime.Config{Dir: parts.SocketDir(t), Adapters: kinds})
	defer s.Close(t.Context())
	e := &engines{supervisor: s, kinds: kinds, usual: engineEmbedded, threads: 1}
	model := []string{parts.Model(t, "mote-chat-q8_0.gguf")}
	restore := func(version uint64) {
		t.Helper()
		by := updater.Served{Model: updater.Held{Document: release.Document{Name: "mote", Version: version}, Files: model}}
		if err := e.Restore(t.Context(), "m", &by); err != nil {
			t.Fatal(err)
		}
	}
	restore(1)
	lease, err := s.Acquire(t.Context(), "m") // a long answer, which would hold up a third engine for ten minutes
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Done()
	restore(2)
	restore(1)
	if got := s.State("m"); got.Generation != lease.Generation || got.Release != "mote@1" {
		t.Errorf("got %s in generation %d, want mote@1 in generation %d again", got.Release, got.Generation, lease.Generation)
	}
}

func TestReportsAreNumberedAnewOnceTheStoreIsPutBack(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "bothy.db"))
	defer db.Close()
	for _, c := range []struct {
		report store.Report
		epoch  uint64
		want   uint64
	}{
		{store.Report{Fresh: true}, 10, 10},
		{store.Report{Clean: true}, 20, 10},
		{store.Report{Restored: "snapshot-3"}, 30, 30},
		{store.Report{}, 40, 30},
	} {
		if got := origin(db, c.report, c.epoch); got != c.want {
			t.Errorf("%+v at epoch %d: got origin %d, want %d", c.report, c.epoch, got, c.want)
		}
	}
}

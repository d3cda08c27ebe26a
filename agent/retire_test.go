package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/fleet/depot"
	"github.com/bothy-edge/bothy/updater/fleet/fleettest"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// furnished is a state folder as an enrolled box that serves has it.
func furnished(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{
		"bothy.db", "bothy.db.clean", "bothy.db.snapshots/1", "artifacts/aa", "engines/1/socket", "releases/mote@1/model.gguf",
		"identity/identity.json", "identity/device.pem", "audit/00000001.jsonl", "marks.0", "marks.1",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "releases/mote@1"), 0o500); err != nil { // nobody shall write there
		t.Fatal(err)
	}
	return dir
}

// left lists the files of a folder.
func left(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path) // it is inside
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// goodbye is a farewell that checks what is left while it is said.
func goodbye(t *testing.T, told *int) func(context.Context, retirement) error {
	return func(_ context.Context, r retirement) error {
		*told++
		want := "audit/00000001.jsonl identity/device.pem identity/identity.json marks.0 marks.1 retired.json"
		if got := left(t, r.dir); got != want {
			t.Errorf("while the fleet is told there is %q, want %q", got, want)
		}
		return nil
	}
}

func TestRetirementRemovesAllButAuditAndMarks(t *testing.T) {
	for audit, want := range map[bool]string{false: "audit/00000001.jsonl marks.0 marks.1", true: "marks.0 marks.1"} {
		r := retirement{Schema: 1, Order: 7, Stage: stageContent, Audit: audit, At: time.Now(), dir: furnished(t)}
		if err := r.save(); err != nil {
			t.Fatal(err)
		}
		read, found, err := loadRetirement(r.dir)
		if err != nil || !found || read.Order != 7 {
			t.Fatalf("got %+v, %v, %v, want what was saved", read, found, err)
		}
		told := 0
		if err := read.finish(t.Context(), goodbye(t, &told), slog.New(slog.DiscardHandler)); !errors.Is(err, errRetired) {
			t.Fatalf("got %v, want %v", err, errRetired)
		}
		if got := left(t, r.dir); got != want || told != 1 {
			t.Errorf("audit %v: %q is left and the fleet was told %d times, want %q and once", audit, got, told, want)
		}
		if _, found, err := loadRetirement(r.dir); found || err != nil {
			t.Errorf("afterwards: got %v, %v, want a box that is not being retired", found, err)
		}
	}
}

func TestRetirementGoesOnAfterACrashAnywhere(t *testing.T) {
	var points []string
	crash := errors.New("crash")
	for at := 0; ; at++ {
		dir := furnished(t)
		r := retirement{Schema: 1, Order: 7, Stage: stageContent, At: time.Now(), dir: dir}
		if err := r.save(); err != nil {
			t.Fatal(err)
		}
		n, told := 0, 0
		r.fault = func(point string) error {
			if n++; n == at+1 {
				points = append(points, point)
				return crash
			}
			return nil
		}
		err := r.finish(t.Context(), goodbye(t, &told), slog.New(slog.DiscardHandler))
		if at == n {
			break // there was no such point: the matrix is complete
		}
		if !errors.Is(err, crash) {
			t.Fatalf("point %d: got %v, want the crash", at, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "identity", "device.pem")); err != nil && told == 0 {
			t.Errorf("after %s the key is gone and nobody was told", points[at])
		}
		again, found, err := loadRetirement(dir)
		if err != nil || !found {
			t.Fatalf("after %s: got %v, %v, want the retirement to go on", points[at], found, err)
		}
		if err := again.finish(t.Context(), goodbye(t, &told), slog.New(slog.DiscardHandler)); !errors.Is(err, errRetired) || told == 0 {
			t.Errorf("after %s: got %v, told %d times, want it finished", points[at], err, told)
		}
		if got := left(t, dir); got != "audit/00000001.jsonl marks.0 marks.1" {
			t.Errorf("after %s: %q is left", points[at], got)
		}
	}
	if len(points) < 8 {
		t.Errorf("crashed at %q, want every removal and every stage", points)
	}
}

func TestRetirementThatIsStoppedWaitsForTheNextStart(t *testing.T) {
	r := retirement{Schema: 1, Order: 7, Stage: stageFarewell, At: time.Now(), dir: furnished(t)}
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := r.finish(ctx, func(context.Context, retirement) error { cancel(); return nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if again, found, err := loadRetirement(r.dir); err != nil || !found || again.Stage != stageFarewell {
		t.Errorf("got %+v, %v, %v, want the farewell still to come", again, found, err)
	}
	for _, bad := range []string{"", "{", `{"schema":2}`} {
		if err := os.WriteFile(filepath.Join(r.dir, retiredFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, found, err := loadRetirement(r.dir); err == nil || !found {
			t.Errorf("%q: got %v, %v, want an error: a box that should be empty must not serve", bad, found, err)
		}
	}
	odd := retirement{Schema: 1, Stage: "odd", dir: r.dir}
	if err := odd.finish(t.Context(), nil, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "internal error") {
		t.Errorf("an unknown stage: got %v, want an internal error", err)
	}
}

func TestBoxThatCannotReachItsFleetIsWipedInTheEnd(t *testing.T) {
	f := fleettest.Make(t, "tcp://127.0.0.1:1")
	o := Options{Config: Config{State: t.TempDir()}, Log: slog.New(slog.DiscardHandler)}
	fleettest.Enrol(t, f, filepath.Join(o.Config.State, IdentityFolder), "box")
	began := time.Now()
	if err := o.farewell(t.Context(), retirement{At: began.Add(-farewellLimit)}); err != nil {
		t.Errorf("a broker that was away for all the time: got %v, want to go on", err)
	}
	for _, spoil := range []func(string) error{func(dir string) error { return os.Truncate(filepath.Join(dir, "identity.json"), 3) }, os.RemoveAll} {
		if err := spoil(filepath.Join(o.Config.State, IdentityFolder)); err != nil {
			t.Fatal(err)
		}
		if err := o.farewell(t.Context(), retirement{At: began}); err != nil {
			t.Errorf("an identity that is damaged or gone: got %v, want to go on", err)
		}
	}
}

// The broker acknowledges what nobody hears, and there is no second word after the key is gone.
func TestRetiredBoxTellsItsFleetWhenADepotIsThere(t *testing.T) {
	broker := parts.Mosquitto(t)
	f := fleettest.Make(t, broker.URL)
	o := Options{Config: Config{State: t.TempDir()}, Log: slog.New(slog.DiscardHandler)}
	id := fleettest.Enrol(t, f, filepath.Join(o.Config.State, IdentityFolder), "box")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	topics, heard := wire.Topics{Tenant: id.Tenant, Device: id.Device}, make(chan mqtt.Message, 64)
	ear, err := mqtt.New(mqtt.Config{Broker: broker.URL, ClientID: "ear", Subscriptions: []mqtt.Subscription{
		{Filter: topics.Event(), QoS: 1, Handle: mqtt.Into(heard)}, {Filter: topics.Requests(id.Depot), Handle: mqtt.Into(heard)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	group.Go(func() { _ = ear.Run(ctx) })
	if err := ear.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// What a depot that is gone has left at the broker.
	info, err := json.Marshal(mqtt.Info{V: 1, FrameMax: 16 << 10, WindowMax: 1 << 20, Epoch: 1, Cast: []mqtt.Cast{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ear.Publish(ctx, topics.Info(id.Depot), 1, true, info); err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 1)
	group.Go(func() { said <- o.farewell(ctx, retirement{At: time.Now(), Order: 7}) })
	// It asks twice whether somebody is there before it says anything.
	for asked := 0; asked < 2; {
		select {
		case m := <-heard:
			if m.Topic == topics.Event() {
				t.Fatal("it told the broker while no depot was there")
			}
			asked++
		case <-ctx.Done():
			t.Fatalf("it asked %d times", asked)
		}
	}
	told := make(chan depot.Report, 64)
	group.Go(func() {
		_ = depot.Serve(ctx, depot.Config{Fleet: f, Tenant: id.Tenant, Depot: id.Depot, Session: mqtt.Config{Broker: broker.URL}, FrameMax: 16 << 10,
			Reports: func(r depot.Report) { told <- r }})
	})
	for {
		select {
		case r := <-told:
			if r.Kind == "event" && strings.Contains(string(r.Payload), "payload") {
				if err := <-said; err != nil {
					t.Error(err)
				}
				return
			}
		case <-ctx.Done():
			t.Fatal("the depot heard nothing")
		}
	}
}

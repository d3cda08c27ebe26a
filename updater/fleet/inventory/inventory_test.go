package inventory

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func newFleet(t *testing.T) *fleet.Fleet {
	t.Helper()
	f, err := fleet.Init(fleet.Options{Dir: t.TempDir(), Tenant: "plant", Broker: "tcp://127.0.0.1:1883", Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// reporter is a device that can sign, and what it said last.
type reporter struct {
	t     *testing.T
	v     *Keeper
	key   ed25519.PrivateKey
	state report.State
}

func keyOf(name string) ed25519.PrivateKey {
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

// approve gives a device a record, as an approved enrolment does.
func approve(t *testing.T, f *fleet.Fleet, device string) ed25519.PrivateKey {
	t.Helper()
	key := keyOf(device)
	record(t, f, fleet.DeviceRecord{Schema: 1, Device: device, PublicKey: key.Public().(ed25519.PublicKey), State: fleet.DeviceApproved})
	return key
}

func record(t *testing.T, f *fleet.Fleet, r fleet.DeviceRecord) {
	t.Helper()
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.Dir(), "devices", r.Device+".json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

func openInventory(t *testing.T, f *fleet.Fleet) *Keeper {
	t.Helper()
	v, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.release() })
	return v
}

func newReporter(t *testing.T, f *fleet.Fleet, v *Keeper, device string) *reporter {
	return &reporter{t: t, v: v, key: approve(t, f, device), state: report.State{
		Device: device, Epoch: 100, Heartbeat: 600, Health: "ok", Time: noon(), Audit: report.Head{Seq: 5, Hash: "aa"}, Counter: 3,
	}}
}

func seal(t *testing.T, key ed25519.PrivateKey, kind string, body any) []byte {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := release.SignEnvelope(key, kind, raw)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// says reports the next state, after change.
func (r *reporter) says(at time.Time, change func(*report.State)) error {
	r.t.Helper()
	r.state.Seq++
	r.state.Time = at
	r.state.Schema = report.Schema
	if change != nil {
		change(&r.state)
	}
	return r.v.Take(r.state.Device, "state", seal(r.t, r.key, release.StateType, r.state), false, at)
}

func (r *reporter) event(origin, seq uint64) error {
	r.t.Helper()
	e := mqtt.Event{V: 1, Device: r.state.Device, Origin: origin, Seq: seq, Time: noon(), Kind: "change", Body: json.RawMessage(`{"change":1}`)}
	return r.v.Take(r.state.Device, "event", seal(r.t, r.key, release.EventType, e), false, noon())
}

func (r *reporter) online(on bool, epoch uint64, at time.Time) {
	r.t.Helper()
	raw, err := json.Marshal(mqtt.Presence{V: 1, Online: on, Epoch: epoch})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.v.Take(r.state.Device, "online", raw, false, at); err != nil {
		r.t.Fatal(err)
	}
}

// viewed is one device on the board after a flush, at a time.
func viewed(t *testing.T, f *fleet.Fleet, v *Keeper, device string, at time.Time) View {
	t.Helper()
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	f.Now = func() time.Time { return at }
	all, err := OpenBoard(f).Devices()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(d View) bool { return d.Device == device })
	if i < 0 {
		t.Fatalf("%q is not on the board: %+v", device, all)
	}
	return all[i]
}

func ids(v View) string {
	var all []string
	for _, f := range v.Findings {
		all = append(all, f.ID)
	}
	return strings.Join(all, " ")
}

func TestFleetBelievesOnlyWhatTheRegisteredKeySigned(t *testing.T) {
	f := newFleet(t)
	v := openInventory(t, f)
	r := newReporter(t, f, v, "press-7")
	r.online(true, 100, noon())
	if err := r.says(noon(), nil); err != nil {
		t.Fatal(err)
	}
	if got := viewed(t, f, v, "press-7", noon()); !got.Verified || got.Health != "ok" || !got.Online || got.State.Counter != 3 {
		t.Errorf("got %+v, want it verified, well and online", got)
	}
	thief := *r
	thief.key = keyOf("thief")
	if err := thief.says(noon(), func(s *report.State) { s.Counter = 99 }); err == nil {
		t.Error("a state that another key signed is believed")
	}
	got := viewed(t, f, v, "press-7", noon())
	if got.State.Counter != 3 || ids(got) != "report-refused" || got.Health != report.Critical {
		t.Errorf("got %+v, want what the device said, and a critical finding", got)
	}
	if err := r.v.Take("press-7", "state", seal(t, r.key, release.EventType, r.state), false, noon()); err == nil {
		t.Error("an event is believed as a state")
	}
	other := newReporter(t, f, v, "press-8")
	if err := v.Take("press-8", "state", seal(t, other.key, release.StateType, r.state), false, noon()); err == nil {
		t.Error("a state of another device is believed")
	}
	// A device that nobody registered is shown, and as such.
	stranger := &reporter{t: t, v: v, key: keyOf("x"), state: report.State{Device: "stranger", Epoch: 1}}
	if err := stranger.says(noon(), nil); err != nil {
		t.Fatal(err)
	}
	stranger.online(true, 1, noon())
	if got := viewed(t, f, v, "stranger", noon()); got.Verified || ids(got) != "unverified" {
		t.Errorf("got %+v, want it not verified", got)
	}
	// What it said before it was registered binds nobody.
	stranger.key = approve(t, f, "stranger")
	stranger.state.Epoch, stranger.state.Audit = 1, report.Head{}
	if err := stranger.says(noon(), nil); err != nil {
		t.Fatal(err)
	}
	if got := viewed(t, f, v, "stranger", noon()); !got.Verified || ids(got) != "" {
		t.Errorf("got %+v, want it verified", got)
	}
}

func TestOldStatesAreReplaysAndEventsComeOnce(t *testing.T) {
	f := newFleet(t)
	v := openInventory(t, f)
	r := newReporter(t, f, v, "a")
	if err := r.says(noon(), nil); err != nil {
		t.Fatal(err)
	}
	old := seal(t, r.key, release.StateType, r.state)
	if err := r.says(noon().Add(time.Minute), func(s *report.State) { s.Running = 8 }); err != nil {
		t.Fatal(err)
	}
	if err := v.Take("a", "state", old, true, noon().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := viewed(t, f, v, "a", noon().Add(time.Hour)); got.State.Running != 8 || !got.Seen.Equal(noon().Add(time.Minute)) {
		t.Errorf("after a replay: got %+v, want the newer state with its time", got)
	}
	for _, e := range []struct{ origin, seq uint64 }{{1, 4}, {1, 4}, {1, 5}, {1, 3}, {1, 9}, {1, 9}, {2, 1}, {1, 10}, {2, 2}} {
		if err := r.event(e.origin, e.seq); err != nil {
			t.Fatal(err)
		}
	}
	got := viewed(t, f, v, "a", noon())
	if ids(got) != "events-lost" || !strings.HasPrefix(got.Findings[0].What, "3 ") {
		t.Errorf("got %+v, want three lost events (6 to 8)", got.Findings)
	}
	events, err := Events(f, "a", 10)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, e := range events {
		seen = append(seen, fmt.Sprintf("%d.%d", e.Origin, e.Seq))
	}
	if want := "1.4 1.5 1.9 2.1 2.2"; strings.Join(seen, " ") != want {
		t.Errorf("events kept are %q, want %q", seen, want)
	}
	if two, err := Events(f, "a", 2); err != nil || len(two) != 2 || two[1].Seq != 2 {
		t.Errorf("got %+v, %v, want the newest two", two, err)
	}
}

func TestWhatMustNotGoBackIsAnAlarmUntilItIsAcknowledged(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*report.State)
	}{
		{"longer audit log", "", func(s *report.State) { s.Audit = report.Head{Seq: 6, Hash: "bb"} }},
		{"the same audit log", "", func(*report.State) {}},
		{"shorter audit log", "audit-rewound", func(s *report.State) { s.Audit = report.Head{Seq: 4, Hash: "cc"} }},
		{"rewritten audit log", "audit-rewound", func(s *report.State) { s.Audit.Hash = "dd" }},
		{"a want again, running the one before", "", func(s *report.State) { s.Running-- }},
		{"older counter", "counter-rolled-back", func(s *report.State) { s.Counter-- }},
	} {
		f := newFleet(t)
		v := openInventory(t, f)
		r := newReporter(t, f, v, "a")
		r.state.Running = 3
		at := noon().Add(time.Minute)
		if err := errors.Join(r.says(noon(), nil), r.says(at, c.change), r.says(at, nil)); err != nil {
			t.Fatal(err)
		}
		got := viewed(t, f, v, "a", at)
		if ids(got) != c.want {
			t.Errorf("%s: got findings %q, want %q", c.name, ids(got), c.want)
		}
		if c.want == "" {
			continue
		}
		if !got.Findings[0].Since.Equal(at) || got.Health != report.Critical {
			t.Errorf("%s: got %+v, want it critical since %s", c.name, got.Findings[0], at)
		}
		// It outlives the depot, and ends when somebody has seen it.
		v.release()
		v = openInventory(t, f)
		if got := viewed(t, f, v, "a", at.Add(time.Second)); ids(got) != c.want {
			t.Errorf("%s: after a restart of the depot: got %q, want %q", c.name, ids(got), c.want)
		}
		if err := Acknowledge(f, "a"); err != nil {
			t.Fatal(err)
		}
		if got := viewed(t, f, v, "a", at.Add(time.Second)); ids(got) != "" {
			t.Errorf("%s: acknowledged: got %q, want nothing", c.name, ids(got))
		}
	}
	if err := Acknowledge(newFleet(t), "nobody"); err == nil {
		t.Error("what was never seen is acknowledged")
	}
}

func TestRetiredDevicesAreNotOnTheBoard(t *testing.T) {
	f := newFleet(t)
	r := fleet.DeviceRecord{Schema: 1, Device: "a", PublicKey: keyOf("a").Public().(ed25519.PublicKey), State: fleet.DeviceRetired}
	for state, want := range map[fleet.DeviceState]int{fleet.DeviceApproved: 1, fleet.DeviceRetired: 0} {
		r.State = state
		record(t, f, r)
		all, err := OpenBoard(f).Devices()
		if err != nil || len(all) != want {
			t.Errorf("%s: the board shows %+v, %v, want %d devices", state, all, err, want)
		}
	}
}

func TestAbsenceAndSilenceAreFindings(t *testing.T) {
	f := newFleet(t)
	v := openInventory(t, f)
	r := newReporter(t, f, v, "a")
	if got := viewed(t, f, v, "a", noon()); ids(got) != "never-seen" {
		t.Errorf("got %q, want never-seen", ids(got))
	}
	r.online(true, 100, noon())
	if err := r.says(noon(), nil); err != nil {
		t.Fatal(err)
	}
	r.online(false, 99, noon().Add(time.Second)) // the will of the start before
	if got := viewed(t, f, v, "a", noon().Add(30*time.Minute)); ids(got) != "" {
		t.Errorf("three heartbeats later: got %q, want nothing", ids(got))
	}
	r.online(false, 1<<60, noon().Add(time.Second)) // nobody signs a presence
	late := noon().Add(30*time.Minute + time.Second)
	got := viewed(t, f, v, "a", late)
	if ids(got) != "silent" || got.Health != report.Critical || !got.Findings[0].Since.Equal(noon().Add(30*time.Minute)) {
		t.Errorf("after three heartbeats: got %+v, want silent since half past", got.Findings)
	}
	gone := noon().Add(time.Minute)
	r.online(false, 100, gone)
	if got := viewed(t, f, v, "a", gone); ids(got) != "offline" || !got.Findings[0].Since.Equal(gone) || got.Health != report.Warning {
		t.Errorf("got %+v, want offline since %s", got.Findings, gone)
	}
	if err := r.says(late, nil); err != nil {
		t.Fatal(err)
	}
	if got := viewed(t, f, v, "a", late); ids(got) != "" || !got.Online {
		t.Errorf("it spoke again: got %+v, want nothing", got.Findings)
	}
	// What a broker had kept may be as old as it says.
	r.state.Seq++
	r.state.Time = late.Add(time.Minute)
	if err := v.Take("a", "state", seal(t, r.key, release.StateType, r.state), true, late.AddDate(0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if got := viewed(t, f, v, "a", late.AddDate(0, 0, 1)); ids(got) != "silent" {
		t.Errorf("a retained state of yesterday: got %q, want silent", ids(got))
	}
}

func TestInventoryOutlivesAPowerCutAndAFullDisk(t *testing.T) {
	f := newFleet(t)
	v := openInventory(t, f)
	r := newReporter(t, f, v, "a")
	if err := errors.Join(r.says(noon(), nil), v.Flush()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(f); !errors.Is(err, ErrBusy) {
		t.Errorf("a second writer: got %v, want %v", err, ErrBusy)
	}
	path := filepath.Join(folder(f), sightingFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
		v.release()
		if err := os.WriteFile(path, slices.Concat(whole, whole[:cut]), 0o644); err != nil {
			t.Fatal(err)
		}
		v = openInventory(t, f)
		r.v = v
		if err := r.says(noon(), func(s *report.State) { s.Running++ }); err != nil {
			t.Fatal(err)
		}
		if got := viewed(t, f, v, "a", noon()); got.State.Running != r.state.Running {
			t.Errorf("%d bytes of a torn line: got %d, want %d", cut, got.State.Running, r.state.Running)
		}
	}
	// What cannot be written is not lost.
	good := v.file
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	v.file = readOnly
	if err := errors.Join(r.says(noon(), func(s *report.State) { s.Running = 77 }), r.event(1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := v.Flush(); err == nil {
		t.Fatal("a file that cannot be written: got no error")
	}
	v.file = good
	if got := viewed(t, f, v, "a", noon()); got.State.Running != 77 {
		t.Errorf("got %d, want what waited", got.State.Running)
	}
}

func TestInventoryStaysSmallAndReadersFollow(t *testing.T) {
	f := newFleet(t)
	v := openInventory(t, f)
	r := newReporter(t, f, v, "a")
	board := OpenBoard(f)
	f.Now = noon
	path := filepath.Join(folder(f), sightingFile)
	for i := range 3000 {
		if err := r.says(noon(), func(s *report.State) { s.Running = uint64(i) }); err != nil {
			t.Fatal(err)
		}
		if err := v.Flush(); err != nil {
			t.Fatal(err)
		}
		if i%250 != 0 {
			continue
		}
		all, err := board.Devices()
		if err != nil || len(all) != 1 || all[0].State.Running != uint64(i) {
			t.Fatalf("the reader sees %+v, %v, want %d", all, err, i)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 3*compactFloor {
		t.Errorf("after 3,000 reports of one device: %v bytes, %v, want at most %d", info.Size(), err, 3*compactFloor)
	}
}

func TestStrangersTakeBoundedRoom(t *testing.T) {
	f := newFleet(t)
	v := openInventory(t, f)
	refused := 0
	for i := range maxStrangers + 50 {
		r := &reporter{t: t, v: v, key: keyOf("x"), state: report.State{Device: fmt.Sprintf("s-%d", i)}}
		if err := r.says(noon(), nil); err != nil {
			refused++
		}
	}
	if refused != 50 || len(v.sightings) != maxStrangers {
		t.Errorf("%d were refused and %d are kept, want 50 and %d", refused, len(v.sightings), maxStrangers)
	}
	r := newReporter(t, f, v, "known")
	if err := r.says(noon(), nil); err != nil {
		t.Errorf("a device with a record: got %v, want it kept", err)
	}
	if err := v.Take("../evil", "state", nil, false, noon()); err == nil {
		t.Error("a name that is no device's is taken")
	}
}

// TestAFleetThatComesBackAtOnceCostsOneWrite measures 2,000 devices whose states arrive together.
func TestAFleetThatComesBackAtOnceCostsOneWrite(t *testing.T) {
	const devices = 2000
	f := newFleet(t)
	v := openInventory(t, f)
	var before, after runtime.MemStats
	states := make([][]byte, devices)
	for i := range states {
		r := newReporter(t, f, v, fmt.Sprintf("box-%04d", i))
		r.state.Seq, r.state.Schema, r.state.Models = 1, 1, map[string]report.Model{}
		for m := range 4 {
			r.state.Models[fmt.Sprintf("model-%d", m)] = report.Model{Release: "assistant@12", Engine: "llama-server", Generation: 7, Phase: "ready"}
		}
		states[i] = seal(t, r.key, release.StateType, r.state)
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	for i, raw := range states {
		if err := v.Take(fmt.Sprintf("box-%04d", i), "state", raw, true, noon()); err != nil {
			t.Fatal(err)
		}
	}
	taken := time.Since(began)
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	written := time.Since(began) - taken
	runtime.GC()
	runtime.ReadMemStats(&after)
	f.Now = noon
	board := OpenBoard(f)
	began = time.Now()
	all, err := board.Devices()
	if err != nil || len(all) != devices {
		t.Fatalf("got %d devices, %v, want %d", len(all), err, devices)
	}
	first := time.Since(began)
	again, err := board.Devices()
	if diff := cmp.Diff(all[0], again[0]); err != nil || diff != "" {
		t.Errorf("the same again differs: %v\n%s", err, diff)
	}
	held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if held > 64<<20 {
		t.Errorf("%d devices hold %d bytes, want at most 64 MiB", devices, held)
	}
	t.Logf("%d states: verified in %s, written with one fsync in %s, %d KiB of heap; board read in %s, again in %s",
		devices, taken, written, held>>10, first, time.Since(began)-first)
	runtime.KeepAlive(states)
}

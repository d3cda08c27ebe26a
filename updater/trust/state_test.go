package trust

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// remove closes the device, deletes files of its disk, and opens it again.
func (d *device) remove(patterns ...string) {
	d.t.Helper()
	if err := d.db.Close(); err != nil {
		d.t.Fatal(err)
	}
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(d.dir, pattern))
		if err != nil || len(found) == 0 {
			d.t.Fatalf("nothing matches %s (%v)", pattern, err)
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	d.open()
}

func TestRefreshGivesTheAssignedSet(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	if w, ok := d.Current(); ok {
		t.Errorf("got %v before the first refresh", w)
	}
	want := d.refresh()
	if got := want.String(); got != "chat=mote@2 policy=plant@1" || want.Counter != 3 || want.Device != box {
		t.Errorf("got %s with counter %d for %s", got, want.Counter, want.Device)
	}
	if now, ok := d.Current(); !ok || now.Digest() != want.Digest() {
		t.Errorf("got current %v, %v", now, ok)
	}
	d.reopen()
	if now, ok := d.Current(); !ok || now.Digest() != want.Digest() {
		t.Errorf("got current %v, %v after a restart", now, ok)
	}
	if v := d.Versions(); v.Catalog.Snapshot != 1 || v.Director.Targets != 1 || v.Director.Root != 1 || v.Stale {
		t.Errorf("got %+v", v)
	}
}

func TestUnchangedFleetCostsTwoTimestamps(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	s.asked = nil
	sequence := d.keeper.now.Sequence
	d.refresh()
	want := "director/2.root.json director/timestamp.json catalog/2.root.json catalog/timestamp.json"
	if got := strings.Join(s.asked, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if d.keeper.now.Sequence != sequence {
		t.Error("an unchanged fleet wrote the slot files")
	}
}

// TestLostDatabaseCannotBeRolledBack replays, to a device that lost its
// database, everything that an earlier state of the fleet served.
func TestLostDatabaseCannotBeRolledBack(t *testing.T) {
	s := newSim(t)
	old := s.freeze()
	d := newDevice(t, s)
	d.refreshAndInstall()
	next(s, 4)
	if err := d.MarkInstalled(d.refreshAndInstall().Documents()...); err != nil {
		t.Fatal(err)
	}
	current := s.served
	d.remove("bothy.db*")
	d.runs = nil // what ran was known to the database only
	if _, ok := d.Current(); ok {
		t.Error("got a current set from a lost database")
	}
	if mark := d.keeper.now.Installed["models/mote"]; mark != 5 {
		t.Errorf("got mark %d for mote, want 5", mark)
	}
	s.served = old
	d.refused(Rollback)
	// Also piece by piece: new timestamps, then what is behind them old.
	for _, repo := range []Repo{Director, Catalog} {
		s.served = s.freeze()
		s.served[string(repo)+"/timestamp.json"] = current[string(repo)+"/timestamp.json"]
		if _, err := d.Refresh(t.Context(), s); err == nil {
			t.Errorf("accepted old metadata behind the new %s timestamp", repo)
		}
	}
	s.served = current
	if want := d.refresh(); want.Counter != 4 {
		t.Errorf("got counter %d, want 4", want.Counter)
	}
}

func TestOlderReleaseIsRefusedAfterTheDatabaseWasLost(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	want := d.refresh()
	if err := d.MarkInstalled(want.Documents()...); err != nil {
		t.Fatal(err)
	}
	d.remove("bothy.db*")
	s.assign(box, 4, map[string]string{"chat": "models/mote/1.json"}, "")
	s.publish()
	r := d.refused(Rollback)
	if r.Subject != "models/mote/1.json" || r.Offer == "" {
		t.Errorf("got subject %q and offer %q", r.Subject, r.Offer)
	}
	if again := d.refused(Rollback); again.Offer != r.Offer {
		t.Errorf("got offer %s, then %s for the same", r.Offer, again.Offer)
	}
	if older := s.docs["models/mote/1.json"]; !d.BelowMark(older) || d.BelowMark(s.docs["models/mote/2.json"]) {
		t.Error("BelowMark does not tell mote@1 from mote@2")
	}
}

func TestReleaseThatWasOfferedButNeverRanMayBeWithdrawn(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refreshAndInstall()
	next(s, 4)
	d.refresh() // mote@5, not installed
	s.assign(box, 5, map[string]string{"chat": "models/mote/2.json"}, "")
	s.publish()
	if want := d.refresh(); want.Models["chat"].Version != 2 {
		t.Errorf("got %v, want mote@2 again", want)
	}
}

func TestLostSlotFilesAreMadeAgainFromTheDatabase(t *testing.T) {
	s := newSim(t)
	old := s.freeze()
	d := newDevice(t, s)
	d.refreshAndInstall()
	next(s, 4)
	if err := d.MarkInstalled(d.refreshAndInstall().Documents()...); err != nil {
		t.Fatal(err)
	}
	d.runs = nil
	d.remove("slots")
	if !d.BelowMark(s.docs["models/mote/2.json"]) {
		t.Error("the mark of mote@5 went with the slot files")
	}
	current := s.served
	s.served = old
	d.refused(Rollback)
	s.served = current
	next(s, 6)
	d.refresh()
	d.remove("bothy.db*") // the slots alone must be enough again
	s.served = old
	d.refused(Rollback)
}

func TestDatabasePutBackToYesterdayIsStale(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refreshAndInstall()
	if err := d.db.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.dir, "bothy.db")
	yesterday, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d.open()
	next(s, 4)
	d.refreshAndInstall()
	if err := d.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, yesterday, 0o600); err != nil {
		t.Fatal(err)
	}
	d.open()
	if want, ok := d.Current(); ok || !d.Versions().Stale {
		t.Errorf("got %v, stale %v; want nothing current from yesterday's database", want, d.Versions().Stale)
	}
	if _, err := d.Refresh(t.Context(), sourceFunc(func(context.Context, Repo, string, int64) ([]byte, error) { return nil, errors.New("no answer") })); err == nil || !d.Versions().Stale {
		t.Errorf("got %v, stale %v; want a set that stays stale until a refresh succeeds", err, d.Versions().Stale)
	}
	if want := d.refresh(); want.Counter != 4 || d.Versions().Stale {
		t.Errorf("got counter %d, stale %v; want 4", want.Counter, d.Versions().Stale)
	}
}

func TestRefusedOfferDoesNotMakeTheSetStale(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	before := d.refreshAndInstall()
	s.assign(box, 4, map[string]string{"chat": "models/mote/1.json"}, "")
	s.publish()
	d.refused(Rollback)
	d.now = d.now.AddDate(0, 1, 0) // all is expired too
	d.reopen()
	if now, ok := d.Current(); !ok || now.Counter != before.Counter {
		t.Errorf("got %v, %v; want the set before the refused one", now, ok)
	}
}

// TestRefreshGoesOnAfterEveryInterruption cuts the source off before each
// answer in turn; the device restarts and finishes with an honest source.
func TestRefreshGoesOnAfterEveryInterruption(t *testing.T) {
	cut := errors.New("connection cut")
	for n := 0; ; n++ {
		s := newSim(t)
		d := newDevice(t, s)
		d.refreshAndInstall()
		s.rotate(s.director, func() { s.director.setKeys(t, metadata.TIMESTAMP, simKeys("new-timestamp", 1), 1) })
		next(s, 4)
		left := n
		_, err := d.Refresh(t.Context(), sourceFunc(func(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error) {
			if left--; left < 0 {
				return nil, cut
			}
			return s.Metadata(ctx, repo, name, limit)
		}))
		if err == nil {
			if n < 10 {
				t.Errorf("a refresh took %d answers, want at least 10", n)
			}
			return
		}
		if !errors.Is(err, cut) || CodeOf(err) != "" {
			t.Fatalf("cut before answer %d: got %v, want a plain error", n, err)
		}
		d.reopen()
		if want := d.refresh(); want.Counter != 4 {
			t.Errorf("cut before answer %d: got counter %d, want 4", n, want.Counter)
		}
	}
}

type sourceFunc func(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error)

func (f sourceFunc) Metadata(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error) {
	return f(ctx, repo, name, limit)
}

func TestDamagedStoredMetadataIsFetchedAgain(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	s.rotate(s.director, func() {})
	s.publish()
	d.refresh()
	for _, key := range []string{"director/timestamp", "director/snapshot", "catalog/models", rootKey(Director, 2)} {
		if err := d.vault.putMetadata(key, []byte(`{"signed":{}}`)); err != nil {
			t.Fatal(err)
		}
	}
	d.reopen()
	if want := d.refresh(); want.Counter != 3 {
		t.Errorf("got counter %d, want 3", want.Counter)
	}
}

func TestOtherEnrolmentStartsAfresh(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	other := newSim(t)
	other.catalog.setKeys(t, metadata.TIMESTAMP, simKeys("other fleet", 1), 1)
	other.served["catalog/1.root.json"] = signed(t, other.catalog.root, other.catalog.keys[metadata.ROOT])
	other.assign(box, 1, map[string]string{"chat": "models/mote/1.json"}, "")
	other.publish()
	d.sim = other
	d.reopen()
	if want, ok := d.Current(); ok {
		t.Errorf("got %v from another enrolment", want)
	}
	if want := d.refresh(); want.Counter != 1 {
		t.Errorf("got counter %d, want 1", want.Counter)
	}
}

func TestEmptySetStillNamesTheDevice(t *testing.T) {
	s := newSim(t)
	s.assign(box, 4, nil, "")
	s.publish()
	if want := newDevice(t, s).refresh(); !want.Empty() || want.Device != box || want.Counter != 4 {
		t.Errorf("got %+v", want)
	}
}

func TestNothingForTheDeviceIsNotARefusal(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	delete(s.served, "director/timestamp.json")
	_, err := d.Refresh(t.Context(), s)
	if !errors.Is(err, ErrNotFound) || CodeOf(err) != "" {
		t.Errorf("got %v, want a plain not found", err)
	}
}

func TestCancelledRefreshIsNotARefusal(t *testing.T) {
	s := newSim(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newDevice(t, s).Refresh(ctx, s)
	if !errors.Is(err, context.Canceled) || CodeOf(err) != "" {
		t.Errorf("got %v, want canceled", err)
	}
}

func TestReadersDoNotWaitForARefresh(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refresh()
	next(s, 4)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var done sync.WaitGroup
	done.Go(func() {
		_, err := d.Refresh(t.Context(), sourceFunc(func(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error) {
			once.Do(func() { close(entered); <-leave })
			return s.Metadata(ctx, repo, name, limit)
		}))
		if err != nil {
			t.Error(err)
		}
	})
	<-entered
	if want, ok := d.Current(); !ok || want.Counter != 3 {
		t.Errorf("got %v, %v during a refresh", want, ok)
	}
	_ = d.Versions()
	if err := d.MarkInstalled(s.docs["models/mote/2.json"]); err != nil || d.BelowMark(s.docs["models/mote/2.json"]) {
		t.Errorf("marking during a refresh: %v", err)
	}
	close(leave)
	done.Wait()
	if want, _ := d.Current(); want.Counter != 4 {
		t.Errorf("got counter %d after the refresh, want 4", want.Counter)
	}
}

func TestSnapshotThatGoesBackInOneRoleIsRolledBack(t *testing.T) {
	s := newSim(t)
	s.publish()
	d := newDevice(t, s)
	d.refresh()
	meta := map[string]*metadata.MetaFiles{}
	for role, version := range map[string]int64{"targets": 2, "models": 2, "security": 1} {
		meta[role+".json"] = describe(version, s.served[fmt.Sprintf("catalog/%d.%s.json", version, role)])
	}
	s.catalog.snapshot++
	s.writeSnapshot(s.catalog, meta)
	d.refused(Rollback)
	d.remove("bothy.db*")
	d.refused(Rollback)
}

// TestOtherDevicesMetadataUsesUpNoVersions: one director signs for all, so a
// broker can replay the metadata of a device that has had more assignments.
func TestOtherDevicesMetadataUsesUpNoVersions(t *testing.T) {
	s := newSim(t)
	d := newDevice(t, s)
	d.refreshAndInstall()
	mine := *s.director
	s.director.timestamp, s.director.snapshot, s.director.versions = 70, 70, map[string]int64{metadata.TARGETS: 70}
	s.assign("box-2", 70, map[string]string{"chat": "models/mote/2.json"}, "")
	s.publishRepo(s.director)
	d.refused(WrongDevice)
	s.director.timestamp, s.director.snapshot = mine.timestamp, mine.snapshot
	s.director.versions = map[string]int64{metadata.TARGETS: 1}
	next(s, 4)
	if want := d.refresh(); want.Counter != 4 {
		t.Errorf("got counter %d, want 4", want.Counter)
	}
}

// TestSourceIsToldTheSignedLength: a source over a slow link must be able to
// stop where the signed metadata says that the object ends.
func TestSourceIsToldTheSignedLength(t *testing.T) {
	s := newSim(t)
	limits := map[string]int64{}
	_, err := newDevice(t, s).Refresh(t.Context(), sourceFunc(func(ctx context.Context, repo Repo, name string, limit int64) ([]byte, error) {
		limits[string(repo)+"/"+name] = limit
		return s.Metadata(ctx, repo, name, limit)
	}))
	if err != nil {
		t.Fatal(err)
	}
	for name, limit := range limits {
		raw, served := s.served[name]
		if !served || strings.HasSuffix(name, "timestamp.json") {
			continue
		}
		if limit != int64(len(raw)) {
			t.Errorf("%s: got limit %d, want %d", name, limit, len(raw))
		}
	}
	if len(limits) < 10 {
		t.Errorf("got %d objects, want all of a first refresh", len(limits))
	}
}

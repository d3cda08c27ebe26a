package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func open(t *testing.T, opts Options) (*Log, Report) {
	t.Helper()
	l, report, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, report
}

func depart(t *testing.T, l *Log, request string) {
	t.Helper()
	if err := l.Depart(t.Context(), Record{Request: request, Place: "there"}); err != nil {
		t.Fatal(err)
	}
}

// requests reads the log back and checks the chain.
func requests(t *testing.T, dir string) (ids []string, head Head) {
	t.Helper()
	head, err := Verify(dir, func(r Record) error { ids = append(ids, r.Request); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return ids, head
}

func TestDepartureIsOnTheDiskWhenItReturns(t *testing.T) {
	dir := t.TempDir()
	synced := 0
	l, _ := open(t, Options{Dir: dir, Fault: func(op string) error {
		if op == "sync" {
			synced++ // the writer's goroutine alone
		}
		return nil
	}})
	depart(t, l, "a")
	// Read by another open file, without closing the log.
	ids, head := requests(t, dir)
	if len(ids) != 1 || ids[0] != "a" || head.Seq != 1 || synced != 1 {
		t.Fatalf("got %v, head %d, %d syncs; want [a], 1, 1", ids, head.Seq, synced)
	}
}

func TestChainGoesOnOverReopen(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		l, report := open(t, Options{Dir: dir})
		if report.Head.Seq != uint64(2*i) {
			t.Errorf("open %d: got head %d, want %d", i, report.Head.Seq, 2*i)
		}
		depart(t, l, fmt.Sprint("d", i))
		l.Record(Record{Event: Finished, Request: fmt.Sprint("f", i)})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ids, head := requests(t, dir)
	if got := strings.Join(ids, " "); got != "d0 f0 d1 f1 d2 f2" || head.Seq != 6 {
		t.Errorf("got %q head %d", got, head.Seq)
	}
}

func TestManyDeparturesShareASync(t *testing.T) {
	dir := t.TempDir()
	var syncs atomic.Int32
	hold, entered := make(chan struct{}), make(chan struct{}, 1)
	l, _ := open(t, Options{Dir: dir, Fault: func(op string) error {
		if op == "sync" && syncs.Add(1) == 1 {
			entered <- struct{}{}
			<-hold
		}
		return nil
	}})
	var wait sync.WaitGroup
	wait.Go(func() { depart(t, l, "first") })
	<-entered
	for i := range 50 {
		wait.Go(func() { depart(t, l, fmt.Sprint(i)) })
	}
	for pendingIn(l) < 50 {
		<-time.After(time.Millisecond)
	}
	close(hold)
	wait.Wait()
	if n := syncs.Load(); n != 2 {
		t.Errorf("got %d syncs for 51 departures, want 2", n)
	}
	if ids, _ := requests(t, dir); len(ids) != 51 {
		t.Errorf("got %d records, want 51", len(ids))
	}
}

func pendingIn(l *Log) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}

func TestFullDiskRefusesDeparturesAndLaterGoesOn(t *testing.T) {
	for _, op := range []string{"write", "sync", "create"} {
		t.Run(op, func(t *testing.T) {
			dir := t.TempDir()
			var full atomic.Bool
			l, _ := open(t, Options{Dir: dir, Segment: 1, Fault: func(o string) error {
				if o == op && full.Load() {
					return syscall.ENOSPC
				}
				return nil
			}})
			depart(t, l, "before")
			full.Store(true)
			l.Record(Record{Request: "stays"}) // must not block or fail
			if err := l.Depart(t.Context(), Record{Request: "refused"}); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("got %v, want ENOSPC", err)
			}
			if s := l.Status(); s.Error == "" || s.Lost != 1 || s.Head.Seq != 1 {
				t.Errorf("got %+v, want an error, 1 lost, head 1", s)
			}
			full.Store(false)
			depart(t, l, "after")
			if s := l.Status(); s.Error != "" || s.Lost != 0 {
				t.Errorf("got %+v, want a healthy log", s)
			}
			var lost uint64
			var ids []string
			if _, err := Verify(dir, func(r Record) error { ids, lost = append(ids, r.Request), lost+r.Lost; return nil }); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(ids, " "); got != "before after" || lost != 1 {
				t.Errorf("got %q with %d lost, want \"before after\" with 1", got, lost)
			}
		})
	}
}

func TestTornLineIsCutOff(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, Options{Dir: dir})
	depart(t, l, "a")
	depart(t, l, "b")
	l.Close()
	path := segmentName(dir, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	firstLine := bytes.IndexByte(whole, '\n') + 1
	for cut := 0; cut < len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l, report := open(t, Options{Dir: dir})
		want := uint64(0)
		if cut >= firstLine {
			want = 1
		}
		if report.SetAside != "" || report.Head.Seq != want {
			t.Fatalf("cut at %d: got %+v, want head %d", cut, report, want)
		}
		depart(t, l, "c")
		l.Close()
		if _, head := requests(t, dir); head.Seq != want+1 {
			t.Fatalf("cut at %d: got head %d, want %d", cut, head.Seq, want+1)
		}
	}
}

func TestAnyChangedByteIsFound(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, Options{Dir: dir})
	for _, id := range []string{"a", "b", "c"} {
		depart(t, l, id)
	}
	l.Close()
	path := segmentName(dir, 1)
	whole, _ := os.ReadFile(path)
	_, kept := requests(t, dir)
	for at := 0; at < len(whole); at++ {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1
		os.WriteFile(path, damaged, 0o600)
		// A change in the very last line shows only against the head that was kept.
		if head, err := Verify(dir, nil); err == nil && head == kept {
			t.Fatalf("a changed byte at %d was not found", at)
		}
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	os.WriteFile(path, bytes.Join([][]byte{lines[0], lines[2]}, nil), 0o600)
	if _, err := Verify(dir, nil); err == nil {
		t.Error("a missing line was not found")
	}
	os.WriteFile(path, bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil), 0o600)
	if _, err := Verify(dir, nil); err == nil {
		t.Error("reordered lines were not found")
	}
}

func TestDamagedFileIsSetAsideNotDeleted(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, Options{Dir: dir})
	depart(t, l, "a")
	depart(t, l, "b")
	l.Close()
	path := segmentName(dir, 1)
	whole, _ := os.ReadFile(path)
	damaged := bytes.Replace(whole, []byte(`"a"`), []byte(`"x"`), 1)
	os.WriteFile(path, damaged, 0o600)
	l, report := open(t, Options{Dir: dir})
	if report.SetAside == "" || report.Damage == "" {
		t.Fatalf("got %+v, want a file set aside", report)
	}
	if kept, err := os.ReadFile(report.SetAside); err != nil || !bytes.Equal(kept, damaged) {
		t.Errorf("the damaged file was not kept as it was: %v", err)
	}
	depart(t, l, "c")
	if recent := l.Recent(5); len(recent) != 2 || recent[1].Event != Reset {
		t.Errorf("got %+v, want a reset record before the new one", recent)
	}
}

func TestSegmentsRotateAndTheOldestGo(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, Options{Dir: dir, Segment: 1, Keep: 3})
	for i := range 7 {
		depart(t, l, fmt.Sprint(i))
	}
	l.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 3 {
		t.Fatalf("got files %v, want 3", files)
	}
	ids, head := requests(t, dir)
	if got := strings.Join(ids, ""); got != "456" || head.Seq != 7 {
		t.Errorf("got records %q head %d, want 456 and 7", got, head.Seq)
	}
	l, report := open(t, Options{Dir: dir, Segment: 1, Keep: 3})
	if report.Head != head {
		t.Errorf("got head %+v after reopening, want %+v", report.Head, head)
	}
	depart(t, l, "7")
	os.Remove(segmentName(dir, 7))
	if _, err := Verify(dir, nil); err == nil {
		t.Error("a missing file in the middle was not found")
	}
}

func TestRecordsThatStayAreWrittenSoon(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, Options{Dir: dir})
	l.Record(Record{Event: Finished, Request: "a"})
	end := time.Now().Add(10 * time.Second)
	for l.Status().Head.Seq != 1 {
		if time.Now().After(end) {
			t.Fatal("not written within ten seconds")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestPendingRecordsAreBounded(t *testing.T) {
	hold := make(chan struct{})
	l, _ := open(t, Options{Dir: t.TempDir(), Fault: func(op string) error { <-hold; return nil }})
	for range 2*maxPending + 1 {
		l.Record(Record{})
	}
	if err := l.Depart(t.Context(), Record{}); err == nil {
		t.Error("a departure was accepted by a full log")
	}
	if s := l.Status(); s.Lost == 0 {
		t.Error("dropped records are not counted")
	}
	close(hold)
}

func TestDepartEndsWithItsContext(t *testing.T) {
	hold := make(chan struct{})
	l, _ := open(t, Options{Dir: t.TempDir(), Fault: func(op string) error { <-hold; return nil }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Depart(ctx, Record{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	close(hold)
	l.Close()
	if err := l.Depart(t.Context(), Record{}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestRecentIsNewestFirst(t *testing.T) {
	l, _ := open(t, Options{Dir: t.TempDir(), Now: func() time.Time { return time.Unix(5, 0) }})
	for i := range remembered + 10 {
		l.Record(Record{Request: fmt.Sprint(i)})
	}
	got := l.Recent(3)
	for i, r := range got {
		if want := fmt.Sprint(remembered + 9 - i); r.Request != want || r.Time.Unix() != 5 {
			t.Errorf("got %s at %s, want %s", r.Request, r.Time, want)
		}
	}
	if n := len(l.Recent(10000)); n != remembered {
		t.Errorf("got %d records, want %d", n, remembered)
	}
}

func BenchmarkRecord(b *testing.B) {
	l, _, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		l.Record(Record{Event: Finished, Request: "0123456789", Model: "m", Place: "local", Reason: "preferred"})
	}
}

// Whatever a client or a policy names, the line that records it can be read back.
func TestLongNamesAreCut(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, Options{Dir: dir})
	long := strings.Repeat("\x01", 200<<10)
	if err := l.Depart(t.Context(), Record{Request: "a", Model: long, Release: long, Unit: long, Container: long, Exe: long, Rule: long}); err != nil {
		t.Fatal(err)
	}
	depart(t, l, "b")
	if ids, _ := requests(t, dir); len(ids) != 2 {
		t.Errorf("got %v, want a and b", ids)
	}
}

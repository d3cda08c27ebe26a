package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// examined reads the whole log and gives the requests of what can be read.
func examined(t *testing.T, dir string) (Findings, string) {
	t.Helper()
	var ids []string
	f, err := Examine(dir, func(e Entry) error {
		ids = append(ids, e.Request)
		if e.Hash != hash(e.Line) {
			t.Errorf("record %d: got hash %s of %s", e.Seq, e.Hash, e.Line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, strings.Join(ids, "")
}

// written is a log of the requests, a file each so many bytes.
func written(t *testing.T, segment int64, ids ...string) string {
	t.Helper()
	dir := t.TempDir()
	l, _ := open(t, Options{Dir: dir, Segment: segment})
	for _, id := range ids {
		depart(t, l, id)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestExamineAgreesWithVerifyOnASoundLog(t *testing.T) {
	for _, segment := range []int64{0, 1} {
		dir := written(t, segment, "a", "b", "c")
		f, ids := examined(t, dir)
		_, head := requests(t, dir)
		if ids != "abc" || f.Head != head || f.Records != 3 || f.First != 1 || len(f.Breaks) > 0 || f.Torn {
			t.Errorf("got %q %+v, want abc and head %+v", ids, f, head)
		}
	}
}

func TestExamineFindsAnyChangedByteAndReadsOn(t *testing.T) {
	dir := written(t, 0, "a", "b", "c", "d")
	path := segmentName(dir, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := examined(t, dir)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	last := len(whole) - len(lines[3])
	for at := range whole {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		f, ids := examined(t, dir)
		if len(f.Breaks) == 0 && f.Head == kept.Head && !f.Torn {
			t.Fatalf("a changed byte at %d was not found", at)
		}
		if at < last && len(f.Breaks) == 0 {
			t.Fatalf("a changed byte at %d, in a record before the last, is no break", at)
		}
		if at < last-1 && !strings.HasSuffix(ids, "d") {
			t.Fatalf("after a changed byte at %d only %q is read", at, ids)
		}
	}
}

func TestExamineFindsWhatIsMissingMovedOrAdded(t *testing.T) {
	dir := written(t, 0, "a", "b", "c", "d")
	path := segmentName(dir, 1)
	whole, _ := os.ReadFile(path)
	l := bytes.SplitAfter(whole, []byte("\n"))
	for name, c := range map[string]struct {
		lines [][]byte
		cause string
	}{
		"first removed": {[][]byte{l[1], l[2], l[3]}, "the file named for record 1 begins with record 2"},
		"one removed":   {[][]byte{l[0], l[2], l[3]}, "record 1 is followed by record 3"},
		"two swapped":   {[][]byte{l[0], l[2], l[1], l[3]}, "record 1 is followed by record 3"},
		"one twice":     {[][]byte{l[0], l[1], l[1], l[2], l[3]}, "record 2 is followed by record 2"},
		"a line added":  {[][]byte{l[0], []byte("{}\n"), l[1]}, "record 1 is followed by record 0"},
		"no record":     {[][]byte{l[0], []byte("hello\n"), l[2]}, "record 2 is not readable"},
		"too long":      {[][]byte{l[0], []byte(strings.Repeat("x", 3*maxLine) + "\n"), l[2]}, "record 2 is not readable: its line is longer than 65536 bytes"},
	} {
		if err := os.WriteFile(path, bytes.Join(c.lines, nil), 0o600); err != nil {
			t.Fatal(err)
		}
		f, _ := examined(t, dir)
		if len(f.Breaks) == 0 || !strings.HasPrefix(f.Breaks[0].Cause, c.cause) || f.Breaks[0].File != path {
			t.Errorf("%s: got %+v, want %q", name, f.Breaks, c.cause)
		}
	}
}

func TestExamineFindsAMissingFileButNotRotation(t *testing.T) {
	dir := written(t, 1, "a", "b", "c")
	if err := os.Remove(segmentName(dir, 1)); err != nil {
		t.Fatal(err)
	}
	if f, ids := examined(t, dir); ids != "bc" || f.First != 2 || len(f.Breaks) > 0 {
		t.Errorf("the oldest file gone: got %q %+v, want bc without a break", ids, f)
	}
	if err := os.WriteFile(segmentName(dir, 2), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, ids := examined(t, dir); ids != "c" || len(f.Breaks) != 1 || f.Breaks[0].Cause != "the file is empty" {
		t.Errorf("the oldest file emptied: got %q %+v, want a break", ids, f)
	}
	dir = written(t, 1, "a", "b", "c")
	if err := os.Remove(segmentName(dir, 2)); err != nil {
		t.Fatal(err)
	}
	if f, ids := examined(t, dir); ids != "ac" || len(f.Breaks) != 1 || f.Breaks[0].Cause != "record 1 is followed by record 3" {
		t.Errorf("one in the middle gone: got %q %+v", ids, f)
	}
}

func TestExamineReadsOnAfterAReset(t *testing.T) {
	dir := written(t, 0, "a", "b")
	path := segmentName(dir, 1)
	whole, _ := os.ReadFile(path)
	if err := os.WriteFile(path, bytes.Replace(whole, []byte(`"a"`), []byte(`"x"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	l, report := open(t, Options{Dir: dir})
	depart(t, l, "c")
	l.Close()
	f, ids := examined(t, dir)
	want := fmt.Sprintf("begins the chain anew: %s did not verify and was set aside", filepath.Base(report.SetAside))
	if ids != "c" || len(f.Breaks) != 1 || !strings.HasSuffix(f.Breaks[0].Cause, want) || len(f.SetAside) != 1 || f.SetAside[0] != report.SetAside {
		t.Errorf("got %q %+v, want c after one break", ids, f)
	}
}

func TestExamineOfAnOpenLogSeesHalfALine(t *testing.T) {
	dir := written(t, 1, "a", "b")
	for seq, torn := range map[uint64]bool{1: false, 2: true} {
		path := segmentName(dir, seq)
		whole, _ := os.ReadFile(path)
		if err := os.WriteFile(path, append(bytes.Clone(whole), `{"seq":`...), 0o600); err != nil {
			t.Fatal(err)
		}
		f, ids := examined(t, dir)
		if f.Torn != torn || len(f.Breaks) == 0 != torn || ids != "ab" {
			t.Errorf("half a line in file %d: got %q %+v", seq, ids, f)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExamineCountsWhatTheLogLost(t *testing.T) {
	dir := t.TempDir()
	line, head, err := Head{}.line(Record{Request: "a", Lost: 3})
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := head.line(Record{Request: "b", Lost: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segmentName(dir, 1), append(line, next...), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, _ := examined(t, dir); f.Lost != 5 || len(f.Breaks) > 0 {
		t.Errorf("got %+v, want 5 lost", f)
	}
}

func TestExamineStopsWithItsReader(t *testing.T) {
	dir := written(t, 0, "a", "b")
	enough := errors.New("enough")
	n := 0
	if _, err := Examine(dir, func(Entry) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("got %v after %d records, want the reader's own error after one", err, n)
	}
	if _, err := Examine(filepath.Join(dir, "none"), nil); err == nil {
		t.Error("a folder that is not there is no error")
	}
}

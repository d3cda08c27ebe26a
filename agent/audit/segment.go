package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

const (
	prefix  = "audit-"
	suffix  = ".jsonl"
	maxLine = 64 << 10
)

// segmentName is the file whose first record has the sequence number.
func segmentName(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s%020d%s", prefix, seq, suffix))
}

// segments lists the files of a log, oldest first.
func segments(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if _, ok := firstSeq(e.Name()); ok {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	sort.Strings(out)
	return out, nil
}

// firstSeq reads the sequence number out of a segment's name.
func firstSeq(path string) (uint64, bool) {
	name := filepath.Base(path)
	digits, found := strings.CutSuffix(name, suffix)
	digits, begins := strings.CutPrefix(digits, prefix)
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, found && begins && len(digits) == 20 && err == nil
}

// Verify reads every record in dir in order and gives the chain's end. The error
// names the file and the first record that does not follow from the one before.
// The oldest file's first record is taken as given, because older ones may have
// been rotated away. Each record is passed to each; each may be nil.
func Verify(dir string, each func(Record) error) (Head, error) {
	files, err := segments(dir)
	if err != nil {
		return Head{}, fmt.Errorf("cannot read the audit log: %w", err)
	}
	var head Head
	for i, path := range files {
		next, _, err := readSegment(path, head, i == 0, each)
		if err != nil {
			return next, fmt.Errorf("cannot verify %s: %w", path, err)
		}
		head = next
	}
	return head, nil
}

// errTorn is a last line without its newline: what a crash leaves.
var errTorn = errors.New("the last line is not complete")

// readSegment follows the chain through one file. It gives the head and the size of the part that holds.
func readSegment(path string, head Head, oldest bool, each func(Record) error) (Head, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return head, 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	size := int64(0)
	for first := oldest; ; first = false {
		line, err := r.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return head, size, nil
		}
		if err == io.EOF {
			return head, size, errTorn
		}
		if err != nil {
			return head, size, fmt.Errorf("record %d: %w", head.Seq+1, err)
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		if first {
			if head, err = given(path, line); err != nil {
				return head, size, err
			}
		}
		rec, next, err := head.follow(line)
		if err != nil {
			return head, size, err
		}
		if each != nil {
			if err := each(rec); err != nil {
				return head, size, err
			}
		}
		head, size = next, size+int64(len(line))+1
	}
}

// given is the head before the first record of the oldest file.
func given(path string, line []byte) (Head, error) {
	seq, _ := firstSeq(path)
	if seq == 0 {
		return Head{}, errors.New("the file's name holds no sequence number")
	}
	if seq == 1 {
		return Head{}, nil
	}
	rec, _, err := Head{}.follow(line)
	if rec.Seq != seq || rec.Prev == "" {
		return Head{}, fmt.Errorf("the first record is not %d: %w", seq, err)
	}
	return Head{Seq: seq - 1, Hash: rec.Prev}, nil
}

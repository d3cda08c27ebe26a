package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Entry is one record as it stands in a file.
type Entry struct {
	Record
	Line []byte // without its newline; valid until the callback returns
	Hash string // of the line, which the next record carries
}

// Break is a point where the chain does not hold: something there was changed,
// removed, added or moved, or Open set a damaged file aside.
type Break struct {
	File  string `json:"file"`
	Seq   uint64 `json:"seq"` // of the record that does not follow; what was expected, where it is not readable
	Cause string `json:"cause"`
}

// Findings is what Examine saw of a whole log.
type Findings struct {
	Files   int     `json:"files"`
	Records uint64  `json:"records"`
	First   uint64  `json:"first"` // oldest record kept; older ones were rotated away, or removed
	Head    Head    `json:"head"`
	Lost    uint64  `json:"lost"` // records that the log itself could not write, and says so
	Breaks  []Break `json:"breaks"`
	// Torn says that the newest file ends in half a line: being written, or left by a crash. Open cuts it off.
	Torn bool `json:"torn,omitempty"`
	// SetAside are files that did not verify when the agent started; their records are not in the chain.
	SetAside []string `json:"set_aside,omitempty"`
}

// Examine reads every record of the log in dir, in order, and goes on after what
// does not verify, so that all of the damage is found and what is left can be read.
// It only reads, and may do so while a Log is open. The error is that of each, or
// says that the log cannot be read at all; damage is in Findings.
func Examine(dir string, each func(Entry) error) (Findings, error) {
	x := examiner{each: each, Findings: Findings{Breaks: []Break{}}}
	files, err := segments(dir)
	if err != nil {
		return x.Findings, fmt.Errorf("cannot read the audit log: %w", err)
	}
	for i, path := range files {
		err := x.file(path, i == len(files)-1)
		if errors.Is(err, fs.ErrNotExist) && x.Files == 0 {
			continue // rotated away since the folder was listed
		}
		if err != nil {
			return x.Findings, err
		}
		x.Files++
	}
	x.SetAside, err = filepath.Glob(filepath.Join(dir, prefix+"*"+suffix+".damaged-*"))
	return x.Findings, err
}

// examiner follows the chain and remembers where it broke.
type examiner struct {
	Findings
	each   func(Entry) error
	adrift bool // the record before could not be read: the next is taken as given
}

func (x *examiner) file(path string, newest bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read the audit log: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		switch {
		case err == io.EOF && len(line) == 0:
			if first && !newest {
				x.broken(path, x.Head.Seq+1, errors.New("the file is empty"))
			}
			return nil
		case err == io.EOF && newest:
			x.Torn = true
			return nil
		case err == io.EOF:
			x.broken(path, x.Head.Seq+1, errTorn)
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			x.unreadable(path, first, fmt.Errorf("its line is longer than %d bytes", maxLine))
			if err := skipLine(r); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("cannot read the audit log: %w", err)
		}
		if err := x.line(path, bytes.TrimSuffix(line, []byte("\n")), first); err != nil {
			return err
		}
	}
}

// skipLine reads to the end of a line of any length.
func skipLine(r *bufio.Reader) error {
	for {
		_, err := r.ReadSlice('\n')
		if err == io.EOF {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

func (x *examiner) broken(path string, seq uint64, cause error) {
	x.Breaks = append(x.Breaks, Break{File: path, Seq: seq, Cause: cause.Error()})
}

// unreadable notes a line that is no record and expects the one after it.
func (x *examiner) unreadable(path string, first bool, err error) {
	seq := x.Head.Seq + 1
	if named, ok := firstSeq(path); first && ok {
		seq = named
	}
	x.broken(path, seq, fmt.Errorf("record %d is not readable: %w", seq, err))
	x.Head, x.adrift = Head{Seq: seq}, true
}

// line judges one record and hands it on; one that cannot be read is only counted as damage.
func (x *examiner) line(path string, line []byte, first bool) error {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		x.unreadable(path, first, err)
		return nil
	}
	if cause := x.judge(path, line, r, first); cause != nil {
		x.broken(path, r.Seq, cause)
	}
	if x.Records == 0 {
		x.First = r.Seq
	}
	x.Records++
	x.Lost += r.Lost
	x.Head, x.adrift = Head{Seq: r.Seq, Hash: hash(line)}, false
	if x.each == nil {
		return nil
	}
	return x.each(Entry{Record: r, Line: line, Hash: x.Head.Hash})
}

// judge says why a record is not where it belongs; nil when it is.
func (x *examiner) judge(path string, line []byte, r Record, first bool) error {
	oldest := x.Records == 0 && !x.adrift
	if named, _ := firstSeq(path); first && named != r.Seq {
		return fmt.Errorf("the file named for record %d begins with record %d", named, r.Seq)
	}
	switch {
	case r.Event == Reset:
		return fmt.Errorf("record %d begins the chain anew: %s did not verify and was set aside", r.Seq, r.Code)
	case oldest && r.Seq > 1 && r.Prev == "":
		return fmt.Errorf("record %d begins a chain, and is not the first", r.Seq)
	case oldest && r.Seq > 1:
		return nil // what came before was rotated away
	case x.adrift && r.Seq == x.Head.Seq+1:
		return nil // it cannot be compared; the record before is reported
	}
	_, _, err := x.Head.follow(line)
	return err
}

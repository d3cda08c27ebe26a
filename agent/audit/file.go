package audit

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// file is the segment being written. Its head is read under the log's mutex,
// everything else belongs to the writer.
type file struct {
	f    *os.File
	size int64 // up to the end of the last record that was acknowledged
	head Head
}

// recoverFile finds the newest segment and makes it end after a whole record. A
// newest segment that does not verify is set aside and a new chain begins.
func recoverFile(opts Options) (file, Report, error) {
	var report Report
	if err := makeDir(opts.Dir); err != nil {
		return file{}, report, err
	}
	files, err := segments(opts.Dir)
	if err != nil {
		return file{}, report, err
	}
	if len(files) == 0 {
		return file{}, report, nil
	}
	path := files[len(files)-1]
	head, size, err := readSegment(path, Head{}, true, nil)
	if err != nil && !errors.Is(err, errTorn) {
		return setAside(path, head, err, opts.Now())
	}
	if size == 0 { // created, and then the power went
		seq, _ := firstSeq(path)
		return emptySegment(opts, files, path, seq)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return file{}, report, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > size {
		report.Torn = info.Size() - size
		err = errors.Join(f.Truncate(size), f.Sync())
	}
	if err != nil {
		f.Close()
		return file{}, report, err
	}
	report.Head = head
	return file{f: f, size: size, head: head}, report, nil
}

// emptySegment drops a segment without a record and goes on from the one before.
func emptySegment(opts Options, files []string, path string, seq uint64) (file, Report, error) {
	if err := errors.Join(os.Remove(path), syncDir(opts.Dir)); err != nil {
		return file{}, Report{}, err
	}
	if len(files) == 1 && seq > 1 {
		return file{}, Report{}, nil
	}
	return recoverFile(opts)
}

func setAside(path string, head Head, damage error, now time.Time) (file, Report, error) {
	aside := fmt.Sprintf("%s.damaged-%s", path, now.UTC().Format("20060102T150405.000000000"))
	report := Report{SetAside: aside, Damage: damage.Error()}
	if err := os.Rename(path, aside); err != nil {
		return file{}, report, err
	}
	// The numbers go on above everything that was readable, the hash begins anew: a gap that Verify shows.
	first, _ := firstSeq(path)
	report.Head = Head{Seq: max(head.Seq, first-1)}
	return file{head: report.Head}, report, nil
}

// append writes the batch after the last acknowledged record and syncs. On an
// error the file ends where it did before, or the next append tries that again.
func (f *file) append(batch []entry, lost uint64, opts *Options) (Head, error) {
	head := f.head
	var data []byte
	for i := range batch {
		r := batch[i].record
		if i == 0 {
			r.Lost = lost
		}
		line, next, err := head.line(r)
		if err != nil {
			return f.head, err
		}
		data, head = append(data, line...), next
	}
	if err := f.ensure(opts); err != nil {
		return f.head, err
	}
	if err := f.write(data, opts); err != nil {
		return f.head, err
	}
	f.size += int64(len(data))
	return head, nil
}

// write puts data at the acknowledged end. Writing there again after a failure
// also makes the pages dirty again that a failed fsync may have marked clean.
func (f *file) write(data []byte, opts *Options) error {
	err := opts.Fault("write")
	if err == nil {
		_, err = f.f.WriteAt(data, f.size)
	}
	if err == nil {
		if err = opts.Fault("sync"); err == nil {
			err = f.f.Sync()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot append to %s: %w", f.f.Name(), errors.Join(err, f.f.Truncate(f.size)))
	}
	return nil
}

// ensure opens the segment for the next record: the present one, or a new one when that is full.
func (f *file) ensure(opts *Options) error {
	if f.f != nil && f.size < opts.Segment {
		return nil
	}
	if err := opts.Fault("create"); err != nil {
		return err
	}
	next, err := os.OpenFile(segmentName(opts.Dir, f.head.Seq+1), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(opts.Dir); err != nil {
		return errors.Join(err, next.Close())
	}
	if f.f != nil {
		f.f.Close() // synced after its last record
	}
	f.f, f.size = next, 0
	return prune(opts)
}

// prune removes the oldest segments beyond the number to keep.
func prune(opts *Options) error {
	files, err := segments(opts.Dir)
	if err != nil {
		return err
	}
	for ; len(files) > opts.Keep; files = files[1:] {
		if err := os.Remove(files[0]); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) close() error {
	if f.f == nil {
		return nil
	}
	return f.f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

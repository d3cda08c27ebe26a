package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/updater/fleet"
)

// maxLine bounds a line that is read back from the inventory.
const maxLine = 1 << 20

// tail reads the sightings that were written since the last time. The depot
// appends to the file and now and then puts a shorter one in its place.
type tail struct {
	path   string
	inode  uint64
	offset int64
	all    map[string]Sighting
}

// read returns what is known of every device. The map is the tail's own.
func (t *tail) read() (map[string]Sighting, error) {
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.all, t.inode, t.offset = map[string]Sighting{}, 0, 0
		return t.all, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, err
	}
	if t.all == nil || stat.Ino != t.inode || stat.Size < t.offset {
		t.all, t.inode, t.offset = map[string]Sighting{}, stat.Ino, 0
	}
	if _, err := file.Seek(t.offset, io.SeekStart); err != nil {
		return nil, err
	}
	n, err := eachLine(file, func(line []byte) {
		var s Sighting
		if json.Unmarshal(line, &s) == nil && s.Device != "" {
			t.all[s.Device] = s
		}
	})
	t.offset += n
	return t.all, err
}

// eachLine visits every whole line and returns how many bytes those took. A last
// line without an end is still being written. A line that is too long is passed over.
func eachLine(in io.Reader, visit func([]byte)) (n int64, err error) {
	r := bufio.NewReaderSize(in, 64<<10)
	var line []byte
	length := int64(0)
	for {
		part, err := r.ReadSlice('\n')
		length += int64(len(part))
		if length <= maxLine {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		}
		if length <= maxLine {
			visit(bytes.TrimSpace(line))
		}
		n += length
		line, length = line[:0], 0
	}
}

// Events returns the newest events of a device that are kept, at most limit of
// them, the oldest first.
func Events(f *fleet.Fleet, device string, limit int) ([]Event, error) {
	var found []Event
	for _, name := range []string{eventFile + ".1", eventFile} {
		file, err := os.Open(filepath.Join(folder(f), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, err = eachLine(file, func(line []byte) {
			var e Event
			if json.Unmarshal(line, &e) == nil && e.Device == device {
				found = append(found, e)
				if len(found) > 2*limit {
					found = slices.Clone(found[len(found)-limit:])
				}
			}
		})
		_ = file.Close()
		if err != nil {
			return nil, err
		}
	}
	return found[max(0, len(found)-limit):], nil
}

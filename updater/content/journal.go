package content

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	partExt    = ".part"
	journalExt = ".journal"
	indexExt   = ".index"

	recordLen   = 12 // kind, number, CRC32C
	recordBlock = 1  // number: a block that was written; it may not be durable
	recordMark  = 2  // number: so many of the block records before this are durable
)

// journal says which blocks of a partial file hold. It is a side file of
// appended records, not a table of the database: a synced transaction a block
// costs four times the transfer.
//
// A block's record is appended after its data is written, without a sync. A
// mark is appended after an fdatasync of the data and counts the records that
// were there when that began; so a mark that can be read proves those blocks,
// and writing goes on meanwhile. What follows is a hint: after kill -9 the page
// cache still has the data, after a power cut it may not, so those blocks are
// hashed again before they count.
//
// Safe for concurrent use.
type journal struct {
	mu      sync.Mutex
	f       *os.File
	records uint32 // block records in the file
	marked  uint32 // of these, proved
	pending int64  // bytes of blocks recorded since the last mark began
	marking int64  // bytes of blocks that a mark under way is to prove
}

// loadJournal returns the blocks proved by a mark and those only hinted at. A
// torn or damaged tail counts for nothing, nor does the journal of another index.
func loadJournal(path string, index [32]byte, blocks int) (proved, hinted []int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(len(index))+int64(blocks+1)*4*recordLen))
	if err != nil {
		return nil, nil, err
	}
	proved, hinted = parseJournal(b, index, blocks)
	return proved, hinted, nil
}

func parseJournal(b []byte, index [32]byte, blocks int) (proved, hinted []int) {
	if len(b) < len(index) || [32]byte(b) != index {
		return nil, nil
	}
	marked := 0
	for b = b[len(index):]; len(b) >= recordLen; b = b[recordLen:] {
		kind, n := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint32(b[4:]))
		if binary.BigEndian.Uint32(b[8:]) != checksum(b[:8]) {
			break
		}
		switch {
		case kind == recordMark && n >= int64(marked) && n <= int64(len(hinted)):
			marked = int(n)
		case kind == recordBlock && n < int64(blocks):
			hinted = append(hinted, int(n))
		default:
			return hinted[:marked], hinted[marked:]
		}
	}
	return hinted[:marked], hinted[marked:]
}

// createJournal starts a journal in which the given blocks of data are proved.
// It replaces an old one only when the new one is durable: records of blocks that
// no longer hold must not be there when the next mark is made.
func createJournal(path string, index [32]byte, have []int, data *os.File) (*journal, error) {
	if err := unix.Fdatasync(int(data.Fd())); err != nil {
		return nil, fmt.Errorf("cannot make blocks durable: %w", err)
	}
	b := append([]byte(nil), index[:]...)
	for _, n := range have {
		b = appendRecord(b, recordBlock, uint32(n))
	}
	b = appendRecord(b, recordMark, uint32(len(have)))
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the journal: %w", err), f.Close())
	}
	return &journal{f: f, records: uint32(len(have)), marked: uint32(len(have))}, nil
}

func appendRecord(b []byte, kind, n uint32) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, n)
	return binary.BigEndian.AppendUint32(b, checksum(b[at:]))
}

// wrote records a block whose data has been written. pending bytes await a mark;
// exposed bytes are not proved yet, those of a mark under way included.
func (j *journal) wrote(k Block) (pending, exposed int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.f.Write(appendRecord(nil, recordBlock, uint32(k.N))); err != nil {
		return 0, 0, fmt.Errorf("cannot record block %d: %w", k.N, err)
	}
	j.records++
	j.pending += int64(k.Length)
	return j.pending, j.pending + j.marking, nil
}

// mark makes every block recorded before the call durable. One caller at a time.
func (j *journal) mark(data *os.File) error {
	j.mu.Lock()
	covers := j.records
	j.marking, j.pending = j.marking+j.pending, 0
	j.mu.Unlock()
	if covers == j.marked {
		return nil
	}
	if err := unix.Fdatasync(int(data.Fd())); err != nil {
		return fmt.Errorf("cannot make blocks durable: %w", err)
	}
	j.mu.Lock()
	_, err := j.f.Write(appendRecord(nil, recordMark, covers))
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot mark the journal: %w", err)
	}
	if err := unix.Fdatasync(int(j.f.Fd())); err != nil {
		return fmt.Errorf("cannot make the journal durable: %w", err)
	}
	j.marked = covers
	j.mu.Lock()
	j.marking = 0
	j.mu.Unlock()
	return nil
}

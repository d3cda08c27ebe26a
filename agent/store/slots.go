package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// slotMagic begins a slot file: eight bytes, the version in the last.
const slotMagic = "bothysl1"

// slotHeader is magic, sequence and payload length; the payload and a SHA-256 of all before it follow.
const slotHeader = len(slotMagic) + 8 + 8

// maxSlot bounds a payload in bytes: marks are small, a damaged length is not believed.
const maxSlot = 16 << 20

// Slots keep one small value in two files that are written in turn, apart from
// the database. A crash or a torn write costs at most the value being written;
// the one before is still there. Safe for concurrent use in one process.
type Slots struct {
	mu    sync.Mutex
	paths [2]string
	// newest is the slot that holds value; it is not the one written next.
	newest   int
	sequence uint64
	value    []byte
	loaded   bool
}

// OpenSlots reads the two slots DIR/NAME.a and DIR/NAME.b; files that are
// missing or damaged count as empty; it fails when a disk error leaves neither
// readable. The folder is created when missing.
func OpenSlots(dir, name string) (*Slots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot create folder %s: %w", dir, err)
	}
	s := &Slots{newest: 1, paths: [2]string{filepath.Join(dir, name+".a"), filepath.Join(dir, name+".b")}}
	var failed error
	for i, path := range s.paths {
		sequence, value, err := readSlot(path)
		failed = errors.Join(failed, err)
		if value != nil && (!s.loaded || sequence > s.sequence) {
			s.newest, s.sequence, s.value, s.loaded = i, sequence, value, true
		}
	}
	if failed != nil && !s.loaded {
		return nil, fmt.Errorf("cannot open slots %s: %w", filepath.Join(dir, name), failed)
	}
	return s, nil
}

// Load answers a copy of the newest whole value; false when there is none.
func (s *Slots) Load() ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.value), s.loaded
}

// Save makes value the newest, durably. When it fails the value before is still the newest.
func (s *Slots) Save(value []byte) error {
	if len(value) > maxSlot {
		return fmt.Errorf("cannot save slot %s: %d bytes are more than %d", s.paths[0], len(value), maxSlot)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := 1 - s.newest
	if err := writeSlot(s.paths[next], s.sequence+1, value); err != nil {
		return fmt.Errorf("cannot save slot %s: %w", s.paths[next], err)
	}
	s.newest, s.sequence, s.value, s.loaded = next, s.sequence+1, append([]byte{}, value...), true
	return nil
}

// writeSlot writes in place: on a full disk an existing slot still has its blocks.
func writeSlot(path string, sequence uint64, value []byte) error {
	_, statErr := os.Stat(path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	body := encodeSlot(sequence, value)
	_, err = f.WriteAt(body, 0)
	if err == nil {
		err = f.Truncate(int64(len(body)))
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = SyncDir(filepath.Dir(path))
	}
	return err
}

func encodeSlot(sequence uint64, value []byte) []byte {
	body := make([]byte, 0, slotHeader+len(value)+sha256.Size)
	body = append(body, slotMagic...)
	body = binary.BigEndian.AppendUint64(body, sequence)
	body = binary.BigEndian.AppendUint64(body, uint64(len(value)))
	body = append(body, value...)
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

// readSlot answers a nil value for a slot that is missing or damaged, an error only when the disk fails.
func readSlot(path string) (uint64, []byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, int64(slotHeader+maxSlot+sha256.Size)+1))
	if err != nil {
		return 0, nil, err
	}
	sequence, value := decodeSlot(body)
	return sequence, value, nil
}

func decodeSlot(body []byte) (uint64, []byte) {
	if len(body) < slotHeader+sha256.Size || string(body[:len(slotMagic)]) != slotMagic {
		return 0, nil
	}
	sequence := binary.BigEndian.Uint64(body[len(slotMagic):])
	length := binary.BigEndian.Uint64(body[len(slotMagic)+8:])
	// Bytes behind the end are a longer, older value whose truncation was lost; the hash covers ours.
	if length > maxSlot || uint64(len(body)) < uint64(slotHeader)+length+sha256.Size {
		return 0, nil
	}
	end := slotHeader + int(length)
	if sum := sha256.Sum256(body[:end]); !bytes.Equal(sum[:], body[end:end+sha256.Size]) {
		return 0, nil
	}
	return sequence, append([]byte{}, body[slotHeader:end]...)
}

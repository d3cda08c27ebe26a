package content

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func journalBytes(index [32]byte, records ...[2]uint32) []byte {
	b := slices.Clone(index[:])
	for _, r := range records {
		b = appendRecord(b, r[0], r[1])
	}
	return b
}

func TestMarkProvesTheRecordsItCounts(t *testing.T) {
	id := [32]byte{7}
	b := journalBytes(id, [2]uint32{recordBlock, 5}, [2]uint32{recordBlock, 2},
		// Block 9 was written while the sync of the first two ran.
		[2]uint32{recordBlock, 9}, [2]uint32{recordMark, 2}, [2]uint32{recordBlock, 1})
	proved, hinted := parseJournal(b, id, 10)
	if !slices.Equal(proved, []int{5, 2}) || !slices.Equal(hinted, []int{9, 1}) {
		t.Errorf("got %v proved and %v hinted, want 5 2 and 9 1", proved, hinted)
	}
	// Whatever prefix reached the disk: a block is proved only behind its mark.
	for n := range len(b) {
		p, h := parseJournal(b[:n], id, 10)
		if wantMark := 32 + 4*recordLen; (len(p) == 2) != (n >= wantMark) || len(p)+len(h) > 4 {
			t.Errorf("%d bytes: got %v and %v", n, p, h)
		}
	}
}

func TestJournalOfAnotherIndexCountsForNothing(t *testing.T) {
	b := journalBytes([32]byte{7}, [2]uint32{recordBlock, 0}, [2]uint32{recordMark, 1})
	if p, h := parseJournal(b, [32]byte{8}, 10); len(p)+len(h) != 0 {
		t.Errorf("got %v and %v", p, h)
	}
}

func TestMarkCoversOnlyWhatWasRecordedBefore(t *testing.T) {
	dir := t.TempDir()
	data, err := os.Create(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	path := filepath.Join(dir, "j")
	j, err := createJournal(path, [32]byte{7}, []int{3}, data)
	if err != nil {
		t.Fatal(err)
	}
	defer j.f.Close()
	for _, n := range []int{4, 5} {
		if _, _, err := j.wrote(Block{N: n, Length: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.mark(data); err != nil {
		t.Fatal(err)
	}
	if pending, exposed, err := j.wrote(Block{N: 6, Length: 10}); err != nil || pending != 10 || exposed != 10 {
		t.Fatalf("got %d pending, %v, want 10", pending, err)
	}
	proved, hinted, err := loadJournal(path, [32]byte{7}, 10)
	if err != nil || !slices.Equal(proved, []int{3, 4, 5}) || !slices.Equal(hinted, []int{6}) {
		t.Errorf("got %v, %v, %v, want 3 4 5 proved and 6 hinted", proved, hinted, err)
	}
}

func FuzzParseJournal(f *testing.F) {
	id := [32]byte{7}
	f.Add(journalBytes(id, [2]uint32{recordBlock, 5}, [2]uint32{recordMark, 1}))
	f.Add(journalBytes(id, [2]uint32{recordMark, 1 << 31}, [2]uint32{recordBlock, 1 << 31}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, h := parseJournal(b, id, 8)
		for _, n := range append(slices.Clone(p), h...) {
			if n < 0 || n >= 8 {
				t.Fatalf("block %d of 8", n)
			}
		}
	})
}

package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/bothy-edge/bothy/internal/powerloss"
)

// powerSize is three blocks and a bit.
const powerSize = 3*BlockSize + 1<<16

// leftTwice is the work whose power is cut: a fetch that its source leaves twice, and that ends the third time.
func leftTwice(dir string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	defer s.Close()
	b := patterned(powerSize)
	f, x := fileOf(b)
	for blocks := 1; ; blocks++ {
		given := 0
		leaves := func(Block, []byte) error {
			if given++; given > blocks {
				return errors.New("the source is gone")
			}
			return nil
		}
		if blocks == 3 {
			leaves = nil
		}
		_, err := s.Fetch(context.Background(), f, []Source{&memory{data: b, index: x, edit: leaves}}, nil)
		if err == nil {
			fmt.Println("ack whole")
			return nil
		}
		if blocks == 3 {
			return err
		}
	}
}

func TestPowerLossDuringAFetchNeverLeavesAWrongFile(t *testing.T) {
	shuffles := 1
	if os.Getenv("BOTHY_SOAK") != "" {
		shuffles = 60
	}
	b := patterned(powerSize)
	f, encoded := fileOf(b)
	index, err := ParseIndex(encoded)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	child, _ := startChild(t, "power", dir)
	n := powerloss.Record(t, dir, child).States(t, shuffles, 13, func(p powerloss.State) {
		s, err := Open(p.Dir)
		if err != nil {
			t.Fatalf("step %d: %v", p.Step, err)
		}
		defer s.Close()
		if s.Has(f.SHA256) {
			if err := s.Verify(t.Context(), f.SHA256); err != nil {
				t.Errorf("step %d: a file has its final name, but: %v", p.Step, err)
			}
		} else if len(p.Acks) > 0 {
			t.Errorf("step %d: the file is gone after the fetch had ended", p.Step)
		}
		checkMarks(t, p.Step, s, f.SHA256, index)
		if _, err := s.Fetch(t.Context(), f, []Source{&memory{data: b, index: encoded}}, nil); err != nil {
			t.Errorf("step %d: %v", p.Step, err)
		}
		wantFile(t, s, f, b)
	})
	if n < 60 {
		t.Errorf("got %d states, want at least 60: the recording sees too little", n)
	}
	t.Logf("%d states", n)
}

// checkMarks reads the blocks that a mark of the journal proves: they must be there.
func checkMarks(t *testing.T, step int, s *Store, digest string, index Index) {
	t.Helper()
	sum := sha256.Sum256(index.Encode())
	proved, _, err := loadJournal(s.partial(digest, journalExt), sum, len(index.Blocks))
	if err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(s.partial(digest, partExt))
	for _, n := range proved {
		k := index.Blocks[n]
		if int64(len(data)) < k.Offset+int64(k.Length) || sha256.Sum256(data[k.Offset:][:k.Length]) != k.SHA256 {
			t.Errorf("step %d: the journal proves block %d, which is not there", step, n)
		}
	}
}

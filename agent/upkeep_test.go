package agent

import (
	"errors"
	"testing"
	"time"
)

func TestStoreIsCopiedAfterStartAndCommitAndEachHour(t *testing.T) {
	at := func(minutes int) time.Time { return hour.Add(time.Duration(minutes) * time.Minute) }
	c := copies{next: at(1)}
	for _, look := range []struct {
		minute  int
		running uint64
		fails   bool
		want    bool
	}{
		{0, 0, false, false},
		{1, 0, false, true}, // nothing is installed yet, and a copy of that is a copy
		{2, 0, false, false},
		{3, 7, false, true}, // a commit
		{4, 7, false, false},
		{5, 8, true, true},
		{5, 8, false, false}, // not at every look
		{6, 8, false, true},
		{65, 8, false, false},
		{66, 8, false, true},
	} {
		got := c.due(at(look.minute), look.running)
		if got != look.want {
			t.Errorf("minute %d, want %d: got %v, want %v", look.minute, look.running, got, look.want)
		}
		if got {
			var err error
			if look.fails {
				err = errors.New("disk full")
			}
			c.made(at(look.minute), err)
		}
	}
}

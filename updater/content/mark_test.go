package content

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"
)

// While a slow disk makes a mark durable the writer does not run away from it:
// what is not proved is hashed again after a crash, and that is bounded.
func TestSlowDiskBoundsWhatACrashWouldHashAgain(t *testing.T) {
	const bound = 128 << 20
	data := patterned(200 << 20)
	f, x := fileOf(data)
	s := openStore(t)
	var done, most atomic.Int64
	var marks atomic.Int32
	s.fault = func(op string) error {
		if op != "mark" || marks.Add(1) > 1 {
			return nil
		}
		for end := time.Now().Add(30 * time.Second); done.Load() < markLimit-BlockSize && time.Now().Before(end); {
			<-time.After(time.Millisecond)
		}
		<-time.After(50 * time.Millisecond) // a writer that does not wait is at the end by then
		most.Store(done.Load())
		return nil
	}
	_, err := s.Fetch(t.Context(), f, []Source{&memory{data: data, index: x}}, func(p Progress) { done.Store(p.Done) })
	if err != nil {
		t.Fatal(err)
	}
	if got := most.Load(); got < markBytes || got > bound {
		t.Errorf("%d MiB were written and not proved while the disk was slow, want at most %d", got>>20, bound>>20)
	}
}

// The digest of the whole goes on while the file comes, from the start without a gap.
func TestWholeIsHashedWhileItComes(t *testing.T) {
	data := noise(3, 10*BlockSize)
	f, _ := fileOf(data)
	index := mustIndex(t, data)
	r := &fetch{file: f, index: index, have: make([]bool, len(index.Blocks)), report: func(Progress) {}}
	r.whole = newWhole(bytes.NewReader(data))
	r.whole.start()
	for _, n := range []int{1, 2, 0, 5} {
		r.have[n] = true
		r.follow()
	}
	for end := time.Now().Add(30 * time.Second); r.whole.ready.Load() != 3*BlockSize || len(r.whole.wake) > 0; {
		if time.Now().After(end) {
			t.Fatal("it does not follow")
		}
		<-time.After(time.Millisecond)
	}
	r.whole.stop()
	if r.whole.done > 3*BlockSize {
		t.Errorf("hashed %d bytes, there are %d without a gap", r.whole.done, 3*BlockSize)
	}
	got, err := r.whole.digest(t.Context(), f.Size)
	if err != nil || got != f.SHA256 {
		t.Errorf("got %s, %v, want %s", got, err, f.SHA256)
	}
}

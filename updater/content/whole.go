package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// whole hashes a file while it comes: it follows the writer, reading back from
// the file what lies there without a gap from its beginning. What is left when
// the last block has come is read then. So the digest of the whole costs little
// time of its own, and it is still of what the disk gives back.
type whole struct {
	r    io.ReaderAt
	sum  hash.Hash
	done int64 // bytes that are in sum
	buf  []byte

	ready atomic.Int64  // bytes that lie there without a gap
	wake  chan struct{} // capacity 1: ready grew
	quit  chan struct{}
	group sync.WaitGroup
	err   error
}

func newWhole(r io.ReaderAt) *whole {
	return &whole{r: r, sum: sha256.New(), buf: make([]byte, BlockSize), wake: make(chan struct{}, 1)}
}

// start follows until stop.
func (w *whole) start() {
	w.quit = make(chan struct{})
	w.group.Go(func() {
		for {
			select {
			case <-w.quit:
				return
			case <-w.wake:
			}
			for w.err == nil && w.done < w.ready.Load() && !ended(w.quit) {
				w.err = w.take(w.ready.Load())
			}
		}
	})
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stop ends what start began, and waits for it.
func (w *whole) stop() {
	close(w.quit)
	w.group.Wait()
}

// grown tells that the file lies there up to n.
func (w *whole) grown(n int64) {
	w.ready.Store(n)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take hashes the next part before end.
func (w *whole) take(end int64) error {
	b := w.buf[:min(int64(len(w.buf)), end-w.done)]
	if err := readFullAt(w.r, b, w.done); err != nil {
		return err
	}
	w.sum.Write(b)
	w.done += int64(len(b))
	return nil
}

// digest hashes the rest of size bytes and answers the digest of all.
func (w *whole) digest(ctx context.Context, size int64) (string, error) {
	for w.done < size && w.err == nil {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		w.err = w.take(size)
	}
	return hex.EncodeToString(w.sum.Sum(nil)), w.err
}

package content

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	markBytes = 64 << 20        // so much awaits a mark before one begins
	markEvery = 5 * time.Second // also when little comes
	// On a disk that is slower than the line the next blocks wait for the mark:
	// no more than this is hashed again after a crash.
	markLimit = 120 << 20
	slowEvery = time.Second // looks at why little comes

	// Blocks between a source and the writer: a source fills the next ones while
	// the writer hashes. More would only cost memory.
	writerDepth = 4
	// Buffers kept to be used again: a full window of blocks and those on their way.
	writerFree = windowCap/BlockSize + 2*writerDepth
)

// writer is the Sink of a fetch: one goroutine that checks, writes and records
// blocks, and one that makes them durable meanwhile.
type writer struct {
	fetch  *fetch
	items  chan item
	free   chan []byte   // buffers to use again
	marks  chan struct{} // capacity 1: enough bytes await a mark
	source string        // whose turn it is, and by what way; the source's goroutine's
	detail string        // which of several that source has
	strike atomic.Int32  // wrong blocks of this source
	forged atomic.Int32  // wrong blocks that came by a cast: anybody may have sent them
	failed atomic.Pointer[error]
	came   atomic.Int64 // bytes of blocks that were right
	group  sync.WaitGroup
	quit   chan struct{}
	syncMu sync.Mutex // one mark at a time

	turn   sync.Mutex
	slowed func() string // why the present source asks for less than it could; guarded by turn
}

type item struct {
	block Block
	data  []byte
	from  string        // the source that progress counts it under
	exact string        // and where exactly it came from
	ack   chan struct{} // set: no block, but a question whether all before is done
}

func (r *fetch) startWriter() *writer {
	w := &writer{
		fetch: r, items: make(chan item, writerDepth), free: make(chan []byte, writerFree),
		marks: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	r.whole.start()
	w.group.Go(w.write)
	w.group.Go(w.markLoop)
	return w
}

// stop ends both goroutines and makes durable what was delivered.
func (w *writer) stop() error {
	close(w.items)
	close(w.quit)
	w.group.Wait()
	w.fetch.whole.stop()
	w.fetch.slowed = ""
	return w.sync()
}

func (w *writer) begin(source Source) {
	w.attribute(source.Name(), "")
	w.strike.Store(0)
	w.turn.Lock()
	defer w.turn.Unlock()
	w.slowed = nil
	if s, ok := source.(slower); ok {
		w.slowed = s.Slowed
	}
}

func (w *writer) wrong() int { return int(w.strike.Load()) }

// castWrong implements castSink.
func (w *writer) castWrong() int { return int(w.forged.Load()) }

func (w *writer) failure() error {
	if e := w.failed.Load(); e != nil {
		return *e
	}
	return nil
}

func (w *writer) fail(err error) { w.failed.CompareAndSwap(nil, &err) }

// Buffer implements Sink.
func (w *writer) Buffer(n int) []byte {
	select {
	case b := <-w.free:
		if cap(b) >= n {
			return b[:n]
		}
	default:
	}
	// Most blocks are full ones: small buffers would not serve a second time.
	return make([]byte, n, max(n, BlockSize))
}

// Deliver implements Sink.
func (w *writer) Deliver(k Block, data []byte) error {
	if err := w.failure(); err != nil {
		return err
	}
	if w.wrong() >= maxStrikes {
		return fmt.Errorf("%d wrong blocks: %w", w.wrong(), ErrCorrupt)
	}
	exact := w.source
	if w.detail != "" {
		exact += " " + w.detail
	}
	w.items <- item{block: k, data: data, from: w.source, exact: exact}
	return nil
}

// attribute implements attributor.
func (w *writer) attribute(source, detail string) { w.source, w.detail = source, detail }

// flush returns when everything delivered so far has been handled.
func (w *writer) flush() {
	ack := make(chan struct{})
	w.items <- item{ack: ack}
	<-ack
}

func (w *writer) write() {
	tick := time.NewTicker(slowEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.tell()
		case i, more := <-w.items:
			if !more {
				return
			}
			w.handle(i)
		}
	}
}

func (w *writer) handle(i item) {
	if i.ack != nil {
		close(i.ack)
		return
	}
	if w.failure() == nil {
		if err := w.put(i); err != nil {
			w.fail(err)
		}
	}
	select {
	case w.free <- i.data:
	default:
	}
}

// put checks a block, writes it, records it, and only then sets its bit.
func (w *writer) put(i item) error {
	r, k, data := w.fetch, i.block, i.data
	if r.have[k.N] {
		return nil
	}
	if len(data) != k.Length || sha256.Sum256(data) != k.SHA256 {
		if i.from == castName {
			w.forged.Add(1)
			return nil
		}
		w.strike.Add(1)
		return nil
	}
	if err := r.store.fault("write-block"); err != nil {
		return err
	}
	if _, err := r.data.WriteAt(data, k.Offset); err != nil {
		return err
	}
	pending, exposed, err := r.journal.wrote(k)
	if err != nil {
		return err
	}
	if pending >= markBytes {
		select {
		case w.marks <- struct{}{}:
		default:
		}
	}
	r.have[k.N] = true
	r.follow()
	r.done += int64(k.Length)
	w.came.Add(int64(k.Length))
	r.bySource[i.from] += int64(k.Length)
	r.origins.note(k.N, i.exact)
	r.say(StateFetching)
	if exposed >= markLimit {
		return w.sync()
	}
	return nil
}

// tell reports why little comes, when that changes.
func (w *writer) tell() {
	reason := w.reason()
	if reason != w.fetch.slowed {
		w.fetch.slowed = reason
		w.fetch.say(StateFetching)
	}
}

func (w *writer) markLoop() {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
		case <-w.marks:
		}
		if err := w.sync(); err != nil {
			w.fail(err)
			return
		}
	}
}

func (w *writer) sync() error {
	w.syncMu.Lock()
	defer w.syncMu.Unlock()
	if err := w.fetch.store.fault("mark"); err != nil {
		return err
	}
	// Before the mark: what the next attempt takes over should say where it came from.
	if err := w.fetch.origins.save(w.fetch.store.partial(w.fetch.file.SHA256, originExt)); err != nil {
		return err
	}
	return w.fetch.journal.mark(w.fetch.data)
}

package depot

import (
	"slices"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// toAll stands for the device in a job of a cast; no device is called so.
const toAll = "+"

// job is one range of one request: one frame to send.
type job struct {
	device string
	cast   *cast        // of a cast's frame
	pos    uint64       // bytes of the stream before it
	ask    wire.Request // its Ranges are not used
	at     wire.Range
	came   time.Time
}

// queue holds the jobs of each device and gives them out in turn, one frame a
// device, so that whoever asks for much does not hold up the others.
// Safe for concurrent use.
type queue struct {
	perDevice int           // bytes that one device may have waiting
	wake      chan struct{} // capacity 1: it is not empty any more

	mu    sync.Mutex
	jobs  map[string][]job
	bytes map[string]int
	turn  []string // devices that have jobs, next first
	count Stats
}

func newQueue(perDevice int) *queue {
	return &queue{perDevice: perDevice, wake: make(chan struct{}, 1), jobs: map[string][]job{}, bytes: map[string]int{}}
}

// put adds a job, unless the device has its window full: it will ask again.
func (q *queue) put(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := int(j.at.Length)
	if have := q.bytes[j.device]; j.cast == nil && have > 0 && have+n > q.perDevice || j.cast == nil && len(q.jobs[j.device]) >= 4*wire.MaxRanges {
		q.count.Dropped++
		return
	}
	if len(q.jobs[j.device]) == 0 {
		q.turn = append(q.turn, j.device)
	}
	q.jobs[j.device] = append(q.jobs[j.device], j)
	q.bytes[j.device] += n
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.turn) == 0 {
		return job{}, false
	}
	d := q.turn[0]
	q.turn = q.turn[1:]
	j := q.jobs[d][0]
	q.bytes[d] -= int(j.at.Length)
	if q.jobs[d] = q.jobs[d][1:]; len(q.jobs[d]) > 0 {
		q.turn = append(q.turn, d)
	} else {
		delete(q.jobs, d)
		delete(q.bytes, d)
	}
	return j, true
}

// forget drops the jobs of one blob that wait: a cast brings it.
func (q *queue) forget(digest [32]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turn = slices.DeleteFunc(q.turn, func(device string) bool {
		q.jobs[device] = slices.DeleteFunc(q.jobs[device], func(j job) bool {
			if j.cast != nil || j.ask.Kind != wire.KindBlob || j.ask.Digest != digest {
				return false
			}
			q.bytes[device] -= int(j.at.Length)
			return true
		})
		if len(q.jobs[device]) > 0 {
			return false
		}
		delete(q.jobs, device)
		delete(q.bytes, device)
		return true
	})
}

func (q *queue) sent(bytes int, code uint16) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if code != wire.CodeOK {
		q.count.Refused++
		return
	}
	q.count.Frames++
	q.count.Bytes += uint64(bytes)
}

func (q *queue) stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}

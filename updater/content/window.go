package content

import "time"

const (
	windowCap    = 16 << 20 // bytes
	windowFrames = 64       // as many as a request can name
	queueFrames  = 4        // how much of our own may wait on the way
	rtoMin       = 2 * time.Second
	rtoMax       = 30 * time.Second
	minRTTLife   = 30 * time.Second
	minRTTProbe  = 200 * time.Millisecond
)

// window is how many bytes may be outstanding. It works from delay, as TCP
// Vegas does: from the shortest round trip and the present one follows how much
// of our own is queued, and it grows while that is under four frames. Loss
// alone says nothing here: TCP below hides it, and the queue grew to two
// seconds before any frame was lost.
//
// Not safe for concurrent use; a pure function of what it is told and when.
type window struct {
	frame  int // bytes of a full frame
	credit int // bytes
	limit  int // bytes, the depot's

	slow     bool // still doubling
	minRTT   time.Duration
	minSince time.Time
	probe    time.Time // until then the path is drained to see the true minimum
	saved    int       // the credit to go on with after the probe

	srtt, rttvar time.Duration
	round        time.Time // when the present round of samples began
	sum          time.Duration
	samples      int
	full         bool // the credit was used up in the present round
}

func newWindow(frame, limit int, now time.Time) *window {
	w := &window{}
	w.restart(frame, limit, now)
	return w
}

// restart forgets the path: a new connection, another depot, another frame size.
func (w *window) restart(frame, limit int, now time.Time) {
	*w = window{frame: frame, slow: true, minSince: now, round: now}
	w.limit = max(min(windowCap, limit, windowFrames*frame), frame)
	w.credit = min(queueFrames*frame, w.limit)
}

// sample takes the round trip of a frame that was asked for once.
func (w *window) sample(rtt time.Duration, now time.Time) {
	rtt = max(rtt, time.Microsecond)
	if w.srtt == 0 {
		w.srtt, w.rttvar = rtt, rtt/2
	} else {
		d := w.srtt - rtt
		w.rttvar += (max(d, -d) - w.rttvar) / 4
		w.srtt += (rtt - w.srtt) / 8
	}
	w.refresh(now)
	if w.minRTT == 0 || rtt < w.minRTT {
		w.minRTT = rtt
	}
	w.sum += rtt
	w.samples++
	if now.Sub(w.round) >= w.srtt {
		if w.probe.IsZero() {
			w.adjust(w.sum / time.Duration(w.samples))
		}
		w.round, w.sum, w.samples, w.full = now, 0, 0, false
	}
}

// used is told how many bytes are outstanding. A credit that a rate limit keeps
// from being used says nothing of the path and must not grow.
func (w *window) used(outstanding int) {
	w.full = w.full || outstanding >= w.credit
}

// refresh forgets the shortest round trip now and then, since routes change.
// The queue is let run down first: otherwise the next minimum would contain it,
// and the window would grow by it every time.
func (w *window) refresh(now time.Time) {
	if !w.probe.IsZero() {
		if now.After(w.probe) {
			w.credit, w.probe = w.saved, time.Time{}
		}
		return
	}
	if now.Sub(w.minSince) >= minRTTLife {
		w.saved, w.credit = w.credit, min(2*w.frame, w.limit)
		w.minRTT, w.minSince, w.probe = 0, now, now.Add(max(2*w.srtt, minRTTProbe))
	}
}

// adjust looks at one round.
func (w *window) adjust(rtt time.Duration) {
	queued := int(float64(w.credit) * (1 - float64(w.minRTT)/float64(rtt)))
	switch {
	case queued > queueFrames*w.frame:
		w.slow = false
		w.credit -= min(queued-queueFrames*w.frame, w.credit/4)
	case !w.full:
	case w.slow:
		w.credit *= 2
	case queued < (queueFrames-1)*w.frame:
		w.credit += w.frame
	}
	w.credit = max(min(w.credit, w.limit), 2*min(w.frame, w.limit/2), 1)
}

// lost is told of a frame that had to be asked for again.
func (w *window) lost() {
	w.slow = false
	w.credit = max(w.credit/2, min(2*w.frame, w.limit))
}

// rto is how long to wait for a frame that was asked for tries times.
func (w *window) rto(tries int) time.Duration {
	d := max(w.srtt+4*w.rttvar, rtoMin)
	return min(d<<min(max(tries-1, 0), 4), rtoMax)
}

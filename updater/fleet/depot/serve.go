package depot

import (
	"context"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// framesAhead is how many frames are read from the disk while one is written to the broker.
const framesAhead = 2

// enqueue turns a request into jobs. The reply address is the topic's, never the payload's.
func (s *server) enqueue(m mqtt.Message) {
	device, ok := s.topics.DeviceOf(m.Topic)
	if !ok {
		return
	}
	q, err := wire.ParseRequest(m.Payload)
	if err != nil {
		s.cfg.Log.Debug("request refused", "device", device, "error", err)
		return
	}
	if q.Kind == wire.KindBlob && !s.caster.asked(device, q.Digest) {
		return
	}
	ranges := q.Ranges
	q.Ranges = nil
	for _, r := range ranges {
		s.queue.put(job{device: device, ask: q, at: r, came: m.At})
	}
}

// outgoing is a sealed frame on its way to the broker.
type outgoing struct {
	topic string
	code  uint16
	bytes []byte
	cast  *cast // set: of a cast
}

// transmit sends jobs as frames until ctx ends. Reading and sending overlap.
func (s *server) transmit(ctx context.Context) {
	out := make(chan outgoing, framesAhead)
	free := make(chan []byte, framesAhead+2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for o := range out {
			s.publish(ctx, o)
			select {
			case free <- o.bytes:
			default:
			}
		}
	}()
	for ctx.Err() == nil {
		j, ok := s.queue.take()
		if !ok {
			select {
			case <-ctx.Done():
			case <-s.queue.wake:
			}
			continue
		}
		var buf []byte
		select {
		case buf = <-free:
		default:
			buf = make([]byte, wire.FrameHeader+s.frame)
		}
		out <- s.answer(j, buf[:cap(buf)])
	}
	close(out)
	<-done
}

func (s *server) publish(ctx context.Context, o outgoing) {
	if o.cast != nil {
		defer o.cast.sent.Add(uint64(len(o.bytes) - wire.FrameHeader)) // sent or lost, it is under way no more
		if o.code != wire.CodeOK {
			return // whoever misses it asks, and is told
		}
	}
	if err := s.bulk.Publish(ctx, o.topic, 0, false, o.bytes); err != nil {
		return // lost: the device asks again
	}
	s.queue.sent(len(o.bytes)-wire.FrameHeader, o.code)
}

// answer builds the frame for a job in buf, which it returns shortened.
func (s *server) answer(j job, buf []byte) outgoing {
	f := wire.Frame{Kind: j.ask.Kind, Transfer: j.ask.Transfer, Offset: j.at.Offset, Clock: j.ask.Clock}
	n := 0
	o, code := s.objects.open(j.device, j.ask)
	if code == wire.CodeOK {
		f.Total, f.ID = uint64(o.size), o.id
		n, code = s.read(o, j, buf[wire.FrameHeader:])
	}
	f.Code = code
	if j.cast != nil {
		f.Transfer, f.Clock = j.cast.stream, time.Duration(j.pos)
		if code != wire.CodeOK {
			n = int(j.at.Length) // counted all the same
		}
		return outgoing{topic: s.topics.Cast(j.cast.id), code: code, bytes: f.Seal(buf[:wire.FrameHeader+n]), cast: j.cast}
	}
	f.Queued = max(s.cfg.Session.Now().Sub(j.came), time.Duration(0))
	return outgoing{topic: s.topics.For(j.device).Reply(), code: code, bytes: f.Seal(buf[:wire.FrameHeader+n])}
}

// read fills b with the job's range, as far as the object goes.
func (s *server) read(o object, j job, b []byte) (int, uint16) {
	if int(j.at.Length) > s.frame || j.at.Offset > uint64(o.size) {
		return 0, wire.CodeRange
	}
	n := int(min(int64(j.at.Length), o.size-int64(j.at.Offset)))
	if n == 0 {
		return 0, wire.CodeOK
	}
	if got, _ := o.r.ReadAt(b[:n], int64(j.at.Offset)); got < n {
		s.cfg.Log.Warn("cannot read an object", "device", j.device, "digest", j.ask.Digest[:6], "offset", j.at.Offset)
		return 0, wire.CodeFailed
	}
	return n, wire.CodeOK
}

package mqtt

import (
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	poolDepth  = 16       // received frames' buffers that wait to be used again
	poolFrom   = 32 << 10 // smaller messages have a buffer of their own, bytes
	aliveEvery = time.Second
	typePub    = 3
	mostBody   = 1<<28 - 1 // a packet's length has 28 bits
)

var errMalformed = errors.New("malformed packet")

// direct is what a bulk connection has beside a limitConn: messages at QoS 0 go
// past paho both ways. paho copies each of them twice into new memory and hands
// it through three goroutines, which costs more than all the checks of a pull.
// Everything else, and the first packet, is paho's.
type direct struct {
	handle func(Message)
	pool   chan []byte // received buffers to use again

	body  []byte // of the message under way, nil between two
	got   int    // bytes of body that are here
	keep  byte   // its first byte
	alive time.Time
	sign  []byte // what paho is told instead
}

func newDirect(handle func(Message)) *direct {
	return &direct{handle: handle, pool: make(chan []byte, poolDepth)}
}

func (d *direct) buffer(n int) []byte {
	if n >= poolFrom {
		select {
		case b := <-d.pool:
			if cap(b) >= n {
				return b[:n]
			}
		default:
		}
	}
	return make([]byte, n)
}

// takes says that a packet with this first byte is not for paho.
func (d *direct) takes(first byte) bool { return first>>4 == typePub && first&6 == 0 }

// begin prepares for the body of a message.
func (d *direct) begin(first byte, length int) {
	d.keep, d.body, d.got = first, d.buffer(length), 0
}

// landed hands the message over that is whole.
func (d *direct) landed(now time.Time) error {
	b := d.body
	d.body = nil
	if len(b) < 2 || len(b) < 2+int(b[0])<<8+int(b[1]) {
		return fmt.Errorf("cannot read a message of %d bytes: %w", len(b), errMalformed)
	}
	topic := 2 + int(b[0])<<8 + int(b[1])
	m := Message{Topic: string(b[2:topic]), Retain: d.keep&1 != 0, Payload: b[topic:], At: now}
	if len(b) >= poolFrom {
		m.whole, m.pool = b, d.pool
	}
	d.handle(m)
	return nil
}

// told gives paho the answer to a ping now and then while messages arrive: its
// own timers would take a connection for dead on which it sees nothing.
func (d *direct) told(now time.Time) bool {
	if now.Sub(d.alive) < aliveEvery {
		return false
	}
	d.alive, d.sign = now, []byte{0xd0, 0}
	return true
}

// Release lets the payload's memory be used for another message. Only its last
// reader may call it, and nobody needs to.
func (m Message) Release() {
	if m.pool == nil {
		return
	}
	select {
	case m.pool <- m.whole:
	default:
	}
}

// Write sends one whole packet: paho writes them so. Only one is under way, so
// that those of publish come between two of them.
func (l *limitConn) Write(p []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.Conn.SetWriteDeadline(l.deadline()); err != nil {
		return 0, err
	}
	return l.Conn.Write(p)
}

// SetWriteDeadline does nothing: paho's would end where the other's packet still needs it.
func (l *limitConn) SetWriteDeadline(time.Time) error { return nil }

func (l *limitConn) deadline() time.Time {
	if l.patience == 0 {
		return time.Time{}
	}
	return time.Now().Add(l.patience)
}

// publish sends a message at QoS 0 without a copy of it. After an error the
// connection is of no use: part of the packet may be out.
func (l *limitConn) publish(topic string, retain bool, payload []byte) error {
	length := 2 + len(topic) + len(payload)
	if len(topic) > 1<<16-1 || length > mostBody {
		return fmt.Errorf("cannot send %d bytes to a topic of %d: %w", len(payload), len(topic), errMalformed)
	}
	head := make([]byte, 1, 7+len(topic))
	head[0] = typePub << 4
	if retain {
		head[0] |= 1
	}
	for length >= 128 {
		head = append(head, byte(length)|128)
		length >>= 7
	}
	head = append(head, byte(length), byte(len(topic)>>8), byte(len(topic)))
	head = append(head, topic...)
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.Conn.SetWriteDeadline(l.deadline()); err != nil {
		return err
	}
	parts := net.Buffers{head, payload}
	_, err := parts.WriteTo(l.Conn)
	return err
}

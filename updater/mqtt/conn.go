package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrTooLarge is the cause of a lost connection when the broker sent a packet over the limit.
var ErrTooLarge = errors.New("packet over the limit")

// limitConn refuses an MQTT packet by its fixed header, before any of its
// bytes reach paho, which would allocate up to 256 MiB for it. It also gathers
// paho's reads of one byte each, and notes when something last arrived.
// Read by one goroutine; written and closed by any.
type limitConn struct {
	net.Conn
	r        *bufio.Reader
	max      int
	left     int // bytes of the current packet that may still be handed on
	lastRead atomic.Int64
	now      func() time.Time
	refused  atomic.Bool

	direct   *direct       // nil: everything is paho's
	begun    bool          // the first packet has come
	patience time.Duration // for one write; 0 has no end
	writing  sync.Mutex
}

func newLimitConn(c net.Conn, limit int, now func() time.Time) *limitConn {
	l := &limitConn{Conn: c, r: bufio.NewReaderSize(c, 64<<10), max: limit, now: now}
	l.lastRead.Store(now().UnixNano())
	return l
}

func (l *limitConn) Read(p []byte) (int, error) {
	for l.left == 0 {
		if l.direct != nil && len(l.direct.sign) > 0 {
			n := copy(p, l.direct.sign)
			l.direct.sign = l.direct.sign[n:]
			return n, nil
		}
		err := l.next()
		if err != nil {
			return 0, err
		}
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	l.lastRead.Store(l.now().UnixNano())
	return n, err
}

// next goes on with a message that is not paho's, or looks at the next packet.
func (l *limitConn) next() error {
	d := l.direct
	if d == nil || d.body == nil {
		return l.header()
	}
	n, err := l.r.Read(d.body[d.got:])
	if err != nil {
		return err
	}
	d.got += n
	now := l.now()
	l.lastRead.Store(now.UnixNano())
	d.told(now)
	if d.got == len(d.body) {
		return d.landed(now)
	}
	return nil
}

// header looks at the next fixed header: a type byte, then a length of 1 to 4 bytes of 7 bits.
func (l *limitConn) header() error {
	length := 0
	for i := 1; i <= 4; i++ {
		b, err := l.r.Peek(i + 1)
		if err != nil {
			return err
		}
		length |= int(b[i]&127) << (7 * (i - 1))
		if b[i] < 128 {
			if length > l.max {
				l.refused.Store(true)
				return fmt.Errorf("cannot accept an MQTT packet of %d bytes: the limit is %d: %w", length, l.max, ErrTooLarge)
			}
			if l.direct != nil && l.begun && length > 0 && l.direct.takes(b[0]) {
				_, err = l.r.Discard(1 + i)
				l.direct.begin(b[0], length)
				return err
			}
			l.begun = true
			l.left = 1 + i + length
			return nil
		}
	}
	l.refused.Store(true)
	return fmt.Errorf("cannot accept an MQTT packet with a length of five bytes: %w", ErrTooLarge)
}

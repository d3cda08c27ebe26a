package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// ErrTooLarge is the cause of a lost connection when the broker sent a packet over the limit.
var ErrTooLarge = errors.New("packet over the limit")

// limitConn refuses an MQTT packet by its fixed header, before any of its
// bytes reach paho, which would allocate up to 256 MiB for it. It also gathers
// paho's reads of one byte each, and notes when something last arrived.
// Read by one goroutine; closed by any.
type limitConn struct {
	net.Conn
	r        *bufio.Reader
	max      int
	left     int // bytes of the current packet that may still be handed on
	lastRead atomic.Int64
	now      func() time.Time
	refused  atomic.Bool
}

func newLimitConn(c net.Conn, limit int, now func() time.Time) *limitConn {
	l := &limitConn{Conn: c, r: bufio.NewReaderSize(c, 64<<10), max: limit, now: now}
	l.lastRead.Store(now().UnixNano())
	return l
}

func (l *limitConn) Read(p []byte) (int, error) {
	if l.left == 0 {
		if err := l.header(); err != nil {
			return 0, err
		}
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	l.lastRead.Store(l.now().UnixNano())
	return n, err
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
			l.left = 1 + i + length
			return nil
		}
	}
	l.refused.Store(true)
	return fmt.Errorf("cannot accept an MQTT packet with a length of five bytes: %w", ErrTooLarge)
}

// Package delaylink is a network link with a rate and a delay, for tests and
// benchmarks: two network namespaces joined through two TUN devices and a loop
// that holds every packet as long as the link would. Kernels without netem have
// no other way.
//
// It needs root and /dev/net/tun. Nothing outside the two namespaces changes,
// and they vanish with the Link. Test code only.
package delaylink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of the two ends.
const (
	Near = "10.213.7.1"
	Far  = "10.213.7.2"
)

const (
	mtu      = 1500
	depth    = 1 << 14         // packets on their way
	bufferOf = 2 * time.Second // of the link's own buffer: what waits longer is dropped
)

// Link joins two ends.
type Link struct {
	Near, Far *End
	rate      int // bytes a second, each way
	delay     time.Duration
	group     sync.WaitGroup

	watch  atomic.Bool
	queued atomic.Int64 // the longest that a packet to the far end waited, while watched
}

// End is one namespace.
type End struct {
	acts chan func()
	gone chan struct{} // closed by close
	tun  *os.File
}

// New makes a link of so many bytes a second each way and so long a round trip.
// The caller must Close it.
func New(rate int, roundTrip time.Duration) (*Link, error) {
	l := &Link{rate: rate, delay: roundTrip / 2}
	var err error
	if l.Near, err = newEnd("near", Near); err != nil {
		return nil, err
	}
	if l.Far, err = newEnd("far", Far); err != nil {
		return nil, errors.Join(err, l.Near.close())
	}
	l.forward(l.Near.tun, l.Far.tun, true)
	l.forward(l.Far.tun, l.Near.tun, false)
	return l, nil
}

// Close takes the link down and waits for its loops.
func (l *Link) Close() error {
	err := errors.Join(l.Near.close(), l.Far.close())
	l.group.Wait()
	return err
}

// Watch begins to note how long packets to the far end wait for the link.
func (l *Link) Watch() { l.watch.Store(true) }

// Queued is the longest wait of a packet to the far end since Watch.
func (l *Link) Queued() time.Duration { return time.Duration(l.queued.Load()) }

// newEnd makes a namespace with one TUN device. A goroutine keeps the thread that is in it.
func newEnd(name, addr string) (*End, error) {
	e := &End{acts: make(chan func()), gone: make(chan struct{})}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = e.open(addr)
		}
		made <- err
		if err != nil {
			return
		}
		for {
			select {
			case <-e.gone:
				return
			case act := <-e.acts:
				act()
			}
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("cannot make the %s end of a link (it needs root and /dev/net/tun): %w", name, err)
	}
	return e, nil
}

func (e *End) open(addr string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	req, err := unix.NewIfreq("bothy0")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	e.tun = os.NewFile(uintptr(fd), "tun")
	for _, args := range []string{"link set lo up", "addr add " + addr + "/30 dev bothy0", fmt.Sprintf("link set bothy0 mtu %d txqueuelen 1000 up", mtu)} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return errors.Join(fmt.Errorf("ip %s: %w: %s", args, err, out), e.tun.Close())
		}
	}
	return nil
}

func (e *End) close() error {
	close(e.gone)
	return e.tun.Close()
}

// Do runs act on a thread in the namespace: what it starts or opens belongs
// there. After Close it does nothing.
func (e *End) Do(act func()) {
	done := make(chan struct{})
	select {
	case <-e.gone:
	case e.acts <- func() {
		defer close(done)
		act()
	}:
		<-done
	}
}

// Dial connects to an address of digits from inside the namespace.
func (e *End) Dial(ctx context.Context, addr string) (c net.Conn, err error) {
	err = net.ErrClosed
	e.Do(func() {
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp", addr)
	})
	return c, err
}

type packet struct {
	bytes []byte
	due   time.Time
}

// forward carries packets one way: each takes its time on the link, after those
// before it, and then the delay.
func (l *Link) forward(from, to *os.File, measured bool) {
	way := make(chan packet, depth)
	l.group.Go(func() {
		defer close(way)
		free := time.Now() // when the link has sent what came before
		for {
			b := make([]byte, mtu)
			n, err := from.Read(b)
			if err != nil {
				return
			}
			now := time.Now()
			wait := max(free.Sub(now), 0)
			if wait > bufferOf {
				continue
			}
			if measured && l.watch.Load() && int64(wait) > l.queued.Load() {
				l.queued.Store(int64(wait))
			}
			free = now.Add(wait + time.Duration(n)*time.Second/time.Duration(l.rate))
			select {
			case way <- packet{b[:n], free.Add(l.delay)}:
			default: // full: dropped, as on a link
			}
		}
	})
	l.group.Go(func() {
		for p := range way {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.bytes); err != nil {
				continue // the other end is closed, or not up yet
			}
		}
	})
}

package depot

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
)

const (
	benchSize  = 256 << 20
	benchTurns = 5
)

// BenchmarkPullAgainstRaw takes turns on one broker: a whole fetch with window,
// checks, journal, file and whole hash, and what the same broker and library do
// with frames of the same size and nothing else. It prints how fast the fetch is
// against the best raw turn, and its processor time, broker's included, against
// the raw median's.
func BenchmarkPullAgainstRaw(b *testing.B) {
	broker, fleet := parts.Mosquitto(b), newFolder(b)
	f := fleet.add(b, noise(1, benchSize), "box1")
	serve(b, broker.URL, fleet, nil)
	src := source(b, broker.URL, "box1")
	src.GC = &content.Collector{}
	raw := newRaw(b, broker.URL)
	var pulls, raws []turn
	b.SetBytes(benchSize)
	for b.Loop() {
		for range benchTurns {
			raws = append(raws, took(b, broker, func() { raw.transfer(b, benchSize) }))
			s := openStore(b, b.TempDir())
			pulls = append(pulls, took(b, broker, func() {
				if _, err := s.Fetch(b.Context(), f, []content.Source{src}, nil); err != nil {
					b.Fatal(err)
				}
			}))
			if err := os.Remove(s.Path(f.SHA256)); err != nil {
				b.Fatal(err)
			}
		}
	}
	wall := func(t turn) time.Duration { return t.wall }
	cpu := func(t turn) time.Duration { return t.cpu }
	b.ReportMetric(float64(smallest(raws, wall))/float64(smallest(pulls, wall))*100, "%best")
	b.ReportMetric(float64(median(pulls, cpu))/float64(median(raws, cpu)), "x-cpu")
	b.ReportMetric(median(pulls, cpu).Seconds()*1e12/benchSize, "cpu-ms/GB-pull")
	b.ReportMetric(median(raws, cpu).Seconds()*1e12/benchSize, "cpu-ms/GB-raw")
	b.ReportMetric(benchSize/smallest(pulls, wall).Seconds()/1e6, "MB/s-pull")
	b.ReportMetric(benchSize/smallest(raws, wall).Seconds()/1e6, "MB/s-raw")
}

// turn is what one transfer took; cpu is of this process and the broker.
type turn struct{ wall, cpu time.Duration }

func took(b *testing.B, broker *parts.Broker, act func()) turn {
	before, began := spent(b, broker), time.Now()
	act()
	return turn{time.Since(began), spent(b, broker) - before}
}

func spent(b *testing.B, broker *parts.Broker) time.Duration {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		b.Fatal(err)
	}
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(broker.PID()) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	// proc(5): fields 14 and 15, counted behind the name, in hundredths of a second.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(own.Utime.Nano()+own.Stime.Nano()) + time.Duration(ticks)*10*time.Millisecond
}

func smallest(all []turn, by func(turn) time.Duration) time.Duration {
	least := by(all[0])
	for _, t := range all {
		least = min(least, by(t))
	}
	return least
}

func median(all []turn, by func(turn) time.Duration) time.Duration {
	var d []time.Duration
	for _, t := range all {
		d = append(d, by(t))
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// raw is paho alone: at most 64 frames outstanding, no checks, no file.
type raw struct {
	out    paho.Client
	credit chan struct{}
	got    atomic.Int64
	want   atomic.Int64
	done   chan struct{}
}

func newRaw(b *testing.B, url string) *raw {
	r := &raw{credit: make(chan struct{}, 64), done: make(chan struct{}, 1)}
	connect := func(id string) paho.Client {
		c := paho.NewClient(paho.NewClientOptions().AddBroker(url).SetClientID(id).SetOrderMatters(true))
		if t := c.Connect(); t.Wait() && t.Error() != nil {
			b.Fatal(t.Error())
		}
		b.Cleanup(func() { c.Disconnect(100) })
		return c
	}
	in := connect("in")
	r.out = connect("out")
	if t := in.Subscribe("x", 0, func(_ paho.Client, m paho.Message) {
		<-r.credit
		if r.got.Add(int64(len(m.Payload()))) >= r.want.Load() {
			r.got.Store(0)
			r.done <- struct{}{}
		}
	}); t.Wait() && t.Error() != nil {
		b.Fatal(t.Error())
	}
	return r
}

func (r *raw) transfer(b *testing.B, size int64) {
	payload := noise(1, content.DefaultFrame)
	r.want.Store(size)
	for sent := int64(0); sent < size; sent += int64(len(payload)) {
		r.credit <- struct{}{}
		if t := r.out.Publish("x", 0, false, payload); t.Wait() && t.Error() != nil {
			b.Fatal(t.Error())
		}
	}
	<-r.done
}

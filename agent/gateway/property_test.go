package gateway

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/router"
)

// journal remembers which policies were in force when, so that an arrival in the
// cloud can be judged by those that were in force on its way.
type journal struct {
	mu      sync.Mutex
	epochs  []epoch
	arrived []arrival
}

type epoch struct {
	from    time.Time
	allowed bool // ordinary requests may leave; those with a card never may
}

type arrival struct {
	at   time.Time
	body string
	id   int
}

// allowedSince tells whether leaving was allowed at any time in [from, to].
func (j *journal) allowedSince(from, to time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, e := range j.epochs {
		ends := i+1 == len(j.epochs) || j.epochs[i+1].from.After(from)
		if e.allowed && ends && !e.from.After(to) {
			return true
		}
	}
	return false
}

// TestNothingLeavesThatMayNot runs clients against random policies, reloads,
// loads and faults of engine, upstream and disk. The upstream records all that arrives.
func TestNothingLeavesThatMayNot(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { storm(t, seed) })
	}
}

// enough is how many requests must have left for a storm to have tested anything.
const enough = 20

func storm(t *testing.T, seed uint64) {
	j := &journal{}
	b := newBox(t, localOnly, func(rc *router.Config, _ *Config) { rc.MaxQueue, rc.MaxWait = 6, 50*time.Millisecond })
	j.epochs = []epoch{{time.Now(), false}}
	b.set(func() { b.cloud = recorder(j, seed) })
	stop := make(chan struct{})
	var weather, clients sync.WaitGroup
	weather.Go(func() { changes(b, j, rand.New(rand.NewPCG(seed, 1)), stop) })
	var sent sync.Map // id -> when its client sent it
	// Long enough for the storm to be one, and on a busy machine until enough has left to judge by.
	began := time.Now()
	goesOn := func() bool {
		lasted := time.Since(began)
		return lasted < 1500*time.Millisecond || lasted < 30*time.Second && j.count() < enough
	}
	for c := range 8 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(c)+2))
			for n := 0; goesOn(); n++ {
				id := c*100000 + n
				sent.Store(id, time.Now())
				ask(b, r, id)
			}
		})
	}
	clients.Wait()
	close(stop)
	weather.Wait()
	left := 0
	for _, a := range j.arrived {
		left++
		since, _ := sent.Load(a.id)
		if since == nil || strings.Contains(a.body, "stay") {
			t.Errorf("left: %s", a.body)
		} else if !j.allowedSince(since.(time.Time), a.at) {
			t.Errorf("request %d left although no policy on its way allowed it", a.id)
		}
	}
	t.Logf("%d requests left, %d policies were in force", left, len(j.epochs))
	if left < enough {
		t.Errorf("only %d requests left: the test tests too little", left)
	}
	b.await("all leases back", func() bool { return b.leases.Load() == 0 && len(b.gate.Stats().InFlight) == 0 })
	if q := b.gate.Stats().Queues["mote"]; q.Waiting+q.Running != 0 {
		t.Errorf("the queue still holds %+v", q)
	}
}

// count is how many requests have left so far.
func (j *journal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.arrived)
}

// recorder is an upstream that fails now and then, after it has noted what came.
func recorder(j *journal, seed uint64) http.HandlerFunc {
	r := rand.New(rand.NewPCG(seed, 99))
	return func(w http.ResponseWriter, req *http.Request) {
		raw, _ := io.ReadAll(req.Body)
		a := arrival{at: time.Now(), body: string(raw)}
		if i := strings.Index(a.body, "request "); i >= 0 {
			fmt.Sscanf(a.body[i:], "request %d", &a.id)
		}
		j.mu.Lock()
		j.arrived = append(j.arrived, a)
		fault := r.IntN(10)
		j.mu.Unlock()
		switch fault {
		case 0:
			w.WriteHeader(500)
		case 1:
			panic(http.ErrAbortHandler)
		default:
			req.Body = io.NopCloser(strings.NewReader(a.body))
			says("from the cloud").ServeHTTP(w, req)
		}
	}
}

// ask sends one random request. Those that must never leave say "stay".
func ask(b *box, r *rand.Rand, id int) {
	text, headers, extra := fmt.Sprintf("request %d", id), []string(nil), ""
	switch r.IntN(7) {
	case 0:
		text += " stay 4111 1111 1111 1111"
	case 1:
		text, headers = text+" stay", []string{"X-Bothy-Place", "local"}
	case 2:
		text, headers = text+" stay", []string{"X-Bothy-Class", "payment"}
	case 3:
		text, extra = text+" stay", `,"model":"mote"`
	}
	body := fmt.Sprintf(`{"model":"mote","stream":%t,"messages":[{"role":"user","content":%q}]%s}`, r.IntN(2) == 0, text, extra)
	b.post(body, headers...)
}

// changes is the weather: every millisecond something is switched.
func changes(b *box, j *journal, r *rand.Rand, stop chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		switch r.IntN(6) {
		case 0:
			rules := []string{localFirst, cloudFirst, localOnly, "kill_switch: true\n" + localFirst}[r.IntN(4)]
			allowed := rules == localFirst || rules == cloudFirst
			// Before a widening and after a narrowing, so that the journal never claims less than was in force.
			if allowed {
				j.note(true)
			}
			b.setPolicy(rules + "\nspill: {max_wait: 5ms, max_queue: 3}")
			if !allowed {
				j.note(false)
			}
		case 1:
			b.set(func() {
				b.state.Phase = []router.Phase{router.Ready, router.Loading, router.Switching, router.Down}[r.IntN(4)]
			})
		case 2:
			b.set(func() { b.refuse = []error{nil, nil, errors.New("crashed")}[r.IntN(3)] })
		case 3:
			b.set(func() { b.engine = []http.Handler{says("ok"), says("ok"), slow(r.IntN(20)), broken}[r.IntN(4)] })
		case 4:
			b.set(func() { b.state.Slots = 1 + r.IntN(3) })
		case 5:
			b.disk.Store(r.IntN(5) == 0)
		}
	}
}

func (j *journal) note(allowed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.epochs = append(j.epochs, epoch{time.Now(), allowed})
}

var broken = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })

func slow(ms int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(time.Duration(ms) * time.Millisecond)
		says("ok").ServeHTTP(w, r)
	})
}

// TestKillSwitchStopsWhatQueues: requests that wait when the switch comes never leave.
func TestKillSwitchStopsWhatQueues(t *testing.T) {
	b := newBox(t, localFirst+"\nspill: {max_wait: 200ms}")
	for range 60 {
		b.post(hello) // so that a short wait is predicted and requests queue
	}
	before := b.arrived.Load()
	h := newHang()
	b.set(func() { b.engine = h; b.state.Slots = 1 })
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() { b.post(hello) })
	}
	<-h.entered
	b.await("five waiting", func() bool { return b.gate.Stats().Queues["mote"].Waiting == 5 })
	b.setPolicy("kill_switch: true\n" + localFirst + "\nspill: {max_wait: 200ms}")
	time.AfterFunc(500*time.Millisecond, func() { close(h.release) })
	wait.Wait()
	if n := b.arrived.Load() - before; n != 0 {
		t.Errorf("%d requests left after the kill switch", n)
	}
}

// TestUpstreamRedefinedIsNotDialledAsBefore: the place's name alone is not the permission.
func TestUpstreamRedefinedIsNotDialledAsBefore(t *testing.T) {
	b := newBox(t, cloudFirst)
	b.post(hello)
	if b.arrived.Load() != 1 {
		t.Fatal("the upstream is not reached at all")
	}
	url := b.server.URL
	b.server.URL = "https://127.0.0.1:1" // nobody is there
	b.setPolicy(cloudFirst)
	b.server.URL = url
	if r := b.post(hello); r.place() != "local" || r.reason() != "upstream-down" || b.arrived.Load() != 1 {
		t.Errorf("got %s/%s, %d arrived; want local/upstream-down and 1", r.place(), r.reason(), b.arrived.Load())
	}
}

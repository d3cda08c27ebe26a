package depot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Fleet is what a depot serves; fleet.Fleet is one. It must be safe for
// concurrent use. A missing thing is an error that is trust.ErrNotFound.
type Fleet interface {
	// Devices is the names of all devices that have a director set.
	Devices() ([]string, error)
	// Metadata is a file of the catalog (device is ignored) or of a device's director.
	Metadata(repo trust.Repo, device, name string) ([]byte, error)
	// Blob is the path of the file with this digest (64 hexadecimal digits).
	Blob(digest string) (path string, err error)
	// Index is the encoded block index of the file with this digest.
	Index(digest string) ([]byte, error)
	// Allowed says whether the device's set names the digest.
	Allowed(device, digest string) (bool, error)
}

// timestamp is the file that announces a new version of a repository.
const timestamp = "timestamp.json"

// Report is a message of a device. The payload is not verified; the topic only
// says who the broker thinks it is.
type Report struct {
	Device  string
	Kind    string // "state", "event" or "online"
	Payload []byte
	Time    time.Time
	// Retained: the broker had kept it; it may be old.
	Retained bool
}

// Config says what to serve and where. Session's client id, subscriptions and
// packet limit are set by Serve; zero values of the rest are the defaults named.
type Config struct {
	Fleet   Fleet
	Session mqtt.Config
	Tenant  string
	Depot   string
	Poll    time.Duration   // how often the fleet's folder is looked at; 2 s
	Poke    <-chan struct{} // look now
	Reports func(Report)    // called from one goroutine; nil drops them
	Enroll  Enroller        // nil: nobody enrols over the broker
	// Orders is what waits to be sent, by device and in the order of the numbers; nil sends none.
	Orders func() (map[string][]release.SealedOrder, error)
	// Retired lists devices that are no more, and says whether each is wiped; nil: there are none.
	Retired   func() (map[string]bool, error)
	FrameMax  int  // bytes; 0 asks the broker by sending frames
	WindowMax int  // bytes that one device may have outstanding; 16 MiB
	NoCast    bool // answer every device by itself, however many want one blob
	Log       *slog.Logger
	Ready     chan<- Stats // told once, when the depot has announced itself; capacity at least 1
}

// Stats is what a depot has done.
type Stats struct {
	Epoch    uint64 `json:"epoch"`
	FrameMax int    `json:"frame_max"`
	Frames   uint64 `json:"frames"`
	Bytes    uint64 `json:"bytes"`
	Refused  uint64 `json:"refused"`
	Dropped  uint64 `json:"dropped"` // ranges over a device's window
	Casts    uint64 `json:"casts"`   // streams that were begun
}

const (
	defaultPoll   = 2 * time.Second
	defaultWindow = 16 << 20
	requestDepth  = 1024
)

// server is one call of Serve.
type server struct {
	cfg     Config
	topics  wire.Topics
	epoch   uint64
	frame   int
	control *mqtt.Session
	bulk    *mqtt.Session
	inbox   *inbox
	asked   chan mqtt.Message
	// enrolling has room for a burst; a flood is dropped at the door.
	enrolling chan mqtt.Message
	sent      map[string]string // retained by topic; the announce loop's
	retired   atomic.Pointer[map[string]bool]
	epochs    map[string]uint64 // last presence by device; the reader's
	objects   *objects
	queue     *queue
	resender  *resender
	caster    *caster
	heard     chan mqtt.Message // feedback of casts
}

// Serve runs a depot until ctx ends, and returns nil then.
func Serve(ctx context.Context, cfg Config) error {
	s, err := newServer(cfg)
	if err != nil {
		return fmt.Errorf("cannot serve the fleet: %w", err)
	}
	return s.run(ctx)
}

func (s *server) run(ctx context.Context) (err error) {
	defer s.objects.close()
	if s.frame == 0 {
		if s.frame, err = s.probe(ctx); err != nil {
			return stopped(ctx, fmt.Errorf("cannot find out how large a frame the broker lets through: %w", err))
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	s.caster.frame = min(s.frame, content.DefaultFrame)
	s.control.Retain(s.topics.Info(s.cfg.Depot), s.info(nil))
	group.Go(func() { _ = s.control.Run(ctx) }) // nil: it ends with ctx
	group.Go(func() { _ = s.bulk.Run(ctx) })
	group.Go(func() { s.listen(ctx) })
	group.Go(func() { s.hear(ctx) })
	group.Go(func() { s.recall(ctx) })
	group.Go(func() { s.transmit(ctx) })
	group.Go(func() { s.orderLoop(ctx) })
	if s.cfg.Enroll != nil {
		group.Go(func() { s.enrollLoop(ctx) })
	}
	return stopped(ctx, s.announceLoop(ctx))
}

// stopped is nil where err only says that ctx ended.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func newServer(cfg Config) (*server, error) {
	if err := errors.Join(wire.CheckID(cfg.Tenant), wire.CheckID(cfg.Depot)); err != nil {
		return nil, err
	}
	if cfg.Poll == 0 {
		cfg.Poll = defaultPoll
	}
	if cfg.WindowMax == 0 {
		cfg.WindowMax = defaultWindow
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Session.Now == nil {
		cfg.Session.Now = time.Now
	}
	if cfg.Session.Log == nil {
		cfg.Session.Log = cfg.Log
	}
	s := &server{
		cfg: cfg, topics: wire.Topics{Tenant: cfg.Tenant}, epoch: uint64(cfg.Session.Now().UnixNano()), frame: cfg.FrameMax,
		inbox: newInbox(), asked: make(chan mqtt.Message, requestDepth), enrolling: make(chan mqtt.Message, enrollDepth), heard: make(chan mqtt.Message, requestDepth),
		sent: map[string]string{}, epochs: map[string]uint64{},
		objects: newObjects(cfg.Fleet, cfg.Session.Now), queue: newQueue(cfg.WindowMax), resender: newResender(),
	}
	var subs []mqtt.Subscription
	// At QoS 1 Mosquitto drops of what it keeps whatever goes over 20 in flight and 1,000 waiting (of a fleet of
	// 3,000 the depot heard 1,020 messages), and lets nothing through meanwhile; see recall for the rest.
	for leaf, qos := range map[string]byte{"state": 0, "event": 1, "online": 0} {
		subs = append(subs, mqtt.Subscription{Filter: s.topics.AnyDevice(leaf), QoS: qos, Handle: s.inbox.put})
	}
	if cfg.Enroll != nil {
		subs = append(subs, s.enrollSubscriptions()...)
	}
	var err error
	if s.control, err = mqtt.New(s.session(cfg.Depot, subs...)); err != nil {
		return nil, err
	}
	bulk := s.session(cfg.Depot+"-bulk",
		mqtt.Subscription{Filter: s.topics.Requests(cfg.Depot), Handle: intake(s.asked)},
		mqtt.Subscription{Filter: s.topics.Feedbacks(), Handle: intake(s.heard)})
	bulk.Bulk = true
	s.bulk, err = mqtt.New(bulk)
	s.newCaster()
	return s, err
}

// newCaster connects the casts with the rest of the depot.
func (s *server) newCaster() {
	c := newCaster(s.epoch, s.cfg.Session.Now)
	c.may = s.objects.may
	c.index = func(digest string) (content.Index, error) {
		b, err := s.cfg.Fleet.Index(digest)
		if err != nil {
			return content.Index{}, err
		}
		return content.ParseIndex(b)
	}
	c.send = func(c *cast, at wire.Range, pos uint64) {
		s.queue.put(job{device: toAll, cast: c, pos: pos, ask: wire.Request{Kind: wire.KindBlob, Digest: c.digest}, at: at, came: s.cfg.Session.Now()})
	}
	c.tell = func(all []mqtt.Cast) {
		s.control.Retain(s.topics.Info(s.cfg.Depot), s.info(all))
		s.cfg.Log.Info("casts changed", "running", len(all))
	}
	c.drop = s.queue.forget
	c.never = s.cfg.NoCast
	s.caster = c
}

// session reads whatever a broker that lets frames through can bring: a limit
// below that would let one device cut the depot off from all others.
func (s *server) session(id string, subs ...mqtt.Subscription) mqtt.Config {
	c := s.cfg.Session
	c.ClientID, c.MaxPacket, c.Subscriptions = id, wire.MaxFrame+4<<10, subs
	return c
}

// intake hands over to a channel what is no larger than devices send.
func intake(c chan<- mqtt.Message) func(mqtt.Message) bool {
	into := mqtt.Into(c)
	return func(m mqtt.Message) bool { return len(m.Payload) <= mqtt.MaxControl && into(m) }
}

func (s *server) info(casts []mqtt.Cast) []byte {
	if casts == nil {
		casts = []mqtt.Cast{}
	}
	b, _ := json.Marshal(mqtt.Info{V: 1, FrameMax: s.frame, WindowMax: max(s.cfg.WindowMax, s.frame), Epoch: s.epoch, Cast: casts}) // plain fields cannot fail
	return b
}

// announceLoop keeps the retained offers as the fleet's folder has them.
func (s *server) announceLoop(ctx context.Context) error {
	if err := s.control.Wait(ctx); err != nil {
		return err
	}
	if err := s.bulk.Wait(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(s.cfg.Poll)
	defer tick.Stop()
	for first := true; ; first = false {
		if err := s.announce(); err != nil {
			s.cfg.Log.Warn("cannot announce the fleet", "error", err)
		}
		if first && s.cfg.Ready != nil {
			s.cfg.Ready <- s.stats()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-s.cfg.Poke:
		}
	}
}

func (s *server) announce() error {
	devices, err := s.cfg.Fleet.Devices()
	if err != nil {
		return err
	}
	retired, err := s.forgetRetired()
	err = errors.Join(err, s.offer(s.topics.Catalog(), trust.Catalog, ""))
	for _, d := range devices {
		if wire.CheckID(d) == nil && !retired[d] {
			err = errors.Join(err, s.offer(s.topics.For(d).Want(), trust.Director, d))
		}
	}
	return err
}

// offer retains a repository's timestamp if it is not what is there already.
func (s *server) offer(topic string, repo trust.Repo, device string) error {
	b, err := s.cfg.Fleet.Metadata(repo, device, timestamp)
	if errors.Is(err, trust.ErrNotFound) {
		return nil // nothing signed yet
	}
	if err != nil {
		return err
	}
	if s.sent[topic] == string(b) {
		return nil
	}
	s.sent[topic] = string(b)
	s.control.Retain(topic, b)
	s.cfg.Log.Info("offered", "repository", repo, "device", device)
	return nil
}

// listen takes requests and the feedback of casts, and moves the casts on.
func (s *server) listen(ctx context.Context) {
	tick := time.NewTicker(castTick)
	defer tick.Stop()
	for {
		beat := tick.C
		if len(s.caster.running) == 0 {
			beat = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-beat:
			s.caster.step()
		case m := <-s.heard:
			s.feedback(m)
		case m := <-s.asked:
			s.enqueue(m)
		}
	}
}

// feedback takes what a device says of a cast; the device is the topic's.
func (s *server) feedback(m mqtt.Message) {
	device, ok := s.topics.DeviceOf(m.Topic)
	f, err := wire.ParseFeedback(m.Payload)
	if !ok || err != nil || s.topics.For(device).Feedback(f.ID) != m.Topic {
		return
	}
	s.caster.feedback(device, f)
}

func (s *server) stats() Stats {
	q := s.queue.stats()
	q.Epoch, q.FrameMax, q.Casts = s.epoch, s.frame, s.caster.count.Load()
	return q
}

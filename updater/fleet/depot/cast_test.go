package depot

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
)

// names is box1 to boxN.
func names(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("box%d", i+1))
	}
	return all
}

// start runs a depot whose counters can be read.
func start(t testing.TB, url string, f Fleet, edit func(*Config)) *server {
	t.Helper()
	ready := make(chan Stats, 1)
	cfg := Config{
		Fleet: f, Tenant: "acme", Depot: "depot1", FrameMax: content.DefaultFrame, Poll: 20 * time.Millisecond, Ready: ready,
		Session: mqtt.Config{Broker: url, Jitter: func() float64 { return 0.05 }},
	}
	if edit != nil {
		edit(&cfg)
	}
	s, err := newServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("the depot does not get ready")
	}
	return s
}

// pulled is what one device's fetch came to.
type pulled struct {
	device string
	from   map[string]int64
	err    error
}

// together lets every device fetch the file at once, and compares what they got.
func together(t testing.TB, url string, f release.File, want []byte, devices []string, edit func(device string, d *content.Depot), progress func(device string, p content.Progress)) map[string]pulled {
	t.Helper()
	ended := make(chan pulled, len(devices))
	ctx := timeout(t)
	var lock sync.Mutex
	for _, device := range devices {
		src := source(t, url, device)
		if edit != nil {
			edit(device, src)
		}
		s := openStore(t, t.TempDir())
		go func() {
			out := pulled{device: device}
			path, err := s.Fetch(ctx, f, []content.Source{src}, func(p content.Progress) {
				out.from = p.BySource
				if progress != nil {
					lock.Lock()
					defer lock.Unlock()
					progress(device, p)
				}
			})
			if err == nil {
				var got []byte
				if got, err = os.ReadFile(path); err == nil && !bytes.Equal(got, want) {
					err = fmt.Errorf("got %d bytes that are not those served", len(got))
				}
				os.Remove(path)
			}
			out.err = err
			ended <- out
		}()
	}
	all := map[string]pulled{}
	for range devices {
		p := <-ended
		if p.err != nil {
			t.Errorf("%s: %v", p.device, p.err)
		}
		all[p.device] = p
	}
	return all
}

func TestManyDevicesOfOneBlobAreServedByOneStream(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(8)
	want := noise(21, 32<<20+777)
	f := fleet.add(t, want, devices...)
	s := start(t, b.URL, fleet, nil)
	all := together(t, b.URL, f, want, devices, nil, nil)
	st := s.stats()
	if st.Casts == 0 || st.Bytes > uint64(f.Size)*2 {
		t.Errorf("%d casts and %d bytes for 8 devices of %d bytes, want a cast and far less than eight times", st.Casts, st.Bytes, f.Size)
	}
	for _, p := range all {
		if p.from["cast"] < f.Size*3/4 {
			t.Errorf("%s got %v, want most by cast", p.device, p.from)
		}
	}
}

func TestTwoDevicesAreNoReasonToCast(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	want := noise(22, 12<<20)
	f := fleet.add(t, want, names(2)...)
	s := start(t, b.URL, fleet, nil)
	together(t, b.URL, f, want, names(2), nil, nil)
	if st := s.stats(); st.Casts != 0 {
		t.Errorf("got %d casts for two devices", st.Casts)
	}
}

// Devices that may not have the blob do not make a cast, and hear nothing of it
// on a broker with access lists.
func TestOnlyDevicesThatMayHaveABlobMakeACast(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	want := noise(23, 12<<20)
	f := fleet.add(t, want, "box1")
	s := start(t, b.URL, fleet, nil)
	for _, d := range []string{"box2", "box3", "box4"} {
		if _, err := openStore(t, t.TempDir()).Fetch(timeout(t), f, []content.Source{source(t, b.URL, d)}, nil); err == nil {
			t.Errorf("%s got a blob that its set does not name", d)
		}
	}
	together(t, b.URL, f, want, []string{"box1"}, nil, nil)
	if st := s.stats(); st.Casts != 0 {
		t.Errorf("got %d casts, want none", st.Casts)
	}
}

// A broker whose access list names no casts: everybody gets the blob all the same.
func TestDevicesThatTheBrokerKeepsOutAskForThemselves(t *testing.T) {
	acl := filepath.Join(t.TempDir(), "acl")
	lines := "topic readwrite bothy/1/acme/d/#\ntopic readwrite bothy/1/acme/p/#\ntopic write bothy/1/acme/b/+/fb/+\n"
	if err := os.WriteFile(acl, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	b, fleet := parts.Mosquitto(t, "acl_file "+acl), newFolder(t)
	devices := names(4)
	want := noise(24, 24<<20)
	f := fleet.add(t, want, devices...)
	s := start(t, b.URL, fleet, nil)
	all := together(t, b.URL, f, want, devices, nil, nil)
	for _, p := range all {
		if p.from["cast"] > 0 {
			t.Errorf("%s got %v by a cast that it may not read", p.device, p.from)
		}
	}
	if st := s.stats(); st.Casts > 1 {
		t.Errorf("%d casts were begun for devices that cannot listen, want no more than one a minute", st.Casts)
	}
}

func TestCastGoesOnWithoutADeviceThatLeaves(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(4)
	want := noise(25, 32<<20)
	f := fleet.add(t, want, append(devices, "gone")...)
	s := start(t, b.URL, fleet, nil)
	ctx, leave := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() {
		_, err := openStore(t, t.TempDir()).Fetch(ctx, f, []content.Source{source(t, b.URL, "gone")}, func(p content.Progress) {
			if p.BySource["cast"] > 1<<20 {
				leave()
			}
		})
		done <- err
	}()
	together(t, b.URL, f, want, devices, nil, nil)
	leave()
	<-done
	if st := s.stats(); st.Casts == 0 {
		t.Error("nothing was cast")
	}
}

func TestLateDeviceJoinsACastAndAsksForTheRest(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(3)
	want := noise(26, 48<<20)
	f := fleet.add(t, want, append(devices, "late")...)
	s := start(t, b.URL, fleet, nil)
	var once sync.Once
	late := make(chan pulled, 1)
	together(t, b.URL, f, want, devices, nil, func(_ string, p content.Progress) {
		if p.BySource["cast"] > 4<<20 {
			once.Do(func() {
				go func() { late <- together(t, b.URL, f, want, []string{"late"}, nil, nil)["late"] }()
			})
		}
	})
	select {
	case p := <-late:
		if p.from["cast"] == 0 || p.from["mqtt"] == 0 {
			t.Errorf("the late device got %v, want some by cast and the rest asked for", p.from)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the late device did not end")
	}
	if st := s.stats(); st.Bytes > 3*uint64(f.Size) {
		t.Errorf("%d bytes for four devices of %d", st.Bytes, f.Size)
	}
}

func TestCastSurvivesADepotRestarted(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(3)
	want := noise(27, 32<<20)
	f := fleet.add(t, want, devices...)
	_, stop := serve(t, b.URL, fleet, nil)
	var once sync.Once
	again := make(chan *server, 1)
	together(t, b.URL, f, want, devices, nil, func(_ string, p content.Progress) {
		if p.BySource["cast"] > 2<<20 {
			once.Do(func() {
				go func() {
					stop()
					again <- start(t, b.URL, fleet, nil)
				}()
			})
		}
	})
	select {
	case <-again:
	case <-time.After(30 * time.Second):
		t.Fatal("the fetch ended before the fault: nothing was cast")
	}
}

func TestCastSurvivesABrokerRestarted(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(3)
	want := noise(28, 32<<20)
	f := fleet.add(t, want, devices...)
	start(t, b.URL, fleet, nil)
	var once sync.Once
	acted := make(chan struct{})
	together(t, b.URL, f, want, devices, nil, func(_ string, p content.Progress) {
		if p.BySource["cast"] > 2<<20 {
			once.Do(func() {
				go func() {
					defer close(acted)
					b.Kill()
					b.Start(t)
				}()
			})
		}
	})
	select {
	case <-acted:
	case <-time.After(30 * time.Second):
		t.Fatal("the fetch ended before the fault: nothing was cast")
	}
}

// On a broker without access lists anybody can write to a cast. Wrong blocks
// there make a device ask for itself; they are nobody's fault that it asks.
func TestForgedCastFramesMakeDevicesAskForThemselves(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(3)
	want := noise(29, 32<<20)
	f := fleet.add(t, want, devices...)
	s := start(t, b.URL, fleet, nil)
	forge(t, b.URL, s, f, func(w *mqtt.Session, c mqtt.Cast, topic string, id [16]byte) {
		pos := uint64(0)
		for off := uint64(0); off+uint64(c.Frame) <= 1<<20; off += uint64(c.Frame) {
			fr := wire.Frame{Kind: wire.KindBlob, Transfer: c.Stream, ID: id, Offset: off, Total: uint64(f.Size), Clock: time.Duration(pos), Payload: make([]byte, c.Frame)}
			w.Publish(context.Background(), topic, 0, false, fr.Encode()) // a lost one is as good
			pos += uint64(c.Frame)
		}
		rest := 1<<20 - 1<<20/c.Frame*c.Frame
		w.Publish(context.Background(), topic, 0, false, wire.Frame{Kind: wire.KindBlob, Transfer: c.Stream, ID: id, Offset: uint64(1<<20 - rest), Total: uint64(f.Size), Payload: make([]byte, rest)}.Encode())
	})
	together(t, b.URL, f, want, devices, nil, nil)
}

// forge acts once as soon as a cast is announced.
func forge(t *testing.T, url string, s *server, f release.File, act func(w *mqtt.Session, c mqtt.Cast, topic string, id [16]byte)) {
	t.Helper()
	topics := wire.Topics{Tenant: "acme", Device: "intruder"}
	infos := make(chan mqtt.Message, 64)
	w, err := mqtt.New(mqtt.Config{Broker: url, ClientID: "intruder", Subscriptions: []mqtt.Subscription{{Filter: topics.Info("depot1"), QoS: 1, Handle: mqtt.Into(infos)}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { w.Run(ctx) })
	group.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-infos:
				i, err := mqtt.ParseInfo(m.Payload)
				if err != nil || len(i.Cast) == 0 {
					continue
				}
				raw, _ := hex.DecodeString(f.SHA256)
				id := [16]byte(raw[:16])
				act(w, i.Cast[0], topics.Cast(id), id)
			}
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
}

// Rubbish on the cast's topics, from whoever, costs nothing but the frames it displaces.
func TestCastOutlivesAFloodOfRubbish(t *testing.T) {
	b, fleet := parts.Mosquitto(t), newFolder(t)
	devices := names(3)
	want := noise(30, 24<<20)
	f := fleet.add(t, want, devices...)
	s := start(t, b.URL, fleet, nil)
	forge(t, b.URL, s, f, func(w *mqtt.Session, c mqtt.Cast, topic string, id [16]byte) {
		other := [16]byte{9}
		for i := range 500 {
			frame := wire.Frame{Kind: wire.KindBlob, Transfer: c.Stream, ID: id, Offset: uint64(i), Total: uint64(f.Size), Payload: make([]byte, 100)}
			wrongID, wrongStream, far := frame, frame, frame
			wrongID.ID, wrongStream.Transfer = other, c.Stream+1
			far.Offset, far.Total = 1<<40, 1<<41
			for _, x := range []wire.Frame{frame, wrongID, wrongStream, far} {
				w.Publish(context.Background(), topic, 0, false, x.Encode())
			}
			w.Publish(context.Background(), topic, 0, false, []byte("rubbish"))
			for j, lie := range []wire.Feedback{
				{Stream: c.Stream, ID: id, Pos: 1 << 60}, {Stream: c.Stream, ID: other}, {Stream: 7, ID: id},
				{Stream: c.Stream, ID: id, Missing: 1 << 60, Last: 1 << 60},
			} {
				from := wire.Topics{Tenant: "acme", Device: fmt.Sprintf("ghost%d", i*4+j)}
				w.Publish(context.Background(), from.Feedback(lie.ID), 0, false, lie.Encode())
			}
		}
	})
	together(t, b.URL, f, want, devices, nil, nil)
}

package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
)

// packet is a PUBLISH with these flags.
func packet(flags byte, topic string, rest ...byte) []byte {
	body := append([]byte{byte(len(topic) >> 8), byte(len(topic))}, topic...)
	body = append(body, rest...)
	out := []byte{0x30 | flags}
	n := len(body)
	for ; n >= 128; n >>= 7 {
		out = append(out, byte(n)|128)
	}
	return append(append(out, byte(n)), body...)
}

// read lets bytes pass a bulk connection, and answers what paho gets of them and what the handlers.
func read(in []byte, limit int, now func() time.Time) (paho []byte, direct []Message, err error) {
	here, there := net.Pipe()
	go func() {
		for piece := range slices.Chunk(in, 20<<10) {
			there.Write(piece)
		}
		there.Close()
	}()
	defer here.Close()
	l := newLimitConn(here, limit, now)
	l.direct = newDirect(func(m Message) { direct = append(direct, m) })
	for buf := make([]byte, 3); err == nil; {
		var n int
		n, err = l.Read(buf)
		paho = append(paho, buf[:n]...)
	}
	return paho, direct, err
}

func TestBulkConnectionKeepsMessagesFromPaho(t *testing.T) {
	connack, suback := []byte{0x20, 2, 0, 0}, []byte{0x90, 3, 0, 1, 0}
	large := bytes.Repeat([]byte{7}, 40<<10)
	still := func() time.Time { return time.Unix(1, 0) } // nothing is told twice within a second
	join := func(all ...[]byte) []byte { return bytes.Join(all, nil) }
	alive := []byte{0xd0, 0}
	for _, c := range []struct {
		name string
		in   []byte
		paho []byte
		got  string // topics, lengths and retain
		err  error
	}{
		{"between two of paho's", join(connack, packet(0, "a", 1, 2), packet(1, "b/c", large...), suback), join(connack, alive, suback), "a 2 false, b/c 40960 true, ", io.EOF},
		{"empty", join(connack, packet(0, "a")), join(connack, alive), "a 0 false, ", io.EOF},
		{"at QoS 1", join(connack, packet(2, "a", 0, 1, 9)), join(connack, packet(2, "a", 0, 1, 9)), "", io.EOF},
		{"before the broker's answer", packet(0, "a", 1), packet(0, "a", 1), "", io.EOF},
		{"a topic longer than the packet", join(connack, []byte{0x30, 4, 0, 3, 'a', 'b'}), connack, "", errMalformed},
		{"no room for a topic", join(connack, []byte{0x30, 1, 0}), connack, "", errMalformed},
		{"over the limit", join(connack, packet(0, "a", bytes.Repeat([]byte{1}, 64<<10)...)), connack, "", ErrTooLarge},
		{"cut off", join(connack, packet(0, "a", 1, 2)[:5]), join(connack, alive), "", io.EOF},
	} {
		paho, direct, err := read(c.in, 60<<10, still)
		got := ""
		for _, m := range direct {
			got += fmt.Sprintf("%s %d %v, ", m.Topic, len(m.Payload), m.Retain)
		}
		if got != c.got || !errors.Is(err, c.err) {
			t.Errorf("%s: handlers got %q and %v, want %q and %v", c.name, got, err, c.got, c.err)
		}
		if c.err != errMalformed && !bytes.Equal(paho, c.paho) {
			t.Errorf("%s: paho got %x, want %x", c.name, paho, c.paho)
		}
	}
}

// A frame may take longer than paho waits for the answer to a ping.
func TestPahoIsToldThatASlowFrameArrives(t *testing.T) {
	clock := time.Unix(1, 0)
	in := append([]byte{0x20, 2, 0, 0}, packet(0, "a", bytes.Repeat([]byte{1}, 200<<10)...)...)
	paho, direct, _ := read(in, 1<<20, func() time.Time { clock = clock.Add(10 * time.Second); return clock })
	if told := bytes.Count(paho[4:], []byte{0xd0, 0}); told < 3 || len(direct) != 1 {
		t.Errorf("while one frame came paho was told %d times that the connection lives, want at least 3; %d messages, want 1", told, len(direct))
	}
}

func TestReleasedMemoryIsUsedAgainAndNoOther(t *testing.T) {
	d := newDirect(nil)
	var got []Message
	d.handle = func(m Message) { got = append(got, m) }
	arrive := func(fill byte) Message {
		d.begin(0x30, 40<<10)
		copy(d.body, "\x00\x01a")
		d.body[3] = fill
		if err := d.landed(time.Time{}); err != nil {
			t.Fatal(err)
		}
		return got[len(got)-1]
	}
	first := arrive(1)
	second := arrive(2)
	second.Release()
	third := arrive(3)
	if first.Payload[0] != 1 || &third.Payload[0] != &second.Payload[0] {
		t.Errorf("kept payload begins with %d, want 1; released memory was used again: %v, want true", first.Payload[0], &third.Payload[0] == &second.Payload[0])
	}
}

// Through a real broker: what one side sends without paho the other gets whole, with paho's own traffic between.
func TestBulkMessagesComeWholeAndInOrder(t *testing.T) {
	b := parts.Mosquitto(t)
	const n = 200
	in := make(chan Message, n+1)
	run := func(id string, subs ...Subscription) *Session {
		s, err := New(Config{Broker: b.URL, ClientID: id, MaxPacket: 1 << 20, Bulk: true, Subscriptions: subs, KeepAlive: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		go s.Run(t.Context())
		if err := s.Wait(bounded(t)); err != nil {
			t.Fatal(err)
		}
		return s
	}
	to := run("to", Subscription{Filter: "a/+", Handle: Into(in)})
	from := run("from")
	for i := range n {
		payload := bytes.Repeat([]byte{byte(i)}, 1+i*777)
		if err := from.Publish(bounded(t), "a/b", 0, false, payload); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			to.Join(Subscription{Filter: fmt.Sprint("c/", i), Handle: Into(in)})
			if err := from.Publish(bounded(t), "d", 1, false, payload); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case m := <-in:
			if !bytes.Equal(m.Payload, payload) || m.Topic != "a/b" {
				t.Fatalf("message %d: got %d bytes on %s, want %d on a/b", i, len(m.Payload), m.Topic, len(payload))
			}
			m.Release()
		case <-bounded(t).Done():
			t.Fatalf("message %d never came", i)
		}
	}
	if st := to.Status(); st.Serial != 1 || !st.Connected {
		t.Errorf("got connection %d, connected %v, want the first one still", st.Serial, st.Connected)
	}
}

func FuzzBulkConnection(f *testing.F) {
	connack := []byte{0x20, 2, 0, 0}
	f.Add(append(connack, packet(0, "a", 1, 2)...))
	f.Add(append(connack, packet(1, "a/b", bytes.Repeat([]byte{1}, 300)...)...))
	f.Add(append(connack, 0x30, 4, 0, 3, 'a', 'b'))
	f.Add(append(connack, 0x30, 0, 0x30, 1, 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		paho, direct, _ := read(in, 1<<10, func() time.Time { return time.Unix(1, 0) })
		all := 0
		for _, m := range direct {
			all += len(m.Topic) + len(m.Payload) + 4
		}
		if all+len(paho) > len(in)+len("\xd0\x00") {
			t.Errorf("%d bytes went to paho and %d to the handlers, of %d", len(paho), all, len(in))
		}
	})
}

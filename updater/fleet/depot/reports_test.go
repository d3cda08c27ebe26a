package depot

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater/mqtt"
)

func message(device, leaf, payload string) mqtt.Message {
	return mqtt.Message{Topic: "bothy/1/t/d/" + device + "/" + leaf, Payload: []byte(payload)}
}

func TestOfStatesTheNewestWaitsAndOfEventsAll(t *testing.T) {
	b := newInbox()
	for i := range 5 {
		for _, leaf := range []string{"state", "online", "event"} {
			if !b.put(message("a", leaf, fmt.Sprint(i))) {
				t.Fatalf("%s %d has no room", leaf, i)
			}
		}
	}
	var got []string
	for _, m := range b.take() {
		got = append(got, m.Topic[strings.LastIndex(m.Topic, "/")+1:]+" "+string(m.Payload))
	}
	if len(got) != 7 || strings.Join(got[2:], ",") != "event 0,event 1,event 2,event 3,event 4" || !strings.HasSuffix(got[0], " 4") || !strings.HasSuffix(got[1], " 4") {
		t.Errorf("got %q, want the last state, the last presence, and every event", got)
	}
	if again := b.take(); len(again) != 0 || b.bytes != 0 {
		t.Errorf("%d messages and %d bytes are left, want none", len(again), b.bytes)
	}
}

func TestReportsOfAWholeFleetAtOnceTakeBoundedRoom(t *testing.T) {
	b := newInbox()
	large := strings.Repeat("x", mqtt.MaxControl)
	refused := 0
	for i := range 5000 {
		for _, leaf := range []string{"state", "event"} {
			if !b.put(message(fmt.Sprintf("box-%d", i), leaf, large)) {
				refused++
			}
		}
	}
	if b.bytes > inboxBytes || refused == 0 {
		t.Errorf("%d bytes wait and %d were refused, want at most %d bytes", b.bytes, refused, inboxBytes)
	}
	if b.put(message("a", "state", large+"x")) {
		t.Error("a message larger than a device sends is taken, want not")
	}
	b.take()
	for range 3 * inboxBytes / len(large) {
		if !b.put(message("a", "state", large)) {
			t.Fatal("the same topic again has no room: got refused, want the older one replaced")
		}
	}
}

package mqtt

import (
	"testing"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

func TestFilterMatch(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/c", false}, {"a/+", "a/b", true}, {"a/+", "a/b/c", false}, {"a/+", "a", false},
		{"+/b", "a/b", true}, {"a/#", "a/b/c", true}, {"#", "a/b", true}, {"a/b", "a", false}, {"a/b", "a/b/c", false},
	} {
		if got := match(c.filter, c.topic); got != c.want {
			t.Errorf("%s with %s: got %v, want %v", c.filter, c.topic, got, c.want)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte(`{"v":1,"frame_max":245760,"window_max":16777216,"epoch":7,"cast":[]}`))
	f.Add([]byte(`{"v":1,"frame_max":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := ParseInfo(b)
		if err == nil && (i.FrameMax < 1<<10 || i.FrameMax > wire.MaxFrame || i.WindowMax < i.FrameMax) {
			t.Fatalf("accepted %+v", i)
		}
	})
}

func FuzzParsePresence(f *testing.F) {
	f.Add(presence(true, 1<<63))
	f.Add([]byte(`{"v":1,"online":"yes"}`))
	f.Add([]byte(`{"v":1,"epoch":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePresence(b)
		if err != nil {
			return
		}
		if again, err := ParsePresence(presence(p.Online, p.Epoch)); err != nil || again != p {
			t.Fatalf("accepted %+v, which reads back as %+v (%v)", p, again, err)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"v":1,"device":"box1","origin":7,"seq":1,"time":"2030-01-01T00:00:00Z","kind":"change","body":{}}`))
	f.Add([]byte(`{"v":1,"device":"box2","seq":1,"kind":"change"}`))
	f.Add([]byte(`{"v":1,"device":"box1","seq":18446744073709551616}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEvent("box1", b)
		if err == nil && (e.V != 1 || e.Device != "box1" || e.Seq == 0 || len(e.Kind) > maxKind || len(b) > MaxControl) {
			t.Fatalf("accepted %+v", e)
		}
	})
}

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

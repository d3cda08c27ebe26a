package mqtt

import (
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

func TestTopics(t *testing.T) {
	topics := Topics{Tenant: "acme", Device: "box1"}
	for topic, want := range map[string]string{
		topics.Request("d"): "box1", topics.State(): "box1", topics.For("b").Event(): "b",
		"bothy/1/other/d/box1/state": "", topics.Catalog(): "", "bothy/1/acme/d/+/state": "", "bothy/1/acme/p/d/req/": "",
		"bothy/1/acme/p/d/req/a-bulk": "",
	} {
		got, ok := topics.DeviceOf(topic)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%s: got %q, %v, want %q", topic, got, ok, want)
		}
		if strings.Count(topic, "/") > 6 {
			t.Errorf("%s: AWS IoT allows no more than seven levels", topic)
		}
	}
	for _, bad := range []string{"", ".a", "a-bulk", "a/b", "a+", "a b", "é", strings.Repeat("a", 65)} {
		if CheckID(bad) == nil {
			t.Errorf("%q is accepted as an identity", bad)
		}
	}
}

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

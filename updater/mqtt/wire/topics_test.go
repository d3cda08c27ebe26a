package wire

import (
	"strings"
	"testing"
)

func TestTopics(t *testing.T) {
	topics := Topics{Tenant: "acme", Device: "box1"}
	for topic, want := range map[string]string{
		topics.Feedback([16]byte{1}): "box1", topics.Cast([16]byte{1}): "", topics.For("b").Feedback([16]byte{2}): "b",
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

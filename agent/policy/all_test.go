package policy

import "testing"

func TestAllIsTheIntersectionOfItsPolicies(t *testing.T) {
	open := mustParse(t, upstreamDocument("open", "https://a.example/v1", "[local, cloud]"))
	other := mustParse(t, upstreamDocument("other", "https://b.example/v1", "[local, cloud]"))
	same := mustParse(t, upstreamDocument("same", "https://a.example/v1", "[cloud, local]"))
	ask := Ask{Model: "m", API: "chat"}
	for _, c := range []struct {
		name     string
		policies []*Policy
		cloud    bool
	}{
		{"none", nil, false},
		{"one", []*Policy{open}, true},
		{"alike", []*Policy{open, same, open}, true},
		{"the last means another host", []*Policy{open, same, other}, false},
		{"the first two differ", []*Policy{open, other, open}, false},
		{"one is local only", []*Policy{open, same, Default()}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := All(c.policies...)
			v := d.Decide(Caller{}, ask)
			if v.Allows("cloud") != c.cloud || !v.Allows(Local) {
				t.Errorf("got places %v, want cloud %v and local", v.Places, c.cloud)
			}
			if got := len(d.Upstreams()) == 1; got != c.cloud {
				t.Errorf("got upstreams %v, want one exactly when the cloud is allowed", d.Upstreams())
			}
		})
	}
}

func upstreamDocument(name, url, places string) string {
	return "schema: 1\nname: " + name + "\nupstreams:\n  - {name: cloud, api: openai, base_url: \"" + url + "\"}\nrules:\n  - {name: r, places: " + places + "}\n"
}

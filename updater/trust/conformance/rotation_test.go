package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// version is one root or other role: its keys, how many must sign, who does.
// A letter is a key.
type version struct {
	keys      string
	threshold int
	signed    string
}

func letters(t *testing.T, names string) []key {
	var keys []key
	for _, name := range names {
		keys = append(keys, edKey(t, string(name)))
	}
	return keys
}

func TestRootIsFollowedOnlyWithBothThresholds(t *testing.T) {
	for _, c := range []struct {
		name  string
		roots []version
		last  int // version that is trusted at the end
	}{
		{"next key", []version{{"a", 1, "a"}, {"b", 1, "ab"}, {"c", 1, "bc"}}, 3},
		{"signatures of strangers besides", []version{{"a", 1, "xay"}, {"b", 1, "xaby"}}, 2},
		{"other signers of one set", []version{{"abcde", 3, "ace"}, {"abcde", 3, "bcd"}, {"abcde", 3, "ade"}}, 3},
		{"all keys at once", []version{{"abcde", 3, "abc"}, {"fghij", 3, "abcfgh"}, {"fghij", 3, "hij"}}, 3},
		{"one key of five", []version{{"abcde", 3, "abc"}, {"abcdf", 3, "abd"}}, 2},
		{"threshold up", []version{{"abc", 1, "a"}, {"abc", 2, "ab"}}, 2},
		{"threshold down", []version{{"abc", 2, "ab"}, {"abc", 1, "ab"}, {"abc", 1, "c"}}, 3},
		{"keys in any order", []version{{"cab", 2, "bc"}, {"bca", 2, "ca"}}, 2},
		{"many in one refresh", slices.Repeat([]version{{"ab", 2, "ab"}}, 40), 40},

		{"not by the old key", []version{{"a", 1, "a"}, {"b", 1, "b"}}, 1},
		{"not by the new key", []version{{"a", 1, "a"}, {"b", 1, "ac"}}, 1},
		{"below the new threshold", []version{{"abcde", 3, "abc"}, {"abdef", 3, "acd"}}, 1},
		{"below the old threshold", []version{{"abc", 2, "ab"}, {"abc", 1, "a"}}, 1},
		{"below the raised threshold", []version{{"abc", 1, "a"}, {"abc", 2, "b"}}, 1},
		{"a revoked key does not come back", []version{{"a", 1, "a"}, {"b", 1, "ab"}, {"a", 1, "a"}}, 2},
		{"threshold of nothing", []version{{"a", 1, "a"}, {"a", 0, "a"}}, 1},
		{"threshold over the keys", []version{{"ab", 2, "ab"}, {"ab", 3, "ab"}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.root.Signed.Version = 0
			for _, v := range c.roots {
				s.setKeys(root, v.threshold, letters(t, v.keys)...)
				s.keys[root] = letters(t, v.signed)
				s.publish(root)
			}
			client := newClient(t, s, 1)
			want := strings.Replace(fresh, "root@1", fmt.Sprint("root@", c.last), 1)
			if c.last == len(c.roots) {
				client.mustRefresh()
				client.trusts(want)
				return
			}
			client.refused(fmt.Sprint("root@", c.last))
		})
	}
}

func TestOtherRolesNeedTheThresholdOfTheirKeys(t *testing.T) {
	for _, role := range []string{timestamp, snapshot, targets} {
		for v, ok := range map[version]bool{
			{"b", 1, "b"}:       true,
			{"b", 1, "xby"}:     true,
			{"abcde", 3, "cea"}: true,
			{"edcba", 3, "abc"}: true,
			{"b", 1, "axy"}:     false,
			{"abdef", 3, "ace"}: false,
			{"abdef", 3, "ab"}:  false,
			{"ab", 3, "ab"}:     false,
		} {
			t.Run(fmt.Sprint(role, v), func(t *testing.T) {
				s := newSite(t)
				c := newClient(t, s, 1)
				s.setKeys(role, v.threshold, letters(t, v.keys)...)
				s.keys[role] = letters(t, v.signed)
				s.publish(root)
				s.all()
				if got := c.refresh() == 0; got != ok {
					t.Errorf("got success %v, want %v", got, ok)
				}
			})
		}
	}
}

// edit changes the JSON of a served file.
func edit(s *site, file string, change func(document map[string]any)) {
	s.t.Helper()
	var document map[string]any
	decoder := json.NewDecoder(bytes.NewReader(s.files[file]))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		s.t.Fatal(err)
	}
	change(document)
	raw, err := json.Marshal(document)
	if err != nil {
		s.t.Fatal(err)
	}
	s.files[file] = raw
}

func TestOneKeyCountsOnce(t *testing.T) {
	again := func(times int) func(map[string]any) {
		return func(document map[string]any) {
			signatures := document["signatures"].([]any)
			for range times {
				signatures = append(signatures, signatures[0])
			}
			document["signatures"] = signatures
		}
	}
	t.Run("signature twice", func(t *testing.T) {
		s := newSite(t)
		edit(s, "metadata/1.snapshot.json", again(1))
		newClient(t, s, 1).refused("root@1 timestamp@1")
	})
	t.Run("key listed many times", func(t *testing.T) {
		s := newSite(t)
		one := edKey(t, "one")
		s.setKeys(snapshot, 3, one, one, one, one)
		s.keys[snapshot] = []key{one}
		s.publish(root)
		s.all()
		edit(s, "metadata/2.snapshot.json", again(3))
		newClient(t, s, 2).refused("root@2 timestamp@2")
	})
	t.Run("key under two names", func(t *testing.T) {
		s := newSite(t)
		one, other := edKey(t, "one"), edKey(t, "one")
		public := *one.public
		public.UnrecognizedFields = map[string]any{"x-name": "other"}
		other.public, other.id = &public, strings.Repeat("0", 64)
		s.setKeys(snapshot, 2, one, other)
		s.publish(root)
		s.all()
		newClient(t, s, 2).refused("root@2 timestamp@2")
	})
}

func TestKeysOfEveryKindVerify(t *testing.T) {
	for name, k := range map[string]key{"ed25519": edKey(t, "kind"), "ecdsa": ecdsaKey(t), "rsa": rsaKey(t)} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c := newClient(t, s, 1)
			s.setKeys(root, 2, edKey(t, root), k)
			s.publish(root)
			c.mustRefresh()
			c.trusts("root@2 snapshot@1 targets@1 timestamp@1")
			s.publish(root)
			edit(s, "metadata/3.root.json", func(document map[string]any) {
				for _, signature := range document["signatures"].([]any) {
					if entry := signature.(map[string]any); entry["keyid"] == k.id {
						entry["sig"] = fmt.Sprintf("%x", k.sign(t, []byte("something else")).Signature)
					}
				}
			})
			c.refused("root@2 snapshot@1 targets@1 timestamp@1")
		})
	}
}

func TestBadSignatureBesideEnoughGoodOnesDoesNoHarm(t *testing.T) {
	for _, bad := range []string{"", "00", strings.Repeat("ab", 64)} {
		s := newSite(t)
		c := newClient(t, s, 1)
		s.setKeys(timestamp, 1, edKey(t, "good"), edKey(t, "bad"))
		s.publish(root, timestamp)
		edit(s, "metadata/timestamp.json", func(document map[string]any) {
			document["signatures"].([]any)[1].(map[string]any)["sig"] = bad
		})
		if c.refresh() != 0 {
			t.Errorf("got a refusal with one bad signature %q beside a good one", bad)
		}
	}
}

// TestNewKeysRecoverFromVersionsTooHigh: whoever stole a key published versions
// that honest ones would never reach again.
func TestNewKeysRecoverFromVersionsTooHigh(t *testing.T) {
	const high = 1 << 40
	for name, c := range map[string]struct {
		rotate []string
		again  func(s *site)
		want   string
	}{
		"timestamp": {[]string{timestamp}, func(s *site) { s.timestamp.Signed.Version = 1 }, "extra@1 root@2 snapshot@HIGH targets@HIGH timestamp@2"},
		"snapshot":  {[]string{timestamp, snapshot}, func(s *site) { s.snapshot.Signed.Version = 1 }, "extra@1 root@2 snapshot@2 targets@HIGH timestamp@HIGH"},
		"targets":   {[]string{snapshot}, func(s *site) { s.targets[targets].Signed.Version = 1 }, "extra@1 root@2 snapshot@HIGH targets@2 timestamp@HIGH"},
		"role taken out": {[]string{snapshot}, func(s *site) {
			delete(s.snapshot.Signed.Meta, "extra.json")
			delete(s.targets, "extra")
			s.targets[targets].Signed.Delegations = nil
		}, "extra@1 root@2 snapshot@HIGH targets@HIGH timestamp@HIGH"},
	} {
		for _, rotated := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, new keys %v", name, rotated), func(t *testing.T) {
				s := newSite(t)
				s.delegate(targets, metadata.DelegatedRole{Name: "extra", Paths: []string{"extra/*"}})
				s.target("extra", "extra/file", "content")
				s.timestamp.Signed.Version, s.snapshot.Signed.Version, s.targets[targets].Signed.Version = high-2, high-2, high-2
				s.all()
				client := newClient(t, s, 1)
				if client.download("extra/file") != 0 {
					t.Fatal("got a refusal of high versions")
				}
				if rotated {
					for _, role := range c.rotate {
						s.setKeys(role, 1, edKey(t, "next "+role))
					}
				}
				s.publish(root)
				c.again(s)
				s.publish(targets, snapshot, timestamp)
				if got := client.refresh() == 0; got != rotated {
					t.Errorf("got success %v, want %v", got, rotated)
				}
				if rotated {
					client.trusts(strings.ReplaceAll(c.want, "HIGH", fmt.Sprint(high)))
				}
			})
		}
	}
}

package agent

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/updater"
)

const openPolicy = `schema: 1
name: open
upstreams:
  - {name: cloud, api: openai, base_url: "https://cloud.example/v1"}
rules:
  - {name: may leave, places: [local, cloud]}
`

const closedPolicy = `schema: 1
name: closed
rules:
  - {name: stays, places: [local]}
`

const killedPolicy = `schema: 1
name: killed
kill_switch: true
upstreams:
  - {name: cloud, api: openai, base_url: "https://cloud.example/v1"}
rules:
  - {name: may leave, places: [local, cloud]}
`

func item(name, document string) updater.Policy {
	return updater.Policy{Name: name, Version: 1, Document: []byte(document)}
}

func TestOnlyWhatEveryPolicyAllowsIsAllowed(t *testing.T) {
	local := item("open", openPolicy)
	local.LocalOnly = true
	for _, c := range []struct {
		name    string
		list    []updater.Policy
		cloud   bool
		failure string
		shown   PolicyStatus
	}{
		{"nothing is the built-in policy", nil, false, "", PolicyStatus{Name: "default", Upstreams: []string{}}},
		{"built-in", []updater.Policy{{Name: "built-in"}}, false, "", PolicyStatus{Name: "default", Upstreams: []string{}}},
		{"one", []updater.Policy{item("open", openPolicy)}, true, "", PolicyStatus{Name: "open", Release: "open@1", Upstreams: []string{"cloud"}}},
		{"narrowed", []updater.Policy{item("open", openPolicy), item("closed", closedPolicy)}, false, "",
			PolicyStatus{Name: "open", Release: "open@1", Upstreams: []string{}, Narrowed: "closed@1"}},
		{"below its mark", []updater.Policy{local}, false, "", PolicyStatus{Name: "open", Release: "open@1", Upstreams: []string{}}},
		{"kill switch", []updater.Policy{item("killed", killedPolicy)}, false, "",
			PolicyStatus{Name: "killed", Release: "killed@1", KillSwitch: true, Upstreams: []string{"cloud"}}},
		{"unreadable", []updater.Policy{item("broken", "schema: 1\nnam: x\n")}, false, "broken@1",
			PolicyStatus{Name: "default", Release: "broken@1", Upstreams: []string{}}},
		{"unreadable narrows", []updater.Policy{item("open", openPolicy), item("broken", "[")}, false, "broken@1",
			PolicyStatus{Name: "open", Release: "open@1", Upstreams: []string{}, Narrowed: "broken@1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPolicies(slog.New(slog.DiscardHandler))
			err := p.Activate(c.list)
			if (err == nil) != (c.failure == "") || err != nil && !strings.Contains(err.Error(), c.failure) {
				t.Errorf("got error %v, want one with %q", err, c.failure)
			}
			v := p.decider().Decide(policy.Caller{}, policy.Ask{Model: "m", API: "chat"})
			if v.Allows("cloud") != c.cloud || !v.Allows(policy.Local) {
				t.Errorf("got places %v, want local and cloud %v", v.Places, c.cloud)
			}
			got := p.status()
			if got.Name != c.shown.Name || got.Release != c.shown.Release || got.KillSwitch != c.shown.KillSwitch ||
				got.Narrowed != c.shown.Narrowed || strings.Join(got.Upstreams, ",") != strings.Join(c.shown.Upstreams, ",") {
				t.Errorf("got status %+v, want %+v", got, c.shown)
			}
		})
	}
}

func TestNobodyIsServedBeforeTheFirstActivation(t *testing.T) {
	p := newPolicies(slog.New(slog.DiscardHandler))
	select {
	case <-p.activated:
		t.Fatal("got activated before Activate, want not")
	default:
	}
	for range 2 {
		if err := p.Activate(nil); err != nil {
			t.Fatal(err)
		}
	}
	<-p.activated
}

func TestAPolicyWithAFailingProbeIsNotStaged(t *testing.T) {
	p := newPolicies(slog.New(slog.DiscardHandler))
	bad := openPolicy + "probes:\n  - {name: never leaves, ask: {model: m}, want: {places: [local]}}\n"
	if err := p.Stage([]byte(bad)); err == nil || !strings.Contains(err.Error(), "never leaves") {
		t.Errorf("got %v, want an error that names the probe", err)
	}
	if err := p.Stage([]byte(openPolicy)); err != nil {
		t.Errorf("got %v, want none", err)
	}
}

func TestAPolicyThatCannotBeUsedIsShown(t *testing.T) {
	p := newPolicies(slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		name string
		item updater.Policy
		want string
	}{
		{"built in", updater.Policy{Name: "built-in"}, ""},
		{"good", updater.Policy{Name: "site", Version: 2, Document: []byte(openPolicy)}, ""},
		{"lost", updater.Policy{Name: "site", Version: 2, LocalOnly: true}, "cannot use policy site@2"},
		{"of another version of the agent", updater.Policy{Name: "site", Version: 2, Document: []byte("schema: 9")}, "cannot use policy site@2"},
	} {
		_ = p.Activate([]updater.Policy{c.item}) // the error is what is shown
		if got := p.status().Broken; got == "" != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

const refusingPolicy = `schema: 1
name: refusing
rules:
  - {name: not here, when: {model: [m]}, deny: not on this box}
`

func TestAPolicyWhoseFileIsLostGoesOnRefusing(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "bothy.db"))
	defer db.Close()
	p := newPolicies(slog.New(slog.DiscardHandler))
	p.db = db
	refuses := func() bool {
		v := p.decider().Decide(policy.Caller{}, policy.Ask{Model: "m", API: "chat"})
		return v.Deny != "" && len(v.Places) == 0
	}
	if err := p.Activate([]updater.Policy{item("refusing", refusingPolicy)}); err != nil || !refuses() {
		t.Fatalf("got %v and refuses %v, want the policy in force", err, refuses())
	}
	for _, lost := range []updater.Policy{
		{Name: "refusing", Version: 1, LocalOnly: true},
		item("refusing", "["),
	} {
		p = newPolicies(slog.New(slog.DiscardHandler))
		p.db = db
		err := p.Activate([]updater.Policy{lost})
		if err == nil || !strings.Contains(err.Error(), "its stored copy instead") || !refuses() {
			t.Errorf("got %v and refuses %v, want the copy in force and an error that says so", err, refuses())
		}
		if got := p.status().Broken; !strings.Contains(got, "refusing@1") {
			t.Errorf("got status %q, want the policy named", got)
		}
	}
	if err := p.Activate([]updater.Policy{item("closed", closedPolicy)}); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.copyOf("refusing@1"); ok {
		t.Error("got a copy of a policy that is not in force any more, want none")
	}
}

func TestAPolicyBelowItsMarkIsShown(t *testing.T) {
	p := newPolicies(slog.New(slog.DiscardHandler))
	older := updater.Policy{Name: "plant", Version: 1, Document: policy.Default().Document(), LocalOnly: true}
	if err := p.Activate([]updater.Policy{older}); err != nil {
		t.Fatal(err)
	}
	if s := p.status(); s.Older != "plant@1" {
		t.Errorf("got %+v, want plant@1 shown as older than one that ran", s)
	}
	older.LocalOnly = false
	if err := p.Activate([]updater.Policy{older}); err != nil || p.status().Older != "" {
		t.Errorf("got %+v, %v, want nothing of that", p.status(), err)
	}
}

package fleet

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// threeWants is a fleet whose device box-1 had three sets: mote@1, then mote@2 with
// a policy, then mote@3 with a newer one, and a client that installed each.
func threeWants(t *testing.T) (*Fleet, *trust.Client) {
	t.Helper()
	f := newFleet(t)
	for _, text := range []string{"one", "two", "three"} {
		add(t, f, release.Model, "mote", text)
		add(t, f, release.Policy, "site", text)
	}
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	c := client(t, f, "box-1", noon)
	install(t, f, c)
	assign(t, f, "box-1", map[string]string{"chat": "mote@2"}, "site@2")
	install(t, f, c)
	assign(t, f, "box-1", map[string]string{"chat": "mote@3"}, "site@3")
	install(t, f, c)
	return f, c
}

// install takes what is assigned and remembers that it ran.
func install(t *testing.T, f *Fleet, c *trust.Client) release.Want {
	t.Helper()
	want, err := c.Refresh(t.Context(), from{f, "box-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MarkInstalled(want.Documents()...); err != nil {
		t.Fatal(err)
	}
	return want
}

func TestRollbackIsANewerWantThatTheDeviceTakes(t *testing.T) {
	f, c := threeWants(t)
	before := tree(t, f)
	plan, err := f.Rollback("box-1", Back{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, f)); diff != "" {
		t.Errorf("a dry run changed the folder:\n%s", diff)
	}
	got, err := f.Rollback("box-1", Back{Counter: plan.From})
	if err != nil {
		t.Fatal(err)
	}
	plan.Signed = true
	want := RolledBack{
		Device: "box-1", Counter: 4, From: 3, To: 2, Local: true, Signed: true,
		Changes: []string{"chat mote@3 -> mote@2", "policy site@3 -> site@2"}, Older: []string{"mote@2", "site@2"},
	}
	if diff := cmp.Diff(want, got); diff != "" || !cmp.Equal(plan, got) {
		t.Errorf("the rollback differs (-want +got):\n%s", diff)
	}
	w := install(t, f, c)
	if w.String() != "chat=mote@2 policy=site@2" || w.Counter != 4 || !c.BelowMark(*w.Policy) {
		t.Errorf("the device takes %s as want %d, below its mark %v; want the older set as 4, the policy below its mark", w, w.Counter, c.BelowMark(*w.Policy))
	}
	// The mark did not move: without the word of the director it is refused as before.
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	if _, err := c.Refresh(t.Context(), from{f, "box-1"}); trust.CodeOf(err) != trust.Rollback {
		t.Errorf("an older release that is merely assigned: got %v, want %s", err, trust.Rollback)
	}
	// What was rolled back stays so through other changes, and goes with its release.
	a := assign(t, f, "box-1", map[string]string{"chat": "mote@3"}, "")
	if !slices.Equal(a.Older, []string{"policies/site/2.json"}) {
		t.Errorf("older is %q, want the policy only", a.Older)
	}
	install(t, f, c)
	if a = assign(t, f, "box-1", nil, "site@3"); len(a.Older) != 0 {
		t.Errorf("older is %q, want nothing", a.Older)
	}
	install(t, f, c)
}

func TestRollbackGoesWhereItIsTold(t *testing.T) {
	for _, c := range []struct {
		name string
		back Back
		want string // the set the device takes
		to   uint64
		err  string
	}{
		{"the set before", Back{}, "chat=mote@2 policy=site@2", 2, ""},
		{"a want", Back{To: 1}, "chat=mote@1", 1, ""},
		{"a release", Back{Models: map[string]string{"chat": "mote@1"}}, "chat=mote@1 policy=site@3", 0, ""},
		{"a policy", Back{Policy: "site@1"}, "chat=mote@3 policy=site@1", 0, ""},
		{"the want that it has", Back{To: 3}, "", 0, "the same set"},
		{"a want that it never had", Back{To: 9}, "", 0, "want 9 is not among"},
		{"a want and a release", Back{To: 1, Policy: "site@1"}, "", 0, "either"},
		{"no such release", Back{Models: map[string]string{"chat": "mote@7"}}, "", 0, "there is no model mote@7"},
		{"another plan", Back{Counter: 2}, "", 0, "signed meanwhile"},
	} {
		f, client := threeWants(t)
		got, err := f.Rollback("box-1", c.back)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: got %v, want an error with %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || got.To != c.to {
			t.Errorf("%s: got %+v, %v, want the set of want %d", c.name, got, err, c.to)
			continue
		}
		if w := install(t, f, client); w.String() != c.want {
			t.Errorf("%s: the device takes %s, want %s", c.name, w, c.want)
		}
	}
}

func TestTwoRollbacksEndWhereTheFirstBegan(t *testing.T) {
	f, c := threeWants(t)
	for _, want := range []string{"chat=mote@2 policy=site@2", "chat=mote@3 policy=site@3"} {
		if _, err := f.Rollback("box-1", Back{}); err != nil {
			t.Fatal(err)
		}
		if w := install(t, f, c); w.String() != want {
			t.Errorf("got %s, want %s", w, want)
		}
	}
}

func TestRollbackRefusesWhatCannotBeInstalled(t *testing.T) {
	f, _ := threeWants(t)
	if _, err := f.Rollback("box-2", Back{}); !errors.Is(err, ErrUnassigned) {
		t.Errorf("a device without a set: got %v, want %v", err, ErrUnassigned)
	}
	assign(t, f, "box-2", map[string]string{"chat": "mote@1"}, "")
	if _, err := f.Rollback("box-2", Back{}); !errors.Is(err, errNothingBack) {
		t.Errorf("a device with one set: got %v, want %v", err, errNothingBack)
	}
	entries, err := f.signed(release.Model)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := f.document("models/mote/2.json", entries["models/mote/2.json"])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.blobPath(doc.Files[0].SHA256)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rollback("box-1", Back{}); err == nil || !strings.Contains(err.Error(), "add the file again") {
		t.Errorf("a release without its file: got %v, want what to do", err)
	}
	// A release that the offline keys took out of the catalog.
	b, err := f.catalogBranch()
	if err != nil {
		t.Fatal(err)
	}
	role, err := b.targets("models")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := f.offlineKeys(releaseKeys)
	if err != nil {
		t.Fatal(err)
	}
	delete(role.Signed.Targets, "models/mote/1.json")
	role.Signed.Version++
	raw, err := sign(role, keys...)
	if err == nil {
		err = b.publish(part{"models", role.Signed.Version, raw})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rollback("box-1", Back{To: 1}); err == nil || !strings.Contains(err.Error(), "mote@1 is not in the catalog any more") {
		t.Errorf("a release that was revoked: got %v, want it refused", err)
	}
}

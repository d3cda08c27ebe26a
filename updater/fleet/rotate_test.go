package fleet

import (
	"crypto"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// plant is a fleet with one device that is up to date.
type plant struct {
	*Fleet
	t      *testing.T
	device *trust.Client
}

func newPlant(t *testing.T) *plant {
	f := newFleet(t)
	f.Keys.work = cheap
	add(t, f, release.Model, "mote", "weights")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote"}, "")
	p := &plant{f, t, client(t, f, "box-1", noon)}
	p.accepted(1, 1)
	return p
}

// accepted must find the device content and at these roots.
func (p *plant) accepted(catalog, director int64) release.Want {
	p.t.Helper()
	want, err := p.device.Refresh(p.t.Context(), from{p.Fleet, "box-1"})
	if err != nil {
		p.t.Fatalf("the device refuses: %v", err)
	}
	if v := p.device.Versions(); v.Catalog.Root != catalog || v.Director.Root != director {
		p.t.Errorf("got roots %d and %d, want %d and %d", v.Catalog.Root, v.Director.Root, catalog, director)
	}
	return want
}

// refused must find the device refusing, and then go on as before.
func (p *plant) refused(code trust.Code) {
	p.t.Helper()
	if _, err := p.device.Refresh(p.t.Context(), from{p.Fleet, "box-1"}); trust.CodeOf(err) != code {
		p.t.Errorf("got %v, want %s", err, code)
	}
	if _, ok := p.device.Current(); !ok {
		p.t.Error("the device has lost what it runs")
	}
}

// ceremony signs with the keys that are in the folder and applies.
func (p *plant) ceremony(r Request, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := r.Sign(p.Keys); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Apply(r); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) id(name string) string {
	p.t.Helper()
	info, err := p.Keys.info(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return info.ID
}

// steal returns private keys, as a thief has them.
func (p *plant) steal(names ...string) []crypto.Signer {
	p.t.Helper()
	var keys []crypto.Signer
	for _, name := range names {
		key, err := p.Keys.unlock(name)
		if err != nil {
			p.t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

func TestRotatedKeysAreAcceptedInEverySetAndRevokedOnesAreNot(t *testing.T) {
	for i, set := range KeySets() {
		algorithm := []string{Ed25519, ECDSAP256}[i%2]
		t.Run(set+" "+algorithm, func(t *testing.T) {
			p := newPlant(t)
			create(t, p.Keys, "next", algorithm, "")
			first := set
			if _, err := os.Stat(p.Keys.path(set, ".pem")); err != nil {
				first += "-1"
			}
			old := p.id(first)
			p.ceremony(p.Rotate(Rotation{Set: set, Add: []crypto.PublicKey{public(t, p.Keys, "next")}, Remove: []string{old}}))
			role, err := p.trusted(set)
			if err != nil || slices.Contains(role.KeyIDs, old) || !slices.Contains(role.KeyIDs, p.id("next")) {
				t.Fatalf("got keys %v, %v", role.KeyIDs, err)
			}
			roots := map[trust.Repo]int64{trust.Catalog: 1, trust.Director: 1}
			if at, _ := placeOf(set); len(at.roles) == 0 {
				roots[at.repo] = 2
			}
			p.accepted(roots[trust.Catalog], roots[trust.Director])

			// The fleet goes on without the old key's file.
			if err := os.Rename(p.Keys.path(first, ".pem"), filepath.Join(t.TempDir(), "old.pem")); err != nil {
				t.Fatal(err)
			}
			add(t, p.Fleet, release.Model, "mote", "second")
			add(t, p.Fleet, release.Policy, "site", "rules")
			sign1(t, p.Fleet)
			assign(t, p.Fleet, "box-1", map[string]string{"chat": "mote"}, "site")
			want := p.accepted(roots[trust.Catalog], roots[trust.Director])
			if want.Counter != 2 || want.Models["chat"].Version != 2 {
				t.Errorf("got %v", want)
			}
			// A device that was never here follows the chain from its ticket.
			if _, err := client(t, p.Fleet, "box-1", noon).Refresh(t.Context(), from{p.Fleet, "box-1"}); err != nil {
				t.Errorf("a new device refuses: %v", err)
			}
		})
	}
}

func TestThiefOfRevokedKeysIsRefused(t *testing.T) {
	t.Run("release keys", func(t *testing.T) {
		p := newPlant(t)
		thief := p.steal("release-1", "release-2")
		create(t, p.Keys, "release-4", Ed25519, "")
		create(t, p.Keys, "release-5", ECDSAP256, "")
		p.ceremony(p.Rotate(Rotation{Set: releaseKeys, Remove: []string{p.id("release-1"), p.id("release-2")},
			Add: []crypto.PublicKey{public(t, p.Keys, "release-4"), public(t, p.Keys, "release-5")}}))
		p.accepted(1, 1)
		b, err := p.catalogBranch()
		if err != nil {
			t.Fatal(err)
		}
		models, err := b.targets("models")
		if err != nil {
			t.Fatal(err)
		}
		models.Signed.Version++
		raw, err := sign(models, thief...)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.publish(part{"models", models.Signed.Version, raw}); err != nil {
			t.Fatal(err)
		}
		p.refused(trust.BadSignature)
	})
	t.Run("root keys", func(t *testing.T) {
		p := newPlant(t)
		thief := p.steal("catalog-root-1", "catalog-root-2")
		create(t, p.Keys, "root-4", Ed25519, "")
		p.ceremony(p.Revoke(p.id("catalog-root-1"), public(t, p.Keys, "root-4")))
		p.accepted(2, 1)
		root, _, err := p.newestRoot(trust.Catalog)
		if err != nil {
			t.Fatal(err)
		}
		root.Signed.Version++
		raw, err := sign(root, thief...)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeFile(p.catalogPath("3.root.json"), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		p.refused(trust.BadSignature)
	})
	t.Run("timestamp key", func(t *testing.T) {
		p := newPlant(t)
		thief := p.steal(directorTimestampKey)[0]
		create(t, p.Keys, "fresh", Ed25519, "")
		p.ceremony(p.Revoke(p.id(directorTimestampKey), public(t, p.Keys, "fresh")))
		p.accepted(1, 2)
		b, err := p.deviceBranch("box-1")
		if err != nil {
			t.Fatal(err)
		}
		b.timestamp = thief
		if err := b.publish(); err != nil {
			t.Fatal(err)
		}
		p.refused(trust.BadSignature)
	})
}

// person is somebody with some of the keys, on a machine of their own.
func (p *plant) person(names ...string) *Keyring {
	p.t.Helper()
	k, _ := newKeyring(p.t)
	for _, name := range names {
		for _, suffix := range []string{".pem", ".pub"} {
			if err := os.MkdirAll(filepath.Dir(k.path(name, suffix)), 0o700); err != nil {
				p.t.Fatal(err)
			}
			if err := os.Rename(p.Keys.path(name, suffix), k.path(name, suffix)); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	return k
}

// carry writes a request to a stick and reads it elsewhere.
func carry(t *testing.T, r Request) Request {
	t.Helper()
	path := filepath.Join(t.TempDir(), "request.json")
	if err := r.Write(path); err != nil {
		t.Fatal(err)
	}
	r, err := ReadRequest(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRootIsSignedByPeopleInTurn(t *testing.T) {
	p := newPlant(t)
	ann, bob, eve := p.person("catalog-root-1"), p.person("catalog-root-2"), p.person("catalog-root-3")
	create(t, ann, "ann-next", ECDSAP256, "")
	r, err := p.Revoke(func() string { i, _ := ann.info("catalog-root-1"); return i.ID }(), public(t, ann, "ann-next"))
	if err != nil {
		t.Fatal(err)
	}
	r = carry(t, r)
	text, err := r.Describe(ann)
	if err != nil || len(text) != 2 || !strings.Contains(text[0], "catalog root version 2, valid until 2028-02-29") || !strings.HasPrefix(text[1], "  ! role root: 2 of ") {
		t.Errorf("got %q, %v", text, err)
	}
	if names, err := r.Sign(p.Keys); err != nil || len(names) != 0 {
		t.Errorf("signed %v, %v with keys that are not here", names, err)
	}
	if err := p.Apply(r); err == nil || !strings.Contains(err.Error(), "needs 2 more") {
		t.Errorf("got %v without signatures", err)
	}
	if names, err := r.Sign(ann); err != nil || len(names) != 1 {
		t.Fatalf("signed %v, %v", names, err)
	}
	r = carry(t, r)
	if missing := r.Missing(); len(missing) != 1 || !strings.Contains(missing[0], "catalog root needs 1 more") {
		t.Errorf("got %q missing, want one key, which is of the old set and of the new", missing)
	}
	if err := p.Apply(r); err == nil {
		t.Error("applied with one signature of two")
	}
	forged := carry(t, r)
	forged.Documents[0].Needs = nil
	if err := p.Apply(forged); err == nil {
		t.Error("applied because the stick said that nothing is needed")
	}
	if _, err := r.Sign(bob); err != nil {
		t.Fatal(err)
	}
	if missing := r.Missing(); len(missing) != 0 {
		t.Errorf("got %q missing", missing)
	}
	r = carry(t, r)
	for range 2 {
		if err := p.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	p.accepted(2, 1)
	// The next one needs ann's new key or eve's, not her old one.
	next, err := p.Rotate(Rotation{Set: catalogRootKeys})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.Sign(bob); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Sign(eve); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(next); err != nil {
		t.Fatal(err)
	}
	p.accepted(3, 1)
}

// TestSignerIsNotMisledByTheStick: whoever carries a request may write into it.
func TestSignerIsNotMisledByTheStick(t *testing.T) {
	p := newPlant(t)
	vault := p.person("catalog-root-1")
	thief, _ := newKeyring(t)
	create(t, thief, "thief", Ed25519, "")
	honest, err := p.Rotate(Rotation{Set: catalogRootKeys})
	if err != nil {
		t.Fatal(err)
	}
	evil, err := p.Rotate(Rotation{Set: catalogRootKeys, Add: []crypto.PublicKey{public(t, thief, "thief")}, Threshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	thiefID := shorten([]string{func() string { i, _ := thief.info("thief"); return i.ID }()})[0]
	describe := func(r Request) (string, error) {
		lines, err := carry(t, r).Describe(vault)
		return strings.Join(lines, "\n"), err
	}
	if text, err := describe(honest); err != nil || strings.Contains(text, "role") {
		t.Errorf("got %q, %v for a root that changes no key", text, err)
	}
	if text, err := describe(evil); err != nil || !strings.Contains(text, "! role root: 1 of") || !strings.Contains(text, thiefID) {
		t.Errorf("got %q, %v", text, err)
	}
	// What it replaces is said to be the same already, signed by the thief.
	hidden := evil
	hidden.Documents = slices.Clone(evil.Documents)
	hidden.Documents[0].Previous = hidden.Documents[0].Metadata
	if text, err := describe(hidden); err != nil || !strings.Contains(text, "all of it is listed") || !strings.Contains(text, thiefID) {
		t.Errorf("got %q, %v for a forged past", text, err)
	}
	// The thief's key goes by the id of another.
	swapped := honest
	swapped.Documents = slices.Clone(honest.Documents)
	root, err := metadata.Root().FromBytes(honest.Documents[0].Metadata)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := keyID(public(t, thief, "thief"))
	if err != nil {
		t.Fatal(err)
	}
	root.Signed.Keys[p.id("catalog-root-2")] = key
	if swapped.Documents[0].Metadata, err = encode(root); err != nil {
		t.Fatal(err)
	}
	if text, err := describe(swapped); err == nil || !strings.Contains(err.Error(), "not the key with that id") {
		t.Errorf("got %q, %v for a key under another's id", text, err)
	}
	if _, err := swapped.Sign(vault); err == nil {
		t.Error("signed a root with a key under another's id")
	}
	// A name that would rewrite the line on a terminal.
	tricky := honest
	tricky.Documents = slices.Clone(honest.Documents)
	root.Signed.Keys[p.id("catalog-root-2")], _, _ = keyID(public(t, p.Keys, "catalog-root-2"))
	root.Signed.Roles["x\x1b[2K\nrole"] = &metadata.Role{KeyIDs: []string{"a"}, Threshold: 1}
	if tricky.Documents[0].Metadata, err = encode(root); err != nil {
		t.Fatal(err)
	}
	if text, err := describe(tricky); strings.Contains(text, "\x1b") || err == nil && !strings.Contains(text, `x\x1b[2K\nrole`) {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestReleaseIsSignedElsewhere(t *testing.T) {
	p := newPlant(t)
	away := p.person("release-1", "release-2", "release-3")
	add(t, p.Fleet, release.Model, "mote", "second")
	r, err := p.SignRequest("mote")
	if err != nil {
		t.Fatal(err)
	}
	r = carry(t, r)
	text, err := r.Describe(away)
	if err != nil || len(text) != 2 || !strings.Contains(text[1], "+ target models/mote/2.json: sha256:") {
		t.Errorf("got %q, %v", text, err)
	}
	if _, err := r.Sign(away); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(carry(t, r)); err != nil {
		t.Fatal(err)
	}
	if left, err := p.pending(release.Model); err != nil || len(left) != 0 {
		t.Errorf("got %v still pending, %v", left, err)
	}
	assign(t, p.Fleet, "box-1", map[string]string{"chat": "mote@2"}, "")
	if want := p.accepted(1, 1); want.Models["chat"].Version != 2 {
		t.Errorf("got %v", want)
	}
	if again, err := p.SignRequest(); err != nil || len(again.Documents) != 0 {
		t.Errorf("got %d documents, %v with nothing to sign", len(again.Documents), err)
	}
	if _, err := p.SignRequest("mite"); err == nil {
		t.Error("made a request for a release that there is not")
	}
	p.Now = func() time.Time { return noon().AddDate(0, 8, 0) }
	old, err := p.SignRequest()
	if err != nil || len(old.Documents) != 4 {
		t.Errorf("got %d documents, %v when all roles are past half of their life", len(old.Documents), err)
	}
}

func TestBadRequestsAreNotApplied(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(p *plant, r *Request)
		want  string
	}{
		"another tenant": {func(_ *plant, r *Request) { r.Tenant = "other" }, "tenant"},
		"changed": {func(_ *plant, r *Request) {
			r.Documents[0].Metadata = json.RawMessage(strings.Replace(string(r.Documents[0].Metadata), `2028-02-29`, `2038-03-01`, 1))
		}, "catalog root version 2"},
		"an online role": {func(_ *plant, r *Request) { r.Documents[0].Role = metadata.SNAPSHOT }, "not signed by offline keys"},
		"the director's targets": {func(_ *plant, r *Request) {
			r.Documents[0].Repo, r.Documents[0].Role = trust.Director, metadata.TARGETS
		}, "not signed by offline keys"},
		"the other repository": {func(_ *plant, r *Request) { r.Documents[0].Repo = trust.Director }, "director root version 2"},
		"a late one":           {func(p *plant, _ *Request) { p.ceremony(p.Rotate(Rotation{Set: catalogRootKeys})) }, errStale.Error()},
		"an expired one":       {func(p *plant, _ *Request) { p.Now = func() time.Time { return noon().AddDate(3, 0, 0) } }, "expired"},
		"rubbish":              {func(_ *plant, r *Request) { r.Documents[0].Metadata = json.RawMessage(`{"signed":{}}`) }, "cannot apply"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			r, err := p.Rotate(Rotation{Set: catalogRootKeys, Threshold: 3})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Sign(p.Keys); err != nil {
				t.Fatal(err)
			}
			c.spoil(p, &r)
			before, _, err := p.newestRoot(trust.Catalog)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Apply(r); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if after, _, err := p.newestRoot(trust.Catalog); err != nil || after.Signed.Version != before.Signed.Version {
				t.Errorf("a root was published: %v", err)
			}
		})
	}
	for name, text := range map[string]string{"not JSON": "x", "empty": "{}", "newer": `{"schema":2,"documents":[{}]}`, "unknown field": `{"schema":1,"x":1}`} {
		path := filepath.Join(t.TempDir(), "r.json")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRequest(path); err == nil {
			t.Errorf("%s: read without an error", name)
		}
	}
}

func TestRotationsThatCannotHoldAreRefused(t *testing.T) {
	p := newPlant(t)
	create(t, p.Keys, "next", Ed25519, "")
	next := []crypto.PublicKey{public(t, p.Keys, "next")}
	for name, rotations := range map[string][]Rotation{
		"no such set":     {{Set: "nothing"}},
		"not in the set":  {{Set: catalogRootKeys, Remove: []string{p.id("release-1")}}},
		"too few left":    {{Set: catalogRootKeys, Remove: []string{p.id("catalog-root-1"), p.id("catalog-root-2")}}},
		"too high":        {{Set: releaseKeys, Threshold: 4}},
		"none online":     {{Set: catalogTimestampKey, Remove: []string{p.id(catalogTimestampKey)}}},
		"two online":      {{Set: directorTargetsKey, Add: next, Threshold: 2}},
		"one for two":     {{Set: releaseKeys, Add: next}, {Set: securityKeys, Add: next}},
		"another's":       {{Set: directorRootKeys, Add: []crypto.PublicKey{public(t, p.Keys, "release-1")}}},
		"a replaced twin": {{Set: directorRootKeys, Add: []crypto.PublicKey{public(t, p.Keys, "catalog-targets-1")}, Remove: []string{p.id("director-root-1")}}},
	} {
		if r, err := p.Rotate(rotations...); err == nil {
			t.Errorf("%s: got a request of %d documents", name, len(r.Documents))
		}
	}
	if _, err := p.Revoke(p.id("next"), nil); err == nil {
		t.Error("revoked a key that nobody trusts")
	}
	p.ceremony(p.Revoke(p.id("release-3"), nil))
	p.accepted(1, 1)
	if _, err := p.Revoke(p.id("release-2"), nil); err == nil || !strings.Contains(err.Error(), "1 keys would be left and 2 must sign") {
		t.Errorf("got %v for a key that is needed", err)
	}
}

// TestInterruptedApplyIsFinished: the root is out, and what it needs is not.
func TestInterruptedApplyIsFinished(t *testing.T) {
	for _, set := range []string{catalogSnapshotKey, directorTargetsKey} {
		p := newPlant(t)
		create(t, p.Keys, "next", ECDSAP256, "")
		r, err := p.Revoke(p.id(set), public(t, p.Keys, "next"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Sign(p.Keys); err != nil {
			t.Fatal(err)
		}
		repo := r.Documents[0].Repo
		root, err := metadata.Root().FromBytes(r.Documents[0].Metadata)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := encode(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeFile(filepath.Join(p.rootDir(repo), "2.root.json"), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		p.refused(trust.BadSignature)
		if err := p.Apply(r); err != nil {
			t.Fatal(err)
		}
		p.accepted(pick(repo == trust.Catalog, 2, 1), pick(repo == trust.Director, 2, 1))
	}
}

func pick(first bool, a, b int64) int64 {
	if first {
		return a
	}
	return b
}

func TestRootWhoseOnlineKeyIsNotHereIsNotPublished(t *testing.T) {
	p := newPlant(t)
	elsewhere, _ := newKeyring(t)
	create(t, elsewhere, "next", Ed25519, "")
	r, err := p.Revoke(p.id(catalogTimestampKey), public(t, elsewhere, "next"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Sign(p.Keys); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(r); err == nil || !strings.Contains(err.Error(), "bring its .pem file") {
		t.Errorf("got %v", err)
	}
	p.accepted(1, 1)
}

func TestListKeysSaysWhoTrustsThem(t *testing.T) {
	p := newPlant(t)
	create(t, p.Keys, "spare", ECDSAP256, "secret")
	p.person("release-2")
	keys, err := p.ListKeys()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, k := range keys {
		got[k.Name] = strings.Join(k.Sets, " ")
		if k.Name == "" && (k.Private || k.Algorithm != Ed25519 || len(k.ID) != 64) {
			t.Errorf("got %+v for a key that is elsewhere", k)
		}
	}
	if got["spare"] != "" || got["release-1"] != "release" || got["catalog-snapshot"] != "catalog-snapshot" || got[""] != "release" || len(keys) != 21 {
		t.Errorf("got %d keys: %v", len(keys), got)
	}
}

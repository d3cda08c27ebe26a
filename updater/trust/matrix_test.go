package trust

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// place is one role of one repository: where an attack is made.
type place struct {
	repo Repo
	role string
}

func (p place) String() string { return string(p.repo) + " " + p.role }

func places() []place {
	var all []place
	for _, role := range []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS, "models", "security"} {
		all = append(all, place{Catalog, role})
	}
	for _, role := range []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
		all = append(all, place{Director, role})
	}
	return all
}

// file is the name of the newest file of the place; of a root, the next one.
func (p place) file(s *sim) string {
	r := s.repo(p.repo)
	switch p.role {
	case metadata.ROOT:
		return fmt.Sprintf("%s/%d.root.json", p.repo, r.root.Signed.Version+1)
	case metadata.TIMESTAMP:
		return string(p.repo) + "/timestamp.json"
	case metadata.SNAPSHOT:
		return fmt.Sprintf("%s/%d.snapshot.json", p.repo, r.snapshot)
	}
	return fmt.Sprintf("%s/%d.%s.json", p.repo, r.versions[p.role], p.role)
}

// cell is one attack at one place: what is done, and what must come of it; or
// why there is no such attack there.
type cell struct {
	// before is honest: the device follows it before the attack.
	before func(s *sim)
	do     func(s *sim)
	// code is what the device refuses with. Without one it must get an ordinary
	// error or, if unchanged is set, the set that it has.
	code      Code
	unchanged bool
	// mend is what the operator does afterwards instead of going back to what
	// was before the attack; lost says that only a new enrolment helps.
	mend func(s *sim)
	// rekey are the roles that get new keys afterwards. Without them what the
	// thief signed blocks the device; the attack itself changes nothing.
	rekey []string
	lost  bool
	// why there is none.
	why string
	// forgets loses the device's database before the attack.
	forgets bool
	// brief ends the run when the attack has failed.
	brief bool
	// slow says that the answer never comes.
	slow bool
}

// family is one attack of the papers (Samuel et al., "Survivable Key Compromise
// in Software Update Systems", CCS 2010; Karthik et al., "Uptane", escar 2016).
type family struct {
	name string
	at   func(p place) cell
}

func families() []family {
	return []family{
		{"arbitrary install", arbitraryInstall},
		{"rollback", rollback},
		{"freeze", freeze},
		{"indefinite freeze by expiry", freezeByExpiry},
		{"mix and match", mixAndMatch},
		{"wrong device", wrongDevice},
		{"endless data", endlessData},
		{"slow retrieval", slowRetrieval},
		{"key compromise below threshold", belowThreshold},
		{"key compromise at threshold", atThreshold},
		{"withheld root", withheldRoot},
		{"withheld root, database lost", withheldRootAfterLoss},
		{"fast forward", fastForward},
	}
}

// resign signs a file again with other keys, as it is or after an edit.
func (s *sim) resign(p place, file string, keys []ed25519.PrivateKey) {
	raw := s.served[file]
	var out []byte
	switch p.role {
	case metadata.TIMESTAMP:
		out = resignAs(s.t, metadata.Timestamp(), raw, keys)
	case metadata.SNAPSHOT:
		out = resignAs(s.t, metadata.Snapshot(), raw, keys)
	default:
		out = resignAs(s.t, metadata.Targets(), raw, keys)
	}
	s.served[file] = out
}

func resignAs[T metadata.Roles](t testing.TB, m *metadata.Metadata[T], raw []byte, keys []ed25519.PrivateKey) []byte {
	m, err := m.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	return signed(t, m, keys)
}

func strangers() []ed25519.PrivateKey { return simKeys("stranger", 3) }

// arbitraryInstall: who has no keys puts a file of his own in the place. The
// files above it give no digests, so that the signature is what must hold.
func arbitraryInstall(p place) cell {
	return cell{code: BadSignature, do: func(s *sim) {
		r := s.repo(p.repo)
		if p.role == metadata.ROOT {
			withKeys(r, metadata.ROOT, strangers(), func() { s.forgeRoot(r, strangers()) })
			return
		}
		s.bare = true
		next(s, 4)
		s.resign(p, p.file(s), strangers())
	}}
}

// forgeRoot serves a next root that gives every role to keys, signed by these and by those of r.
func (s *sim) forgeRoot(r *simRepo, keys []ed25519.PrivateKey) {
	s.rotate(r, func() {
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			r.setKeys(s.t, role, keys, 2)
		}
	})
}

func rollback(p place) cell {
	return cell{code: Rollback, do: func(s *sim) {
		r := s.repo(p.repo)
		switch p.role {
		case metadata.ROOT:
			s.served[p.file(s)] = s.served[string(p.repo)+"/1.root.json"]
			return
		case metadata.TIMESTAMP:
			r.timestamp -= 2
		case metadata.SNAPSHOT:
			r.snapshot -= 2
		default:
			r.versions[p.role] -= 2
		}
		s.publishRepo(r)
	}}
}

// freeze: what is new is not shown. Behind an old timestamp of the director
// nobody can see that; the expiry ends it.
func freeze(p place) cell {
	switch p {
	case place{Catalog, metadata.ROOT}, place{Director, metadata.ROOT}:
		return cell{why: "a new root that is not shown is the attack of a withheld root, which has rows of its own"}
	case place{Director, metadata.TIMESTAMP}:
		return cell{unchanged: true, do: func(s *sim) {
			old := s.served[p.file(s)]
			next(s, 4)
			s.served[p.file(s)] = old
		}}
	case place{Catalog, metadata.TIMESTAMP}:
		return cell{code: Disagreement, do: func(s *sim) {
			old := s.served[p.file(s)]
			next(s, 4)
			s.served[p.file(s)] = old
		}}
	}
	return cell{do: func(s *sim) {
		next(s, 4)
		delete(s.served, p.file(s))
	}}
}

func freezeByExpiry(p place) cell {
	c := cell{code: Expired, do: func(s *sim) {
		r, past := s.repo(p.repo), s.now.Add(-time.Hour)
		switch p.role {
		case metadata.TIMESTAMP, metadata.SNAPSHOT:
			r.expires[p.role] = past
		case metadata.ROOT:
			s.rotate(r, func() { r.root.Signed.Expires = past })
		default:
			r.targets[p.role].Signed.Expires = past
		}
		s.publishRepo(r)
	}}
	if p.role == metadata.ROOT {
		c.mend = func(s *sim) {
			r := s.repo(p.repo)
			s.rotate(r, func() { r.root.Signed.Expires = s.now.AddDate(2, 0, 0) })
		}
	}
	return c
}

// mixAndMatch puts what was really signed into a place where it does not belong.
func mixAndMatch(p place) cell {
	other := Catalog
	if p.repo == Catalog {
		other = Director
	}
	switch p.role {
	case metadata.ROOT:
		return cell{code: BadSignature, before: func(s *sim) { s.rotate(s.repo(other), func() {}) },
			do: func(s *sim) { s.served[p.file(s)] = s.served[string(other)+"/2.root.json"] }}
	case metadata.TIMESTAMP:
		return cell{code: BadSignature, do: func(s *sim) { s.served[p.file(s)] = s.served[string(other)+"/timestamp.json"] }}
	}
	return cell{code: Mismatch, do: func(s *sim) {
		s.bare = true // the version must be enough to notice
		old := s.served[p.file(s)]
		next(s, 4)
		s.served[p.file(s)] = old
	}}
}

func wrongDevice(p place) cell {
	switch {
	case p.repo == Catalog:
		return cell{why: "the catalog is one for all devices and names none; what it allows is for the director to choose from"}
	case p.role == metadata.ROOT:
		return cell{why: "the director has one root for all devices; every role below it names the device"}
	}
	return cell{code: WrongDevice, do: func(s *sim) {
		if p.role == metadata.TARGETS {
			s.assign("box-2", 9, map[string]string{"chat": "models/mote/2.json"}, "")
			s.director.device = box
		}
		s.director.labels[p.role] = "box-2"
		s.publishRepo(s.director)
	}}
}

func endlessData(p place) cell {
	return cell{code: TooLarge, do: func(s *sim) {
		next(s, 4)
		s.override[p.file(s)] = func(limit int64) ([]byte, error) { return make([]byte, limit+1), nil }
	}}
}

func slowRetrieval(p place) cell {
	return cell{slow: true, do: func(s *sim) {
		next(s, 4)
		s.slow = p.file(s)
	}}
}

// belowThreshold: every role gets a threshold of two; the thief has one key.
func belowThreshold(p place) cell {
	c := cell{code: BadSignature}
	if p.role != metadata.ROOT && !slices.Contains(delegated(), p.role) {
		c.before = func(s *sim) {
			r := s.repo(p.repo)
			s.rotate(r, func() { r.setKeys(s.t, p.role, simKeys("two of three "+p.role, 3), 2) })
			s.publish()
		}
	}
	c.do = func(s *sim) {
		r := s.repo(p.repo)
		withKeys(r, p.role, r.keys[p.role][:1], func() {
			if p.role == metadata.ROOT {
				s.rotate(r, func() {})
				return
			}
			next(s, 4)
		})
	}
	return c
}

func delegated() []string { return []string{"models", "security"} }

// evil replaces what the catalog says of a release that is assigned.
func (s *sim) evil(role, path string) {
	doc := s.docs[path]
	doc.Files = slices.Clone(doc.Files)
	doc.Files[0].SHA256 = digestOf("evil")
	raw, err := doc.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	s.catalog.targets[role].Signed.Targets[path] = s.entry(doc, raw)
}

// unknown makes the director assign what the catalog never had.
func (s *sim) unknown() {
	s.release("mote", 9)
	s.assign(box, 9, map[string]string{"chat": "models/mote/9.json"}, "")
	delete(s.catalog.targets["models"].Signed.Targets, "models/mote/9.json")
}

// atThreshold: the thief has every key of the role and signs what helps him
// most. Whatever he signs, the other repository or another role must agree.
func atThreshold(p place) cell {
	switch p.role {
	case metadata.ROOT:
		return cell{code: Disagreement, lost: true, do: func(s *sim) {
			r := s.repo(p.repo)
			s.forgeRoot(r, strangers())
			if p.repo == Catalog {
				s.evil("models", "models/mote/2.json")
			} else {
				s.unknown()
			}
			s.publishRepo(r)
		}}
	case metadata.TIMESTAMP:
		return cell{code: BadSignature, do: func(s *sim) {
			withKeys(s.repo(p.repo), metadata.SNAPSHOT, strangers(), func() { next(s, 4) })
		}}
	case metadata.SNAPSHOT:
		return cell{code: BadSignature, do: func(s *sim) {
			s.bare = true
			next(s, 4)
			s.swapTargets(s.repo(p.repo))
		}}
	}
	return cell{code: Disagreement, do: func(s *sim) {
		switch p {
		case place{Catalog, "models"}:
			s.evil("models", "models/mote/2.json")
		case place{Catalog, "security"}:
			s.evil("security", "policies/plant/1.json")
		case place{Catalog, metadata.TARGETS}:
			s.redelegate("models", strangers())
			s.evil("models", "models/mote/2.json")
		default:
			s.unknown()
		}
		s.publishRepo(s.repo(p.repo))
	}}
}

// swapTargets writes another snapshot of the same version, with the right keys,
// that names targets which only a stranger signed.
func (s *sim) swapTargets(r *simRepo) {
	file := place{r.name, metadata.SNAPSHOT}.file(s)
	snapshot, err := metadata.Snapshot().FromBytes(s.served[file])
	if err != nil {
		s.t.Fatal(err)
	}
	version := r.versions[metadata.TARGETS] + 1
	snapshot.Signed.Meta["targets.json"] = &metadata.MetaFiles{Version: version}
	s.served[file] = signed(s.t, snapshot, r.keys[metadata.SNAPSHOT])
	top := r.targets[metadata.TARGETS]
	top.Signed.Version = version
	s.served[fmt.Sprintf("%s/%d.targets.json", r.name, version)] = signed(s.t, top, strangers())
}

// redelegate gives a role of the catalog to other keys.
func (s *sim) redelegate(role string, keys []ed25519.PrivateKey) {
	d := s.catalog.targets[metadata.TARGETS].Signed.Delegations
	i := slices.IndexFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == role })
	d.Roles[i].KeyIDs = nil
	for _, k := range keys {
		key := tufKey(s.t, k)
		id, err := key.ID()
		if err != nil {
			s.t.Fatal(err)
		}
		d.Keys[id] = key
		d.Roles[i].KeyIDs = append(d.Roles[i].KeyIDs, id)
	}
	s.catalog.keys[role] = keys
}

// withheldRoot: the role's keys were stolen and replaced, the device knows it,
// and the thief hides the root that says so.
func withheldRoot(p place) cell {
	c := cell{code: BadSignature}
	c.before = func(s *sim) {
		r := s.repo(p.repo)
		if slices.Contains(delegated(), p.role) {
			s.redelegate(p.role, simKeys("new "+p.role, 3))
		} else {
			s.rotate(r, func() { r.setKeys(s.t, p.role, simKeys("new "+p.role, 3), 2) })
		}
		s.publish()
	}
	c.do = func(s *sim) {
		r := s.repo(p.repo)
		old := simKeys(string(p.repo)+p.role, 3)
		if slices.Contains(delegated(), p.role) {
			old = simKeys(p.role, 3)
		}
		hide := func() { delete(s.served, string(p.repo)+"/2.root.json") }
		if p.role == metadata.ROOT {
			withKeys(r, metadata.ROOT, old, func() { s.rotate(r, func() {}) })
			hide()
			return
		}
		withKeys(r, p.role, old, func() { next(s, 4) })
		hide()
	}
	return c
}

// withheldRootAfterLoss: the same, against a device that lost its database.
func withheldRootAfterLoss(p place) cell {
	if slices.Contains(delegated(), p.role) {
		return cell{why: "the keys of a delegated role are in targets, not in a root; an older targets is a rollback, which has a row"}
	}
	c := withheldRoot(p)
	c.code, c.forgets = Rollback, true
	return c
}

// fastForward: the thief of a role's keys signs a version that honest ones never
// reach. New keys end it: those of the role, and of the roles that vouch for its version.
func fastForward(p place) cell {
	const high = 1 << 40
	c := cell{unchanged: true, rekey: []string{metadata.SNAPSHOT}, do: func(s *sim) {
		r := s.repo(p.repo)
		switch p.role {
		case metadata.TIMESTAMP:
			r.timestamp = high
		case metadata.SNAPSHOT:
			r.snapshot = high
		default:
			r.versions[p.role] = high
		}
		s.publishRepo(r)
	}}
	switch p.role {
	case metadata.ROOT:
		return cell{why: "a root is accepted only as the next version after the one before, whoever signed it"}
	case metadata.TIMESTAMP:
		c.rekey = []string{metadata.TIMESTAMP}
	case metadata.SNAPSHOT:
		c.rekey = []string{metadata.TIMESTAMP, metadata.SNAPSHOT}
	}
	return c
}

// TestTableOfAttacksIsComplete: every attack at every role that the repositories
// have is a test, or says why there is none.
func TestTableOfAttacksIsComplete(t *testing.T) {
	s := newSim(t)
	listed := map[place]bool{}
	for _, p := range places() {
		listed[p] = true
	}
	roles := 0
	for _, r := range []*simRepo{s.catalog, s.director} {
		for role := range r.keys {
			roles++
			if !listed[place{r.name, role}] {
				t.Errorf("no attack is made at %s %s", r.name, role)
			}
		}
	}
	if roles != len(listed) {
		t.Errorf("attacks are made at %d roles, the repositories have %d", len(listed), roles)
	}
	names := map[string]int{}
	tests, reasons := 0, 0
	for _, f := range families() {
		names[f.name]++
		for _, p := range places() {
			switch c := f.at(p); {
			case (c.do == nil) == (c.why == ""):
				t.Errorf("%s at %s is neither a test nor a reason, or both", f.name, p)
			case c.why == "":
				tests++
			case len(strings.Fields(c.why)) < 8:
				t.Errorf("%s at %s: %q is no reason", f.name, p, c.why)
			default:
				reasons++
			}
		}
	}
	for _, name := range []string{"arbitrary install", "rollback", "freeze", "indefinite freeze by expiry", "mix and match", "wrong device",
		"endless data", "slow retrieval", "key compromise below threshold", "key compromise at threshold", "withheld root", "fast forward"} {
		if names[name] != 1 {
			t.Errorf("the attack %q has %d rows, want one", name, names[name])
		}
	}
	t.Logf("%d attacks, %d reasons why one does not exist", tests, reasons)
	if reasons > tests/5 {
		t.Errorf("%d reasons for %d tests: the table says too often that there is no attack", reasons, tests)
	}
}

package release

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func hex64(c string) string { return strings.Repeat(c, 64) }

func model() Document {
	return Document{
		Schema: Schema, Kind: Model, Name: "mote", Version: 2,
		Files:    []File{{Path: "mote-q8_0.gguf", Size: 1234, SHA256: hex64("a"), IndexSHA256: hex64("b")}},
		Requires: Requirements{Agent: "0.1.0", MemoryBytes: 1 << 30},
		Accept: []Check{
			{Prompt: "Say <ok> & stop", Want: "ok", MaxTokens: 8, TimeoutSeconds: 30},
			{Messages: []Message{{Role: "user", Content: "hi"}}, Pattern: "(?i)hello", MinTokensPerSecond: 2.5},
		},
		Engine: EngineSpec{Kind: "llama-server", Context: 2048, Slots: 4, Flags: map[string]string{"flash-attn": "on", "batch": "64"}},
	}
}

// golden is the one encoding of model: signatures are over the digest of these bytes.
const golden = `{
  "schema": 1,
  "kind": "model",
  "name": "mote",
  "version": 2,
  "files": [
    {
      "path": "mote-q8_0.gguf",
      "size": 1234,
      "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
      "index_sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
    }
  ],
  "requires": {
    "agent": "0.1.0",
    "memory_bytes": 1073741824
  },
  "accept": [
    {
      "prompt": "Say <ok> & stop",
      "want": "ok",
      "max_tokens": 8,
      "timeout_seconds": 30
    },
    {
      "messages": [
        {
          "role": "user",
          "content": "hi"
        }
      ],
      "pattern": "(?i)hello",
      "min_tokens_per_second": 2.5
    }
  ],
  "engine": {
    "kind": "llama-server",
    "context": 2048,
    "slots": 4,
    "flags": {
      "batch": "64",
      "flash-attn": "on"
    }
  }
}
`

func TestDocumentHasOneEncoding(t *testing.T) {
	raw, err := model().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(golden, string(raw)); diff != "" {
		t.Errorf("encoding (-golden +got):\n%s", diff)
	}
	back, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(model(), back); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
}

func TestParseRefusesEveryOtherEncoding(t *testing.T) {
	swap := func(old, new string) string { return strings.Replace(golden, old, new, 1) }
	for name, raw := range map[string]string{
		"empty":            "",
		"null":             "null",
		"truncated":        golden[:200],
		"unknown field":    swap(`"schema": 1,`, `"schema": 1, "extra": 1,`),
		"other schema":     swap(`"schema": 1,`, `"schema": 2,`),
		"duplicate key":    swap(`"name": "mote",`, `"name": "mote", "name": "mote",`),
		"other letter":     swap(`"name": "mote"`, `"Name": "mote"`),
		"white space":      swap("\n  \"kind\"", "\n   \"kind\""),
		"trailing data":    golden + "{}",
		"no final newline": strings.TrimSuffix(golden, "\n"),
		"escaped":          swap(`<ok>`, `\u003cok\u003e`),
		"empty list":       swap(`"files": [`, `"accept": [], "files": [`),
		"number as float":  swap(`"size": 1234`, `"size": 1234.0`),
		"invalid utf-8":    swap("Say", "\xff"),
		"too large":        golden + strings.Repeat(" ", MaxDocument),
	} {
		if d, err := Parse([]byte(raw)); err == nil {
			t.Errorf("%s: accepted as %s", name, d.ID())
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	for name, edit := range map[string]func(*Document){
		"kind":               func(d *Document) { d.Kind = "weights" },
		"name":               func(d *Document) { d.Name = "Mote" },
		"long name":          func(d *Document) { d.Name = strings.Repeat("a", 65) },
		"version 0":          func(d *Document) { d.Version = 0 },
		"version past 2^53":  func(d *Document) { d.Version = 1<<53 + 1 },
		"no files":           func(d *Document) { d.Files = nil },
		"too many files":     func(d *Document) { d.Files = make([]File, maxFiles+1) },
		"absolute path":      func(d *Document) { d.Files[0].Path = "/etc/passwd" },
		"parent path":        func(d *Document) { d.Files[0].Path = "a/../../b" },
		"dot path":           func(d *Document) { d.Files[0].Path = "./b" },
		"backslash":          func(d *Document) { d.Files[0].Path = `..\b` },
		"control character":  func(d *Document) { d.Files[0].Path = "a\nb" },
		"empty path":         func(d *Document) { d.Files[0].Path = "" },
		"same file twice":    func(d *Document) { d.Files = append(d.Files, d.Files[0]); d.Files[1].Path = "MOTE-q8_0.gguf" },
		"size 0":             func(d *Document) { d.Files[0].Size = 0 },
		"negative size":      func(d *Document) { d.Files[0].Size = -1 },
		"absurd size":        func(d *Document) { d.Files[0].Size = 1 << 62 },
		"upper-case digest":  func(d *Document) { d.Files[0].SHA256 = hex64("A") },
		"short digest":       func(d *Document) { d.Files[0].SHA256 = "ab" },
		"no index digest":    func(d *Document) { d.Files[0].IndexSHA256 = "" },
		"negative memory":    func(d *Document) { d.Requires.MemoryBytes = -1 },
		"check of nothing":   func(d *Document) { d.Accept[0].Want = "" },
		"check without text": func(d *Document) { d.Accept[0].Prompt = "" },
		"prompt and turns":   func(d *Document) { d.Accept[1].Prompt = "x" },
		"role":               func(d *Document) { d.Accept[1].Messages[0].Role = "tool" },
		"bad pattern":        func(d *Document) { d.Accept[1].Pattern = "(" },
		"long prompt":        func(d *Document) { d.Accept[0].Prompt = strings.Repeat("a", maxText+1) },
		"negative tokens":    func(d *Document) { d.Accept[0].MaxTokens = -1 },
		"negative speed":     func(d *Document) { d.Accept[1].MinTokensPerSecond = -1 },
		"too many checks":    func(d *Document) { d.Accept = make([]Check, maxChecks+1) },
		"engine kind":        func(d *Document) { d.Engine.Kind = "../x" },
		"absurd context":     func(d *Document) { d.Engine.Context = 1 << 40 },
		"empty flag":         func(d *Document) { d.Engine.Flags[""] = "x" },
		"checks of a policy": func(d *Document) { d.Kind = Policy },
		"two policy files": func(d *Document) {
			d.Kind, d.Accept = Policy, nil
			d.Files = append(d.Files, File{Path: "b", Size: 1, SHA256: hex64("a"), IndexSHA256: hex64("b")})
		},
	} {
		d := model()
		edit(&d)
		if _, err := d.Encode(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTargetPathsReadBack(t *testing.T) {
	for _, kind := range []Kind{Model, Policy, Engine} {
		path := TargetPath(kind, "a.b-c", 12)
		if k, n, v, err := ParseTarget(path); k != kind || n != "a.b-c" || v != 12 || err != nil {
			t.Errorf("%s: got %s %s %d %v", path, k, n, v, err)
		}
	}
	for _, path := range []string{"", "models/mote", "models/mote/2", "models/mote/02.json", "models/mote/0.json", "models/mote/+2.json",
		"models/../2.json", "other/mote/2.json", "models/mote/2.json/x", "/mote/2.json", "models//2.json", "models/mote/99999999999999999999.json"} {
		if k, n, v, err := ParseTarget(path); err == nil {
			t.Errorf("%q: got %s %s %d", path, k, n, v)
		}
	}
}

func TestIDsReadBack(t *testing.T) {
	if n, v, err := ParseID(model().ID()); n != "mote" || v != 2 || err != nil {
		t.Errorf("got %s %d %v", n, v, err)
	}
	if n, v, err := ParseID("mote"); n != "mote" || v != 0 || err != nil {
		t.Errorf("got %s %d %v", n, v, err)
	}
	for _, id := range []string{"", "@1", "mote@", "mote@0", "mote@-1", "mote@x", "Mote@1"} {
		if n, v, err := ParseID(id); err == nil {
			t.Errorf("%q: got %s %d", id, n, v)
		}
	}
}

func TestWantDigestIgnoresCountersOnly(t *testing.T) {
	a := Want{Device: "box", Counter: 1, DirectorVersion: 1, Models: map[string]Document{"chat": model()}}
	b := a
	b.Counter, b.DirectorVersion, b.CatalogVersion = 9, 9, 9
	if a.Digest() != b.Digest() {
		t.Error("counters change the digest")
	}
	other := model()
	other.Files[0].SHA256 = hex64("c")
	policy := Document{Name: "plant", Version: 1, Kind: Policy}
	for name, w := range map[string]Want{
		"another file":  {Models: map[string]Document{"chat": other}},
		"another alias": {Models: map[string]Document{"code": model()}},
		"with a policy": {Models: map[string]Document{"chat": model()}, Policy: &policy},
		"with a window": {Models: map[string]Document{"chat": model()}, Window: &Window{From: "01:00", Until: "02:00"}},
		"to approve":    {Models: map[string]Document{"chat": model()}, Approval: true},
		"nothing":       {},
	} {
		if w.Digest() == a.Digest() {
			t.Errorf("%s: the digest is the same", name)
		}
	}
	if (Want{}).Digest() != (Want{Models: map[string]Document{}}).Digest() {
		t.Error("nil and empty models differ")
	}
	if got := fmt.Sprint(Want{Models: a.Models, Policy: &policy}, Want{}); got != "chat=mote@2 policy=plant@1 nothing" {
		t.Errorf("got %q", got)
	}
}

func TestReferenceIsTheLatest(t *testing.T) {
	early, late := time.Unix(1000, 0), time.Unix(2000, 0)
	for _, c := range [][4]time.Time{{late, early, early, late}, {early, late, early, late}, {early, early, late, late}, {early, {}, {}, early}} {
		if got := Reference(c[0], c[1], c[2]); !got.Equal(c[3]) {
			t.Errorf("Reference(%v, %v, %v): got %v, want %v", c[0], c[1], c[2], got, c[3])
		}
	}
}

func TestWindowContains(t *testing.T) {
	// 2026-03-01 is a Sunday.
	at := func(day int, clock string) time.Time {
		c, err := time.Parse("15:04", clock)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 3, day, c.Hour(), c.Minute(), 59, 0, time.UTC)
	}
	daytime := Window{From: "09:00", Until: "17:30"}
	night := Window{Days: []string{"fri", "sat"}, From: "22:00", Until: "04:30"}
	for _, c := range []struct {
		w    Window
		t    time.Time
		want bool
	}{
		{daytime, at(1, "08:59"), false}, {daytime, at(1, "09:00"), true}, {daytime, at(1, "17:29"), true}, {daytime, at(1, "17:30"), false},
		{night, at(6, "22:00"), true}, {night, at(6, "21:59"), false},
		{night, at(6, "03:00"), false}, // that night began on Thursday
		{night, at(7, "03:00"), true}, {night, at(8, "03:00"), true}, {night, at(8, "04:30"), false}, {night, at(8, "23:00"), false},
		{Window{From: "x", Until: "04:00"}, at(1, "03:00"), false},
	} {
		if got := c.w.Contains(c.t); got != c.want {
			t.Errorf("%+v at %s: got %v, want %v", c.w, c.t.Format("Mon 15:04"), got, c.want)
		}
	}
	for _, w := range []Window{{From: "1:00", Until: "02:00"}, {From: "24:00", Until: "02:00"}, {From: "01:00", Until: "01:00"}, {Days: []string{"Fri"}, From: "01:00", Until: "02:00"}, {}} {
		if w.Validate() == nil {
			t.Errorf("%+v: accepted", w)
		}
	}
}

func TestAssignmentRefuses(t *testing.T) {
	good := func() map[string]any {
		return map[string]any{"device": "box-1", "counter": 3, "models": map[string]any{"chat": "models/mote/2.json"}}
	}
	if a, err := ParseAssignment(good()); err != nil || a.Counter != 3 || len(a.Paths()) != 1 {
		t.Fatalf("got %+v, %v", a, err)
	}
	for name, edit := range map[string]func(map[string]any){
		"no device":           func(m map[string]any) { delete(m, "device") },
		"reserved device":     func(m map[string]any) { m["device"] = "box-bulk" },
		"no counter":          func(m map[string]any) { delete(m, "counter") },
		"fractional counter":  func(m map[string]any) { m["counter"] = 1.5 },
		"negative counter":    func(m map[string]any) { m["counter"] = -1 },
		"counter past 2^53":   func(m map[string]any) { m["counter"] = uint64(1<<53 + 1) },
		"unknown member":      func(m map[string]any) { m["erase"] = true },
		"bad alias":           func(m map[string]any) { m["models"] = map[string]any{"a b": "models/mote/2.json"} },
		"policy as a model":   func(m map[string]any) { m["models"] = map[string]any{"chat": "policies/p/2.json"} },
		"model as a policy":   func(m map[string]any) { m["policy"] = "models/mote/2.json" },
		"model as an engine":  func(m map[string]any) { m["engine"] = "models/mote/2.json" },
		"window without ends": func(m map[string]any) { m["window"] = map[string]any{} },
	} {
		m := good()
		edit(m)
		if a, err := ParseAssignment(m); err == nil {
			t.Errorf("%s: got %+v", name, a)
		}
	}
	if a, err := ParseAssignment(nil); err == nil {
		t.Errorf("nil: got %+v", a)
	}
}

func testKey(name string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32s", name)))
}

func TestEnvelopeOpensOnlyForItsKeyAndType(t *testing.T) {
	key := testKey("device")
	pub := key.Public().(ed25519.PublicKey)
	body := []byte(`{"running":"mote@2"}`)
	raw, err := SignEnvelope(key, StateType, body)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenEnvelope(pub, StateType, raw); err != nil || !bytes.Equal(got, body) {
		t.Errorf("got %s, %v", got, err)
	}
	relabelled := bytes.Replace(raw, []byte("state"), []byte("event"), 1)
	edited := bytes.Replace(raw, []byte(`"payload":"ey`), []byte(`"payload":"ez`), 1)
	if bytes.Equal(edited, raw) || bytes.Equal(relabelled, raw) {
		t.Fatal("the test edits nothing")
	}
	for name, c := range map[string]struct {
		pub  ed25519.PublicKey
		kind string
		raw  []byte
	}{
		"other key":      {testKey("other").Public().(ed25519.PublicKey), StateType, raw},
		"other type":     {pub, EventType, raw},
		"relabelled":     {pub, EventType, relabelled},
		"edited":         {pub, StateType, edited},
		"truncated":      {pub, StateType, raw[:len(raw)/2]},
		"no signatures":  {pub, StateType, []byte(`{"payloadType":"` + StateType + `","payload":"e30=","signatures":[]}`)},
		"short key":      {pub[:5], StateType, raw},
		"too large":      {pub, StateType, append(raw, make([]byte, maxEnvelope)...)},
		"too many":       {pub, StateType, []byte(`{"payloadType":"` + StateType + `","payload":"e30=","signatures":[{},{},{},{},{},{},{},{},{}]}`)},
		"empty envelope": {pub, StateType, nil},
	} {
		if got, err := OpenEnvelope(c.pub, c.kind, c.raw); err == nil {
			t.Errorf("%s: opened %s", name, got)
		}
	}
	if _, err := SignEnvelope(nil, StateType, body); err == nil {
		t.Error("signed without a key")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(golden))
	program, err := engine().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(program)
	f.Add([]byte(`{"schema":1,"kind":"policy","files":[{}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := d.Encode()
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("accepted bytes that Encode does not write: %q (%v)", raw, err)
		}
		if _, _, _, err := ParseTarget(d.Target()); err != nil {
			t.Error(err)
		}
	})
}

func FuzzOpenEnvelope(f *testing.F) {
	key := testKey("device")
	raw, err := SignEnvelope(key, EventType, []byte("body"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"payloadType":"` + EventType + `","payload":"!","signatures":[{"sig":"AA"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if body, err := OpenEnvelope(key.Public().(ed25519.PublicKey), EventType, raw); err == nil && string(body) != "body" {
			t.Errorf("opened %q, which was never signed", body)
		}
	})
}

// signedModel is a model with a signature of its maker.
func signedModel() Document {
	d := model()
	d.Files = append(d.Files, File{Path: "model.sig", Size: 900, SHA256: hex64("c"), IndexSHA256: hex64("d"), Role: Signature})
	d.Provenance = &Provenance{Method: "key", Verified: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	return d
}

func TestSignatureIsAFileOfTheReleaseAndNoneOfItsContent(t *testing.T) {
	raw, err := signedModel().Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(signedModel(), back); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(model().Files, back.Content()); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if got := model().Content(); len(got) != 1 {
		t.Errorf("got %d files of content without a signature, want 1", len(got))
	}
}

func TestProvenanceIsRefusedWhereItSaysTooLittleOrTooMuch(t *testing.T) {
	for name, edit := range map[string]func(*Document){
		"no signature":       func(d *Document) { d.Files = d.Files[:1] },
		"two signatures":     func(d *Document) { d.Files = append(d.Files, d.Files[1]); d.Files[2].Path = "other.sig" },
		"signature first":    func(d *Document) { d.Files[0], d.Files[1] = d.Files[1], d.Files[0] },
		"only a signature":   func(d *Document) { d.Provenance = nil },
		"another method":     func(d *Document) { d.Provenance.Method = "sigstore" },
		"no time":            func(d *Document) { d.Provenance.Verified = time.Time{} },
		"parts of a second":  func(d *Document) { d.Provenance.Verified = d.Provenance.Verified.Add(time.Millisecond) },
		"of an engine":       func(d *Document) { d.Kind, d.Accept = Engine, nil },
		"signed is a policy": func(d *Document) { d.Kind, d.Accept, d.Files = Policy, nil, d.Files[1:] },
	} {
		d := signedModel()
		edit(&d)
		if err := d.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOlderNamesPathsOfTheSetInOrder(t *testing.T) {
	a := Assignment{Device: "box", Counter: 1, Models: map[string]string{"chat": "models/mote/1.json"}, Policy: "policies/site/2.json"}
	for _, c := range []struct {
		older []string
		ok    bool
	}{
		{nil, true},
		{[]string{"models/mote/1.json"}, true},
		{[]string{"models/mote/1.json", "policies/site/2.json"}, true},
		{[]string{"policies/site/2.json", "models/mote/1.json"}, false},
		{[]string{"models/mote/1.json", "models/mote/1.json"}, false},
		{[]string{"models/mote/2.json"}, false},
		{[]string{""}, false},
	} {
		a.Older = c.older
		if err := a.Validate(); (err == nil) != c.ok {
			t.Errorf("older %q: got %v, want ok %v", c.older, err, c.ok)
		}
	}
}

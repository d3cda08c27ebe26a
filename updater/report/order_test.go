package report

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

func TestAnswersAreCutAndHarmless(t *testing.T) {
	raw, err := json.Marshal(Answer{Number: 7, Kind: "pause", Outcome: Done, Code: strings.Repeat("c", 500), Detail: "\x1b[2J" + strings.Repeat("d", 5000)})
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAnswer(raw)
	if err != nil || a.Number != 7 || len(a.Code) > maxName || len(a.Detail) > 4*maxText || strings.ContainsRune(a.Detail, '\x1b') {
		t.Errorf("got %+v, %v", a, err)
	}
	for _, bad := range []string{"", "{", `{"outcome":"won"}`, `{}`, `{"outcome":"done","number":-1}`} {
		if a, err := ParseAnswer([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %+v", bad, a)
		}
	}
}

func TestPartsOfLogsThatMakeNoSenseAreRefused(t *testing.T) {
	good := LogPart{Number: 7, Part: 1, Parts: 2, SHA256: strings.Repeat("a", 64), Data: []byte("x")}
	for name, edit := range map[string]func(*LogPart){
		"part over":       func(p *LogPart) { p.Part = 2 },
		"negative":        func(p *LogPart) { p.Part = -1 },
		"no parts":        func(p *LogPart) { p.Parts = 0 },
		"too many parts":  func(p *LogPart) { p.Parts = maxLogParts + 1 },
		"no data":         func(p *LogPart) { p.Data = nil },
		"much data":       func(p *LogPart) { p.Data = make([]byte, LogPartSize+1) },
		"no digest":       func(p *LogPart) { p.SHA256 = "" },
		"path for digest": func(p *LogPart) { p.SHA256 = "../" + strings.Repeat("a", 61) },
	} {
		p := good
		edit(&p)
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseLogPart(raw); err == nil {
			t.Errorf("%s: accepted as part %d of %d", name, got.Part, got.Parts)
		}
	}
	raw, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseLogPart(raw); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"number":7,"kind":"pause","outcome":"done","detail":"change 3 paused"}`))
	f.Add([]byte(`{"outcome":"refused","code":"bad-signature"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswer(b)
		if err != nil {
			return
		}
		for _, text := range []string{string(a.Kind), a.Code, a.Detail} {
			if len(text) > 4*maxText*4 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("accepted %q", text)
			}
		}
	})
}

func FuzzParseLogPart(f *testing.F) {
	f.Add([]byte(`{"number":7,"part":0,"parts":1,"sha256":"` + strings.Repeat("0", 64) + `","data":"eA=="}`))
	f.Add([]byte(`{"part":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseLogPart(b)
		if err == nil && (p.Part < 0 || p.Part >= p.Parts || p.Parts > maxLogParts || len(p.Data) > LogPartSize || len(p.SHA256) != 64) {
			t.Fatalf("accepted part %d of %d with %d bytes", p.Part, p.Parts, len(p.Data))
		}
	})
}

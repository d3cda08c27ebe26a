package detect

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestJSONFindsACardWhereverItHides(t *testing.T) {
	for name, body := range map[string]string{
		"content":          `{"model":"m","messages":[{"role":"user","content":"4111 1111 1111 1111"}]}`,
		"escaped":          `{"content":"\u0034111 1111\u00a01111 111\u0031"}`,
		"key":              `{"4111111111111111":1}`,
		"escaped key":      `{"\u0034111111111111111":1}`,
		"unknown field":    `{"x":{"y":[null,{"z":"4111111111111111"}]}}`,
		"number":           `{"x":4111111111111111}`,
		"bare number":      `4111111111111111`,
		"bare string":      `"4111111111111111"`,
		"duplicate key":    `{"content":"4111111111111111","content":"hello"}`,
		"content parts":    `{"content":[{"type":"text","text":"4111 1111 "},{"type":"text","text":"1111 1111"}]}`,
		"messages":         `{"messages":[{"content":"4111 1111"},{"content":" 1111 1111"}]}`,
		"list of strings":  `{"input":["4111 11","11 1111 11","11"]}`,
		"digit by digit":   `["4","1","1","1","1","1","1","1","1","1","1","1","1","1","1","1"]`,
		"arguments":        `{"arguments":"{\"card\":\"\\u0034111111111111111\"}"}`,
		"after long text":  `{"text":"` + strings.Repeat("x ", 4000) + `4111 11","content":"11 1111 1111` + strings.Repeat(" y", 4000) + `"}`,
		"after long lines": `{"text":"` + strings.Repeat(`x\n`, 4000) + `4111 11","content":"11 1111 1111` + strings.Repeat(`\ny`, 4000) + `"}`,
	} {
		found, _, err := JSON([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		cards := 0
		for _, f := range found {
			if f.Kind == Card {
				cards++
				if raw := body[f.Start:f.End]; !strings.Contains(raw, "1") || raw[0] == '"' || raw[len(raw)-1] == '"' {
					t.Errorf("%s: the finding is %q", name, raw)
				}
			}
		}
		if cards != 1 {
			t.Errorf("%s: got %v, want one card", name, found)
		}
	}
}

func TestJSONPointsIntoTheBody(t *testing.T) {
	body := `{"a":"x\n\u00e9 ada@example.org \ud83d\ude00 \u0062ob@example.org","b":["4111 11","11 1111 1111"]}`
	found, dup, err := JSON([]byte(body))
	if err != nil || dup {
		t.Fatal(dup, err)
	}
	var got []string
	for _, f := range found {
		got = append(got, string(f.Kind)+" "+body[f.Start:f.End])
	}
	want := []string{"email ada@example.org", `email \u0062ob@example.org`, `card 4111 11","11 1111 1111`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestJSONReportsDuplicateKeys(t *testing.T) {
	for body, want := range map[string]bool{
		`{"a":1,"b":2}`:                           false,
		`{"a":1,"a":2}`:                           true,
		`{"a":1,"\u0061":2}`:                      true,
		`{"model":1,"Model":2}`:                   true,
		`{"k":1,"\u212a":2}`:                      true, // KELVIN SIGN, which encoding/json takes for k
		`{"s":1,"ſ":2}`:                           true,
		`{"a":{"a":{"a":1}},"b":{"a":1}}`:         false,
		`[{"a":1},{"a":1}]`:                       false,
		`{"x":[{"b":1,"c":{"d":1,"e":2,"d":3}}]}`: true,
		`{"a":{"b":1},"c":2,"a":3}`:               true,
		`{"":1,"":2}`:                             true,
		`{}`:                                      false,
	} {
		if _, got, err := JSON([]byte(body)); err != nil || got != want {
			t.Errorf("%s: got %t, %v, want %t", body, got, err, want)
		}
	}
}

func TestJSONRefusesWhatIsNotJSON(t *testing.T) {
	for body, want := range map[string]string{
		``:            "cannot read JSON at byte 0: it ends where a value is expected",
		`{`:           "cannot read JSON at byte 1: a key is expected",
		`{"a"`:        "cannot read JSON at byte 4: a colon is expected",
		`{"a":`:       "cannot read JSON at byte 5: it ends where a value is expected",
		`{"a":1`:      "cannot read JSON at byte 6: it ends inside an object or array",
		`{"a":1,}`:    "cannot read JSON at byte 7: a key is expected",
		`[1,]`:        "cannot read JSON at byte 3: a value is expected",
		`[1 2]`:       "cannot read JSON at byte 3: a comma or the end is missing",
		`[1}`:         "cannot read JSON at byte 2: a comma or the end is missing",
		`{} {}`:       "cannot read JSON at byte 3: there is more after the end of the value",
		`"a`:          "cannot read JSON at byte 2: it ends inside a string",
		`"a\`:         "cannot read JSON at byte 2: an escape is not one of JSON's",
		`"\x41"`:      "cannot read JSON at byte 1: an escape is not one of JSON's",
		`"\u12g4"`:    "cannot read JSON at byte 1: an escape is not one of JSON's",
		"\"a\nb\"":    "cannot read JSON at byte 2: a string has a control character",
		`01`:          "cannot read JSON at byte 1: there is more after the end of the value",
		`-`:           "cannot read JSON at byte 1: a value is expected",
		`1.`:          "cannot read JSON at byte 2: a number ends in its point",
		`1e+`:         "cannot read JSON at byte 3: a number ends in its exponent",
		`nul`:         "cannot read JSON at byte 0: a value is expected",
		`{'a':1}`:     "cannot read JSON at byte 1: a key is expected",
		`{"a":NaN}`:   "cannot read JSON at byte 5: a value is expected",
		"\ufeff{}":    "cannot read JSON at byte 0: a value is expected",
		`["a\u0000"]`: "",
	} {
		_, _, err := JSON([]byte(body))
		if got := errText(err); got != want {
			t.Errorf("%q: got %q, want %q", body, got, want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestJSONBoundsDepthAndKeepsWhatItFound(t *testing.T) {
	nest := func(n int) []byte {
		return []byte(strings.Repeat(`["4111111111111111",`, 1) + strings.Repeat("[", n-1) + strings.Repeat("]", n))
	}
	if _, _, err := JSON(nest(MaxDepth)); err != nil {
		t.Errorf("depth %d: %v", MaxDepth, err)
	}
	found, _, err := JSON(nest(MaxDepth + 1))
	if !errors.Is(err, ErrTooDeep) {
		t.Errorf("depth %d: got %v, want %v", MaxDepth+1, err, ErrTooDeep)
	}
	if diff := cmp.Diff([]Kind{Card}, Kinds(found)); diff != "" {
		t.Errorf("what was found before (-want +got):\n%s", diff)
	}
	if _, _, err := JSON([]byte(strings.Repeat(`{"a":`, 1_000_000))); !errors.Is(err, ErrTooDeep) {
		t.Errorf("a million objects: got %v, want %v", err, ErrTooDeep)
	}
}

// Many findings in a string with escapes must not each walk the string again.
func TestJSONOfAMillionBytesOfFindingsIsLinear(t *testing.T) {
	body := `{"a":"` + strings.Repeat(`\na@b.co `, 100_000) + `"}`
	found, _, err := JSON([]byte(body))
	if err != nil || len(found) != 100_000 {
		t.Fatalf("got %d findings, %v", len(found), err)
	}
	last := found[len(found)-1]
	if got := body[last.Start:last.End]; got != "a@b.co" {
		t.Errorf("the last finding is %q", got)
	}
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"role":"user","content":[{"type":"text","text":"4111 1111 "},{"text":"1111 1111"}]}]}`,
		`{"a":1,"\u0061":2.5e-3,"b":[true,false,null]}`, `"\ud83d\ude00\ud800"`, `[[[]]]`, `{"x":4111111111111111}`,
		`{"a":"a\u0040b.co","b":"` + "\u200b" + `"}`, "[\"\xff\xfe\"]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		found, _, err := JSON(body)
		if valid := json.Valid(body); valid != (err == nil) && !errors.Is(err, ErrTooDeep) {
			t.Fatalf("%q: got %v, encoding/json says valid is %t", body, err, valid)
		}
		for _, x := range found {
			if x.Start < 0 || x.Start >= x.End || x.End > len(body) {
				t.Fatalf("%q: finding %v", body, x)
			}
		}
		if err != nil {
			return
		}
		// What is found in a string alone is found in the body that holds it.
		var text string
		if json.Unmarshal(body, &text) == nil && utf8.Valid(body) {
			if diff := cmp.Diff(Kinds(Scan(text)), Kinds(found)); diff != "" {
				t.Fatalf("%q (-alone +in the body):\n%s", body, diff)
			}
		}
	})
}

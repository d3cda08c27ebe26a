package gateway

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

func TestCloudBodyIsWhatWasScanned(t *testing.T) {
	for in, want := range map[string]string{
		`{"model":"m","a":1}`: `{"model":"M","a":1}`,
		"{ \"a\" : [ 1.50 , -2e3,true ,null ] ,\n\"model\":\"m\" }": `{"a":[1.50,-2e3,true,null],"model":"M"}`,
		`{"model":"m","x":{"model":"m","y":[{"model":"q"}]}}`:       `{"model":"M","x":{"model":"m","y":[{"model":"q"}]}}`,
		`{"mod\u0065l":"m","s":"\u00e9\/\ud83d\ude00\n\"\\\u0001"}`: `{"model":"M","s":"é/😀\n\"\\\u0001"}`,
		`{"model":"m","n":12345678901234567890.123456789}`:          `{"model":"M","n":12345678901234567890.123456789}`,
		`{"model":"m","s":"lone \ud800 half"}`:                      `{"model":"M","s":"lone ` + "\uFFFD" + ` half"}`,
		"{\"model\":\"m\",\"s\":\"bad \xff utf8\"}":                 `{"model":"M","s":"bad ` + "\uFFFD" + ` utf8"}`,
		`{"model":"m","":{},"e":[]}`:                                `{"model":"M","":{},"e":[]}`,
	} {
		b, err := parse([]byte(in))
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		got, _, err := b.Cloud("M", 0)
		if err != nil || string(got) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", in, got, err, want)
		}
	}
}

func TestCloudReportsWhatIsFoundInTheBytesSent(t *testing.T) {
	b, err := parse([]byte(`{"model":"m","hidden":{"deep":["\u0034111 1111 1111 1111"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	_, kinds, err := b.Cloud("M", 0)
	if err != nil || !slices.Contains(kinds, detect.Card) || !slices.Contains(b.kinds, detect.Card) {
		t.Errorf("got %v and %v, %v; want the card in both", b.kinds, kinds, err)
	}
}

// FuzzBody: whatever parses, encodes to JSON with the same meaning, and scanning
// finds in what is sent at least what it found in what came.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{hello, helloStream, card, `{"model":"m","a":[{"b":"\\\"\u0000"}],"c":{}}`, "{\"model\":\"m\",\"x\":\"\xff\\ud800\"}",
		`{"model":"m","max_tokens":3,"max_completion_tokens":4}`, `{"model":"m","prompt":[[1,2],"x"]}`, `{"a":0,"model":"m"}`, ` { "model" : "m" } `} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parse(raw)
		if err != nil {
			return
		}
		if same, err := b.Local(0); err != nil || !bytes.Equal(same, raw) {
			t.Fatal("the local body was touched")
		}
		out := b.encode(b.model, 0)
		var was, is any
		if json.Unmarshal(raw, &was) != nil {
			return // numbers beyond float64
		}
		if err := json.Unmarshal(out, &is); err != nil {
			t.Fatalf("%q became %q: %v", raw, out, err)
		}
		if !b.ambiguous && !reflect.DeepEqual(was, is) {
			t.Fatalf("%q became %q", raw, out)
		}
		found, _, err := detect.JSON(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range b.kinds {
			if !slices.Contains(detect.Kinds(found), k) {
				t.Fatalf("%s was found in %q but not in %q", k, raw, out)
			}
		}
	})
}

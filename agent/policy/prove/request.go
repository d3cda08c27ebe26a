package prove

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// Request is one request as the agent's explain route takes it, and `bothy policy explain --request`.
type Request struct {
	Caller policy.Caller `json:"caller"`
	Ask    policy.Ask    `json:"ask"`
	// Text is what the detectors find Kinds in; they are then not in Ask.
	Text string `json:"text,omitempty"`

	low, high int // the sizes of body for which the request stays what it is
}

// request is the last satisfying assignment.
func (s *space) request() Request {
	kinds := s.foundKinds()
	r := Request{
		Caller: policy.Caller{
			UID: uint32(s.uid.low[s.chosen(&s.uid.dimension)]), GID: uint32(s.gid.low[s.chosen(&s.gid.dimension)]),
			Unit: s.text(&s.unit), Container: s.text(&s.container), Exe: s.text(&s.exe), Unattested: s.solver.Value(s.unattested),
		},
		Ask: policy.Ask{
			Model: s.text(&s.model), API: s.text(&s.api), OnlyLocal: s.solver.Value(s.onlyLocal),
			Opaque: s.solver.Value(s.opaque), Incomplete: s.solver.Value(s.incomplete),
		},
		Text: sample(kinds),
		low:  s.bytes.low[s.chosen(&s.bytes.dimension)], high: s.bytes.high[s.chosen(&s.bytes.dimension)],
	}
	if s.solver.Value(s.exeUnknown) {
		r.Caller.Exe = ""
	}
	if r.Text == "" {
		r.Text, r.Ask.Kinds = "hello", kinds
	}
	for _, l := range s.labels {
		if s.solver.Value(l.lit) {
			r.Ask.Labels = append(r.Ask.Labels, l.name)
		}
	}
	if s.solver.Value(s.unheard) {
		r.Ask.Labels = append(r.Ask.Labels, s.unheardLabel())
	}
	if s.timed {
		// 1 March 2026 is a Sunday.
		day, minute := s.day.low[s.chosen(&s.day.dimension)], s.minute.low[s.chosen(&s.minute.dimension)]
		if s.minute.low[s.chosen(&s.minute.dimension)] <= dayMinutes/2 && dayMinutes/2 <= s.minute.high[s.chosen(&s.minute.dimension)] {
			minute = dayMinutes / 2
		}
		r.Ask.Time = time.Date(2026, 3, 1+day, minute/60, minute%60, 0, 0, time.UTC)
	}
	r.Ask.Bytes = min(max(len(r.body()), r.low), r.high)
	return r
}

func (s *space) text(t *texts) string { return t.examples[s.chosen(&t.dimension)] }

// decided are the arguments of Decide for the request.
func (r Request) decided() (policy.Caller, policy.Ask) {
	a := r.Ask
	for _, k := range detect.Kinds(detect.Scan(r.Text)) {
		if !slices.Contains(a.Kinds, k) {
			a.Kinds = append(slices.Clone(a.Kinds), k)
		}
	}
	return r.Caller, a
}

// samples are texts that hold one kind; all are made up or published as examples.
func samples() map[detect.Kind]string {
	return map[detect.Kind]string{
		detect.BirthDate:     "she was born on 17 May 1980",
		detect.IP:            "the camera has 10.20.30.40",
		detect.MAC:           "its card is 00:1a:2b:3c:4d:5e",
		detect.MedicalRecord: "MRN PX-204518",
		detect.NationalID:    "SSN 219-09-9999",
		detect.Phone:         "call +49 30 901820",
		detect.Wallet:        "pay to bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
		detect.Card:          "my card is 4111 1111 1111 1111",
		detect.IBAN:          "account GB82 WEST 1234 5698 7654 32",
		detect.Email:         "write to jane@example.com",
		detect.APIToken:      "use AKIAIOSFODNN7EXAMPLE",
		detect.PrivateKey:    "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIB\n", 3) + "-----END PRIVATE KEY-----",
	}
}

// sample is a text in which the detectors find exactly the kinds; "" when none is known.
func sample(kinds []detect.Kind) string {
	var parts []string
	for _, k := range kinds {
		text, ok := samples()[k]
		if !ok {
			return ""
		}
		parts = append(parts, text)
	}
	text := strings.Join(parts, ";\n")
	if !slices.Equal(slices.Sorted(slices.Values(kinds)), detect.Kinds(detect.Scan(text))) {
		return ""
	}
	return text
}

// body is the request as JSON of the API.
func (r Request) body() string {
	type message struct {
		Role    string `json:"role"`
		Content any    `json:"content"`
	}
	type image struct {
		URL string `json:"url"`
	}
	type part struct {
		Type  string `json:"type"`
		Text  string `json:"text,omitempty"`
		Image *image `json:"image_url,omitempty"`
	}
	var body any
	switch {
	case r.Ask.API == "chat" && r.Ask.Opaque:
		body = struct {
			Model    string    `json:"model"`
			Messages []message `json:"messages"`
		}{r.Ask.Model, []message{{"user", []part{{Type: "text", Text: r.Text}, {Type: "image_url", Image: &image{"https://example.com/a.png"}}}}}}
	case r.Ask.API == "chat":
		body = struct {
			Model    string    `json:"model"`
			Messages []message `json:"messages"`
		}{r.Ask.Model, []message{{"user", r.Text}}}
	case r.Ask.API == "embeddings":
		body = struct {
			Model string `json:"model"`
			Input string `json:"input"`
		}{r.Ask.Model, r.Text}
	default:
		body = struct {
			Model  string `json:"model"`
			Prompt string `json:"prompt"`
		}{r.Ask.Model, r.Text}
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("internal error: cannot encode a request: %v", err))
	}
	return string(b)
}

// Curl is a command that sends the request to the API socket; "" when none can:
// a scan that does not finish, or a size no body has. Who sends it, and when, is
// up to the circumstances.
func (r Request) Curl(socket string) string {
	body := r.body()
	path, known := map[string]string{"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}[r.Ask.API]
	opaque := r.Ask.Opaque && r.Ask.API != "chat"
	if r.Ask.Incomplete || len(r.Ask.Kinds) > 0 || len(body) > r.high || !known || opaque {
		return ""
	}
	var b strings.Builder
	data := quote(body)
	if pad := r.Ask.Bytes - len(body); pad > 0 {
		fmt.Fprintf(&b, "{ printf %%s %s; head -c %d /dev/zero | tr '\\0' ' '; } | ", data, pad)
		data = "@-"
	}
	fmt.Fprintf(&b, "curl --unix-socket %s http://bothy%s -H 'content-type: application/json'", quote(socket), path)
	if len(r.Ask.Labels) > 0 {
		fmt.Fprintf(&b, " -H 'x-bothy-class: %s'", strings.Join(r.Ask.Labels, ", "))
	}
	if r.Ask.OnlyLocal {
		b.WriteString(" -H 'x-bothy-place: local'")
	}
	return b.String() + " --data-binary " + data
}

// quote makes one word of the shell.
func quote(s string) string {
	if !strings.ContainsFunc(s, func(c rune) bool {
		return !(c == '/' || c == '.' || c == '-' || c == '_' || c == '@' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}) && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Circumstances says what the command line cannot: who must send the request, and when.
func (r Request) Circumstances() string {
	c := r.Caller
	var out []string
	if c.Unattested {
		out = append(out, fmt.Sprintf("from a process of uid %d and gid %d that cannot be attested", c.UID, c.GID))
	} else {
		out = append(out, fmt.Sprintf("from uid %d, gid %d", c.UID, c.GID))
		for _, f := range []struct{ name, value string }{{"unit", c.Unit}, {"container", c.Container}, {"executable", c.Exe}} {
			if f.value != "" {
				out = append(out, f.name+" "+f.value)
			}
		}
	}
	if !r.Ask.Time.IsZero() {
		out = append(out, r.Ask.Time.Format("on a Monday at 15:04"))
	}
	if r.Ask.Incomplete {
		out = append(out, "with content whose scan does not finish")
	}
	return strings.Join(out, ", ")
}

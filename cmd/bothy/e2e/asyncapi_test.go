package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/release"
	fleetreport "github.com/bothy-edge/bothy/updater/report"
)

// reference is a pointer into the document.
type reference struct {
	Ref string `json:"$ref"`
}

// channel is a channel of the document; pattern finds the topics that are its.
type channel struct {
	Address    string               `json:"address"`
	From       string               `json:"x-from"`
	Parameters map[string]any       `json:"parameters"`
	Messages   map[string]reference `json:"messages"`
	pattern    *regexp.Regexp
	mqtt       binding
}

type binding struct {
	QoS    byte `json:"qos"`
	Retain bool `json:"retain"`
}

// layoutField is one row of a binary header.
type layoutField struct {
	Name   string         `json:"name"`
	At     int            `json:"at"`
	Size   int            `json:"size"`
	Const  string         `json:"const"`
	Values map[string]any `json:"values"`
}

type messageForm struct {
	Payload     *reference    `json:"payload"`
	PayloadType string        `json:"x-payload-type"`
	Body        *reference    `json:"x-body"`
	Layout      []layoutField `json:"x-layout"`
	Behind      []struct {
		Each string `json:"each"`
		Size int    `json:"size"`
	} `json:"x-behind"`
}

// asyncAPI is docs/asyncapi.yaml.
type asyncAPI struct {
	Version    string              `json:"asyncapi"`
	Channels   map[string]*channel `json:"channels"`
	Operations map[string]struct {
		Action   string    `json:"action"`
		Channel  reference `json:"channel"`
		Bindings struct {
			MQTT binding `json:"mqtt"`
		} `json:"bindings"`
	} `json:"operations"`
	Components struct {
		Messages map[string]messageForm `json:"messages"`
		Schemas  map[string]any         `json:"schemas"`
	} `json:"components"`
	compiler *jsonschema.Compiler
}

const asyncAPIResource = "https://bothy.example/asyncapi.json"

func readAsyncAPI(t *testing.T) *asyncAPI {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(parts.Root(), "docs", "asyncapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var plain any // aliases are resolved by a decoder only
	if err := yaml.Unmarshal(raw, &plain); err != nil {
		t.Fatalf("docs/asyncapi.yaml: %s", yaml.FormatError(err, false, true))
	}
	text, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	a := &asyncAPI{compiler: jsonschema.NewCompiler()}
	if err := json.Unmarshal(text, a); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	a.compiler.AssertFormat()
	if err := a.compiler.AddResource(asyncAPIResource, doc); err != nil {
		t.Fatal(err)
	}
	for name, c := range a.Channels {
		level := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(c.Address), "[^/]+")
		c.pattern = regexp.MustCompile("^" + level + "$")
		n := 0
		for _, o := range a.Operations {
			if o.Channel.Ref == "#/channels/"+name {
				c.mqtt = o.Bindings.MQTT
				n++
			}
		}
		if n != 1 || len(c.Messages) != 1 {
			t.Errorf("channel %s has %d operations and %d messages, want one of each", name, n, len(c.Messages))
		}
	}
	return a
}

// message is the form of what a channel carries.
func (a *asyncAPI) message(c *channel) (messageForm, error) {
	for _, m := range c.Messages {
		form, ok := a.Components.Messages[strings.TrimPrefix(m.Ref, "#/components/messages/")]
		if ok {
			return form, nil
		}
		return form, fmt.Errorf("there is no %s", m.Ref)
	}
	return messageForm{}, fmt.Errorf("%s carries nothing", c.Address)
}

func (a *asyncAPI) validate(ref string, raw []byte) error {
	s, err := a.compiler.Compile(asyncAPIResource + ref)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// check holds one message against the document and names its channel.
func (a *asyncAPI) check(topic string, qos byte, payload []byte) (string, error) {
	for name, c := range a.Channels {
		if !c.pattern.MatchString(topic) {
			continue
		}
		if qos != c.mqtt.QoS {
			return name, fmt.Errorf("it came at QoS %d, want %d", qos, c.mqtt.QoS)
		}
		form, err := a.message(c)
		if err != nil {
			return name, err
		}
		if form.Layout != nil {
			_, err = form.read(payload)
			return name, err
		}
		return name, a.checkJSON(form, payload)
	}
	return "", fmt.Errorf("no channel of the document is %s", topic)
}

func (a *asyncAPI) checkJSON(form messageForm, payload []byte) error {
	if err := a.validate(form.Payload.Ref, payload); err != nil || form.PayloadType == "" {
		return err
	}
	var envelope struct{ PayloadType, Payload string }
	if err := json.Unmarshal(payload, &envelope); err != nil {
		return err
	}
	if envelope.PayloadType != form.PayloadType {
		return fmt.Errorf("it holds %q, want %q", envelope.PayloadType, form.PayloadType)
	}
	body, err := base64.StdEncoding.DecodeString(envelope.Payload)
	if err != nil || form.Body == nil {
		return err
	}
	return a.validate(form.Body.Ref, body)
}

// read takes a binary message apart by the table of the document alone.
func (m messageForm) read(b []byte) (map[string]uint64, error) {
	at, got := 0, map[string]uint64{}
	header := m.Layout[len(m.Layout)-1].At + m.Layout[len(m.Layout)-1].Size
	if len(b) < header {
		return nil, fmt.Errorf("%d bytes, the header has %d", len(b), header)
	}
	for _, f := range m.Layout {
		if f.At != at {
			return nil, fmt.Errorf("the field %s is at %d, want %d: the table has a hole", f.Name, f.At, at)
		}
		raw := b[f.At : f.At+f.Size]
		at += f.Size
		n := new(big.Int).SetBytes(raw).Uint64() // of those that fit
		got[f.Name] = n
		if f.Const != "" && hex.EncodeToString(raw) != f.Const {
			return nil, fmt.Errorf("the field %s is %x, want %s", f.Name, raw, f.Const)
		}
		if _, known := f.Values[strconv.FormatUint(n, 10)]; f.Values != nil && !known {
			return nil, fmt.Errorf("the field %s is %d, want one of %v", f.Name, n, f.Values)
		}
	}
	sum := crc32.Update(crc32.Checksum(b[:header-4], crc32.MakeTable(crc32.Castagnoli)), crc32.MakeTable(crc32.Castagnoli), b[header:])
	if got["checksum"] != uint64(sum) {
		return nil, fmt.Errorf("the checksum is %08x, want %08x", got["checksum"], sum)
	}
	if m.Behind != nil {
		want := header
		for _, x := range m.Behind {
			want += int(got[x.Each]) * x.Size
		}
		if len(b) != want {
			return nil, fmt.Errorf("%d bytes, want %d by its own numbers", len(b), want)
		}
	}
	return got, nil
}

func TestAsyncAPIHasEveryTopicAndNoOther(t *testing.T) {
	a := readAsyncAPI(t)
	p := wire.Topics{Tenant: "{tenant}", Device: "{device}"}
	blob := strings.NewReplacer(strings.Repeat("0", 32), "{blob}")
	want := []string{
		p.Want(), p.Catalog(), p.State(), p.Event(), p.Online(), p.Command(), p.CertificateRequest(), p.Certificate(),
		p.EnrollRequest("{token}"), p.EnrollAnswer("{token}"), p.Info("{depot}"), p.Probe("{depot}"), p.Request("{depot}"), p.Reply(),
		blob.Replace(p.Cast([16]byte{})), blob.Replace(p.Feedback([16]byte{})),
	}
	var told []string
	for name, c := range a.Channels {
		told = append(told, c.Address)
		for _, parameter := range regexp.MustCompile(`\{([a-z]+)\}`).FindAllStringSubmatch(c.Address, -1) {
			if c.Parameters[parameter[1]] == nil {
				t.Errorf("channel %s does not describe {%s}", name, parameter[1])
			}
		}
	}
	slices.Sort(want)
	slices.Sort(told)
	if !slices.Equal(want, told) {
		t.Errorf("the code has\n%s\nthe document\n%s", strings.Join(want, "\n"), strings.Join(told, "\n"))
	}
	if a.Version != "3.0.0" {
		t.Errorf("got version %q", a.Version)
	}
	for name := range a.Components.Schemas {
		if _, err := a.compiler.Compile(asyncAPIResource + "#/components/schemas/" + name); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
	}
}

// A field that the code writes and the document lacks would be found only when it is sent.
func TestAsyncAPIHasTheFieldsOfTheCode(t *testing.T) {
	a := readAsyncAPI(t)
	within := func(v any, path ...string) any {
		for _, p := range path {
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("nothing at %v", path)
			}
			v = m[p]
		}
		return v
	}
	state := within(a.Components.Schemas, "state")
	for name, c := range map[string]struct {
		schema any
		code   any
	}{
		"state": {state, fleetreport.State{}}, "state's change": {within(state, "properties", "change"), fleetreport.Change{}},
		"state's models":   {within(state, "properties", "models", "additionalProperties"), fleetreport.Model{}},
		"state's capacity": {within(state, "properties", "capacity"), fleetreport.Capacity{}},
		"repository":       {within(a.Components.Schemas, "repository"), fleetreport.Repository{}},
		"info":             {within(a.Components.Schemas, "info"), mqtt.Info{}}, "presence": {within(a.Components.Schemas, "presence"), mqtt.Presence{}},
		"event": {within(a.Components.Schemas, "event"), mqtt.Event{}}, "order": {within(a.Components.Schemas, "order"), release.Order{}},
		"orderEvent": {within(a.Components.Schemas, "orderEvent"), fleetreport.Answer{}}, "logsEvent": {within(a.Components.Schemas, "logsEvent"), fleetreport.LogPart{}},
	} {
		var code, told []string
		for f := range reflect.TypeOf(c.code).Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			code = append(code, tag)
		}
		for field := range within(c.schema, "properties").(map[string]any) {
			told = append(told, field)
		}
		slices.Sort(code)
		slices.Sort(told)
		if !slices.Equal(code, told) {
			t.Errorf("%s: the code has %v, the document %v", name, code, told)
		}
	}
}

// The tables of the document read what the code writes, and the numbers are the same.
func TestAsyncAPITablesReadTheCodesBytes(t *testing.T) {
	a := readAsyncAPI(t)
	request, err := wire.Request{Kind: wire.KindMetadata, Transfer: 7, Clock: 9, Ranges: []wire.Range{{Offset: 1, Length: 2}, {Offset: 3, Length: 4}}, Name: "catalog/timestamp.json"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		raw  []byte
		want map[string]uint64
	}{
		"request": {request, map[string]uint64{"kind": 3, "ranges": 2, "transfer": 7, "clock": 9, "name_length": 22}},
		"frame": {wire.Frame{Kind: wire.KindBlob, Code: wire.CodeOK, Transfer: 1<<63 + 7, Offset: 5, Total: 1 << 41, Clock: 9, Queued: 11_000, Payload: []byte("x")}.Encode(),
			map[string]uint64{"kind": 1, "code": 0, "transfer": 1<<63 + 7, "offset": 5, "total": 1 << 41, "clock": 9, "queued": 11}},
		"feedback": {wire.Feedback{Stream: 3, Leaving: true, Pos: 4, Got: 5, Lost: 6, Missing: 7, First: 8, Last: 9}.Encode(),
			map[string]uint64{"leaving": 1, "stream": 3, "pos": 4, "got": 5, "lost": 6, "missing": 7, "first": 8, "last": 9}},
	} {
		form := a.Components.Messages[name]
		got, err := form.read(c.raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for field, want := range c.want {
			if got[field] != want {
				t.Errorf("%s: %s is %d by the table, want %d", name, field, got[field], want)
			}
		}
		for i := range c.raw { // what the tables leave open must be the checksum's to find
			bent := bytes.Clone(c.raw)
			bent[i] ^= 1
			if _, err := form.read(bent); err == nil {
				t.Errorf("%s: byte %d flipped is accepted", name, i)
			}
		}
	}
}

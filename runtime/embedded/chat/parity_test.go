package chat

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/internal/reference"
)

const tools = `[{"type":"function","function":{"name":"get_weather","description":"Weather <now> & \"later\" für dich","parameters":{"type":"object","properties":{"zebra":{"type":"string","description":"a"},"city":{"type":"string"},"days":{"type":"integer","minimum":1,"maximum":2.5}},"required":["city"]}}}]`

// conversations are what each template is tried on.
var conversations = map[string]string{
	"question":      `[{"role":"user","content":"What is 2+2?"}]`,
	"system":        `[{"role":"system","content":" Be brief. "},{"role":"user","content":"Hi\nthere "}]`,
	"turns":         `[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c d e"}]`,
	"parts":         `[{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]}]`,
	"scripts":       `[{"role":"user","content":"日本語 é <b>&amp;</b> {{ x }} {% if %} '\"\\"}]`,
	"thought":       `[{"role":"user","content":"q"},{"role":"assistant","content":"<think>\nhm\n</think>\n\nanswer"},{"role":"user","content":"r"}]`,
	"wrong order":   `[{"role":"assistant","content":"b"},{"role":"user","content":"c"}]`,
	"tool calls":    `[{"role":"user","content":"weather?"},{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Paris\",\"days\":2}"}}]},{"role":"tool","tool_call_id":"c1","content":"{\"t\":20}"}]`,
	"end assistant": `[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]`,
}

func messages(tb testing.TB, text string) []Message {
	tb.Helper()
	var m []Message
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestTemplatesRenderLikeLlamaServer(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.jinja")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no templates: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { sameAsLlama(t, path) })
	}
}

func sameAsLlama(t *testing.T, path string) {
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := New(string(source), "<s>", "<|im_end|>")
	if err != nil {
		t.Fatal(err)
	}
	llama := reference.Start(t, parts.Model(t, "mote-chat-q8_0.gguf"), "-c", "64", "-np", "1", "--chat-template-file", path)
	for name, text := range conversations {
		if name == "end assistant" && (strings.Contains(path, "generation") || strings.Contains(path, "oddities")) {
			continue // llama-server's own answer is torn there
		}
		for _, withTools := range []bool{false, true} {
			req := map[string]any{"messages": json.RawMessage(text)}
			var list []any
			if withTools {
				req["tools"] = json.RawMessage(tools)
				if err := json.Unmarshal([]byte(tools), &[]json.RawMessage{}); err != nil {
					t.Fatal(err)
				}
				var raws []json.RawMessage
				json.Unmarshal([]byte(tools), &raws)
				list = append(list, raws[0])
			}
			var want struct {
				Prompt string
				Error  struct{ Message string }
			}
			code := llama.Post(t, "/apply-template", req, &want)
			got, err := tmpl.Render(messages(t, text), list, true, nil)
			if code != http.StatusOK {
				var raised *RaisedError
				if !errors.As(err, &raised) {
					t.Errorf("%s: got %q, %v; llama-server refuses: %s", name, got, err, want.Error.Message)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s (tools %v): %v; want %q", name, withTools, err, want.Prompt)
			} else if got != want.Prompt {
				t.Errorf("%s (tools %v):\n got %q\nwant %q", name, withTools, got, want.Prompt)
			}
		}
	}
}

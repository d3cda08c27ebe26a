package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/internal/reference"
)

// engines are the addresses of the real llama-server and of ours, on the same model.
func engines(t *testing.T) map[string]string {
	model := parts.Model(t, "mote-chat-q8_0.gguf")
	return map[string]string{
		"llama-server": reference.Start(t, model, "-c", "512", "-np", "2", "--alias", "mote").URL,
		"embedded":     start(t, Config{Slots: 2, Context: 256}).url,
	}
}

// table is one list of requests that both engines must answer alike.
var table = []struct {
	name, path string
	body       any
	status     int
	// loose: only the status and the error's type are compared
	loose bool
}{
	{"chat", "/v1/chat/completions", ask("What is the capital of France?"), 200, false},
	{"chat with a cut", "/v1/chat/completions", ask("What is the capital of France?", object{"max_tokens": 3}), 200, false},
	{"chat with the new name of the cut", "/v1/chat/completions", ask("What is the capital of France?", object{"max_completion_tokens": 2}), 200, false},
	{"stop inside a word", "/v1/chat/completions", ask("What is the capital of France?", object{"stop": "pital"}), 200, false},
	{"stop over tokens", "/v1/chat/completions", ask("What is the capital of France?", object{"stop": []string{"nowhere", "e is P"}}), 200, false},
	{"stop at once", "/v1/chat/completions", ask("What is the capital of France?", object{"stop": "The"}), 200, false},
	{"logprobs", "/v1/chat/completions", ask("What is the capital of France?", object{"logprobs": true, "top_logprobs": 3, "max_tokens": 4}), 200, false},
	{"bias", "/v1/chat/completions", ask("What is the capital of France?", object{"logit_bias": object{"380": -100}, "max_tokens": 3}), 200, false},
	{"penalties", "/v1/chat/completions", ask("Count to ten.", object{"frequency_penalty": 1.5, "presence_penalty": 0.5, "max_tokens": 20}), 200, false},
	{"text", "/v1/completions", object{"prompt": "<|im_start|>user\nWhat is the capital of Spain?<|im_end|>\n<|im_start|>assistant\n", "temperature": 0, "max_tokens": 12}, 200, false},
	{"tokens", "/v1/completions", object{"prompt": []int{3, 400, 401, 402}, "temperature": 0, "max_tokens": 5}, 200, false},
	{"tokenize", "/tokenize", object{"content": "Hello <|im_end|> 日本", "add_special": true}, 200, false},
	{"tokenize as text", "/tokenize", object{"content": "<|im_end|>", "parse_special": false}, 200, false},
	{"detokenize", "/detokenize", object{"tokens": []int{380, 381, 370, 4}}, 200, false},
	{"template", "/apply-template", object{"messages": []object{{"role": "system", "content": "s"}, {"role": "user", "content": "u"}}}, 200, false},
	{"assistant goes on", "/apply-template", object{"messages": []object{{"role": "user", "content": "u"}, {"role": "assistant", "content": "The cap"}}}, 200, false},
	{"broken JSON", "/v1/chat/completions", `{"messages": [`, 400, true},
	{"no messages", "/v1/chat/completions", object{}, 400, true},
	{"messages of the wrong type", "/v1/chat/completions", object{"messages": "hello"}, 400, true},
	{"embeddings", "/v1/embeddings", object{"input": "x"}, 501, true},
	{"unknown path", "/v1/nothing", object{}, 404, true},
}

func TestSameRequestsSameAnswersAsLlamaServer(t *testing.T) {
	urls := engines(t)
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			shapes := map[string]object{}
			for name, url := range urls {
				code, raw := post(t, url+c.path, c.body)
				if code != c.status {
					t.Errorf("%s: status %d, want %d: %s", name, code, c.status, raw)
				}
				shapes[name] = decode[object](t, raw)
			}
			if c.loose {
				kind := func(o object) any { e, _ := o["error"].(object); return e["type"] }
				if got, want := kind(shapes["embedded"]), kind(shapes["llama-server"]); got != want {
					t.Errorf("error type: got %v, want %v", got, want)
				}
				return
			}
			got, want := normal(shapes["embedded"]), normal(shapes["llama-server"])
			if got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

// normal writes an answer with what may differ taken out: identities, times,
// what only llama-server has, and the last digits of probabilities.
func normal(o object) string {
	for _, key := range []string{"id", "created", "system_fingerprint", "timings"} {
		delete(o, key)
	}
	if u, ok := o["usage"].(object); ok {
		delete(u, "prompt_tokens_details") // depends on which slot answered before
	}
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case object:
			for k, e := range v {
				if v[k] = walk(e); k == "logprob" {
					v[k] = fmt.Sprintf("%.1f", e)
				}
				if v[k] == nil {
					delete(v, k)
				}
			}
		case []any:
			for i := range v {
				v[i] = walk(v[i])
			}
		}
		return v
	}
	out, err := json.Marshal(walk(o))
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(out), `"-0.0"`, `"0.0"`)
}

func TestStreamsHaveLlamaServersShape(t *testing.T) {
	for _, c := range []struct {
		path string
		body object
	}{
		{"/v1/chat/completions", ask("What is the capital of France?", object{"stream": true, "stream_options": object{"include_usage": true}})},
		{"/v1/chat/completions", ask("What is the capital of France?", object{"stream": true, "max_tokens": 2})},
		{"/v1/chat/completions", ask("Tell me a long story.", object{"stream": true, "stop": []string{"and", "the"}, "max_tokens": 60})},
		{"/v1/completions", object{"prompt": "What is", "stream": true, "temperature": 0, "max_tokens": 5}},
	} {
		got := map[string]string{}
		for name, url := range engines(t) {
			all := chunks(t, url+c.path, c.body)
			text, finish := joined(all)
			objects := map[string]bool{}
			usage := "none"
			for _, chunk := range all {
				objects[chunk.Object] = true
				if chunk.Usage != nil && len(chunk.Choices) == 0 {
					usage = fmt.Sprint(chunk.Usage.Prompt, chunk.Usage.Completion, chunk.Usage.Total)
				}
			}
			role := len(all) > 0 && len(all[0].Choices) > 0 && all[0].Choices[0].Delta.Role != nil
			got[name] = fmt.Sprintf("%q %s usage %s role first %v objects %v", text, finish, usage, role, keys(objects))
		}
		if got["embedded"] != got["llama-server"] {
			t.Errorf("%s %v:\n got %s\nwant %s", c.path, c.body, got["embedded"], got["llama-server"])
		}
	}
}

func keys(m map[string]bool) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func TestModelsAndHealthLikeLlamaServer(t *testing.T) {
	for name, url := range engines(t) {
		resp, err := http.Get(url + "/v1/models")
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Object string
			Data   []struct {
				ID, Object string
				Meta       struct {
					Vocab int `json:"n_vocab"`
					Embd  int `json:"n_embd"`
					Train int `json:"n_ctx_train"`
				}
			}
		}
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil || got.Object != "list" || len(got.Data) != 1 || got.Data[0].ID != "mote" || got.Data[0].Object != "model" {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
		if meta := []int{got.Data[0].Meta.Vocab, got.Data[0].Meta.Embd, got.Data[0].Meta.Train}; !slices.Equal(meta, []int{1088, 128, 1024}) {
			t.Errorf("%s: meta %v", name, meta)
		}
	}
}

func TestTooLongPromptIsRefusedByBoth(t *testing.T) {
	body := object{"prompt": strings.Repeat("hello ", 400)}
	for name, url := range engines(t) {
		code, raw := post(t, url+"/v1/completions", body)
		got := decode[completion](t, raw)
		if code != http.StatusBadRequest || got.Error == nil || got.Error.PromptTokens != 402 {
			t.Errorf("%s: status %d: %s", name, code, raw)
		}
		if name == "embedded" && got.Error.Code != "context_length_exceeded" {
			t.Errorf("code %q, want context_length_exceeded", got.Error.Code)
		}
	}
}

// TestBeginTokenIsNotDoubled: the template writes the begin token out and the
// vocabulary asks for one.
func TestBeginTokenIsNotDoubled(t *testing.T) {
	texts, types := []string{"<unk>", "<s>", "</s>"}, []int32{2, 3, 3}
	for b := range 256 {
		texts, types = append(texts, fmt.Sprintf("<0x%02X>", b)), append(types, 6)
	}
	texts, types = append(texts, "\u2581", "a", "b", "\u2581a"), append(types, 1, 1, 1, 1)
	path := reference.Model(t, len(texts),
		reference.KV{Key: "tokenizer.ggml.model", Value: "llama"}, reference.KV{Key: "tokenizer.ggml.tokens", Value: texts},
		reference.KV{Key: "tokenizer.ggml.token_type", Value: types}, reference.KV{Key: "tokenizer.ggml.scores", Value: make([]float32, len(texts))},
		reference.KV{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)}, reference.KV{Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
		reference.KV{Key: "tokenizer.ggml.unknown_token_id", Value: uint32(0)}, reference.KV{Key: "tokenizer.ggml.add_bos_token", Value: true},
		reference.KV{Key: "tokenizer.chat_template", Value: "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"})
	ours, llama := start(t, Config{Model: path, Slots: 1}), reference.Start(t, path, "-c", "512", "-np", "1")
	body := object{"messages": []object{{"role": "user", "content": "a b ab"}}, "max_tokens": 1, "temperature": 0}
	got := ours.chat(t, body).Usage.Prompt
	var want completion
	if code := llama.Post(t, "/v1/chat/completions", body, &want); code != http.StatusOK {
		t.Fatalf("llama-server: status %d", code)
	}
	if got != want.Usage.Prompt {
		t.Errorf("the prompt has %d tokens, want %d", got, want.Usage.Prompt)
	}
}

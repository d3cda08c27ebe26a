package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/bothy-edge/bothy/internal/parts"
)

// Aliases of the world of clients, by engine.
const (
	onEmbedded = "mote"
	onLlama    = "lama"
	onVectors  = "vec" // llama-server with its embeddings flag
)

// TestOfficialClientsWorkUnchanged asks both engines with what applications have.
func TestOfficialClientsWorkUnchanged(t *testing.T) {
	t.Parallel()
	w := online(t, "engines: {llama_server: "+parts.Llama(t, "llama-server")+", threads: 1}")
	w.startAgent()
	w.add("mote", "mote-chat-q8_0.gguf", "--engine", "embedded")
	w.add("lama", "mote-chat-q8_0.gguf", "--engine", "llama-server")
	w.add("vec", "mote-chat-q8_0.gguf", "--engine", "llama-server", "--flag", "embeddings=true", "--flag", "pooling=mean")
	w.install(onEmbedded+"=mote@1", onLlama+"=lama@1", onVectors+"=vec@1")
	for _, model := range []string{onEmbedded, onLlama} {
		t.Run("go/"+model, func(t *testing.T) { goClient(t, w, model) })
		t.Run("node/"+model, func(t *testing.T) { nodeClient(t, w, model) })
		t.Run("curl/"+model, func(t *testing.T) { curlClient(t, w, model) })
	}
	t.Run("embeddings", func(t *testing.T) { embeddings(t, w) })
}

func newGoClient(w *world) openai.Client {
	return openai.NewClient(option.WithBaseURL("http://bothy/v1/"), option.WithHTTPClient(w.api), option.WithAPIKey("unused"), option.WithMaxRetries(0))
}

func goClient(t *testing.T, w *world, model string) {
	ctx := t.Context()
	client := newGoClient(w)
	list, err := client.Models.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range list.Data {
		ids = append(ids, m.ID)
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{onLlama, onEmbedded, onVectors}) {
		t.Errorf("got models %v", ids)
	}
	ask := openai.ChatCompletionNewParams{
		Model: model, Temperature: openai.Float(0), MaxTokens: openai.Int(32),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
	}
	var header http.Response
	resp := &header
	chat, err := client.Chat.Completions.New(ctx, ask, option.WithResponseInto(&resp))
	if err != nil {
		t.Fatal(err)
	}
	if got := chat.Choices[0]; !strings.Contains(got.Message.Content, fact) || got.FinishReason != "stop" || chat.Usage.CompletionTokens == 0 {
		t.Errorf("got %q, finish %q, usage %+v", got.Message.Content, got.FinishReason, chat.Usage)
	}
	if place, release := resp.Header.Get("x-bothy-place"), resp.Header.Get("x-bothy-model-release"); place != "local" || !strings.HasPrefix(release, model) && model == onLlama {
		t.Errorf("got place %q, release %q", place, release)
	}
	goStream(t, client, ask, chat.Choices[0].Message.Content)
	text, err := client.Completions.New(ctx, openai.CompletionNewParams{
		Model: openai.CompletionNewParamsModel(model), Temperature: openai.Float(0), MaxTokens: openai.Int(8),
		Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("The capital of France is")},
	})
	if err != nil || len(text.Choices) != 1 || text.Choices[0].Text == "" {
		t.Errorf("got completion %+v (%v)", text, err)
	}
	_, err = client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Model: "nobody", Messages: ask.Messages})
	var refused *openai.Error
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusNotFound || refused.Code != "model_not_found" {
		t.Errorf("got %v for a model that is not there, want a 404 model_not_found", err)
	}
}

func goStream(t *testing.T, client openai.Client, ask openai.ChatCompletionNewParams, want string) {
	t.Helper()
	stream := client.Chat.Completions.NewStreaming(t.Context(), ask)
	defer stream.Close()
	var sum openai.ChatCompletionAccumulator
	chunks := 0
	for stream.Next() {
		if !sum.AddChunk(stream.Current()) {
			t.Errorf("chunk %d does not follow the ones before", chunks)
		}
		chunks++
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if got := sum.Choices[0]; got.Message.Content != want || got.FinishReason != "stop" || chunks < 3 {
		t.Errorf("got %q in %d chunks, finish %q, want %q", got.Message.Content, chunks, got.FinishReason, want)
	}
}

func nodeClient(t *testing.T, w *world, model string) {
	modules := filepath.Join(parts.Root(), "build", "tools", "node", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "openai")); err != nil {
		t.Fatalf("cannot find the Node client: %v: run scripts/test-tools", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "testdata/client.cjs", w.path("run/api.sock"), model, onVectors)
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	cmd.Stderr = t.Output()
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("node failed: %v: is it installed? run scripts/test-tools", err)
	}
	var got struct {
		Models                           []string
		Chat, Stream, Finish, Completion string
		Chunks, Embedding                int
		Missing                          struct {
			Name, Code, Type string
			Status           int
		}
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got.Models)
	if !slices.Equal(got.Models, []string{onLlama, onEmbedded, onVectors}) || !strings.Contains(got.Chat, fact) ||
		got.Stream != got.Chat || got.Chunks < 3 || got.Finish != "stop" || got.Completion == "" || got.Embedding == 0 {
		t.Errorf("got %s", raw)
	}
	if m := got.Missing; m.Name != "NotFoundError" || m.Status != 404 || m.Code != "model_not_found" {
		t.Errorf("got %+v for a model that is not there", m)
	}
}

func curlClient(t *testing.T, w *world, model string) {
	body := `{"model":"` + model + `","stream":true,"temperature":0,"messages":[{"role":"user","content":"` + question + `"}]}`
	out, err := exec.CommandContext(t.Context(), "curl", "-sS", "--fail-with-body", "-N", "-i", "--max-time", "30",
		"--unix-socket", w.path("run/api.sock"), "http://bothy/v1/chat/completions",
		"-H", "content-type: application/json", "-d", body).CombinedOutput()
	text := strings.ToLower(string(out))
	if err != nil || !strings.Contains(text, "content-type: text/event-stream") || !strings.Contains(text, "x-bothy-place: local") ||
		!strings.HasSuffix(strings.TrimSpace(text), "data: [done]") {
		t.Errorf("curl: %v\n%s", err, out)
	}
}

// embeddings come from an engine that has them; another one says so with a typed error.
func embeddings(t *testing.T, w *world) {
	client := newGoClient(w)
	input := openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two words"}}
	got, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: onVectors, Input: input})
	if err != nil || len(got.Data) != 2 || len(got.Data[0].Embedding) == 0 || got.Data[1].Index != 1 {
		t.Errorf("got %+v (%v), want two vectors", got, err)
	}
	for _, model := range []string{onEmbedded, onLlama} {
		_, err = client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: model, Input: input})
		var refused *openai.Error
		if !errors.As(err, &refused) || refused.StatusCode != http.StatusNotImplemented || refused.Type == "" || refused.Message == "" {
			t.Errorf("%s: got %v, want a typed error", model, err)
		} else {
			t.Logf("%s: %d %s %s: %s", model, refused.StatusCode, refused.Type, refused.Code, refused.Message)
		}
	}
}

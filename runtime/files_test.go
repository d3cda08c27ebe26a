package runtime

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

// serveFiles runs the real llama-server on a spec and answers the body of a GET.
func serveFiles(t *testing.T, spec Spec, path string) string {
	t.Helper()
	s := New(Config{Dir: parts.SocketDir(t), Adapters: map[string]Adapter{"llama": LlamaServer{Binary: parts.Llama(t, "llama-server")}}})
	defer s.Close(t.Context())
	spec.Alias, spec.Engine, spec.Context, spec.Threads = "m", "llama", 256, 1
	generation, err := s.Prepare(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := s.Inspect(generation)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Done()
	resp, err := lease.Client.Get(lease.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestTheRealServerLoadsASplitModel(t *testing.T) {
	files := parts.SplitModel(t, t.TempDir(), "mote-chat-q8_0.gguf", 3)
	body := serveFiles(t, Spec{Files: files}, "/props")
	if !strings.Contains(body, "00001-of-00003") {
		t.Errorf("got %.300s, want the split model served", body)
	}
}

func TestTheRealServerLoadsAdapters(t *testing.T) {
	model := parts.Model(t, "mote-chat-q8_0.gguf")
	f, err := gguf.Open(model)
	if err != nil {
		t.Fatal(err)
	}
	width, _ := f.Meta.Uint("llama.embedding_length")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Files: []string{model}}
	for _, name := range []string{"one.gguf", "two.gguf"} {
		spec.Adapters = append(spec.Adapters, filepath.Join(t.TempDir(), name))
		parts.Adapter(t, spec.Adapters[len(spec.Adapters)-1], int(width))
	}
	var got []struct{ Path string }
	if err := json.Unmarshal([]byte(serveFiles(t, spec, "/lora-adapters")), &got); err != nil || len(got) != 2 || got[1].Path != spec.Adapters[1] {
		t.Errorf("got adapters %+v, %v, want %v", got, err, spec.Adapters)
	}
}

func TestTheRealServerIsGivenTheProjector(t *testing.T) {
	s := New(Config{Dir: parts.SocketDir(t), Adapters: map[string]Adapter{"llama": LlamaServer{Binary: parts.Llama(t, "llama-server")}}})
	defer s.Close(t.Context())
	model := parts.Model(t, "mote-chat-q8_0.gguf")
	_, err := s.Prepare(t.Context(), Spec{Alias: "m", Engine: "llama", Files: []string{model}, Projector: model})
	if err == nil || !strings.Contains(strings.Join(s.Logs("m", 0), "\n"), "mmproj") {
		t.Errorf("got %v, want the server to refuse a projector that is none", err)
	}
}

func TestAllFilesOfAModelAreCounted(t *testing.T) {
	whole, err := needOf(Spec{Files: []string{parts.Model(t, "mote-chat-q8_0.gguf")}, Context: 512})
	if err != nil {
		t.Fatal(err)
	}
	split := Spec{Files: parts.SplitModel(t, t.TempDir(), "mote-chat-q8_0.gguf", 4), Context: 512}
	got, err := needOf(split)
	if err != nil || got != whole {
		t.Errorf("got %v, %v for the split model, want %v as for the whole", got, err, whole)
	}
	split.Projector, split.Adapters = split.Files[1], split.Files[1:2]
	more, err := needOf(split)
	one, sizeErr := tensorBytes(split.Files[1])
	if err != nil || sizeErr != nil || more.Weights != whole.Weights+2*one {
		t.Errorf("got weights of %d, %v, %v with a projector and an adapter of %d each, want them added to %d", more.Weights, err, sizeErr, one, whole.Weights)
	}
	if err := os.Remove(split.Files[3]); err != nil {
		t.Fatal(err)
	}
	if _, err := needOf(split); err == nil {
		t.Error("a split that is gone is not missed")
	}
}

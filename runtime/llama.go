package runtime

import (
	"fmt"
	"strconv"
)

// LlamaServer runs llama.cpp's llama-server on GGUF files.
type LlamaServer struct {
	Binary string   // path of llama-server
	Env    []string // "NAME=value", for example CUDA_VISIBLE_DEVICES; from configuration only
}

// Command is llama-server's command line. Context is a request's share: llama-server divides its -c by -np.
func (l LlamaServer) Command(spec Spec, socket string) (Command, error) {
	if len(spec.Files) != 1 {
		return Command{}, fmt.Errorf("llama-server takes one model file here, the release names %d", len(spec.Files))
	}
	slots := spec.slots()
	args := []string{
		"--host", socket, "--no-webui", "--offline", "--metrics",
		"--alias", spec.Alias, "-m", spec.Files[0], "-np", strconv.Itoa(slots),
	}
	if spec.Context > 0 {
		args = append(args, "-c", strconv.Itoa(spec.Context*slots))
	}
	if spec.Threads > 0 {
		args = append(args, "-t", strconv.Itoa(spec.Threads))
	}
	more, err := llamaFlags.args("llama-server", spec.Flags)
	if err != nil {
		return Command{}, err
	}
	return Command{Path: l.Binary, Args: append(args, more...), Env: l.Env, Ask: askFor(spec.Flags)}, nil
}

// askFor picks the question that this kind of model can answer.
func askFor(flags map[string]string) Ask {
	switch {
	case isOn(flags["reranking"]):
		return askRerank
	case isOn(flags["embeddings"]):
		return askEmbedding
	}
	return askText
}

func isOn(v string) bool { return v == "true" || v == "on" }

// llamaFlags are the flags that a release may set. None names a file, an address, a header or a key, none changes
// what the adapter sets itself, and none lets the server run programs.
var llamaFlags = flagList{
	"batch-size":             intFlag(1, 1<<16),
	"ubatch-size":            intFlag(1, 1<<16),
	"threads-batch":          intFlag(1, maxThreads),
	"threads-http":           intFlag(1, 256),
	"n-gpu-layers":           choiceOr(intFlag(0, 10000), "auto", "all"),
	"split-mode":             choice("none", "layer", "row"),
	"tensor-split":           numbersFlag,
	"main-gpu":               intFlag(0, 63),
	"n-cpu-moe":              intFlag(0, 10000),
	"cpu-moe":                onFlag,
	"flash-attn":             choice("on", "off", "auto"),
	"cache-type-k":           choice("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"),
	"cache-type-v":           choice("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"),
	"cache-reuse":            intFlag(0, maxContext),
	"no-kv-offload":          onFlag,
	"swa-full":               onFlag,
	"context-shift":          onFlag,
	"load-mode":              choice("auto", "none", "mmap", "mlock", "mmap+mlock", "dio"),
	"numa":                   choice("distribute", "isolate"),
	"rope-scaling":           choice("none", "linear", "yarn"),
	"rope-scale":             floatFlag,
	"rope-freq-base":         floatFlag,
	"rope-freq-scale":        floatFlag,
	"yarn-orig-ctx":          intFlag(0, maxContext),
	"yarn-ext-factor":        floatFlag,
	"yarn-attn-factor":       floatFlag,
	"yarn-beta-slow":         floatFlag,
	"yarn-beta-fast":         floatFlag,
	"embeddings":             onFlag,
	"reranking":              onFlag,
	"pooling":                choice("none", "mean", "cls", "last", "rank"),
	"jinja":                  onFlag,
	"reasoning-format":       choice("none", "deepseek", "deepseek-legacy", "auto"),
	"reasoning-budget":       intFlag(-1, maxContext),
	"skip-chat-parsing":      onFlag,
	"predict":                intFlag(-1, maxContext),
	"seed":                   intFlag(-1, 1<<32-1),
	"temp":                   floatFlag,
	"top-k":                  intFlag(0, 1<<20),
	"top-p":                  floatFlag,
	"min-p":                  floatFlag,
	"repeat-penalty":         floatFlag,
	"presence-penalty":       floatFlag,
	"frequency-penalty":      floatFlag,
	"slot-prompt-similarity": floatFlag,
	"poll":                   intFlag(0, 100),
	"check-tensors":          onFlag,
}

package runtime

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// LlamaServer runs llama.cpp's llama-server on GGUF files.
type LlamaServer struct {
	Binary string   // path of llama-server; "": there is none, only engine releases are run
	Env    []string // "NAME=value", for example CUDA_VISIBLE_DEVICES; from configuration only
}

// Command is llama-server's command line. Context is a request's share: llama-server divides its -c by -np.
func (l LlamaServer) Command(spec Spec, socket string) (Command, error) {
	if err := checkSplits(spec.Files); err != nil {
		return Command{}, err
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
	if spec.Projector != "" {
		args = append(args, "--mmproj", spec.Projector)
	}
	for _, a := range spec.Adapters {
		if strings.Contains(a, ",") { // it would part one adapter from another
			return Command{}, fmt.Errorf("llama-server cannot take the adapter %q: its path holds a comma", a)
		}
	}
	if len(spec.Adapters) > 0 {
		args = append(args, "--lora", strings.Join(spec.Adapters, ","))
	}
	more, err := llamaFlags.args("llama-server", spec.Flags)
	if err != nil {
		return Command{}, err
	}
	args = append(args, more...)
	c := Command{Path: l.Binary, Args: args}
	if spec.Program != nil {
		c = spec.Program.command(args)
	}
	if c.Path == "" {
		return Command{}, errors.New("llama-server is not installed on this box, and no engine release brings it")
	}
	c.Env, c.Ask = slices.Concat(l.Env, c.Env), askFor(spec.Flags)
	return c, nil
}

// splitName is what llama.cpp's tools name the files of a model in several.
var splitName = regexp.MustCompile(`^(.+)-([0-9]{5})-of-([0-9]{5})\.gguf$`)

// checkSplits takes one file, or all files of a split model in their order and side by side: llama-server opens the
// first and finds the others by its name.
func checkSplits(files []string) error {
	if len(files) == 1 && !splitName.MatchString(files[0]) {
		return nil
	}
	if len(files) == 0 {
		return errors.New("the release names no file")
	}
	m := splitName.FindStringSubmatch(files[0])
	if m == nil {
		return fmt.Errorf("llama-server takes one model file or the files of one split model (NAME-00001-of-%05d.gguf ...), the release names %d", len(files), len(files))
	}
	for i := range files {
		if want := fmt.Sprintf("%s-%05d-of-%s.gguf", m[1], i+1, m[3]); files[i] != want {
			return fmt.Errorf("file %d of the split model is %s, want %s", i+1, filepath.Base(files[i]), filepath.Base(want))
		}
	}
	if fmt.Sprintf("%05d", len(files)) != m[3] {
		return fmt.Errorf("%s is one of %s files, the release names %d", filepath.Base(files[0]), strings.TrimLeft(m[3], "0"), len(files))
	}
	return nil
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

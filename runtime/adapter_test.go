package runtime

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
)

func TestCommandLines(t *testing.T) {
	spec := Spec{
		Alias: "qwen", Files: []string{"/models/sha256-1"}, Context: 4096, Slots: 4, Threads: 6,
		Flags: map[string]string{"flash-attn": "on", "swa-full": "true", "cpu-moe": "false"},
	}
	plain := spec
	plain.Flags = nil
	for name, c := range map[string]struct {
		adapter Adapter
		spec    Spec
		want    string
	}{
		"llama-server": {
			LlamaServer{Binary: "/usr/bin/llama-server"}, spec,
			"/usr/bin/llama-server --host /r/e.sock --no-webui --offline --metrics --alias qwen -m /models/sha256-1 -np 4 -c 16384 -t 6 --flash-attn on --swa-full",
		},
		"llama-server with its own defaults": {
			LlamaServer{Binary: "/l"}, Spec{Alias: "a", Files: []string{"/m"}},
			"/l --host /r/e.sock --no-webui --offline --metrics --alias a -m /m -np 1",
		},
		"llama-server with a split model, a projector and adapters": {
			LlamaServer{Binary: "/l"},
			Spec{Alias: "a", Files: []string{"/v/m-00001-of-00002.gguf", "/v/m-00002-of-00002.gguf"}, Projector: "/v/p.gguf", Adapters: []string{"/v/x.gguf", "/v/y.gguf"}},
			"/l --host /r/e.sock --no-webui --offline --metrics --alias a -m /v/m-00001-of-00002.gguf -np 1 --mmproj /v/p.gguf --lora /v/x.gguf,/v/y.gguf",
		},
		"llama-server of a release": {
			LlamaServer{Binary: "/l"}, Spec{Alias: "a", Files: []string{"/m"}, Program: &Program{Release: "l@1", Path: "/v/bin/server", Libraries: []string{"/v/lib", "/v/more"}}},
			"LD_LIBRARY_PATH=/v/lib:/v/more /v/bin/server --host /r/e.sock --no-webui --offline --metrics --alias a -m /m -np 1",
		},
		"llama-server of a release with its own loader": {
			LlamaServer{}, Spec{Alias: "a", Files: []string{"/m"}, Program: &Program{Release: "l@1", Path: "/v/bin/server", Loader: "/v/lib/ld.so", Libraries: []string{"/v/lib"}}},
			"LD_LIBRARY_PATH=/v/lib /v/lib/ld.so --library-path /v/lib /v/bin/server --host /r/e.sock --no-webui --offline --metrics --alias a -m /m -np 1",
		},
		"llama-server of a release without libraries": {
			LlamaServer{Env: []string{"A=b"}}, Spec{Alias: "a", Files: []string{"/m"}, Program: &Program{Release: "l@1", Path: "/v/server"}},
			"A=b LD_LIBRARY_PATH= /v/server --host /r/e.sock --no-webui --offline --metrics --alias a -m /m -np 1",
		},
		"template of a folder": {
			Template{Path: "/opt/serve", Args: []string{"--uds={socket}", "{folder}"}}, Spec{Alias: "a", Files: []string{"/v/config.json", "/v/w.safetensors"}},
			"/opt/serve --uds=/r/e.sock /v",
		},
		"embedded": {
			Embedded{Exe: "/proc/self/exe"}, plain,
			"/proc/self/exe engine serve --listen unix:/r/e.sock --model /models/sha256-1 --alias qwen --slots 4 --tether --context 4096 --threads 6",
		},
		"template": {
			Template{Path: "/opt/serve", Args: []string{"--uds={socket}", "{model}", "{alias}/{context}/{slots}/{threads}"}}, plain,
			"/opt/serve --uds=/r/e.sock /models/sha256-1 qwen/4096/4/6",
		},
	} {
		got, err := c.adapter.Command(c.spec, "/r/e.sock")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if line := strings.Join(slices.Concat(got.Env, []string{got.Path}, got.Args), " "); line != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, line, c.want)
		}
	}
}

func TestAdaptersRefuse(t *testing.T) {
	with := func(name, value string) Spec {
		return Spec{Alias: "a", Files: []string{"/m"}, Flags: map[string]string{name: value}}
	}
	files := func(paths ...string) Spec { return Spec{Alias: "a", Files: paths} }
	two := files("/m", "/n")
	llama := LlamaServer{Binary: "/l"}
	for _, c := range []struct {
		adapter Adapter
		spec    Spec
		want    string
	}{
		{llama, with("rpc", "10.0.0.1:1"), `may not set the flag "rpc" of llama-server`},
		{llama, with("host", "0.0.0.0"), `"host"`},
		{llama, with("model", "/etc/shadow"), `"model"`},
		{llama, with("log-file", "/etc/passwd"), `"log-file"`},
		{llama, with("--jinja", "true"), `"--jinja"`},
		{llama, with("flash-attn", "on --rpc x"), `"flash-attn" of llama-server is "on --rpc x", it takes one of on, off, auto`},
		{llama, with("batch-size", "-1"), "a whole number from 1 to"},
		{llama, with("batch-size", "9999999999999999999999"), "a whole number"},
		{llama, with("temp", "NaN"), "a number"},
		{llama, with("tensor-split", "1,,2"), "numbers with commas"},
		{llama, with("n-gpu-layers", "some"), "or one of auto, all"},
		{llama, with("jinja", "yes"), "true or false"},
		{llama, two, "names 2"},
		{llama, files("/m-00001-of-00002.gguf"), "m-00001-of-00002.gguf is one of 2 files, the release names 1"},
		{llama, files("/m-00001-of-00001.gguf", "/n-00002-of-00001.gguf"), "file 2 of the split model is n-00002-of-00001.gguf"},
		{llama, files("/m-00002-of-00002.gguf", "/m-00001-of-00002.gguf"), "file 1 of the split model"},
		{llama, files("/a/m-00001-of-00002.gguf", "/b/m-00002-of-00002.gguf"), "file 2 of the split model"},
		{llama, Spec{Alias: "a", Files: []string{"/m"}, Adapters: []string{"/x,/etc/passwd"}}, "holds a comma"},
		{LlamaServer{}, files("/m"), "no engine release brings it"},
		{Embedded{Exe: "/b"}, Spec{Alias: "a", Files: []string{"/m"}, Program: &Program{Release: "l@1", Path: "/v"}}, "does not come as a release"},
		{Embedded{Exe: "/b"}, Spec{Alias: "a", Files: []string{"/m"}, Projector: "/v/p.gguf"}, "takes no projector"},
		{Template{Path: "/serve", Args: []string{"{socket}"}}, Spec{Alias: "a", Files: []string{"/m"}, Adapters: []string{"/x"}}, "takes no LoRA adapters"},
		{Embedded{Exe: "/b"}, two, "names 2"},
		{Embedded{Exe: "/b"}, with("temp", "1"), `"temp" of the embedded engine`},
		{Template{Path: "serve", Args: []string{"{socket}"}}, with("", ""), "not an absolute path"},
		{Template{Path: "/serve"}, Spec{Files: []string{"/m"}}, "has no {socket}"},
		{Template{Path: "/serve", Args: []string{"{socket}"}}, with("temp", "1"), "a configured command"},
	} {
		if _, err := c.adapter.Command(c.spec, "/r/e.sock"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%T %v: got %v, want an error with %q", c.adapter, c.spec.Flags, err, c.want)
		}
	}
}

func TestQuestionFollowsTheKindOfModel(t *testing.T) {
	for flag, want := range map[string]Ask{"embeddings": askEmbedding, "reranking": askRerank, "jinja": askText} {
		c, err := LlamaServer{Binary: "/l"}.Command(Spec{Alias: "a", Files: []string{"/m"}, Flags: map[string]string{flag: "true"}}, "/s")
		if err != nil || c.Ask != want {
			t.Errorf("%s: got %+v (%v), want %+v", flag, c.Ask, err, want)
		}
	}
}

// The allow-list must name flags that the real program knows.
func TestAllowedFlagsExist(t *testing.T) {
	help, err := exec.Command(parts.Llama(t, "llama-server"), "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	known := strings.FieldsFunc(string(help), func(r rune) bool { return strings.ContainsRune(" ,\n\t|[]()", r) })
	for name := range llamaFlags {
		if !slices.Contains(known, "--"+name) {
			t.Errorf("llama-server knows no flag --%s", name)
		}
	}
}

func FuzzFlagsStayOneArgument(f *testing.F) {
	f.Add("flash-attn", "on")
	f.Add("tensor-split", "1,2,3")
	f.Add("temp", "0x1p-2")
	f.Add("batch-size", "+5")
	f.Add("n-gpu-layers", "-1 --rpc")
	f.Fuzz(func(t *testing.T, name, value string) {
		args, err := llamaFlags.args("llama-server", map[string]string{name: value})
		if err != nil {
			return
		}
		if len(args) > 2 || len(args) > 0 && args[0] != "--"+name {
			t.Fatalf("got arguments %q of one flag", args)
		}
		if len(args) == 2 && strings.ContainsAny(args[1], " /=\n\x00") {
			t.Fatalf("got the value %q, which names more than a number or a word", args[1])
		}
	})
}

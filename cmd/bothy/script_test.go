package main

import (
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bothy-edge/bothy/internal/parts"
)

// TestMain makes the test binary the bothy of the scripts. It starts itself again
// as engine and store check by the path /proc/self/exe, whose base is "exe".
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bothy": main, "exe": main})
}

// TestScripts runs the manual: every script is a story that is told with commands.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: func(env *testscript.Env) error { return setUp(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "eventually": eventually, "field": field, "sign": sign(t), "asks": asks, "website": website,
		},
	})
}

// setUp gives a script a box of its own: $BOTHY_CONFIG names its folders, $RUN is
// short enough for sockets, $BROKER and $BROKER2 are free addresses, $MODEL is a sound model and $BAD a folder of bad ones.
func setUp(t *testing.T, env *testscript.Env) error {
	run := parts.SocketDir(t)
	config := filepath.Join(env.WorkDir, "bothy.yaml")
	env.Setenv("RUN", run)
	env.Setenv("BROKER", parts.FreeAddr(t))
	env.Setenv("BROKER2", parts.FreeAddr(t))
	env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin")
	env.Setenv("MODEL", parts.Model(t, "mote-chat-q8_0.gguf"))
	env.Setenv("BAD", filepath.Join(env.WorkDir, "bad"))
	env.Setenv("BOTHY_CONFIG", config)
	text := fmt.Sprintf("state: %s\nruntime: %s\nupdates: {watch: 300ms}\n", filepath.Join(env.WorkDir, "state"), run)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	return writeBadModels(t, filepath.Join(env.WorkDir, "bad"))
}

// exits runs a command and wants its exit status: exits 2 bothy nosuch.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARGS...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("got exit status %d, want %d", got, want)
	}
}

// eventually repeats a command until it succeeds, for what takes a moment to start.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: eventually COMMAND [ARGS...]")
	}
	pause := time.NewTicker(100 * time.Millisecond) // what is waited for needs the processor too
	defer pause.Stop()
	for end := time.Now().Add(time.Minute); ; <-pause.C {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
	}
}

// website serves a folder over TLS while the script runs: $SITE is its URL,
// site.pem its authority.
func website(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: website FOLDER")
	}
	srv := httptest.NewTLSServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	ts.Defer(srv.Close)
	ts.Setenv("SITE", srv.URL)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	ts.Check(os.WriteFile(ts.MkAbs("site.pem"), authority, 0o600))
}

// field looks into the JSON that a command printed: field stdout models.0.alias mote.
// Without a value, something must be there.
func field(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: [!] field FILE PATH [VALUE]")
	}
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &v); err != nil {
		ts.Fatalf("%s is not JSON: %v", args[0], err)
	}
	for name := range strings.SplitSeq(args[1], ".") {
		if name == "" {
			continue
		}
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			n, err := strconv.Atoi(name)
			ts.Check(err)
			v = nil
			if n < len(at) {
				v = at[n]
			}
		default:
			v = nil
		}
	}
	holds := v != nil
	if len(args) == 3 {
		holds = fmt.Sprint(v) == args[2]
	}
	if holds == neg {
		ts.Fatalf("%s is %v", args[1], v)
	}
}

// writeBadModels writes model files that must not be published.
func writeBadModels(t *testing.T, dir string) error {
	whole, err := os.ReadFile(parts.Model(t, "mote-chat-q8_0.gguf"))
	if err != nil {
		return err
	}
	u32, u64 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint64
	text := func(b []byte, s string) []byte { return append(u64(b, uint64(len(s))), s...) }
	head := func(tensors, keys uint64) []byte { return u64(u64(u32([]byte("GGUF"), 3), tensors), keys) }
	pair := func(b []byte, key, value string) []byte { return text(u32(text(b, key), 8), value) }
	number := func(b []byte, key string, value uint64) []byte { return u64(u32(text(b, key), 10), value) }
	tensor := func(kind uint32) []byte {
		b := pair(head(1, 1), "general.architecture", "qwen3")
		b = u64(u32(u64(u32(text(b, "token_embd.weight"), 1), 32), kind), 0)
		return append(b, make([]byte, 256)...)
	}
	for name, data := range map[string][]byte{
		"truncated.gguf": whole[:len(whole)/2],
		"cut-head.gguf":  whole[:100],
		"empty.gguf":     nil,
		"tensors.gguf":   append(head(1<<60, 0), make([]byte, 64)...),
		"keys.gguf":      append(head(0, 1<<63), make([]byte, 64)...),
		"layers.gguf":    number(number(pair(head(0, 3), "general.architecture", "llama"), "llama.embedding_length", 32), "llama.block_count", 1<<40),
		"qwen.gguf":      tensor(0),
		"new-type.gguf":  tensor(777),
		"split.gguf":     number(pair(head(0, 2), "general.architecture", "llama"), "split.count", 3),
		"other.bin":      []byte("a model in a format of its own"),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

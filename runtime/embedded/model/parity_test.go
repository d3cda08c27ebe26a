package model_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
	"github.com/bothy-edge/bothy/runtime/embedded/sample"
)

// answerTokens is how far greedy output is compared.
const answerTokens = 64

// TestGreedyEqualsLlamaServer compares greedy tokens and the probabilities of
// the likeliest ones, for Mote in every type that llama-quantize makes of it,
// or for the GGUF files in the folder BOTHY_PARITY_MODELS.
func TestGreedyEqualsLlamaServer(t *testing.T) {
	if dir := os.Getenv("BOTHY_PARITY_MODELS"); dir != "" {
		files, err := filepath.Glob(filepath.Join(dir, "*.gguf"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no *.gguf in BOTHY_PARITY_MODELS=%s (%v)", dir, err)
		}
		for _, path := range files {
			t.Run(strings.TrimSuffix(filepath.Base(path), ".gguf"), func(t *testing.T) { compare(t, path) })
		}
		return
	}
	for _, source := range []struct {
		file  string
		types []string
	}{
		{"mote-chat-f32.gguf", []string{"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q4_K_M"}},
		{"mote-256-f16.gguf", []string{"F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"}},
	} {
		for _, typ := range source.types {
			name := strings.TrimSuffix(source.file, ".gguf")
			t.Run(name+"/"+typ, func(t *testing.T) { compare(t, quantised(t, parts.Model(t, source.file), typ)) })
		}
	}
}

// quantised is the model in another type.
func quantised(tb testing.TB, path, typ string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), typ+".gguf")
	cmd := exec.Command(parts.Llama(tb, "llama-quantize"), "--allow-requantize", path, out, typ)
	if text, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("llama-quantize %s: %v\n%s", typ, err, text)
	}
	return out
}

// prompts are texts that the model was trained on, and some that it was not.
func prompts(tb testing.TB, f *gguf.File) []string {
	tb.Helper()
	if _, chat := f.Meta.String("tokenizer.chat_template"); !chat {
		return []string{
			"Once upon a time", "One day, a little girl named Lily", "Tom and his dog", "The sun was",
			"There was a big red ball. The boy wanted", "Once upon a time, in a small house, there lived",
		}
	}
	questions := readQuestions(tb)
	var out []string
	for i := 0; i < len(questions); i += len(questions)/20 + 1 {
		out = append(out, chatPrompt(questions[i].Q))
	}
	for _, q := range questions {
		if len(q.A) > 200 { // the long ones fill all the tokens
			out = append(out, chatPrompt(q.Q))
			break
		}
	}
	return append(out, "Once upon a time", chatPrompt("Please tell me something that nobody asked you before."))
}

func chatPrompt(question string) string {
	return "<|im_start|>user\n" + question + "<|im_end|>\n<|im_start|>assistant\n"
}

type question struct{ Q, A string }

func readQuestions(tb testing.TB) []question {
	tb.Helper()
	h, err := os.Open(parts.Model(tb, "mote-chat-qa.jsonl"))
	if err != nil {
		tb.Fatal(err)
	}
	defer h.Close()
	var out []question
	for lines := bufio.NewScanner(h); lines.Scan(); {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			tb.Fatal(err)
		}
		out = append(out, q)
	}
	return out
}

func open(tb testing.TB, path string, o model.Options) (*gguf.File, *model.Model) {
	tb.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	m, err := model.Load(f, o)
	if err != nil {
		f.Close()
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close(); f.Close() })
	return f, m
}

// forward runs tokens behind what sequence 0 holds and returns the last logits.
func forward(tb testing.TB, m *model.Model, tokens ...int32) []float32 {
	tb.Helper()
	in := make([]model.Input, len(tokens))
	for i, token := range tokens {
		in[i] = model.Input{Pos: m.Len(0) + i, Token: token, Logits: i == len(tokens)-1}
	}
	out, err := m.Forward(tb.Context(), in)
	if err != nil {
		tb.Fatal(err)
	}
	return out[0]
}

func compare(t *testing.T, path string) {
	f, m := open(t, path, model.Options{Context: 512})
	server := startLlama(t, path)
	worst := 0.0
	for _, text := range prompts(t, f) {
		prompt := server.tokens(t, text)
		want := server.greedy(t, prompt, answerTokens)
		m.Truncate(0, 0)
		logits := forward(t, m, prompt...)
		for i, step := range want {
			got := sample.New(sample.Params{}).Next(logits)
			if got.Token != step.ID {
				t.Errorf("%q: token %d is %d, want %d (%s)", text, i, got.Token, step.ID, margin(logits, got.Token, step.ID))
				break
			}
			worst = max(worst, difference(logits, step))
			logits = forward(t, m, got.Token)
		}
	}
	t.Logf("%s: largest difference of a logarithm of probability %.4f", m.Config().FileType, worst)
}

// difference is the largest between the probabilities that both report.
func difference(logits []float32, step probability) float64 {
	worst := 0.0
	for _, top := range step.Top {
		if top.LogProb > -6 { // the unlikely ones are noise in both
			worst = max(worst, math.Abs(top.LogProb-sample.LogProb(logits, top.ID)))
		}
	}
	return worst
}

func margin(logits []float32, got, want int32) string {
	top := sample.Top(logits, 2)
	at := slices.IndexFunc(top, func(c sample.Candidate) bool { return c.Token == want })
	return fmt.Sprintf("logits %.4f and %.4f, %d in our order", logits[got], logits[want], at)
}

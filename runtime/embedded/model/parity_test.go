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
	"github.com/bothy-edge/bothy/runtime/embedded/internal/reference"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
	"github.com/bothy-edge/bothy/runtime/embedded/sample"
)

// answerTokens is how far greedy output is compared.
const answerTokens = 64

// nearTie is how close two tokens must be in llama-server's own logarithms of
// probability to count as undecided. There llama.cpp disagrees with itself: the
// same file and text gave logarithms up to 0.05 apart on two of its CPU backends,
// up to 0.1 apart with flash attention on and off, and for Q4_0 another first
// token. A last bit that differs turns an int8 step of an activation, and a step
// moves logits by that much. Texts that the model was trained on have no such
// ties, and get no exception.
const nearTie = 0.15

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
			t.Run(strings.TrimSuffix(filepath.Base(path), ".gguf"), func(t *testing.T) { compare(t, path, false) })
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
			t.Run(name+"/"+typ, func(t *testing.T) { compare(t, quantised(t, parts.Model(t, source.file), typ), true) })
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

// trained are questions that Mote was trained on, the longest answer among them.
func trained(tb testing.TB) []string {
	tb.Helper()
	questions := readQuestions(tb)
	var out []string
	for i := 0; i < len(questions); i += len(questions)/20 + 1 {
		out = append(out, chatPrompt(questions[i].Q))
	}
	longest := slices.MaxFunc(questions, func(a, b question) int { return len(a.A) - len(b.A) })
	return append(out, chatPrompt(longest.Q))
}

// foreign are texts that models go on with as they like.
func foreign(f *gguf.File) []string {
	out := []string{
		"Once upon a time", "One day, a little girl named Lily", "Tom and his dog", "The sun was",
		"There was a big red ball. The boy wanted", "Once upon a time, in a small house, there lived",
	}
	if _, chat := f.Meta.String("tokenizer.chat_template"); chat {
		for i, text := range out {
			out[i] = chatPrompt("Go on: " + text)
		}
	}
	return append(out, "Once upon a time")
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

func compare(t *testing.T, path string, mote bool) {
	f, m := open(t, path, model.Options{Context: 512})
	c := &comparison{model: m, server: startLlama(t, path)}
	if mote {
		for _, text := range trained(t) {
			c.run(t, text, 0)
		}
	}
	for _, text := range foreign(f) {
		c.run(t, text, nearTie)
	}
	t.Logf("%s: %d tokens equal, %d answers parted at a near tie, largest difference of a logarithm of probability %.4f",
		m.Config().FileType, c.equal, c.ties, c.worst)
	if c.ties > 3 {
		t.Errorf("%d of %d foreign texts part at a near tie: more than chance", c.ties, len(foreign(f)))
	}
}

// comparison runs texts through both engines and keeps count.
type comparison struct {
	model       *model.Model
	server      *reference.Server
	equal, ties int
	worst       float64
}

// run compares one answer. A difference is an error, unless llama-server's own
// candidates are closer than tie.
func (c *comparison) run(t *testing.T, text string, tie float64) {
	t.Helper()
	prompt := promptOf(t, c.server, text)
	c.model.Truncate(0, 0)
	logits := forward(t, c.model, prompt...)
	for i, step := range greedyOf(t, c.server, prompt, answerTokens) {
		got := sample.New(sample.Params{}).Next(logits)
		c.worst = max(c.worst, difference(logits, step))
		if got.Token != step.ID {
			if gap := step.gap(got.Token); !(gap < tie) {
				t.Errorf("%q: token %d is %d, want %d (%s; llama-server sees them %.3f apart)", text, i, got.Token, step.ID, margin(logits, got.Token, step.ID), gap)
				return
			}
			c.ties++
			return
		}
		c.equal++
		logits = forward(t, c.model, got.Token)
	}
}

// gap is how much less likely llama-server finds the token than its own choice.
func (p probability) gap(token int32) float64 {
	for _, top := range p.Top {
		if top.ID == token {
			return p.LogProb - top.LogProb
		}
	}
	return math.Inf(1)
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

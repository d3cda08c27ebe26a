package serve

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
	"github.com/bothy-edge/bothy/runtime/embedded/token"
)

// scripted is a model that says what the test wrote: the n-th token after a
// prompt is the n-th of its line. Each step waits for the test and shows it the batch.
type scripted struct {
	tb      testing.TB
	lines   map[int32][]int32 // by the prompt's first token
	steps   chan []model.Input
	proceed chan error
	seqs    map[int][]int32
}

func newScripted(tb testing.TB, lines map[int32][]int32) *scripted {
	return &scripted{tb: tb, lines: lines, steps: make(chan []model.Input), proceed: make(chan error), seqs: map[int][]int32{}}
}

// Forward checks the batch as the real model would and answers from the lines.
func (m *scripted) Forward(ctx context.Context, in []model.Input) ([][]float32, error) {
	select {
	case m.steps <- slices.Clone(in):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case err := <-m.proceed:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var out [][]float32
	for _, i := range in {
		if i.Pos != len(m.seqs[i.Seq]) {
			m.tb.Errorf("sequence %d holds %d tokens but the input is at %d", i.Seq, len(m.seqs[i.Seq]), i.Pos)
		}
		m.seqs[i.Seq] = append(m.seqs[i.Seq], i.Token)
		if i.Logits {
			out = append(out, m.logits(m.seqs[i.Seq]))
		}
	}
	return out, nil
}

// logits make the token certain that follows what the sequence holds: the line
// says how its answer goes on after the filler that ends every prompt.
func (m *scripted) logits(held []int32) []float32 {
	line := m.lines[held[0]]
	made := len(held) - 1 - slices.Index(held, promptEnd)
	logits := make([]float32, 1088)
	logits[line[made%len(line)]] = 20
	return logits
}

// Truncate drops what a sequence holds from pos on.
func (m *scripted) Truncate(seq, pos int) { m.seqs[seq] = m.seqs[seq][:min(pos, len(m.seqs[seq]))] }

// step lets one step through and returns its batch.
func (m *scripted) step(err error) []model.Input {
	m.tb.Helper()
	in := m.next()
	m.proceed <- err
	return in
}

// next is the batch of the step that begins now; the test lets it through.
func (m *scripted) next() []model.Input {
	m.tb.Helper()
	select {
	case in := <-m.steps:
		return in
	case <-time.After(20 * time.Second):
		m.tb.Fatal("no step begins within 20 s")
		return nil
	}
}

const promptEnd = 1000

// promptOf is a prompt of n tokens that plays the line.
func promptOf(line int32, n int) []int32 {
	p := slices.Repeat([]int32{line}, n)
	p[n-1] = promptEnd
	return p
}

func moteTokens(tb testing.TB) *token.Tokenizer {
	tb.Helper()
	f, err := gguf.Open(parts.Model(tb, "mote-chat-q8_0.gguf"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	tok, err := token.New(f)
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

// ids are the tokens of a text, which may name tokens by number in the vocabulary as bytes.
func ids(tb testing.TB, text string) []int32 {
	tb.Helper()
	out, err := moteTokens(tb).Encode(text, false, true)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func runLoop(t *testing.T, m *scripted, slots, contextLen, queue int) (*loop, context.CancelFunc, chan error) {
	t.Helper()
	l := newLoop(m, moteTokens(t), slots, contextLen, queue, newMetrics(slots), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; done <- nil })
	return l, cancel, done
}

func testJob(ctx context.Context, prompt []int32, most int) *job {
	return &job{ctx: ctx, prompt: prompt, most: most, logprobs: -1, answer: newAnswer()}
}

// all reads the answer to its end.
func all(t *testing.T, j *job) (text string, probs []tokenProb, end event) {
	t.Helper()
	for {
		got, err := j.answer.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range got {
			if text += e.text; e.last() {
				return text, append(probs, e.probs...), e
			}
			probs = append(probs, e.probs...)
		}
	}
}

func (m *scripted) serveAll(done <-chan struct{}) {
	for {
		select {
		case <-m.steps:
			m.proceed <- nil
		case <-done:
			return
		}
	}
}

func TestHangUpFreesTheSlotBeforeTheNextStep(t *testing.T) {
	m := newScripted(t, map[int32][]int32{1: {380}, 2: {381}})
	l, _, _ := runLoop(t, m, 2, 100, 4)
	gone, hangUp := context.WithCancel(t.Context())
	a, b := testJob(gone, promptOf(1, 3), 50), testJob(t.Context(), promptOf(2, 3), 50)
	for _, j := range []*job{a, b} {
		if err := l.submit(j); err != nil {
			t.Fatal(err)
		}
	}
	for seen := map[int]bool{}; len(seen) < 2; { // until both are running
		for _, in := range m.step(nil) {
			seen[in.Seq] = true
		}
	}
	m.step(nil)
	m.next() // a step is under way
	hangUp()
	m.proceed <- nil
	if in := m.step(nil); len(in) != 1 || in[0].Token != 381 {
		t.Errorf("the step after the hang-up computes %v, want one token of the other answer", in)
	}
	if _, _, end := all(t, a); !errors.Is(end.err, context.Canceled) {
		t.Errorf("the cancelled answer ends with %+v", end)
	}
}

func TestLongPromptDoesNotStopARunningAnswer(t *testing.T) {
	m := newScripted(t, map[int32][]int32{1: {380}, 2: {381}})
	l, _, _ := runLoop(t, m, 2, 2000, 4)
	if err := l.submit(testJob(t.Context(), promptOf(1, 3), 500)); err != nil {
		t.Fatal(err)
	}
	m.step(nil)
	m.next()
	if err := l.submit(testJob(t.Context(), promptOf(2, 300), 5)); err != nil {
		t.Fatal(err)
	}
	m.proceed <- nil
	got := 0
	for range 5 {
		in := m.step(nil)
		if len(in) > 1+chunkBeside {
			t.Errorf("a step beside a running answer computes %d tokens", len(in))
		}
		if in[0].Token != 380 || !in[0].Logits {
			t.Errorf("a step leaves out the running answer: %v", in[0])
		}
		got += len(in) - 1
	}
	if got != 300 {
		t.Errorf("five steps computed %d tokens of the prompt, want all 300", got)
	}
}

func TestFailedStepEndsItsAnswersAndTheLoopGoesOn(t *testing.T) {
	m := newScripted(t, map[int32][]int32{1: {380, 4}})
	l, _, _ := runLoop(t, m, 1, 100, 4)
	a := testJob(t.Context(), promptOf(1, 3), 50)
	l.submit(a)
	m.step(errors.New("broken"))
	if _, _, end := all(t, a); end.err == nil || !strings.Contains(end.err.Error(), "broken") {
		t.Errorf("got %+v, want the step's error", end)
	}
	b := testJob(t.Context(), promptOf(1, 3), 50)
	l.submit(b)
	m.step(nil)
	m.step(nil)
	if text, _, end := all(t, b); text != "The" || end.finish != "stop" || end.made != 2 || end.reused != 0 {
		t.Errorf("after the failure: %q, %+v", text, end)
	}
}

func TestEndOfTheLoopAnswersEveryone(t *testing.T) {
	m := newScripted(t, map[int32][]int32{1: {380}})
	l, cancel, done := runLoop(t, m, 1, 100, 2)
	var jobs []*job
	for range 3 {
		j := testJob(t.Context(), promptOf(1, 3), 50)
		jobs = append(jobs, j)
		for l.submit(j) != nil { // until the first has its slot
			m.step(nil)
		}
	}
	m.next()
	if err := l.submit(testJob(t.Context(), promptOf(1, 3), 1)); !errors.Is(err, errBusy) {
		t.Errorf("a full queue answers %v, want errBusy", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
	done <- nil
	for i, j := range jobs {
		if _, _, end := all(t, j); end.err == nil {
			t.Errorf("job %d ends with %+v, want an error", i, end)
		}
	}
}

// TestTextComesWholeAndInTime plays answers token by token: characters of more
// than one token, stop strings across tokens, and the ends of answers.
func TestTextComesWholeAndInTime(t *testing.T) {
	split := ids(t, "日本") // six byte tokens
	if len(split) != 6 {
		t.Fatalf("the test needs characters of three tokens, got %v", split)
	}
	const end = 4 // <|im_end|>
	for name, c := range map[string]struct {
		line   []int32
		stop   []string
		most   int
		text   string
		finish string
		probs  int
	}{
		"characters in pieces":         {append(slices.Clone(split), end), nil, 50, "日本", "stop", 6},
		"cut inside a character":       {split, nil, 4, "日\uFFFD", "length", 4},
		"stop inside a character's":    {append(slices.Clone(split), end), []string{"本"}, 50, "日", "stop", 3},
		"stop across tokens":           {append(ids(t, "The capital of France"), end), []string{"tal of Fr"}, 50, "The capi", "stop", 2},
		"beginning of a stop, no stop": {append(ids(t, "The capital"), end), []string{"capitals"}, 50, "The capital", "stop", 2},
		"the earliest stop wins":       {append(ids(t, "The capital of"), end), []string{"of", "cap"}, 50, "The ", "stop", 2},
		"stop at once":                 {ids(t, "The capital"), []string{"The"}, 50, "", "stop", 0},
		"control token in the text":    {[]int32{380, 3, 381, end}, nil, 50, "The capital", "stop", 3},
		"length with text held back":   {ids(t, "The capital"), []string{"capital of"}, 2, "The capital", "length", 2},
	} {
		t.Run(name, func(t *testing.T) {
			m := newScripted(t, map[int32][]int32{1: c.line})
			l, _, _ := runLoop(t, m, 1, 100, 4)
			done := make(chan struct{})
			defer close(done)
			go m.serveAll(done)
			j := testJob(t.Context(), promptOf(1, 3), c.most)
			j.stop, j.logprobs = c.stop, 2
			l.submit(j)
			text, probs, end := all(t, j)
			if text != c.text || end.finish != c.finish {
				t.Errorf("got %q, %+v, want %q, %s", text, end, c.text, c.finish)
			}
			if len(probs) != c.probs {
				t.Errorf("got %d probabilities, want %d: %+v", len(probs), c.probs, probs)
			}
			for _, p := range probs {
				if len(p.top) != 2 || p.top[0].id != p.id || p.logprob > 0 || p.logprob < -0.1 {
					t.Errorf("probability %+v", p)
				}
			}
		})
	}
}

func TestAnswerEndsWhereTheContextEnds(t *testing.T) {
	m := newScripted(t, map[int32][]int32{1: {380}})
	l, _, _ := runLoop(t, m, 1, 10, 4)
	done := make(chan struct{})
	defer close(done)
	go m.serveAll(done)
	j := testJob(t.Context(), promptOf(1, 6), 1000)
	l.submit(j)
	if _, _, end := all(t, j); end.finish != "length" || end.made != 5 {
		t.Errorf("a prompt of 6 in a context of 10: %+v, want 5 tokens: four held, the last only said", end)
	}
}

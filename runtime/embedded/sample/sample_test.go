package sample_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bothy-edge/bothy/runtime/embedded/sample"
)

var inf = math.Inf(1)

// logits of tokens 0 to 4 with probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
func fixed() []float32 {
	out := make([]float32, 5)
	for i, p := range []float64{0.5, 0.25, 0.125, 0.0625, 0.0625} {
		out[i] = float32(math.Log(p)) + 3
	}
	return out
}

// frequencies draws n times and gives each token's share.
func frequencies(p sample.Params, logits []float32, n int) []float64 {
	s := sample.New(p)
	out := make([]float64, len(logits))
	for range n {
		out[s.Next(logits).Token] += 1 / float64(n)
	}
	return out
}

func near(a, b []float64, by float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool { return math.Abs(x-y) <= by })
}

func TestGreedyTakesTheFirstOfTheLargest(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{1, 3, 2}, 1}, {[]float32{3, 3, 3}, 0}, {[]float32{nan, 1, nan}, 1},
		{[]float32{nan, nan}, 0}, {[]float32{-5}, 0}, {[]float32{-inf32(), -2}, 1},
	} {
		if got := sample.New(sample.Params{}).Next(c.logits); got.Token != c.want {
			t.Errorf("%v: got %d, want %d", c.logits, got.Token, c.want)
		}
	}
}

func inf32() float32 { return float32(inf) }

func TestDrawsFollowTheProbabilities(t *testing.T) {
	const n = 40000
	for name, c := range map[string]struct {
		params sample.Params
		want   []float64
	}{
		"plain":             {sample.Params{Temperature: 1}, []float64{0.5, 0.25, 0.125, 0.0625, 0.0625}},
		"cold":              {sample.Params{Temperature: 0.5}, []float64{64. / 86, 16. / 86, 4. / 86, 1. / 86, 1. / 86}},
		"top-k 2":           {sample.Params{Temperature: 1, TopK: 2}, []float64{2. / 3, 1. / 3, 0, 0, 0}},
		"top-k beyond":      {sample.Params{Temperature: 1, TopK: 50}, []float64{0.5, 0.25, 0.125, 0.0625, 0.0625}},
		"top-p":             {sample.Params{Temperature: 1, TopP: 0.7}, []float64{2. / 3, 1. / 3, 0, 0, 0}},
		"top-p of one":      {sample.Params{Temperature: 1, TopP: 0.01}, []float64{1, 0, 0, 0, 0}},
		"min-p":             {sample.Params{Temperature: 1, MinP: 0.2}, []float64{4. / 7, 2. / 7, 1. / 7, 0, 0}},
		"banned":            {sample.Params{Temperature: 1, LogitBias: map[int32]float64{0: -inf}}, []float64{0, 0.5, 0.25, 0.125, 0.125}},
		"bias":              {sample.Params{Temperature: 1, LogitBias: map[int32]float64{3: math.Log(9), 99: 5, -1: 5}}, []float64{1. / 3, 1. / 6, 1. / 12, 9. / 24, 1. / 24}},
		"all banned but 4":  {sample.Params{Temperature: 2, LogitBias: map[int32]float64{0: -inf, 1: -inf, 2: -inf, 3: -inf}}, []float64{0, 0, 0, 0, 1}},
		"nothing left at k": {sample.Params{Temperature: 1, TopK: 1, TopP: 0.1, MinP: 1}, []float64{1, 0, 0, 0, 0}},
	} {
		c.params.Seed = 7
		if got := frequencies(c.params, fixed(), n); !near(got, c.want, 0.012) {
			t.Errorf("%s: got %.3f, want %.3f", name, got, c.want)
		}
	}
}

func TestPenalties(t *testing.T) {
	logits := []float32{2, 1.9, -1, -1.1}
	for name, c := range map[string]struct {
		params sample.Params
		seen   []int32
		want   int32
	}{
		"none":                  {sample.Params{}, []int32{0, 0, 0}, 0},
		"repeat divides":        {sample.Params{RepeatPenalty: 1.2}, []int32{0}, 1},
		"repeat of one":         {sample.Params{RepeatPenalty: 1}, []int32{0}, 0},
		"presence":              {sample.Params{PresencePenalty: 0.2}, []int32{0}, 1},
		"presence of both":      {sample.Params{PresencePenalty: 0.2}, []int32{0, 1}, 0},
		"frequency counts":      {sample.Params{FrequencyPenalty: 0.08}, []int32{0, 0, 1}, 0},
		"frequency counts more": {sample.Params{FrequencyPenalty: 0.08}, []int32{0, 0, 0, 1}, 1},
		"reward":                {sample.Params{PresencePenalty: -4}, []int32{2}, 2},
		"too far back":          {sample.Params{PresencePenalty: 1, RepeatLast: 2}, []int32{0, 3, 3}, 0},
		"not too far back":      {sample.Params{PresencePenalty: 1, RepeatLast: -1}, append([]int32{0}, make([]int32, 100)...), 1},
		"unknown token":         {sample.Params{PresencePenalty: 1}, []int32{99, -3, 0}, 1},
	} {
		s := sample.New(c.params)
		for _, token := range c.seen {
			s.Accept(token)
		}
		if got := s.Next(logits).Token; got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
	// A negative logit is multiplied: dividing would raise it.
	s := sample.New(sample.Params{RepeatPenalty: 2})
	s.Accept(0)
	if got := s.Next([]float32{-1, -1.5}).Token; got != 1 {
		t.Errorf("a repeated negative logit won: got %d", got)
	}
}

func TestSeedDecides(t *testing.T) {
	run := func(seed uint64) []int32 {
		s, r := sample.New(sample.Params{Temperature: 1, TopK: 40, TopP: 0.95, MinP: 0.05, Seed: seed}), rand.New(rand.NewPCG(3, 4))
		var out []int32
		for range 64 {
			logits := make([]float32, 500)
			for i := range logits {
				logits[i] = float32(r.NormFloat64())
			}
			out = append(out, s.Next(logits).Token)
		}
		return out
	}
	if !slices.Equal(run(1), run(1)) {
		t.Error("the same seed gave different tokens")
	}
	if slices.Equal(run(1), run(2)) {
		t.Error("different seeds gave the same 64 tokens")
	}
}

func TestTopKWithManyEqualLogits(t *testing.T) {
	logits := make([]float32, 1000)
	s := sample.New(sample.Params{Temperature: 1, TopK: 3, Seed: 1})
	for range 200 {
		if got := s.Next(logits).Token; got > 2 {
			t.Fatalf("token %d is none of the first three", got)
		}
	}
}

func TestLogProbs(t *testing.T) {
	logits := fixed()
	c := sample.New(sample.Params{Temperature: 1, TopK: 1, LogitBias: map[int32]float64{2: 100}}).Next(logits)
	if c.Token != 2 || math.Abs(c.LogProb-math.Log(0.125)) > 1e-6 {
		t.Errorf("got %+v, want token 2 with the model's own %.4f", c, math.Log(0.125))
	}
	top := sample.Top(append(logits, float32(math.NaN())), 3)
	if len(top) != 3 || top[0].Token != 0 || top[1].Token != 1 || top[2].Token != 2 || math.Abs(top[1].LogProb-math.Log(0.25)) > 1e-6 {
		t.Errorf("the likeliest are %+v", top)
	}
	if got := len(sample.Top(logits, 50)); got != 5 {
		t.Errorf("got %d of 5 tokens", got)
	}
	if got := sample.Top(logits, 0); len(got) != 0 {
		t.Errorf("none were asked for, got %v", got)
	}
	r := rand.New(rand.NewPCG(5, 6))
	many := make([]float32, 3000)
	for i := range many {
		many[i] = float32(r.IntN(50)) // many equals
	}
	got := sample.Top(many, 100)
	for i := 1; i < len(got); i++ {
		if a, b := got[i-1], got[i]; a.LogProb < b.LogProb || a.LogProb == b.LogProb && a.Token > b.Token {
			t.Fatalf("out of order at %d: %+v, %+v", i, a, b)
		}
	}
}

func TestLogitsAreNotChanged(t *testing.T) {
	logits := fixed()
	s := sample.New(sample.Params{Temperature: 1, TopK: 2, RepeatPenalty: 1.5, LogitBias: map[int32]float64{1: 3}})
	s.Accept(1)
	s.Next(logits)
	if !slices.Equal(logits, fixed()) {
		t.Errorf("logits became %v", logits)
	}
}

func TestCheck(t *testing.T) {
	nan := math.NaN()
	if err := (sample.Params{Temperature: 0.7, TopK: 40, TopP: 0.9, MinP: 0.1, LogitBias: map[int32]float64{1: -inf}}).Check(); err != nil {
		t.Error(err)
	}
	for _, p := range []sample.Params{
		{Temperature: -1}, {Temperature: nan}, {Temperature: inf}, {TopP: 1.1}, {TopP: nan}, {MinP: -0.1}, {TopK: -1},
		{RepeatPenalty: -1}, {FrequencyPenalty: nan}, {PresencePenalty: inf}, {LogitBias: map[int32]float64{1: nan}}, {LogitBias: map[int32]float64{1: inf}},
	} {
		if p.Check() == nil {
			t.Errorf("%+v was accepted", p)
		}
	}
}

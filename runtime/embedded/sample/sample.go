// Package sample chooses the next token from logits.
//
// A Sampler belongs to one sequence: it knows the tokens so far, for the
// penalties, and its own random stream, so the same seed and the same logits
// give the same tokens whatever else the engine is doing. Steps run in the
// order of llama.cpp's default chain: logit bias, penalties, top-k, top-p,
// min-p, temperature, draw. At temperature 0 the largest logit wins, the lowest
// token number among equals, and no random number is used.
//
// A Sampler is not safe for concurrent use. Logits are read, never changed.
package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Params say how to choose. The zero value is greedy.
type Params struct {
	Temperature      float64           // 0: greedy
	TopK             int               // keep the k most likely; 0: all
	TopP             float64           // keep the most likely that sum up to p; 0 or 1: all
	MinP             float64           // keep those at least this share of the most likely; 0: all
	RepeatPenalty    float64           // divides positive and multiplies negative logits of tokens seen; 0 or 1: none
	FrequencyPenalty float64           // taken from a logit for each time the token was seen
	PresencePenalty  float64           // taken from a logit when the token was seen at all
	RepeatLast       int               // how many tokens back the penalties look; 0: 64, below 0: all
	Seed             uint64            // of the random stream
	LogitBias        map[int32]float64 // added to logits; -Inf bans a token
}

// Check says what is wrong with the parameters, in words fit for a client.
func (p Params) Check() error {
	number := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	switch {
	case !number(p.Temperature) || p.Temperature < 0:
		return fmt.Errorf("temperature is %v, want 0 or more", p.Temperature)
	case !(p.TopP >= 0 && p.TopP <= 1):
		return fmt.Errorf("top_p is %v, want 0 to 1", p.TopP)
	case !(p.MinP >= 0 && p.MinP <= 1):
		return fmt.Errorf("min_p is %v, want 0 to 1", p.MinP)
	case p.TopK < 0:
		return fmt.Errorf("top_k is %d, want 0 or more", p.TopK)
	case !number(p.RepeatPenalty) || p.RepeatPenalty < 0:
		return fmt.Errorf("repeat_penalty is %v, want 0 or more", p.RepeatPenalty)
	case !number(p.FrequencyPenalty) || !number(p.PresencePenalty):
		return errors.New("frequency_penalty and presence_penalty must be numbers")
	}
	for token, v := range p.LogitBias {
		if math.IsNaN(v) || math.IsInf(v, 1) {
			return fmt.Errorf("logit_bias of token %d is %v", token, v)
		}
	}
	return nil
}

// Candidate is a token with the natural logarithm of its probability.
type Candidate struct {
	Token   int32
	LogProb float64
}

// Choice is a chosen token. LogProb is its probability under the model's own
// logits, before penalties and temperature, as the OpenAI API reports it.
type Choice struct {
	Token   int32
	LogProb float64
}

// Sampler chooses the tokens of one sequence.
type Sampler struct {
	params Params
	random *rand.Rand
	seen   []int32
	kept   []candidate // reused between calls
}

type candidate struct {
	token  int32
	logit  float64
	weight float64 // probability, not yet normalised
}

// New makes a Sampler; p should have passed Check.
func New(p Params) *Sampler {
	if p.RepeatLast == 0 {
		p.RepeatLast = 64
	}
	// Two words from one seed: the second only has to differ from the first.
	return &Sampler{params: p, random: rand.New(rand.NewPCG(p.Seed, p.Seed^0x9e3779b97f4a7c15))}
}

// Accept tells the Sampler of a token of its sequence, prompt or answer.
func (s *Sampler) Accept(token int32) {
	if s.penalises() {
		s.seen = append(s.seen, token)
	}
}

func (s *Sampler) penalises() bool {
	p := &s.params
	return p.RepeatPenalty != 0 && p.RepeatPenalty != 1 || p.FrequencyPenalty != 0 || p.PresencePenalty != 0
}

// Next chooses a token. It does not Accept it. len(logits) must not be 0.
func (s *Sampler) Next(logits []float32) Choice {
	token := s.choose(logits)
	return Choice{Token: token, LogProb: LogProb(logits, token)}
}

func (s *Sampler) choose(logits []float32) int32 {
	adjusted := s.adjusted(logits)
	if s.params.Temperature == 0 {
		return greedy(logits, adjusted)
	}
	s.fill(logits, adjusted)
	s.cut()
	return s.draw()
}

// adjusted are the logits that bias and penalties change.
func (s *Sampler) adjusted(logits []float32) map[int32]float64 {
	p := &s.params
	if len(p.LogitBias) == 0 && !s.penalises() {
		return nil
	}
	out := make(map[int32]float64, len(p.LogitBias)+len(s.seen))
	for token, bias := range p.LogitBias {
		if token >= 0 && int(token) < len(logits) {
			out[token] = float64(logits[token]) + bias
		}
	}
	for token, times := range s.counts() {
		if token < 0 || int(token) >= len(logits) {
			continue
		}
		v, ok := out[token]
		if !ok {
			v = float64(logits[token])
		}
		if r := p.RepeatPenalty; r != 0 && v <= 0 {
			v *= r
		} else if r != 0 {
			v /= r
		}
		out[token] = v - float64(times)*p.FrequencyPenalty - p.PresencePenalty
	}
	return out
}

// counts says how often each of the last tokens was seen.
func (s *Sampler) counts() map[int32]int {
	last := s.seen
	if n := s.params.RepeatLast; n > 0 && len(last) > n {
		last = last[len(last)-n:]
	}
	out := make(map[int32]int, len(last))
	for _, t := range last {
		out[t]++
	}
	return out
}

// greedy is the token of the largest logit. A logit that is no number loses.
func greedy(logits []float32, adjusted map[int32]float64) int32 {
	best, most := int32(-1), math.Inf(-1)
	for i, l := range logits {
		v := float64(l)
		if len(adjusted) > 0 {
			if a, ok := adjusted[int32(i)]; ok {
				v = a
			}
		}
		if v > most {
			best, most = int32(i), v
		}
	}
	return max(best, 0)
}

// fill takes the candidates, likeliest first, as many as top-k allows.
func (s *Sampler) fill(logits []float32, adjusted map[int32]float64) {
	s.kept = s.kept[:0]
	for i, l := range logits {
		v := float64(l)
		if a, ok := adjusted[int32(i)]; ok {
			v = a
		}
		if v > math.Inf(-1) { // neither banned nor NaN
			s.kept = append(s.kept, candidate{token: int32(i), logit: v})
		}
	}
	if len(s.kept) == 0 {
		s.kept = append(s.kept, candidate{token: 0})
	}
	if k := s.params.TopK; k > 0 && k < len(s.kept) {
		selectTop(s.kept, k)
		s.kept = s.kept[:k]
	}
	slices.SortFunc(s.kept, likelier)
}

// likelier orders by falling logit, then by token: a total order, so that equal
// logits do not make the result depend on the sorting.
func likelier(a, b candidate) int {
	switch {
	case a.logit > b.logit:
		return -1
	case a.logit < b.logit:
		return 1
	}
	return int(a.token) - int(b.token)
}

// selectTop moves the k likeliest to the front, in any order.
func selectTop(c []candidate, k int) {
	lo, hi := 0, len(c)
	for hi-lo > 1 {
		pivot := c[lo+(hi-lo)/2]
		i, j := lo, hi-1
		for i <= j {
			for likelier(c[i], pivot) < 0 {
				i++
			}
			for likelier(c[j], pivot) > 0 {
				j--
			}
			if i <= j {
				c[i], c[j] = c[j], c[i]
				i, j = i+1, j-1
			}
		}
		switch {
		case k <= j:
			hi = j + 1
		case k >= i:
			lo = i
		default:
			return
		}
	}
}

// cut applies top-p and min-p to the sorted candidates at temperature 1, then
// gives the rest their weights at the wanted temperature.
func (s *Sampler) cut() {
	c := s.kept
	most := c[0].logit
	var sum float64
	for i := range c {
		c[i].weight = math.Exp(c[i].logit - most)
		sum += c[i].weight
	}
	n := len(c)
	if p := s.params.TopP; p > 0 && p < 1 {
		var reached float64
		for i := range c {
			if reached += c[i].weight; reached >= p*sum {
				n = i + 1
				break
			}
		}
	}
	for n > 1 && c[n-1].weight < s.params.MinP {
		n--
	}
	s.kept = c[:n]
	for i := range s.kept {
		s.kept[i].weight = math.Exp((c[i].logit - most) / s.params.Temperature)
	}
}

// draw takes one candidate by its weight.
func (s *Sampler) draw() int32 {
	var sum float64
	for _, c := range s.kept {
		sum += c.weight
	}
	at := s.random.Float64() * sum
	for _, c := range s.kept {
		if at -= c.weight; at < 0 {
			return c.token
		}
	}
	return s.kept[len(s.kept)-1].token
}

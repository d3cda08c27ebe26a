package sample

import (
	"math"
	"slices"
)

// LogProb is the natural logarithm of the probability that the logits give a token.
func LogProb(logits []float32, token int32) float64 {
	return float64(logits[token]) - logSum(logits)
}

// Top are the n likeliest tokens, likeliest first.
func Top(logits []float32, n int) []Candidate {
	all := make([]candidate, 0, len(logits))
	for i, l := range logits {
		if l == l {
			all = append(all, candidate{token: int32(i), logit: float64(l)})
		}
	}
	n = min(max(n, 0), len(all))
	if n < len(all) {
		selectTop(all, n)
	}
	all = all[:n]
	slices.SortFunc(all, likelier)
	total := logSum(logits)
	out := make([]Candidate, n)
	for i, c := range all {
		out[i] = Candidate{Token: c.token, LogProb: c.logit - total}
	}
	return out
}

// logSum is log(sum(exp(logits))).
func logSum(logits []float32) float64 {
	most := float32(math.Inf(-1))
	for _, l := range logits {
		if l > most {
			most = l
		}
	}
	var sum float64
	for _, l := range logits {
		if l == l {
			sum += math.Exp(float64(l - most))
		}
	}
	return float64(most) + math.Log(sum)
}

package router

import "time"

const (
	// The prior is a slow small engine: 10 ms a token. A few real requests outweigh it.
	priorCost    = 100.0
	priorSeconds = 1.0
	memory       = 0.9 // weight that past requests keep with each new one

	usualOutput = 256  // tokens expected when the request does not bound them
	maxCost     = 8192 // so that one absurd request does not put its caller off for ever
	bytesAToken = 4
	// Reading a prompt is an order of magnitude cheaper a token than writing an answer.
	readShare = 0.1
)

// Cost predicts the work of a request, in tokens to generate. output is what the
// request asks for at most, 0 when it does not say; generates is false for embeddings.
func Cost(bytes, output int, generates bool) float64 {
	cost := 1 + readShare*float64(bytes)/bytesAToken
	if generates {
		if output <= 0 {
			output = usualOutput
		}
		// Clients ask for thousands of tokens and take a few hundred.
		cost += float64(min(output, 2*usualOutput))
	}
	return min(cost, maxCost)
}

// service learns how long an engine takes for a unit of cost. Callers hold the queue's mutex.
type service struct{ cost, seconds float64 }

func newService() service { return service{priorCost, priorSeconds} }

func (s *service) observe(cost float64, took time.Duration) {
	s.cost = s.cost*memory + cost
	s.seconds = s.seconds*memory + took.Seconds()
}

func (s *service) predict(cost float64) time.Duration {
	return time.Duration(cost * s.seconds / s.cost * float64(time.Second))
}

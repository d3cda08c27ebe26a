package serve

import (
	"context"

	"github.com/bothy-edge/bothy/runtime/embedded/sample"
	"github.com/bothy-edge/bothy/runtime/embedded/token"
)

// job is one request for tokens. It is the loop's once submitted.
type job struct {
	ctx      context.Context // its end cancels the job before the next step
	prompt   []int32         // at least one token, and less than the context
	most     int             // tokens to make at most
	params   sample.Params
	stop     []string
	logprobs int // likeliest tokens to report with each token; -1: report nothing
	answer   *answer
}

// slot is one sequence of the model and the job that uses it. It is owned by the loop.
type slot struct {
	seq  int
	held []int32 // the tokens whose keys and values the model holds
	used uint64  // the turn in which it was last given a job

	job     *job // nil: free
	reused  int  // tokens of the prompt that were held already
	pending []int32
	made    int
	sampler *sample.Sampler
	text    *token.Stream
	stop    stopper
	probs   []tokenProb // of tokens whose text has not gone out yet
	pushed  int         // bytes of text made
	sent    int         // bytes of text gone out
}

// common is how much of the prompt the slot holds already. The last token is
// never counted: its logits have to be computed.
func (s *slot) common(prompt []int32) int {
	n := 0
	for n < len(s.held) && n < len(prompt)-1 && s.held[n] == prompt[n] {
		n++
	}
	return n
}

func (s *slot) begin(j *job, keep int, tokens *token.Tokenizer) {
	s.job, s.reused = j, keep
	s.held, s.pending = s.held[:keep], j.prompt[keep:]
	s.made, s.pushed, s.sent, s.probs = 0, 0, 0, nil
	s.sampler, s.text, s.stop = sample.New(j.params), tokens.Stream(), stopper{stops: j.stop}
	for _, t := range j.prompt {
		s.sampler.Accept(t)
	}
}

// next chooses a token from the logits after the last held one and sends what
// text it completes.
func (s *slot) next(logits []float32, tokens *token.Tokenizer, context int) {
	choice := s.sampler.Next(logits)
	s.made++
	if tokens.EOG(choice.Token) {
		s.finish("stop")
		return
	}
	s.sampler.Accept(choice.Token)
	if s.job.logprobs >= 0 {
		s.probs = append(s.probs, probOf(choice, logits, s.job.logprobs, tokens, s.pushed))
	}
	text := s.text.Push(choice.Token)
	s.pushed += len(text)
	out, hit := s.stop.push(text)
	s.send(out)
	switch {
	case hit:
		s.probs = nil // the stop string's own tokens are not part of the answer
		s.end(event{finish: "stop"})
	case s.made >= s.job.most || len(s.held) >= context:
		s.finish("length")
	default:
		s.pending = []int32{choice.Token}
	}
}

// send passes on text with the probabilities of the tokens that began in it.
func (s *slot) send(text string) {
	s.sent += len(text)
	n := 0
	for n < len(s.probs) && s.probs[n].start < s.sent {
		n++
	}
	if text != "" || n > 0 {
		s.job.answer.put(event{text: text, probs: s.probs[:n:n]})
		s.probs = s.probs[n:]
	}
}

// finish sends what was held back and ends the answer.
func (s *slot) finish(reason string) {
	rest := s.text.Flush()
	s.pushed += len(rest)
	out, hit := s.stop.push(rest)
	if !hit {
		out += s.stop.flush()
		s.sent = s.pushed - len(out) // the probabilities of all tokens go with the rest
	}
	s.send(out)
	if len(s.probs) > 0 && !hit {
		s.job.answer.put(event{probs: s.probs})
	}
	if hit {
		reason = "stop"
	}
	s.end(event{finish: reason})
}

// end gives the slot back. What it holds stays for the next job.
func (s *slot) end(e event) {
	e.prompt, e.made, e.reused = len(s.job.prompt), s.made, s.reused
	s.job.answer.end(e)
	s.job, s.pending, s.sampler, s.text, s.probs = nil, nil, nil, nil, nil
}

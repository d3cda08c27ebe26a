// Package serve answers OpenAI-style HTTP requests with one GGUF model, computed
// by package model on the CPU.
//
// One goroutine, the loop, owns the model. It holds a fixed number of slots, each
// with its own sequence in the model's cache; every step it takes one token of
// each running answer and a chunk of waiting prompts into one batch (continuous
// batching), so a long prompt does not stop running answers and a new request
// need not wait for old ones to end. A hang-up is seen before the next step. A
// slot keeps what it computed, so the next request with the same beginning starts
// behind it.
//
// Handlers check, tokenize and bound a request before it reaches the loop: the
// body, the queue, the prompt. Errors have OpenAI's shape. While the model loads
// every endpoint answers 503; a model that cannot be loaded ends Serve with the
// reason. Greedy answers equal llama-server's, and an answer does not depend on
// what else is being computed.
//
// The engine command of the agent's binary calls New and Serve; the supervisor
// that started it is the only client that can reach the private socket.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/bothy-edge/bothy/runtime/embedded/chat"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
	"github.com/bothy-edge/bothy/runtime/embedded/token"
)

// Config says what to serve. Zero values choose, except for Model.
type Config struct {
	Model   string // path of the GGUF file
	Alias   string // the model's name in answers; "": the file's own name for itself
	Context int    // tokens a request may use, prompt and answer; 0: what the model was trained for
	Slots   int    // requests computed at once; 0: 4
	Threads int    // 0: one for each processor

	Queue   int           // requests waiting for a slot; 0: 64. One more is refused with 503
	MaxBody int64         // bytes of a request body; 0: 32 MiB. A larger one is refused with 413
	Drain   time.Duration // how long running answers may go on once Serve is to end; 0: 5 s

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
}

// Server serves one model. Make it with New; Serve may be called once.
type Server struct {
	config  Config
	metrics *metrics
	engine  atomic.Pointer[engine] // nil while the model loads
	serving atomic.Bool
}

// engine is what a loaded model adds to the server.
type engine struct {
	loop   *loop
	tokens *token.Tokenizer
	chat   *chat.Template // nil: the model has no usable template
	noChat error          // why
	about  model.Config
	alias  string
	loaded time.Time
	size   int64
}

// New checks the configuration. It does not open the model.
func New(c Config) (*Server, error) {
	if c.Model == "" {
		return nil, errors.New("cannot serve: no model file is named")
	}
	if c.Context < 0 || c.Slots < 0 || c.Threads < 0 || c.Queue < 0 || c.MaxBody < 0 || c.Drain < 0 {
		return nil, errors.New("cannot serve: context, slots, threads and limits must not be negative")
	}
	set(&c.Slots, 4)
	set(&c.Queue, 64)
	set(&c.MaxBody, 32<<20)
	set(&c.Drain, 5*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Server{config: c, metrics: newMetrics(c.Slots)}, nil
}

func set[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// Serve answers on l until ctx ends, then lets running answers finish for at
// most Config.Drain, cancels the rest and returns nil. It loads the model first,
// answering 503 meanwhile; when that fails it returns the reason at once. Serve
// closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.serving.Swap(true) {
		return errors.New("internal error: Serve is called twice")
	}
	// Requests outlive ctx by the drain; work is what ends them.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	web := &http.Server{
		Handler:           s.routes(),
		BaseContext:       func(net.Listener) context.Context { return work },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
	}
	listening := make(chan error, 1)
	go func() { listening <- web.Serve(l) }()
	computing := make(chan error, 1)
	go func() { computing <- s.compute(work) }()

	select {
	case <-ctx.Done():
		s.drain(ctx, web)
		stop()
		return errors.Join(ignoreClosed(<-listening), ignoreCancel(<-computing))
	case err := <-computing:
		web.Close()
		return errors.Join(err, ignoreClosed(<-listening))
	case err := <-listening:
		stop()
		return errors.Join(fmt.Errorf("cannot serve: %w", err), ignoreCancel(<-computing))
	}
}

func (s *Server) drain(ctx context.Context, web *http.Server) {
	limit, done := context.WithTimeout(context.WithoutCancel(ctx), s.config.Drain)
	defer done()
	if err := web.Shutdown(limit); err != nil {
		s.config.Log.Info("answers cancelled at shutdown", "after", s.config.Drain)
		web.Close()
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// compute loads the model and runs the loop until ctx ends.
func (s *Server) compute(ctx context.Context) error {
	begun := s.config.Now()
	f, err := gguf.Open(s.config.Model)
	if err != nil {
		return err
	}
	defer f.Close()
	e, m, err := s.load(f)
	if err != nil {
		return err
	}
	defer m.Close()
	// What the loading left behind would otherwise stay beside the weights until the next collection.
	debug.FreeOSMemory()
	s.engine.Store(e)
	s.config.Log.Info("model loaded", "model", e.alias, "parameters", e.about.Parameters, "type", e.about.FileType,
		"context", e.about.Context, "slots", e.about.Sequences, "kernel", e.about.Kernel, "took", s.config.Now().Sub(begun))
	return e.loop.run(ctx)
}

// load builds the engine. The caller closes the model.
func (s *Server) load(f *gguf.File) (*engine, *model.Model, error) {
	tokens, err := token.New(f)
	if err != nil {
		return nil, nil, err
	}
	m, err := model.Load(f, model.Options{Threads: s.config.Threads, Context: s.config.Context, Sequences: s.config.Slots})
	if err != nil {
		return nil, nil, err
	}
	about := m.Config()
	if tokens.Len() > about.Vocab {
		m.Close()
		return nil, nil, fmt.Errorf("cannot serve %s: the vocabulary has %d tokens but the model computes %d", s.config.Model, tokens.Len(), about.Vocab)
	}
	e := &engine{tokens: tokens, about: about, alias: s.config.Alias, loaded: s.config.Now()}
	set(&e.alias, about.Name)
	set(&e.alias, "model")
	source, _ := f.Meta.String("tokenizer.chat_template")
	if e.chat, e.noChat = chat.New(source, tokens.Text(tokens.BOS()), tokens.Text(tokens.EOS())); e.noChat != nil {
		s.config.Log.Warn("chat is not available", "error", e.noChat)
	} else {
		e.chat.Now = s.config.Now
	}
	for _, t := range f.Tensors {
		e.size += int64(len(t.Data))
	}
	e.loop = newLoop(m, tokens, about.Sequences, about.Context, s.config.Queue, s.metrics, s.config.Now)
	return e, m, nil
}

package serve

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// bodyLimit is how long a client may take to send its body.
const bodyLimit = 60 * time.Second

// handler answers a request with a loaded engine; an error it returns is written for it.
type handler func(e *engine, w http.ResponseWriter, r *http.Request) error

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h handler) { mux.Handle(pattern, s.ready(pattern, h)) }
	for _, prefix := range []string{"", "/v1"} {
		handle("POST "+prefix+"/chat/completions", s.chatCompletions)
		handle("POST "+prefix+"/completions", s.completions)
		handle("POST "+prefix+"/embeddings", s.embeddings)
		handle("GET "+prefix+"/models", s.models)
	}
	handle("POST /tokenize", s.tokenize)
	handle("POST /detokenize", s.detokenize)
	handle("POST /apply-template", s.applyTemplate)
	handle("GET /health", s.health)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{Status: http.StatusNotFound, Type: "not_found_error", Message: "there is no " + r.Method + " " + r.URL.Path})
	})
	return mux
}

// ready refuses requests while the model loads and writes a handler's error.
func (s *Server) ready(pattern string, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := s.engine.Load()
		if e == nil {
			writeError(w, unavailable("loading", "Loading model"))
			return
		}
		outcome := "ok"
		if err := h(e, w, r); err != nil {
			outcome = asAPIError(err).Type
			writeError(w, err)
			if r.Context().Err() == nil {
				s.config.Log.Debug("request refused", "endpoint", pattern, "error", err)
			}
		}
		s.metrics.requests.WithLabelValues(pattern, outcome).Inc()
	})
}

// read decodes the body into v, within bounds of size and time.
func (s *Server) read(w http.ResponseWriter, r *http.Request, v any) error {
	control := http.NewResponseController(w)
	// Not supported by test recorders; a real connection always takes a deadline.
	_ = control.SetReadDeadline(time.Now().Add(bodyLimit))
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.config.MaxBody))
	_ = control.SetReadDeadline(time.Time{})
	if err != nil {
		return badBody(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return badJSON(err)
	}
	return nil
}

func badBody(err error) error {
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return err
	}
	return invalid("", "cannot read the request body: %v", err)
}

func (s *Server) health(_ *engine, w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// embeddings refuses: the architectures that this engine runs are generators.
func (s *Server) embeddings(e *engine, _ http.ResponseWriter, _ *http.Request) error {
	return &apiError{Status: http.StatusNotImplemented, Type: "not_supported_error", Code: "no_embeddings",
		Message: "the model " + e.alias + " (" + e.about.Architecture + ") has no embeddings: use an embedding model"}
}

func (s *Server) models(e *engine, w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []any{map[string]any{
		"id": e.alias, "object": "model", "created": e.loaded.Unix(), "owned_by": "bothy",
		"meta": map[string]any{
			"n_vocab": e.about.Vocab, "n_ctx": e.about.Context, "n_ctx_train": e.about.Trained, "n_embd": e.about.Embd,
			"n_params": e.about.Parameters, "size": e.size, "ftype": e.about.FileType,
		},
	}}})
	return nil
}

func (s *Server) tokenize(e *engine, w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Content      *string `json:"content"`
		AddSpecial   bool    `json:"add_special"`
		ParseSpecial *bool   `json:"parse_special"`
		WithPieces   bool    `json:"with_pieces"`
	}
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	if req.Content == nil {
		return invalid("content", "content is required")
	}
	ids, err := e.tokens.Encode(*req.Content, req.AddSpecial, or(req.ParseSpecial, true))
	if err != nil {
		return invalid("content", "%v", err)
	}
	if !req.WithPieces {
		writeJSON(w, http.StatusOK, map[string]any{"tokens": ids})
		return nil
	}
	type piece struct {
		ID    int32  `json:"id"`
		Piece string `json:"piece"`
	}
	pieces := make([]piece, 0, len(ids))
	for _, id := range ids {
		text, err := e.tokens.Decode([]int32{id}, true)
		if err != nil {
			return err
		}
		pieces = append(pieces, piece{id, validText([]byte(text))})
	}
	writeJSON(w, http.StatusOK, map[string]any{"tokens": pieces})
	return nil
}

func (s *Server) detokenize(e *engine, w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Tokens []int32 `json:"tokens"`
	}
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	text, err := e.tokens.Decode(req.Tokens, true)
	if err != nil {
		return invalid("tokens", "%v", err)
	}
	writeJSON(w, http.StatusOK, map[string]string{"content": validText([]byte(text))})
	return nil
}

func (s *Server) applyTemplate(e *engine, w http.ResponseWriter, r *http.Request) error {
	var req chatRequest
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	text, err := e.render(&req)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"prompt": text})
	return nil
}
